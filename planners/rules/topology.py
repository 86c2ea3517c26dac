"""Strides and kernel sizes of the network's stages from spacing and patch (nnU-Net v2's rule)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

MIN_EDGE = 4  # voxels of the coarsest grid
SIMILAR = 2.0  # axes whose spacing is below this many times the finest are treated alike


@dataclass(frozen=True)
class Topology:
    """One entry per stage, finest first."""

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    patch_size: tuple[int, ...]  # padded to multiples of the total stride
    total_stride: tuple[int, ...]


def topology(spacing: Sequence[float], patch: Sequence[float]) -> Topology:
    """Halves each axis while its size stays at least 4 and its spacing within twice the finest of those that can be halved.

    A lone axis is halved only while its size is 12 or more. A kernel grows from 1 to 3 along an axis once the axis is within
    twice the finest spacing, and stays 3; the last stage is 3 everywhere.

    The label latent needs a grid coarser than the patch, so there are two stages at least: where the rule halves nothing, the axes
    within twice the finest spacing are padded to 8 voxels and halved once. (nnU-Net plans a network of one stage there.)

    Args:
        spacing: mm per axis.
        patch: voxels per axis, before padding.
    """
    strides, kernels = _halvings(spacing, patch)
    if not kernels:
        alike = [s / min(spacing) < SIMILAR for s in spacing]
        patch = [max(p, 2 * MIN_EDGE) if a else p for p, a in zip(patch, alike, strict=True)]
        strides.append(tuple(2 if a else 1 for a in alike))
        kernels.append(tuple(3 if a else 1 for a in alike))
    kernels.append(tuple(3 for _ in patch))
    total = tuple(2 ** sum(stride[i] == 2 for stride in strides) for i in range(len(patch)))
    padded = tuple(ceil(p / t) * t for p, t in zip(patch, total, strict=True))
    return Topology(tuple(strides), tuple(kernels), padded, total)


def _halvings(spacing: Sequence[float], patch: Sequence[float]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Strides of all stages, and kernel sizes of all but the last."""
    spacing, size = list(spacing), [float(p) for p in patch]
    axes = range(len(size))
    kernel = [1] * len(size)
    strides, kernels = [tuple(1 for _ in axes)], []
    while True:
        candidates = [i for i in axes if size[i] >= 2 * MIN_EDGE]
        finest = min((spacing[i] for i in candidates), default=0.0)
        candidates = [i for i in candidates if spacing[i] / finest < SIMILAR]
        if not candidates or (len(candidates) == 1 and size[candidates[0]] < 3 * MIN_EDGE):
            break
        kernel = [3 if k == 3 or s / min(spacing) < SIMILAR else 1 for k, s in zip(kernel, spacing, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if i in candidates else 1 for i in axes))
        for i in candidates:
            spacing[i] *= 2
            size[i] = ceil(size[i] / 2)
    return strides, kernels


def topology_reason(spacing: Sequence[float], found: Topology) -> str:
    """Why the stages are what they are, for the plans: halvings per axis, the coarsest grid, and axes that wait for the others."""
    halvings = tuple(sum(stride[i] == 2 for stride in found.strides) for i in range(len(spacing)))
    coarsest = _times(p // t for p, t in zip(found.patch_size, found.total_stride, strict=True))
    text = f"{len(found.strides)} stages: halved {_times(halvings)} times to {coarsest} voxels, at least {MIN_EDGE} along a halved axis"
    coarse = [s / min(spacing) for s in spacing]
    waits = [f"{coarse[i]:.1f}" for i in range(len(spacing)) if found.kernel_sizes[0][i] == 1]
    if waits:
        text += f"; an axis {' and '.join(waits)} times as coarse as the finest waits, with kernel 1, until it is below {SIMILAR:g}"
    return text


def _times(numbers: Iterable[int]) -> str:
    return " x ".join(map(str, numbers))
