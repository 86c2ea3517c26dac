"""What was compared and chosen: find_best.json for machines, find_best.md for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ldseg_auto
from ldseg_auto.evaluation.report import without_nan
from ldseg_auto.planners.serialise import to_dict
from ldseg_auto.selection.candidates import step_curve
from ldseg_auto.selection.choose import Scored
from ldseg_auto.selection.postprocessing import Outcome
from ldseg_auto.selection.scores import METRICS, Interval, Sample, class_means

TITLES = {"dice": "Dice", "nsd": "NSD"}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that was measured."""

    dataset: str
    metric: str  # that decided
    tolerance: float  # of NSD, mm
    sample: Sample
    scored: tuple[Scored, ...]  # singles and pairs with the fewest samples
    drawn: tuple[Scored, ...]  # the best of them with more samples
    first: Scored  # the best single model
    chosen: Scored
    after: Scored  # the chosen one after post-processing
    outcome: Outcome
    notes: tuple[str, ...]  # pairs that cannot be averaged
    few: bool  # cases, for intervals

    @property
    def names(self) -> tuple[str, ...]:
        """Classes or regions."""
        return self.chosen.candidate.models[0].folder.description.labels.foreground_names

    @property
    def command(self) -> str:
        """How to predict."""
        return f"ldseg_predict -d {int(self.dataset.removeprefix('Dataset').split('_')[0])} -i INPUT -o OUTPUT"


def as_json(found: Comparison) -> dict[str, Any]:
    """Content of find_best.json."""
    folds = {fold: list(cases) for fold, cases in found.chosen.candidate.models[0].cases.items()}
    content = {
        "version": 1, "ldseg_auto": ldseg_auto.__version__, "dataset": found.dataset, "metric": found.metric, "tolerance": found.tolerance,
        "folds": folds, "patients": len(found.sample.groups), "best_single": found.first.candidate.name,
        "chosen": {**_about(found.chosen), "postprocessing": to_dict(found.outcome.rules), "size_unit": found.outcome.unit},
        "after_postprocessing": _entry(found.after, found),
        "candidates": [_entry(s, found) for s in (*found.scored, *found.drawn)],
        "steps": {m.name: step_curve(m) for s in found.scored for m in s.candidate.models},
        "postprocessing": [
            {"rules": to_dict(t.rules), "gain": list(t.gain), "harm": t.harm, "kept": t.kept} for t in found.outcome.trials
        ],
        "notes": list(found.notes), "command": found.command,
    }  # fmt: skip
    return dict(without_nan(content))


def as_markdown(found: Comparison) -> str:
    """Content of find_best.md."""
    cases, metric = len(found.sample.cases), TITLES[found.metric]
    lines = [
        f"# {found.dataset}: the best model",
        "",
        f"Cross-validation on {cases} cases: each was predicted by the fold that had not seen it. NSD at {found.tolerance:g} mm (pixels "
        f"for natural images). Brackets: 95 % intervals of a bootstrap over {_drawn(found)}.",
        *(["", f"There are only {len(found.sample.groups)}: the intervals are too narrow."] if found.few else []),
        "",
        *comparison_table(found),
        "",
        f"Chosen by {metric}: **{found.chosen.candidate.name}**, {_how(found.chosen)}. {_why(found)}",
        "",
        *_postprocessing(found),
        *[line for note in found.notes for line in (f"Not averaged: {note}", "")],
        f"Predict with: `{found.command}`",
        "",
    ]
    return "\n".join(lines)


def comparison_table(found: Comparison) -> list[str]:
    """Lines of a Markdown table: a row per candidate."""
    head = [
        "model",
        "steps",
        "samples",
        "Dice",
        "NSD",
        f"{TITLES[found.metric]} less {found.first.candidate.name}",
        *(f"Dice {n}" for n in found.names),
    ]
    rows = [_row(s, found, s.candidate.name) for s in (*found.scored, *found.drawn)]
    if found.outcome.rules:
        rows.append(_row(found.after, found, f"{found.after.candidate.name}, post-processed"))
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def _row(scored: Scored, found: Comparison, name: str) -> list[str]:
    candidate, marked = scored.candidate, f"**{name}**" if scored is found.chosen else name
    gap = "" if scored is found.first else _signed(scored.against(found.first, found.metric, found.sample))
    steps = " + ".join(map(str, candidate.steps))
    classes = [_figure(v) for v in class_means(scored.arrays["dice"])]
    return [marked, steps, str(candidate.samples), *(_bracket(scored.means[m]) for m in METRICS), gap, *classes]


def _entry(scored: Scored, found: Comparison) -> dict[str, Any]:
    per_class = {m: dict(zip(found.names, class_means(scored.arrays[m]).tolist(), strict=True)) for m in METRICS}
    gaps = {m: list(scored.against(found.first, m, found.sample)) for m in METRICS}
    return {**_about(scored), **{m: list(scored.means[m]) for m in METRICS}, "per_class": per_class, "less_best_single": gaps}


def _about(scored: Scored) -> dict[str, Any]:
    candidate = scored.candidate
    return {"models": [m.name for m in candidate.models], "steps": list(candidate.steps), "samples": candidate.samples}


def _how(scored: Scored) -> str:
    steps, samples = scored.candidate.steps, scored.candidate.samples
    return f"{' and '.join(map(str, steps))} sampling {_plural('step', max(steps))}, {samples} {_plural('sample', samples)} per case"


def _why(found: Comparison) -> str:
    parts = [f"{found.first.candidate.name} has the highest mean of the single models."]
    pairs = [s for s in found.scored if len(s.candidate.models) == 2]
    if len(found.chosen.candidate.models) == 2:
        parts.append("Averaged with the other it is better: the interval of the difference lies above 0.")
    elif pairs:
        parts.append("No pair is better with its interval above 0, so one model is enough.")
    if found.drawn:
        taken = found.chosen.candidate.samples > found.scored[0].candidate.samples
        parts.append("More samples are better in the same sense." if taken else "More samples are not better in the same sense.")
    return " ".join(parts)


def _postprocessing(found: Comparison) -> list[str]:
    rules = "; ".join(rule.words(found.outcome.unit) for rule in found.outcome.rules)
    if rules:
        gain = _signed(found.outcome.trials[-1].gain)
        return [f"Post-processing: {rules}. Mean Dice changes by {gain}.", ""]
    return [f"Post-processing: none; of {len(found.outcome.trials)} trials none helped.", ""]


def _drawn(found: Comparison) -> str:
    groups = len(found.sample.groups)
    return "cases" if groups == len(found.sample.cases) else f"{groups} patients (groups of dataset.json)"


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _bracket(values: Sequence[float]) -> str:
    value, low, high = values
    return "-" if math.isnan(value) else f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _signed(values: Interval) -> str:
    value, low, high = values
    return "-" if math.isnan(value) else f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"
