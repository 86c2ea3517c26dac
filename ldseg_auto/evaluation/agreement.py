"""Agreement within and between sets of masks: samples of one model, raters of one image.

Conventions. Distances count two empty masks as equal (distance 0): all agree that the class is absent. Pairwise Dice leaves such pairs out,
as `metrics.py` does, because a class that nobody sees would raise every mean.
"""

from __future__ import annotations

import numpy as np

from ldseg_auto.errors import InputError

CHUNK = 2**18  # voxels per matrix product: bounds the memory, and float32 counts whole numbers exactly up to 2^24


def jaccard_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - IoU of each mask of one set with each of another; two empty masks have distance 0.

    Args:
        a: bool masks `(n, *spatial)`.
        b: bool masks `(m, *spatial)`.

    Returns:
        distances `(n, m)` in [0, 1].

    Raises:
        InputError: the masks are not bool, or their spatial shapes differ.
    """
    intersection, total = _overlaps(a, b)
    union = total - intersection
    return np.where(union > 0, 1 - intersection / np.maximum(union, 1), 0.0)


def generalised_energy_distance(samples: np.ndarray, raters: np.ndarray) -> float:
    """Squared generalised energy distance between the samples' and the raters' distribution; 0 is best, at most 2.

    GED^2 = 2 E d(S, Y) - E d(S, S') - E d(Y, Y'), d = 1 - IoU (Kohl et al. 2018, "A Probabilistic U-Net for Segmentation of Ambiguous
    Images"). Expectations run over all pairs, each mask with itself included, as published. With one sample the second term is 0. The
    value depends on the number of samples: compare at equal numbers.

    Args:
        samples: bool `(n, classes, *spatial)`, foreground classes or regions.
        raters: bool `(m, classes, *spatial)`.

    Returns:
        mean of GED^2 over the classes.

    Raises:
        InputError: no sample, rater or class; not bool; shapes differ behind the first axis.
    """
    for name, masks in (("samples", samples), ("raters", raters)):
        _check_set(name, masks, at_least=1)
    if samples.shape[1:] != raters.shape[1:]:
        raise InputError(f"samples {samples.shape} and raters {raters.shape} must agree behind the first axis (n, classes, *spatial).")
    values = []
    for s, y in zip(samples.swapaxes(0, 1), raters.swapaxes(0, 1), strict=True):
        values.append(2 * jaccard_distances(s, y).mean() - jaccard_distances(s, s).mean() - jaccard_distances(y, y).mean())
    return float(np.mean(values))


def pairwise_dice(masks: np.ndarray) -> float:
    """Mean Dice between different masks of one set: 1 is complete agreement.

    The mean runs over all values (pair, class) with the same weight. A class that both masks of a pair lack has no value; without any value
    (every mask is empty) the set agrees completely: 1. Between samples of a model this is a case's confidence (Roy et al. 2019; found the
    best simple one by Zenk et al. 2025).

    Args:
        masks: bool `(n, classes, *spatial)`, foreground classes or regions, n >= 2.

    Returns:
        mean in [0, 1].

    Raises:
        InputError: fewer than two masks, no class, or not bool.
    """
    _check_set("masks", masks, at_least=2)
    first, second = np.triu_indices(len(masks), k=1)
    values = []
    for of_class in masks.swapaxes(0, 1):
        intersection, total = (table[first, second] for table in _overlaps(of_class, of_class))
        values.append(2 * intersection[total > 0] / total[total > 0])
    found = np.concatenate(values)
    return float(found.mean()) if len(found) else 1.0


def rater_agreement(raters: np.ndarray) -> float:
    """`pairwise_dice` between raters: the yardstick for samples, which should disagree as much as raters do, and for a mask's Dice.

    Args:
        raters: bool `(m, classes, *spatial)`, m >= 2.

    Raises:
        InputError: as `pairwise_dice`.
    """
    return pairwise_dice(raters)


def _overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels that each pair of masks shares, and the sum of their sizes, both `(n, m)`; masks as in `jaccard_distances`."""
    if a.dtype != bool or b.dtype != bool:
        raise InputError(f"masks are {a.dtype} and {b.dtype}: expected bool; compare label maps with a class first (label == 1).")
    if a.shape[1:] != b.shape[1:]:
        raise InputError(f"masks {a.shape} and {b.shape} must agree behind the first axis (n, *spatial).")
    voxels = int(np.prod(a.shape[1:]))
    flat_a, flat_b = a.reshape(len(a), voxels), b.reshape(len(b), voxels)
    intersection = np.zeros((len(a), len(b)))
    for start in range(0, voxels, CHUNK):
        part = slice(start, start + CHUNK)
        intersection += flat_a[:, part].astype(np.float32) @ flat_b[:, part].astype(np.float32).T
    return intersection, (flat_a.sum(1)[:, None] + flat_b.sum(1)[None]).astype(float)


def _check_set(name: str, masks: np.ndarray, at_least: int) -> None:
    if masks.ndim < 2 or len(masks) < at_least or masks.shape[1] < 1:
        raise InputError(f"{name} have shape {masks.shape}: expected (n, classes, *spatial) with n >= {at_least} and at least one class.")
