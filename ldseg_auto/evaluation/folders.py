"""Evaluation of a folder of predictions against a folder of references."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldseg_auto.data.dataset import Description
from ldseg_auto.data.endings import label_ending
from ldseg_auto.data.geometry import differences
from ldseg_auto.data.image_io import LabelMap, read_label
from ldseg_auto.errors import InputError, LdsegError
from ldseg_auto.evaluation.evaluate import evaluate_case, summarise
from ldseg_auto.progress import Progress, silent

logger = logging.getLogger(__name__)
SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Pair:
    """The files of one case."""

    identifier: str
    reference: Path
    predicted: Path


def evaluate_folder(
    reference: Path, prediction: Path, description: Description, *, tolerance: float = 1.0, allow_missing: bool = False,
    workers: int = 1, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Compares all masks of two folders, matched by name.

    Args:
        reference, prediction: folders of CASE.EXT, EXT being the dataset's file ending.
        description: the dataset's, for its labels.
        tolerance: of NSD, in mm (in pixels for natural 2D images).
        allow_missing: leave out cases without a prediction instead of refusing; the summary names them.
        workers: processes; 1 works in this one.

    Returns:
        What evaluate.summarise gives, with `reference`, `prediction`, `tolerance`, `unit` ("mm" or "pixels") and `missing` (case names).

    Raises:
        InputError: no references, a missing prediction, grids that differ; DatasetError: a file that cannot be read, an undeclared label.
    """
    pairs, missing = find_pairs(reference, prediction, label_ending(description.file_ending), allow_missing)
    work = partial(_evaluate_pair, description=description, tolerance=tolerance)
    results = list(progress(_each(work, pairs, workers), "evaluating", total=len(pairs)))
    cases = {pair.identifier: metrics for pair, (metrics, _) in zip(pairs, results, strict=True)}
    scaled = any(has_spacing for _, has_spacing in results)
    return {
        "reference": str(reference), "prediction": str(prediction), "tolerance": tolerance, "unit": "mm" if scaled else "pixels",
        "missing": missing, **summarise(cases, description.labels.foreground_names),
    }  # fmt: skip


def find_pairs(reference: Path, prediction: Path, ending: str, allow_missing: bool = False) -> tuple[list[Pair], list[str]]:
    """The cases of both folders, and the names of those without a prediction.

    Raises:
        InputError: a folder is not there or holds no masks, or (without `allow_missing`) a prediction is missing.
    """
    there = {kind: _masks(folder, ending, kind) for kind, folder in (("reference", reference), ("prediction", prediction))}
    names, predicted = there["reference"], there["prediction"]
    missing = [n for n in names if n not in predicted]
    if missing and (not allow_missing or len(missing) == len(names)):
        shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        some = len(missing) < len(names)
        advice = "Predict them, or use --allow-missing to leave them out." if some else "Are the folders those you mean?"
        raise InputError(f"{prediction} lacks {len(missing)} of {len(names)} cases that {reference} holds: {shown}. {advice}")
    extra = [n for n in predicted if n not in names]
    if extra:
        logger.warning("%d predictions have no reference and are left out (first: %s).", len(extra), extra[0])
    return [Pair(n, names[n], predicted[n]) for n in names if n in predicted], missing


def _masks(folder: Path, ending: str, kind: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{kind} folder {folder} does not exist.")
    files = sorted(f for f in folder.iterdir() if f.name.endswith(ending) and not f.name.startswith("."))
    if not files:
        raise InputError(f"{kind} folder {folder} holds no {ending} file; name the folder that holds the masks.")
    return {f.name.removesuffix(ending): f for f in files}


def _each(work: partial, pairs: list[Pair], workers: int) -> Iterator[Any]:
    """Results in the order of `pairs`."""
    if workers == 1 or len(pairs) < 2:
        yield from map(work, pairs)
        return
    with ProcessPoolExecutor(min(workers, len(pairs))) as pool:
        try:
            yield from pool.map(work, pairs)
        except BrokenProcessPool:
            raise LdsegError("a worker process died, most often for lack of memory: use fewer with -np.") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _evaluate_pair(pair: Pair, description: Description, tolerance: float) -> tuple[dict[str, dict[str, float]], bool]:
    """Metrics per class, and whether the reference says how large its voxels are."""
    reference, predicted = read_label(pair.reference), read_label(pair.predicted)
    different = differences(reference.geometry, predicted.geometry)
    if different:
        raise InputError(f"case {pair.identifier}: {pair.reference} and {pair.predicted} do not lie on one grid: {'; '.join(different)}.")
    true, found = (_encode(mask, path, description) for mask, path in ((reference, pair.reference), (predicted, pair.predicted)))
    return evaluate_case(true, found, description.labels, reference.spacing, tolerance=tolerance), reference.geometry.has_spacing


def _encode(mask: LabelMap, path: Path, description: Description) -> np.ndarray:
    try:
        return description.labels.encode(mask.array)
    except InputError as cause:
        raise InputError(f"{path}: {cause}") from None
