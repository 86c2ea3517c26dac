"""The training log (CSV, one row per epoch) and its picture."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any

from ldseg_auto.files import atomic_path, write_text

logger = logging.getLogger(__name__)


def write_log(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes training_log.csv and, where matplotlib is installed, curves.png; both atomically."""
    if not rows:
        return
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "training_log.csv", stream.getvalue())
    try:
        _draw(folder / "curves.png", rows)
    except ImportError:
        logger.info("matplotlib is not installed: no curves.png; training_log.csv holds the figures.")


def _draw(path: Path, rows: list[dict[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True)
    x = [r["iteration"] for r in rows]
    for key in (k for k in rows[0] if k.startswith("loss")):
        axes[0].plot(x, [r[key] for r in rows], label=key)
    for key in (k for k in rows[0] if k.startswith("dice")):
        axes[1].plot(x, [r[key] for r in rows], label=key, linewidth=2.5 if key == "dice_mean" else 1)
    axes[2].plot(x, [r["learning_rate"] for r in rows], label="learning rate")
    axes[0].set_ylabel("training loss")
    axes[1].set_ylabel("pseudo-Dice (patches)")
    axes[2].set_ylabel("learning rate")
    axes[2].set_xlabel("iteration")
    for ax in axes:
        ax.legend(fontsize=8, loc="best")
        ax.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
