"""Image, reference and prediction side by side: one slice per case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.evaluate import evaluate_case
from ldseg_auto.evaluation.metrics import is_flat
from ldseg_auto.files import atomic_path

# Okabe and Ito's palette, which colour-blind readers tell apart; without its black.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
OPACITY = 0.35
GREY_PERCENTILES = (0.5, 99.5)  # of the slice: black and white
PANEL_INCHES = 3.2
DPI = 110


@dataclass(frozen=True)
class Example:
    """One case, canonical orientation.

    Args:
        title: the case's name.
        image: `(c, z, y, x)`.
        reference, predicted: label indices `(z, y, x)`.
        spacing: mm `(z, y, x)`.
    """

    title: str
    image: np.ndarray
    reference: np.ndarray
    predicted: np.ndarray
    spacing: tuple[float, float, float]


def comparison_png(path: Path, examples: Sequence[Example], labels: LabelSpec) -> None:
    """Writes a PNG, atomically: a row per example, with its Dice per class.

    Slices are cut across the coarsest axis, where the reference shows most of all its classes (without a reference, the prediction).
    They are drawn as radiologists see them: patient's right on the left, superior or anterior at the top.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * PANEL_INCHES, len(examples) * PANEL_INCHES + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(examples), 3, squeeze=False)
    for row, example in zip(panels, examples, strict=True):
        _draw_row(row, example, labels)
    figure.legend(handles=_legend(labels), loc="outside lower center", ncols=min(len(labels.foreground_names), 6), fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def best_slice(label: np.ndarray, spacing: Sequence[float], labels: LabelSpec) -> tuple[int, int]:
    """The axis and index of the slice that shows most.

    Args:
        label: indices `(z, y, x)`.
        spacing: mm `(z, y, x)`.

    Returns:
        The only axis with one voxel, else the one of the largest spacing; and where the classes' areas, each as a share of its largest,
        add up highest (the middle slice when there is no foreground).
    """
    flat = [i for i, size in enumerate(label.shape) if size == 1]
    axis = flat[0] if flat else int(np.argmax(spacing))
    across = tuple(i for i in range(3) if i != axis)
    score = np.zeros(label.shape[axis])
    for member in _members(labels):
        area = member[label].sum(axis=across)
        score += area / max(area.max(), 1)
    return axis, int(np.argmax(score)) if score.any() else label.shape[axis] // 2


def _members(labels: LabelSpec) -> np.ndarray:
    """Which indices belong to each foreground class or region, binary `(classes, indices)`."""
    return (labels.table.T if labels.has_regions else labels.table.T[1:]) > 0


def _draw_row(row: Sequence[Any], example: Example, labels: LabelSpec) -> None:
    """The three panels of a case."""
    shown = example.reference if (example.reference > 0).any() else example.predicted
    axis, index = best_slice(shown, example.spacing, labels)
    rows, columns = (i for i in range(3) if i != axis)
    aspect = example.spacing[rows] / example.spacing[columns]
    origin = "lower" if rows == 0 else "upper"  # z grows towards superior, y towards posterior
    picture = _picture(np.take(example.image, index, axis=axis + 1), example.spacing)
    masks = (None, example.reference, example.predicted)
    lines = (f"slice {index + 1} of {shown.shape[axis]}", " ", _dice_line(example, labels))  # two lines each, so that the panels align
    titles = [f"{first}\n{second}" for first, second in zip((example.title, "reference", "prediction"), lines, strict=True)]
    for panel, mask, title in zip(row, masks, titles, strict=True):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=aspect, origin=origin, interpolation="nearest")
        if mask is not None:
            _draw_masks(panel, np.take(mask, index, axis=axis), labels, aspect, origin)
        panel.set_title(title, fontsize=9)
        panel.set_axis_off()


def _picture(image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """A slice `(c, rows, columns)` as grey `(rows, columns)`, or colour `(rows, columns, 3)` for a photograph; 0 to 1."""
    shown = np.moveaxis(image, 0, -1) if len(image) == 3 and is_flat(spacing) else image[0]
    low, high = np.percentile(shown, GREY_PERCENTILES)
    return np.clip((shown - low) / max(high - low, 1e-6), 0, 1)


def _draw_masks(panel: Any, label: np.ndarray, labels: LabelSpec, aspect: float, origin: str) -> None:
    """Translucent colour and a contour for each class of a slice `(rows, columns)`."""
    from matplotlib.colors import to_rgba

    for i, member in enumerate(_members(labels)):
        mask = member[label]
        if not mask.any():
            continue
        colour = COLOURS[i % len(COLOURS)]
        layer = np.zeros((*mask.shape, 4))
        layer[mask] = to_rgba(colour, OPACITY)
        panel.imshow(layer, aspect=aspect, origin=origin, interpolation="nearest")
        edge = np.pad(mask, 1).astype(float)  # padded, so that a mask at the border has a closed contour
        positions = [np.arange(-1, size + 1) for size in mask.shape]
        panel.contour(positions[1], positions[0], edge, levels=[0.5], colors=[colour], linewidths=1.2)


def _dice_line(example: Example, labels: LabelSpec) -> str:
    scores = evaluate_case(example.reference, example.predicted, labels, example.spacing, surface=False)
    return "Dice " + ", ".join(f"{values['dice']:.3f}" if values["dice"] == values["dice"] else "-" for values in scores.values())


def _legend(labels: LabelSpec) -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(color=COLOURS[i % len(COLOURS)], label=name) for i, name in enumerate(labels.foreground_names)]
