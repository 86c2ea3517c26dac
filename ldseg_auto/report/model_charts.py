"""The charts of a model's report: training curves, calibration, predicted Dice, steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ldseg_auto.evaluation.calibration import Reliability
from ldseg_auto.evaluation.predicted_dice import Fit
from ldseg_auto.report.axes import Axis, fitted
from ldseg_auto.report.charts import BOTTOM, HEIGHT, TOP, TRENDS, Line, Mark, line_chart, scatter_chart, trend_chart
from ldseg_auto.report.html import figure
from ldseg_auto.report.model_files import FoldFiles, Row

ENDS = 3  # of many classes the lowest and the highest have a line


def training_figures(rows: Sequence[Row], classes: Sequence[str], fold: str) -> list[str]:
    """Losses, pseudo-Dice, learning rate and seconds per epoch of one fold; those without a figure are left out."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    losses = [n for n in names if n == "loss" or n.startswith("loss_")]
    shown, note = _chosen(rows, [c for c in classes if f"dice_{c}" in names])
    last = {c: _points(rows, f"dice_{c}")[-1][1] for c in shown}
    dice = [("dice_mean", "mean"), *((f"dice_{c}", c) for c in shown)]
    named = [(n, "sum" if n == "loss" else n.removeprefix("loss_").replace("_", " ")) for n in losses]
    caption = f"Dice of the averaged weights on fixed patches of validation cases, one sampling step. {note}".strip()
    whole = Axis(0, 1, HEIGHT - BOTTOM, TOP + 10)
    longest = max((v for _, v in _points(rows, "seconds")), default=0.0)
    long = Axis(0, 1.1 * longest or 1.0, HEIGHT - BOTTOM, TOP + 10)
    return [
        *_trend("Training loss", f"training loss of fold {fold}", rows, named),
        *_trend("Pseudo-Dice", f"pseudo-Dice of fold {fold}", rows, dice, caption, whole, last),
        *_trend("Learning rate", f"learning rate of fold {fold}", rows, [("learning_rate", "learning rate")]),
        *_trend("Seconds per epoch", f"seconds per epoch of fold {fold}", rows, [("seconds", "seconds")], "Without its validation.", long),
    ]


def _chosen(rows: Sequence[Row], classes: Sequence[str]) -> tuple[list[str], str]:
    """The classes that have a line, and what is said of the others."""
    having = [c for c in classes if _points(rows, f"dice_{c}")]
    if len(having) < TRENDS:
        return having, ""
    ranked = sorted(having, key=lambda c: (_points(rows, f"dice_{c}")[-1][1], c))
    kept = {*ranked[:ENDS], *ranked[-ENDS:]}
    note = f"Of {len(having)} classes the {ENDS} lowest and the {ENDS} highest at the end; training_log.csv has all."
    return [c for c in having if c in kept], note


def _trend(
    title: str, name: str, rows: Sequence[Row], series: Sequence[tuple[str, str]], caption: str = "", y: Axis | None = None,
    last: dict[str, float] | None = None,
) -> list[str]:  # fmt: skip
    """A figure with a line per (column, name); none where no column has a value. `last` stands beside the names in the key."""
    lines = [(text, _points(rows, column)) for column, text in series]
    lines = [(text, points) for text, points in lines if points]
    if not lines:
        return []
    drawn = [Line(text, tuple(Mark(at, v, f"iteration {at:g}: {text} {v:.4g}") for at, v in points)) for text, points in lines]
    names = [f"{text} {last[text]:.3f}" if last and text in last else text for text, _ in lines]
    return [figure(title, trend_chart(drawn, (name, "iteration", ""), y) + (trend_key(names) if len(names) > 1 else ""), caption)]


def _points(rows: Sequence[Row], column: str) -> list[tuple[float, float]]:
    """Iteration and value, where there is one."""
    values = [(row["iteration"], row.get(column)) for row in rows]
    return [(at, v) for at, v in values if at is not None and v is not None and math.isfinite(v)]


