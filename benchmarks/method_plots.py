"""Plots of `method.py`: Dice over steps and over noise, reliability, risk against coverage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from method_report import BASE, MASKS, NOISE, STEPS, Arms, Result, finite, interval, merged_reliability, values, versions_of

from ldseg_auto.evaluation.picture import COLOURS, DPI
from ldseg_auto.evaluation.risk import risk_coverage
from ldseg_auto.files import atomic_path

PALETTE = tuple(COLOURS[i] for i in (4, 5, 2, 6, 0, 1, 3))  # the darkest on white first
MARKERS = "osD^v<>"
GRID = np.linspace(0.02, 1, 50)  # coverages at which seeds are averaged
CONFIDENCES = {  # key -> name, line
    "agreement": ("pairwise Dice", "-"), "softmax": ("softmax response", "--"),
    "softmax_foreground": ("softmax response in foreground", ":"), "soft_dice": ("soft Dice", "-."),
}  # fmt: skip


def draw_all(folder: Path, name: str, arms: Arms) -> list[Path]:
    """Writes the four plots of a dataset; returns their paths."""
    plots: dict[str, Callable[[Any, Arms], None]] = {"steps": _steps, "noise": _noise, "reliability": _reliability, "risk": _risk}
    return [_plot(folder / f"method_{kind}_{name}.png", name, draw, arms, 2 if kind == "risk" else 1) for kind, draw in plots.items()]


def _plot(path: Path, name: str, draw: Callable[[Any, Arms], None], arms: Arms, panels: int) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * panels, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    draw(axes if panels > 1 else axes[0], arms)
    cases = len(next(iter(arms.values()))[0]["cases"])
    for ax in axes:
        ax.set_title(f"{name}, {cases} cases: {ax.get_title()}", fontsize=11)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return path


def _style(i: int, **more: Any) -> dict[str, Any]:
    return {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)], "markersize": 5, **more}


def _curve(ax: Any, x: list[float], found: list[tuple[float, float, float]], **style: Any) -> None:
    """A line with its intervals as a band."""
    value, low, high = np.array(found, float).T
    ax.plot(x, value, **style)
    ax.fill_between(x, low, high, color=style["color"], alpha=0.1, linewidth=0)


def _steps(ax: Any, arms: Arms) -> None:
    for i, (arm, results) in enumerate(arms.items()):
        found = [interval(values(results, lambda case, s=s: case["one"][s]["mean"])) for s in STEPS]
        _curve(ax, [int(s) for s in STEPS], found, label=f"{arm}, one sample", **_style(i))
        if arm != BASE:
            planned = results[0]["planned_steps"]
            five = interval(values(results, MASKS["5 x planned"]))[0]
            ax.plot([planned], [five], linestyle="none", label=f"{arm}, mean of 5 samples", **_style(i, markersize=10, fillstyle="none"))
    ax.set(title="Dice over sampling steps", xlabel="steps (network evaluations per sample)", ylabel="mean Dice")
    ax.set_xticks([int(s) for s in STEPS])


def _noise(ax: Any, arms: Arms) -> None:
    for i, (arm, results) in enumerate(arms.items()):
        for kind, text, line in (("one", "1 step", "-"), ("ensemble", "mean of 5 at planned steps", "--")):
            if arm == BASE and kind == "ensemble":
                continue
            found = [interval(values(results, lambda case, k=kind, v=v: case["noise"][v][k])) for v in NOISE]
            label = arm if arm == BASE else f"{arm}, {text}"
            _curve(ax, [float(v) for v in NOISE], found, label=label, **_style(i, linestyle=line))
    ax.set(title="Dice over noise", xlabel="sigma of the noise (standard deviations of the image)", ylabel="mean Dice")


def _reliability(ax: Any, arms: Arms) -> None:
    ax.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":", label="calibrated")
    for i, (arm, results) in enumerate(arms.items()):
        diagram, ece = merged_reliability(results), finite([merged_reliability([r]).ece for r in results])
        ax.plot(diagram.confidence, diagram.accuracy, label=f"{arm} (ECE {ece:.3f})", **_style(i))
    ax.set(title="reliability near the foreground", xlabel="confidence (top probability)", ylabel="accuracy (share of voxels)")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")


def _risk(axes: Any, arms: Arms) -> None:
    for i, (arm, results) in enumerate(arms.items()):
        for key, (text, line) in CONFIDENCES.items():
            if arm == BASE and key == "agreement":
                continue  # its samples are equal
            curves = _risk_curves(results, key)
            if curves is not None:
                for ax, curve in zip(axes, curves, strict=True):
                    ax.plot(GRID, curve, label=f"{arm}, {text}", **_style(i, marker="", linestyle=line))
    axes[0].set(title="risk over coverage", xlabel="coverage (share of images accepted)", ylabel="mean 1 - Dice of the accepted")
    axes[1].set(title="undetected risk", xlabel="coverage (share of images accepted)", ylabel="sum of 1 - Dice of the accepted / all")


def _risk_curves(results: list[Result], key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Selective and generalised risk on GRID, each the mean over seeds, all noise levels mixed; None without a loss."""
    confidence, loss, found = versions_of(results, key), versions_of(results, "loss"), []
    for c, x in zip(confidence, loss, strict=True):
        keep = ~np.isnan(x)
        if keep.any():
            curve = risk_coverage(c[keep], x[keep])
            selective = np.interp(GRID, curve.coverage, curve.selective_risk)
            found.append([selective, np.interp(GRID, [0, *curve.coverage], [0, *curve.generalised_risk])])
    return tuple(np.mean(found, axis=0)) if found else None
