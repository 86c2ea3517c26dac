"""Strides and kernels: nnU-Net 2.8.1's own answers for known shapes, and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldseg_auto.planners.rules.topology import MIN_EDGE, topology, topology_reason

ONE2, TWO2, ONE3, TWO3 = (1, 1), (2, 2), (1, 1, 1), (2, 2, 2)


@pytest.mark.parametrize(
    ("spacing", "patch", "padded", "strides", "kernels"),
    [
        # nnU-Net 2.8.1's plans: Hippocampus 3D and 2D, and an anisotropic prostate MR
        ((1, 1, 1), (36, 50, 35), (40, 56, 40), [ONE3, TWO3, TWO3, TWO3], [(3, 3, 3)] * 4),
        ((1, 1), (56, 40), (56, 40), [ONE2, TWO2, TWO2, TWO2], [(3, 3)] * 4),
        (
            (3.6, 0.625, 0.625), (20, 320, 256), (20, 320, 256),
            [ONE3, (1, 2, 2), (1, 2, 2), TWO3, TWO3, (1, 2, 2), (1, 2, 2)],
            [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
        ),
        # by hand: two slices are never halved; their kernel grows when the plane is within twice 5 mm (4 mm: third stage)
        ((5, 1, 1), (2, 32, 32), (2, 32, 32), [ONE3, (1, 2, 2), (1, 2, 2), (1, 2, 2)], [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)]),
        # a lone axis is halved from 12 on, not from 8
        ((1, 1, 1), (12, 5, 5), (12, 5, 5), [ONE3, (2, 1, 1)], [(3, 3, 3)] * 2),
        # exactly twice the finest is not alike
        ((2, 1, 1), (16, 16, 16), (16, 16, 16), [ONE3, (1, 2, 2), TWO3], [(1, 3, 3), (3, 3, 3), (3, 3, 3)]),
        # half voxels of a median are padded up
        ((1, 1), (40.5, 40), (48, 40), [ONE2, TWO2, TWO2, TWO2], [(3, 3)] * 4),
    ],
)  # fmt: skip
def test_table(spacing: tuple, patch: tuple, padded: tuple, strides: list, kernels: list) -> None:
    found = topology(spacing, patch)
    assert found.patch_size == padded
    assert list(found.strides) == strides
    assert list(found.kernel_sizes) == kernels


@pytest.mark.parametrize(
    ("spacing", "patch", "padded", "stride"),
    [
        ((1, 1, 1), (5, 6, 7), (8, 8, 8), (2, 2, 2)),
        ((1, 1), (6, 7), (8, 8), (2, 2)),
        ((1, 1, 1), (8, 5, 5), (8, 8, 8), (2, 2, 2)),  # a lone axis below 12
        ((5, 1, 1), (3, 6, 6), (3, 8, 8), (1, 2, 2)),  # the coarse axis waits
        ((1, 1), (1, 11), (8, 12), (2, 2)),
    ],
)
def test_too_small_to_halve_is_padded_for_the_latent(spacing: tuple, patch: tuple, padded: tuple, stride: tuple) -> None:
    found = topology(spacing, patch)
    assert found.patch_size == padded and found.strides == (tuple(1 for _ in stride), stride) and found.total_stride == stride
    assert found.kernel_sizes[-1] == tuple(3 for _ in stride)


@pytest.mark.parametrize("seed", range(40))
def test_laws(seed: int) -> None:
    """Multiples of the total stride, no smaller than asked for, by less than one stride; no halved axis below four voxels."""
    rng = np.random.default_rng(seed)
    dimensions = int(rng.integers(2, 4))
    spacing, patch = rng.uniform(0.3, 8, dimensions), rng.integers(8, 300, dimensions)
    found = topology(spacing, patch)
    assert len(found.strides) == len(found.kernel_sizes) >= 2 and set(found.strides[0]) == {1}
    assert found.total_stride == tuple(math.prod(s[i] for s in found.strides) for i in range(dimensions))
    for size, total, wanted in zip(found.patch_size, found.total_stride, patch, strict=True):
        assert size % total == 0 and wanted <= size < max(wanted, 12) + total
        assert total == 1 or size // total >= MIN_EDGE
    assert all(2 in s for s in found.strides[1:])  # each stage halves something
    for axis in range(dimensions):
        kernels = [k[axis] for k in found.kernel_sizes]
        assert kernels == sorted(kernels) and kernels[-1] == 3  # once 3, always 3


def test_scaling_all_spacings_changes_nothing() -> None:
    assert topology((3.5, 0.7, 0.9), (20, 180, 200)) == topology((35, 7, 9), (20, 180, 200))


def test_reason() -> None:
    spacing = (3.6, 0.625, 0.625)
    assert topology_reason(spacing, topology(spacing, (20, 320, 256))) == (
        "7 stages: halved 2 x 6 x 6 times to 5 x 5 x 4 voxels, at least 4 along a halved axis; an axis 5.8 times as coarse as the finest "
        "waits, with kernel 1, until it is below 2"
    )
    assert "waits" not in topology_reason((1, 1), topology((1, 1), (64, 64)))