def trend_key(names: Sequence[str], first: int = 0) -> str:
    """The colours of a trend chart's lines, or from `first` = 1 of a scatter chart's groups."""
    items = (f'<span><i class="t{(i + first) % TRENDS}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<div class="key">{"".join(items)}</div>'


def calibration_figure(found: Reliability, what: str) -> str:
    """The reliability diagram, and the error in words."""
    bins = len(found.count)
    marks = []
    for number, (confidence, accuracy, count) in enumerate(zip(found.confidence, found.accuracy, found.count, strict=True)):
        if count:
            text = f"confidence {number / bins:.2f} to {(number + 1) / bins:.2f}: mean {confidence:.3f}, right {accuracy:.3f}, "
            text += f"{count:.0f} voxels"
            marks.append(Mark(float(confidence), float(accuracy), text))
    chart = scatter_chart([Line("voxels", tuple(marks))], ("reliability diagram", "confidence", "share of right voxels"), joined=True)
    caption = f"Expected calibration error {found.ece:.3f} over {int(found.count.sum())} {what}, {bins} bins. "
    caption += "Below the diagonal: surer than right."
    return figure("Reliability", chart, caption)


def predicted_figures(folds: Sequence[FoldFiles]) -> list[str]:
    """Predicted against true Dice of held-out validation cases, for one sample and for several, a colour per fold."""
    figures = []
    for title, several in (("One sample", False), ("Several samples", True)):
        found = [(f.fold, fit) for f in folds if f.predicted and (fit := f.predicted.several if several else f.predicted.single)]
        if not found:
            continue
        groups = [Line(f"fold {fold}", _held_out(fit)) for fold, fit in found]
        values = [v for group in groups for m in group.marks for v in (m.x, m.y)]
        low = max(0.0, math.floor(10 * min(values) - 1e-9) / 10)
        names = (f"predicted and true Dice, {title.lower()}", "predicted Dice", "true Dice")
        chart = scatter_chart(groups, names, min(low, 0.9)) + trend_key([g.name for g in groups], 1)
        caption = " ".join(f"Fold {fold}: {fit.sentence}." for fold, fit in found)
        named, samples = dict(found), 2 if several else 1  # any number of several
        known = [(f.fold, f.predicted) for f in folds if f.predicted and f.fold in named]
        known = [(fold, fits) for fold, fits in known if fits.volumes(samples) or (several and fits.coverage)]
        caption += "".join(f" Volumes, fold {fold}: {fits.words_of_volumes(samples)}." for fold, fits in known)
        figures.append(figure(title, chart, caption))
    return figures


def _held_out(fit: Fit) -> tuple[Mark, ...]:
    pairs = zip(fit.pairs, fit.held_out, strict=True)
    return tuple(Mark(guess, pair.dice, f"{pair.case}: predicted {guess:.3f}, true {pair.dice:.3f}") for pair, guess in pairs)


def step_figures(folds: Sequence[FoldFiles]) -> list[str]:
    """Dice, and with several raters the distance to them, over the number of sampling steps; rings mark what was chosen."""
    what = (
        ("dice", "chosen", "Dice over steps", "pseudo-Dice", "Prediction of one mask takes the fewest steps within 0.001 of the best."),
        ("distance", "chosen_for_samples", "Distance to the raters over steps", "generalised energy distance",
         "Prediction of several samples takes the fewest steps within 0.005 of the lowest."),
    )  # fmt: skip
    figures = []
    for name, chosen, title, y_name, caption in what:
        lines = []
        for f in folds:
            curve = {int(steps): float(value) for steps, value in f.steps.get(name, {}).items() if value is not None}
            marks = (Mark(s, v, f"fold {f.fold}, {s} steps: {v:.4f}", s == f.steps.get(chosen)) for s, v in sorted(curve.items()))
            lines += [Line(f"fold {f.fold}", tuple(marks))] if curve else []
        if lines:
            y = fitted([m.y for line in lines for m in line.marks], HEIGHT - BOTTOM, TOP + 10, math.inf)
            chart = line_chart(lines, y, None, (title.lower(), "sampling steps", y_name))
            figures.append(figure(title, chart + _line_key([line.name for line in lines]), caption))
    return figures


def _line_key(names: Sequence[str]) -> str:
    items = (f'<span><i class="t{1 + i % 3}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<div class="key">{"".join(items)}</div>'
