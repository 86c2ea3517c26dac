"""Patch and batch size under a memory target (nnU-Net v2's rule, with our own network's memory)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

from ldseg_auto.errors import InputError
from ldseg_auto.planners.rules.memory import Demand
from ldseg_auto.planners.rules.topology import Topology, topology

IDEAL_VOXELS = {2: 2048**2, 3: 256**3}  # of the patch before it is clipped to the image and to memory
MIN_BATCH = 2
DATASET_SHARE = 0.05  # of the dataset's voxels that a batch covers at most


@dataclass(frozen=True)
class PatchChoice:
    """Patch (in the topology), batch and their reasons."""

    topology: Topology
    batch_size: int
    demand: Demand
    patch_reason: str
    batch_reason: str


def ideal_patch(spacing: Sequence[float], median_shape: Sequence[float]) -> list[float]:
    """A cube in mm of 256^3 (2D: 2048^2) voxels, clipped to the median shape; voxels per axis."""
    density = [1 / s for s in spacing]
    scale = (IDEAL_VOXELS[len(spacing)] / prod(density)) ** (1 / len(spacing))
    return [min(float(round(d * scale)), m) for d, m in zip(density, median_shape, strict=True)]


def choose_patch(
    spacing: Sequence[float], median_shape: Sequence[float], dataset_voxels: float, demand: Callable[[Topology], Demand], target_gib: float
) -> PatchChoice:
    """Shrinks the ideal patch until two samples fit, then fills the memory with samples.

    The axis to shrink is the one that is largest against the median shape; it loses one total stride at a time. One that cannot shrink
    any more leaves it to the next. A batch covers at most 5% of the dataset's voxels, but has at least 2 samples. Unlike nnU-Net, which
    rounds the number that fits to the nearest, it never exceeds the target.

    Args:
        spacing, median_shape: per axis of the patch (two or three), mm and voxels.
        dataset_voxels: of all training cases at the target spacing.
        demand: memory for a topology and its patch.
        target_gib: of the graphics card.

    Raises:
        InputError: even the smallest patch does not fit; says the memory that it needs.
    """
    wanted = ideal_patch(spacing, median_shape)
    current = topology(spacing, wanted)
    first = current.patch_size
    while demand(current).gib(MIN_BATCH) > target_gib:
        patch = current.patch_size
        axes = sorted(range(len(spacing)), key=lambda i: (patch[i] / median_shape[i], i), reverse=True)
        smaller = next((found for axis in axes if (found := _shrunk(spacing, current, axis))), None)
        if smaller is None:
            least = ceil(100 * demand(current).gib(MIN_BATCH)) / 100  # rounded up, so that what is advised is enough
            raise InputError(
                f"--gpu-memory {target_gib:g}: the smallest patch {current.patch_size} with {MIN_BATCH} samples needs {least:.2f} GiB. "
                "Give at least that."
            )
        current = smaller
    need = demand(current)
    fits = need.largest_batch(target_gib)
    share = round(DATASET_SHARE * dataset_voxels / prod(current.patch_size))
    batch = max(MIN_BATCH, min(fits, share))
    whole = all(w >= m for w, m in zip(wanted, median_shape, strict=True))
    shrunk = "the median shape fits whole" if whole else f"the largest considered, {_times(wanted)} before padding, fits"
    if current.patch_size != first:
        shrunk = f"shrunk from {_times(first)} to fit {target_gib:g} GiB"
    patch_reason = f"{shrunk}; median shape {_times([round(m) for m in median_shape])}, multiples of {_times(current.total_stride)}"
    return PatchChoice(current, batch, need, patch_reason, _batch_reason(fits, share, target_gib))


def _batch_reason(fits: int, share: int, target_gib: float) -> str:
    numbers = f"{fits} samples fit {target_gib:g} GiB, {DATASET_SHARE:.0%} of the dataset's voxels are {share}"
    if min(fits, share) < MIN_BATCH:
        return f"the least, {MIN_BATCH}: {numbers}"
    return f"{'memory' if fits <= share else 'the dataset'} limits it: {numbers}"


def _shrunk(spacing: Sequence[float], current: Topology, axis: int) -> Topology | None:
    """One step smaller along `axis`, with the stride that the smaller patch will have; None at the end."""
    patch = list(current.patch_size)
    trial = list(patch)
    trial[axis] -= current.total_stride[axis]
    if trial[axis] < 1:
        return None
    patch[axis] -= topology(spacing, trial).total_stride[axis]
    smaller = topology(spacing, patch)
    return smaller if prod(smaller.patch_size) < prod(current.patch_size) else None


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in numbers)
