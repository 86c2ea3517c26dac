"""Measures a dataset's fingerprint, case by case in parallel."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import find_objects
from skimage.measure import label as connected

from ldseg_auto.data.dataset import Case, Description, RawDataset
from ldseg_auto.data.endings import TIFF, ending_of
from ldseg_auto.data.geometry import Geometry
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.data.training_case import load_training_case
from ldseg_auto.data.verify import check_constant
from ldseg_auto.errors import DatasetError, LdsegError
from ldseg_auto.files import hash_file
from ldseg_auto.parallel import Outcome, run_all
from ldseg_auto.planners.fingerprint import CaseFingerprint, Fingerprint, class_statistics, intensity_statistics
from ldseg_auto.planners.intensities import Quantiles, histograms, measure_intensities
from ldseg_auto.preprocessing.crop import nonzero_box, slices
from ldseg_auto.progress import Progress, silent

logger = logging.getLogger(__name__)
SAMPLES = 100_000_000  # foreground voxels in all, as nnU-Net
SAMPLES_PER_CASE = 50_000
SHOWN = 10  # failing cases named in an error


@dataclass(frozen=True)
class CaseAnalysis:
    """One case measured: its part of the fingerprint, foreground intensities (channels, n), and what the histograms count."""

    fingerprint: CaseFingerprint
    intensities: np.ndarray
    quantiles: Quantiles


def extract_fingerprint(dataset: RawDataset, pool: Executor, progress: Progress = silent) -> Fingerprint:
    """Reads every training case once.

    Raises:
        DatasetError: cases that cannot be used, all of them named with the cause; or no case has any foreground.
        LdsegError: a worker died.
    """
    samples = max(1, min(SAMPLES_PER_CASE, SAMPLES // len(dataset.cases)))
    analyse = partial(analyse_case, description=dataset.description, samples=samples)
    outcomes = run_all(pool, analyse, dataset.cases, "fingerprint", progress)
    raise_failures(outcomes, dataset.name)
    done = sorted((o.value for o in outcomes if o.value is not None), key=lambda a: a.fingerprint.identifier)
    cases = tuple(a.fingerprint for a in done)
    names = dataset.description.labels.foreground_names
    intensities = np.concatenate([a.intensities for a in done], axis=1)
    if not intensities.shape[1]:
        raise DatasetError(f"{dataset.name}: no label holds any foreground. Check the values in the label files against dataset.json.")
    classes = class_statistics(cases, names)
    absent = [name for name, found in classes.items() if found.prevalence == 0]
    if absent:
        advice = "It cannot be learnt: remove it from labels in dataset.json, or add cases"
        logger.warning("%s: class %s is in none of the %d cases. %s.", dataset.name, ", ".join(absent), len(cases), advice)
    relative = float(np.median([prod(c.shape_after_crop) / prod(c.shape) for c in cases]))
    channels = {str(i): intensity_statistics(channel) for i, channel in enumerate(intensities)}
    return Fingerprint(
        dataset.name, dataset.description.channel_names, names, dataset.description.file_ending, cases,
        relative, channels, classes, raters=len(dataset.description.raters), histograms=histograms([a.quantiles for a in done]),
    )  # fmt: skip


def raise_failures(outcomes: Sequence[Outcome[Case, Any]], name: str) -> None:
    """Raises one error that names every failing case; a DatasetError where all are the data's fault."""
    failed = [(o.item.identifier, o.error) for o in outcomes if o.error is not None]
    if not failed:
        return
    lines = [f"{identifier}: {error}" if identifier not in str(error) else str(error) for identifier, error in failed[:SHOWN]]
    more = f"\n  and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
    kind = DatasetError if all(isinstance(e, DatasetError) for _, e in failed) else LdsegError
    first = next((e for _, e in failed if not isinstance(e, DatasetError)), failed[0][1])
    raise kind(f"{name}: {len(failed)} of {len(outcomes)} cases cannot be used:\n  " + "\n  ".join(lines) + more) from first


def analyse_case(case: Case, description: Description, samples: int) -> CaseAnalysis:
    """Measures one case.

    Args:
        samples: foreground voxels drawn with replacement, so that every case weighs the same (none where there is no foreground).

    Raises:
        DatasetError: the case cannot be used.
    """
    image, labels = load_training_case(case, description)
    check_constant(case, image, description)
    foreground = np.any([(label > 0) & (label != (description.labels.ignore_index or -1)) for label in labels], axis=0)
    values = image.array[:, foreground]
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(case.identifier.encode()).digest()[:8], "little"))
    drawn = values[:, rng.integers(values.shape[1], size=samples)] if values.shape[1] else values
    box = nonzero_box(image.array)
    flat = image.geometry.dimension == 2
    size = prod(image.spacing) / (max(image.spacing) if flat else 1000)  # mm2 or ml; the distance of a lone slice means nothing
    volumes, components, border = measure_classes(labels, description.labels)
    ranges, quantiles = measure_intensities(image.array[(slice(None), *slices(box))], drawn)
    mirrored, degrees = measure_direction(image.geometry)
    fingerprint = CaseFingerprint(
        case.identifier, image.array.shape[1:], tuple(high - low for low, high in box), tuple(float(s) for s in image.spacing),
        image.geometry.orientation, hash_case(case), {n: v * size for n, v in volumes.items()}, components, *ranges, border,
        mirrored, degrees, measure_agreement(labels, description.labels),
    )  # fmt: skip
    return CaseAnalysis(fingerprint, np.ascontiguousarray(drawn, dtype=np.float32), quantiles)


