"""Cases of an evaluated folder, chosen and drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ldseg_auto.data.dataset import Case, Description, find_input_cases
from ldseg_auto.data.endings import label_ending
from ldseg_auto.data.image_io import read_image, read_label
from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.evaluate import CaseMetrics
from ldseg_auto.evaluation.picture import Example, comparison_png

LARGEST = 4  # rows of a picture


def draw_examples(path: Path, summary: dict[str, Any], images: Path, description: Description) -> None:
    """Writes a PNG of up to four cases, the worst first and the best last.

    Args:
        summary: as folders.evaluate_folder gives it.
        images: folder of CASE_0000.EXT.

    Raises:
        InputError: a case's image is not there; DatasetError: it cannot be read.
    """
    inputs = {case.identifier: case for case in find_input_cases(images, description)}
    chosen = choose(summary["cases"])
    missing = [name for name in chosen if name not in inputs]
    if missing:
        raise InputError(f"{images} holds no image of case {missing[0]}; expected {missing[0]}_0000{description.file_ending}.")
    folders = Path(summary["reference"]), Path(summary["prediction"])
    comparison_png(path, [_read(inputs[name], folders, description) for name in chosen], description.labels)


def choose(cases: dict[str, CaseMetrics], largest: int = LARGEST) -> list[str]:
    """Up to `largest` case names, evenly spaced in the order of their mean Dice, the lowest first; cases without a Dice come last."""
    ranked = sorted(cases, key=lambda name: (_mean_dice(cases[name]), name))
    if len(ranked) <= largest:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (largest - 1))] for i in range(largest)]


def _mean_dice(classes: CaseMetrics) -> float:
    values = [metrics["dice"] for metrics in classes.values() if not math.isnan(metrics["dice"])]
    return sum(values) / len(values) if values else math.inf


def _read(case: Case, folders: tuple[Path, Path], description: Description) -> Example:
    image = read_image(case.images)
    name = case.identifier + label_ending(description.file_ending)
    reference, predicted = (description.labels.encode(read_label(folder / name).array) for folder in folders)
    if reference.shape != image.array.shape[1:]:
        raise InputError(f"case {case.identifier}: image {image.array.shape[1:]} and mask {reference.shape} (z, y, x) differ in shape.")
    return Example(case.identifier, image.array, reference, predicted, image.spacing)
