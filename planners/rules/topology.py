"""Strides and kernel sizes of the network's stages from spacing and patch (nnU-Net v2's rule)."""

from __future__ import annotations

from collections.abc import Sequence
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

    Args:
        spacing: mm per axis.
        patch: voxels per axis, before padding.
    """
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
    kernels.append(tuple(3 for _ in axes))
    total = tuple(2 ** sum(stride[i] == 2 for stride in strides) for i in axes)
    padded = tuple(ceil(p / t) * t for p, t in zip(patch, total, strict=True))
    return Topology(tuple(strides), tuple(kernels), padded, total)