def hash_case(case: Case) -> str:
    """SHA-256 over the bytes of all files of a case, those included that they refer to, and over who drew it, where not all did."""
    files = [f for p in (*case.images, *case.labels) for f in (p, *_companions(p))]
    who = f" raters {case.raters}" if case.raters else ""
    return hashlib.sha256(("".join(hash_file(f) for f in files) + who).encode()).hexdigest()


def _companions(path: Path) -> list[Path]:
    """The voxels of an .mhd header, and the sidecar with the spacing of a TIFF."""
    ending = ending_of(path)
    if ending.lower() == ".mhd":
        found = re.search(rb"^\s*ElementDataFile\s*=\s*(.+?)\s*$", path.read_bytes(), re.MULTILINE)
        named = [path.with_name(found[1].decode("utf-8", "replace"))] if found else []
    elif ending.lower() in TIFF:
        stem = path.name[: -len(ending)]
        named = [path.with_name(f"{name}.json") for name in dict.fromkeys((stem, re.sub(r"_\d{4}$", "", stem)))]
    else:
        return []
    return [f for f in named if f.is_file()]


def measure_direction(geometry: Geometry) -> tuple[bool, float]:
    """Whether the file's axes are left-handed, and the largest angle in degrees (to 0.1) between an axis and the one it is read as."""
    matrix = np.array(geometry.direction).reshape(3, 3)
    cosines = [abs(matrix[2 - i, 2 - axis]) for i, axis in enumerate(geometry.permutation)]
    return bool(np.linalg.det(matrix) < 0), round(float(np.degrees(np.arccos(min(1.0, *cosines)))), 1)


def measure_classes(labels: Sequence[np.ndarray], spec: LabelSpec) -> tuple[dict[str, float], dict[str, float], tuple[str, ...]]:
    """Voxels and connected components of each foreground class or region, mean over raters, and which of them reach the image's border.

    Args:
        labels: index maps (z, y, x), one per rater. An axis of one voxel has no border.
    """
    voxels = dict.fromkeys(spec.foreground_names, 0.0)
    components = dict.fromkeys(spec.foreground_names, 0.0)
    border = set()
    first = spec.num_heads - len(spec.foreground_names)
    for label in labels:
        boxes = find_objects(label)
        for head, name in enumerate(spec.foreground_names, start=first):
            indices = np.flatnonzero(spec.table[:, head])
            found = [b for i in indices if 0 < i <= len(boxes) and (b := boxes[i - 1]) is not None]
            if not found:
                continue
            around = tuple(slice(min(b[a].start for b in found), max(b[a].stop for b in found)) for a in range(3))
            if any(n > 1 and (s.start == 0 or s.stop == n) for s, n in zip(around, label.shape, strict=True)):
                border.add(name)
            mask = np.isin(label[around], indices)
            voxels[name] += float(mask.sum()) / len(labels)
            components[name] += connected(mask, return_num=True, connectivity=1)[1] / len(labels)
    return voxels, components, tuple(name for name in spec.foreground_names if name in border)


def measure_agreement(labels: Sequence[np.ndarray], spec: LabelSpec) -> float | None:
    """Mean Dice over pairs of raters and over the classes or regions that one of the two drew, as evaluation.agreement.pairwise_dice.

    Args:
        labels: index maps (z, y, x), one per rater; voxels that either of a pair leaves to be ignored do not count.

    Returns:
        in [0, 1]; None without such a pair.
    """
    first, values = spec.num_heads - len(spec.foreground_names), []
    for a, b in combinations(labels, 2):
        there = np.flatnonzero((a > 0) | (b > 0))
        pair = a.reshape(-1)[there], b.reshape(-1)[there]
        if spec.ignore_index is not None:
            known = (pair[0] != spec.ignore_index) & (pair[1] != spec.ignore_index)
            pair = pair[0][known], pair[1][known]
        for head in range(first, spec.num_heads):
            one, other = (spec.table[indices, head] > 0 for indices in pair)
            size = np.count_nonzero(one) + np.count_nonzero(other)
            if size:
                values.append(2 * np.count_nonzero(one & other) / size)
    return round(float(np.mean(values)), 4) if values else None
