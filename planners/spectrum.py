"""Measures, on a sample of cases, what the latent rules need: block codes and their spectra for every candidate factor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np

from ldseg_auto.data.cases import evenly
from ldseg_auto.data.dataset import Case, Description
from ldseg_auto.data.image_io import read_label
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.parallel import run_all
from ldseg_auto.planners.block_code import Blocks, Code, ceilings, cut, fit, joined, thinned
from ldseg_auto.planners.extract import raise_failures
from ldseg_auto.planners.fingerprint import Fingerprint, LatentCandidate
from ldseg_auto.planners.rules.latent import CHANNELS
from ldseg_auto.preprocessing.resample import nearest, new_shape
from ldseg_auto.progress import Progress, silent

MAX_CASES = 64
BLOCKS_PER_CASE = 400  # mixed blocks kept of a case, per factor
BINS_PER_DECADE = 10


@dataclass(frozen=True)
class LabelGrid:
    """The grid on which a configuration sees labels."""

    key: str  # names it in the fingerprint
    transpose: tuple[int, int, int]
    spacing: tuple[float, ...]  # mm, transposed; two numbers for 2d (the first axis is then left as it is)
    patch: tuple[int, ...]
    factors: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class CaseLabels:
    """One case on the grid: blocks per factor, and one patch of labels `(z, y, x)`."""

    blocks: dict[tuple[int, ...], Blocks]
    patch: np.ndarray


def sample_cases(cases: Sequence[Case], fingerprint: Fingerprint) -> list[Case]:
    """At most 64 cases: up to 8 of each class, evenly spread, then others evenly; the same for any order of `cases`."""
    by_name = {c.identifier: c for c in cases}
    names = sorted(by_name)
    volumes = {c.identifier: c.volumes for c in fingerprint.cases}
    chosen: dict[str, None] = {}
    for name in sorted(fingerprint.class_names, key=lambda n: fingerprint.classes[n].prevalence):
        having = [n for n in names if volumes[n][name] > 0]
        chosen.update(dict.fromkeys(evenly(having, 8)))
    chosen.update(dict.fromkeys(evenly(names, MAX_CASES)))
    return [by_name[n] for n in list(chosen)[:MAX_CASES]]


def measure_latent(
    cases: Sequence[Case], description: Description, grid: LabelGrid, pool: Executor, progress: Progress = silent
) -> tuple[LatentCandidate, ...]:
    """As measure_latents, on one grid."""
    return measure_latents(cases, description, (grid,), pool, progress)[grid.key]


def measure_latents(
    cases: Sequence[Case], description: Description, grids: Sequence[LabelGrid], pool: Executor, progress: Progress = silent
) -> dict[str, tuple[LatentCandidate, ...]]:
    """Block codes on half of the cases, their ceilings on the other half (on all, where a class is absent from one half).

    Each label file is read once, whatever the number of grids. benchmarks/latent.py measures seconds and memory.

    Args:
        cases: a sample; see sample_cases.

    Returns:
        grid.key -> one candidate per factor.

    Raises:
        DatasetError: cases that cannot be read.
    """
    outcomes = run_all(pool, partial(case_labels, description=description, grids=tuple(grids)), cases, "label blocks", progress)
    raise_failures(outcomes, "label blocks")
    done = [o.value for o in outcomes if o.value is not None]
    return {
        grid.key: tuple(_candidate([case[i] for case in done], factor, description.labels) for factor in grid.factors)
        for i, grid in enumerate(grids)
    }


def case_labels(case: Case, description: Description, grids: Sequence[LabelGrid]) -> tuple[CaseLabels, ...]:
    """Labels of one case (its first rater) on each grid, cut into blocks of every factor."""
    read = read_label(case.labels[0])
    labels = description.labels
    classes = len(labels.values)
    indices = np.empty(read.array.shape, np.uint8 if classes < 256 else np.uint16)
    for plane, values in zip(indices, read.array, strict=True):  # slice by slice: the lookup takes many bytes per voxel
        found = labels.encode(values)
        plane[:] = np.where(found == (labels.ignore_index or 0), 0, found)
    return tuple(_on_grid(indices, read.spacing, grid, classes) for grid in grids)


def _on_grid(indices: np.ndarray, spacing: Sequence[float], grid: LabelGrid, classes: int) -> CaseLabels:
    """Indices (z, y, x) of `spacing` on one grid."""
    label = indices.transpose(grid.transpose)
    moved = [spacing[a] for a in grid.transpose]
    target = (*moved[: 3 - len(grid.spacing)], *grid.spacing)
    label = np.ascontiguousarray(nearest(label, new_shape(label.shape, moved, target), None))
    rng = np.random.default_rng(0)
    blocks = {f: cut(label, _three(f), classes, BLOCKS_PER_CASE, rng) for f in grid.factors}
    return CaseLabels(blocks, _patch(label, _three(grid.patch)))


def _three(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """`sizes` of two or three axes as three."""
    return (1,) * (3 - len(sizes)) + sizes


def _patch(label: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The patch around the middle of the foreground, background beyond the image."""
    where = [np.flatnonzero((label > 0).any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    out = np.zeros(tuple(size), label.dtype)
    source, target = [], []
    for found, n, s in zip(where, label.shape, size, strict=True):
        middle = int(found[len(found) // 2]) if len(found) else n // 2
        start = min(max(middle - s // 2, 0), max(n - s, 0))
        stop = min(start + s, n)
        source.append(slice(start, stop))
        target.append(slice(0, stop - start))
    out[tuple(target)] = label[tuple(source)]
    return out


def _candidate(cases: Sequence[CaseLabels], factor: tuple[int, ...], labels: LabelSpec) -> LatentCandidate:
    rng = np.random.default_rng(0)
    names, table = labels.foreground_names, labels.table[: len(labels.values), labels.num_heads - len(labels.foreground_names) :]
    fitted, held = (thinned(joined([c.blocks[factor] for c in half]), rng) for half in (cases[::2], cases[1::2] or cases))
    classes = np.eye(len(labels.values))
    code = fit(fitted, classes, max(CHANNELS))
    dice = ceilings(code, held, table, CHANNELS)
    if any(np.isnan(d).any() for d in dice.values()) or _absent(fitted, table):
        both = thinned(joined([c.blocks[factor] for c in cases]), rng)
        code = fit(both, classes, max(CHANNELS))
        dice = ceilings(code, both, table, CHANNELS)
    curves = {str(k): {n: round(float(v), 5) for n, v in zip(names, d, strict=True) if not np.isnan(v)} for k, d in dice.items()}
    return LatentCandidate(factor, curves, _modes([c.patch for c in cases], code, _three(factor)))


def _absent(blocks: Blocks, table: np.ndarray) -> bool:
    """Whether a head occurs in no block."""
    rows, _ = blocks.rows()
    return bool((table[np.unique(rows)].sum(0) == 0).any())


def _modes(patches: Sequence[np.ndarray], code: Code, factor: tuple[int, ...]) -> dict[str, tuple[tuple[float, ...], ...]]:
    """Spectrum of the code of `patches` (z, y, x), each channel scaled to unit variance, as pairs (variance, variance held).

    One patch is held at a time. With F the orthonormal transform, scaling a channel divides its power by the variance; taking its mean m
    off changes F at frequency 0 alone, by m sqrt(positions).
    """
    zero = []
    power = np.zeros((len(code.components), *(n // f for n, f in zip(patches[0].shape, factor, strict=True))))
    for z in _codes(patches, code, factor):
        transformed = np.fft.fftn(z, axes=(1, 2, 3), norm="ortho")
        power += np.abs(transformed).astype(np.float64) ** 2 / len(patches)
        zero.append(transformed[:, 0, 0, 0].real.astype(np.float64))
    power[:, 0, 0, 0] = np.var(zero, axis=0)
    variance = power.reshape(len(power), -1).mean(1)
    power /= np.maximum(variance, 1e-12)[:, None, None, None]
    return {str(k): _histogram(power[:k].reshape(-1)) for k in CHANNELS}


def _codes(patches: Sequence[np.ndarray], code: Code, factor: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The code (channels, *grid) of each patch."""
    for patch in patches:
        grid = [n // f for n, f in zip(patch.shape, factor, strict=True)]
        blocks = patch.reshape(grid[0], factor[0], grid[1], factor[1], grid[2], factor[2]).transpose(0, 2, 4, 1, 3, 5)
        yield code.encode(blocks.reshape(-1, int(np.prod(factor)))).T.reshape(-1, *grid)


def _histogram(variance: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """Modes gathered in bins of a tenth of a decade: (mean variance, sum of variance)."""
    variance = variance[variance > 1e-6]
    bins = np.floor(np.log10(variance) * BINS_PER_DECADE)
    return tuple((float(f"{variance[bins == b].mean():.4g}"), float(f"{variance[bins == b].sum():.4g}")) for b in np.unique(bins))
