"""The training log (CSV, one row per epoch) and its picture."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from ldseg_auto.evaluation.picture import COLOURS
from ldseg_auto.files import atomic_path, write_text

logger = logging.getLogger(__name__)
Row = dict[str, Any]
MOST = 12  # classes that have a colour each; of more the lowest and the highest are named
ENDS = 4  # of each
FEW = 40  # rows whose points are marked
LOG_RATIO = 20.0  # losses that differ by more are drawn on a logarithmic axis
LINES = ("-", "--", ":")  # one after the other where the colours are used up


def write_log(folder: Path, rows: Sequence[Row]) -> None:
    """Writes training_log.csv and, where matplotlib is installed, curves.png; both atomically.

    Args:
        rows: one per epoch. A column that earlier rows lack (they were written by an older version) is empty there.
    """
    if not rows:
        return
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "training_log.csv", stream.getvalue())
    try:
        _draw(folder / "curves.png", rows)
    except ImportError:
        logger.info("matplotlib is not installed: no curves.png; training_log.csv holds the figures.")


def columns(rows: Sequence[Row]) -> list[str]:
    """All names that any row has, in the order of their first mention."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _draw(path: Path, rows: Sequence[Row]) -> None:
    """Four panels over the iterations: losses, pseudo-Dice, learning rate, seconds per epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = columns(rows)
    figure = Figure(figsize=(10, 10.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 1.3, 1.3))
    losses = [n for n in names if n == "loss" or n.startswith("loss_")]
    _lines(axes[0], rows, [(n, _worded(n), n == "loss") for n in losses])
    values = [v for n in losses for _, v in _points(rows, n)]
    if values and min(values) > 0 and max(values) / min(values) > LOG_RATIO:
        axes[0].set_yscale("log")
    _dice(axes[1], rows, [n for n in names if n.startswith("dice_") and n != "dice_mean"])
    _lines(axes[2], rows, [("learning_rate", "", True)])
    _lines(axes[3], rows, [("seconds", "", True)])
    axes[3].set_ylim(0, 1.1 * max((v for _, v in _points(rows, "seconds")), default=1.0) or 1.0)
    titles = ("training loss", "pseudo-Dice\n(validation patches)", "learning rate", "seconds\nper epoch")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_ylabel(title)
        ax.grid(alpha=0.3)
    axes[3].set_xlabel(f"iteration ({len(rows)} epoch{'s' * (len(rows) != 1)})")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _dice(ax: Any, rows: Sequence[Row], classes: Sequence[str]) -> None:
    """The mean and every class; of many classes those with the lowest and the highest last value are named, the others grey."""
    last = {c: points[-1][1] for c in classes if (points := _points(rows, c))}
    named = list(last)
    if len(named) > MOST:
        ranked = sorted(last, key=lambda c: (last[c], c))
        named = ranked[:ENDS] + ranked[-ENDS:]
        for i, name in enumerate(c for c in classes if c in last and c not in named):
            x, y = zip(*_points(rows, name), strict=True)
            ax.plot(x, y, color="0.75", linewidth=0.7, label=f"{len(last) - len(named)} classes between" if i == 0 else None)
    shown = [(c, f"{c.removeprefix('dice_')}  {last[c]:.3f}", False) for c in named]
    mean = [(n, f"mean  {p[-1][1]:.3f}", True) for n in ("dice_mean",) if (p := _points(rows, n))]
    _lines(ax, rows, [*mean, *shown])
    ax.set_ylim(0, 1.02)


def _lines(ax: Any, rows: Sequence[Row], series: Sequence[tuple[str, str, bool]]) -> None:
    """A line for each (column, name, whether it is the main one); a legend beside the panel where lines have names."""
    styles = cycle([(colour, line) for line in LINES for colour in COLOURS])
    marker = "o" if len(rows) <= FEW else ""
    for column, name, main in series:
        colour, style = ("black", "-") if main else next(styles)
        points = _points(rows, column)
        if points:
            x, y = zip(*points, strict=True)
            ax.plot(x, y, color=colour, linestyle=style, linewidth=2.2 if main else 1.2, marker=marker, markersize=3, label=_safe(name))
    if any(name for _, name, _ in series) and ax.lines:
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)


def _points(rows: Sequence[Row], column: str) -> list[tuple[float, float]]:
    """Iteration and value, where there is one."""
    values = [(row["iteration"], row.get(column)) for row in rows]
    return [(float(at), float(v)) for at, v in values if v is not None and math.isfinite(v)]


def _worded(column: str) -> str:
    return "sum" if column == "loss" else column.removeprefix("loss_").replace("_", " ")


def _safe(name: str) -> str:
    """As matplotlib shows it as written: no mathematics, no hiding of names that begin with an underscore."""
    return name.replace("$", r"\$") if not name.startswith("_") else f" {name}".replace("$", r"\$")
