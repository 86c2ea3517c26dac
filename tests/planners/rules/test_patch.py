"""Patch and batch under simple memory rules, whose answers can be worked out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.planners.rules.memory import Demand, Linear
from ldseg_auto.planners.rules.patch import MIN_BATCH, choose_patch, ideal_patch
from ldseg_auto.planners.rules.topology import Topology

ENDLESS = 1e15  # voxels of a dataset that limits no batch


def per_voxel(size: float, fixed: float = 0.0) -> Callable[[Topology], Demand]:
    """Memory of `size` bytes a voxel."""
    return lambda t: Linear(fixed, size * math.prod(t.patch_size))


@pytest.mark.parametrize(
    ("spacing", "shape", "wanted"),
    [
        ((1, 1, 1), (1e6,) * 3, (256, 256, 256)),
        ((1, 1), (1e6,) * 2, (2048, 2048)),
        ((8, 1, 1), (1e6,) * 3, (64, 512, 512)),  # 8^(2/3) = 4 times fewer along z, 8^(1/3) = 2 times more in the plane
        ((4, 1), (1e6,) * 2, (1024, 4096)),
        ((1, 1, 1), (100, 300, 256.5), (100, 256, 256)),  # clipped to the median
        ((1, 1, 1), (36, 50.5, 35), (36, 50.5, 35)),
    ],
)
def test_ideal_patch(spacing: tuple, shape: tuple, wanted: tuple) -> None:
    assert ideal_patch(spacing, shape) == list(wanted)


def test_reason_does_not_claim_more_than_is_so() -> None:
    whole = choose_patch((1, 1, 1), (40, 40, 40), 1e9, lambda t: Linear(0, 1.0), 8)
    clipped = choose_patch((1, 1, 1), (900, 900, 900), 1e12, lambda t: Linear(0, 1.0), 8)
    shrunk = choose_patch((1, 1, 1), (900, 900, 900), 1e12, per_voxel(100), 1)
    assert whole.patch_reason.startswith("the median shape fits whole")
    assert clipped.patch_reason.startswith("the largest considered, 256 x 256 x 256 before padding, fits")
    assert shrunk.patch_reason.startswith("shrunk from 256 x 256 x 256 to fit 1 GiB")


@pytest.mark.parametrize(
    ("bytes_per_voxel", "dataset_voxels", "batch", "reason"),
    [
        (100, ENDLESS, 40, "memory limits it: 40 samples fit 1 GiB, 5% of the dataset's voxels are"),  # 2^30 / (100 x 64^3) = 40.96
        (100, 100 * 64**3, 5, "the dataset limits it: 40 samples fit 1 GiB, 5% of the dataset's voxels are 5"),
        (100, 10 * 64**3, 2, "the least, 2: 40 samples fit 1 GiB, 5% of the dataset's voxels are 0"),
        (2000, ENDLESS, 2, "memory limits it: 2 samples fit"),
    ],
)
def test_batch(bytes_per_voxel: float, dataset_voxels: float, batch: int, reason: str) -> None:
    found = choose_patch((1, 1, 1), (64, 64, 64), dataset_voxels, per_voxel(bytes_per_voxel), 1)
    assert found.topology.patch_size == (64, 64, 64) and found.batch_size == batch and found.batch_reason.startswith(reason)


@pytest.mark.parametrize("seed", range(20))
def test_shrinks_until_two_samples_fit_and_no_further_than_needed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spacing, shape = tuple(rng.uniform(0.5, 5, 3)), tuple(rng.integers(20, 500, 3))
    found = choose_patch(spacing, shape, ENDLESS, per_voxel(100), 0.5)
    voxels = math.prod(found.topology.patch_size)
    assert MIN_BATCH * 100 * voxels <= 2**29
    assert found.batch_size == 2**29 // (100 * voxels)
    if "shrunk" in found.patch_reason:
        assert MIN_BATCH * 100 * voxels > 0.3 * 2**29


def test_the_axis_largest_against_the_image_shrinks_first() -> None:
    """The last one of equals, as nnU-Net's: from 256^3 to 128^3 in turns, then the next along x."""
    found = choose_patch((1, 1, 1), (256, 256, 256), ENDLESS, per_voxel(1), MIN_BATCH * 128**3 / 2**30)
    assert found.topology.patch_size == (128, 128, 128)
    less = choose_patch((1, 1, 1), (256, 256, 256), ENDLESS, per_voxel(1), (MIN_BATCH * 128**3 - 1) / 2**30)
    assert less.topology.patch_size == (128, 128, 112)


@pytest.mark.parametrize(("voxels", "patch"), [(64, (1, 64)), (48, (1, 48)), (32, (1, 32))])
def test_an_axis_that_cannot_shrink_leaves_it_to_the_next(voxels: int, patch: tuple) -> None:
    """At 1 x 64 the first axis has 1/6 of its image, the second 0.16: the first is the larger, and at its end."""
    found = choose_patch((1, 1), (6, 400), ENDLESS, per_voxel(1), MIN_BATCH * voxels / 2**30)
    assert found.topology.patch_size == patch


def test_a_larger_target_never_gives_less() -> None:
    sizes = []
    for target in (0.25, 0.5, 1, 2, 4, 8):
        found = choose_patch((2, 0.8, 0.8), (120, 400, 380), ENDLESS, per_voxel(150, 2**26), target)
        sizes.append((math.prod(found.topology.patch_size), math.prod(found.topology.patch_size) * found.batch_size))
    assert [s[0] for s in sizes] == sorted(s[0] for s in sizes)
    assert sizes[0][1] < sizes[-1][1]


@pytest.mark.parametrize("fixed", [5.0, 0.84, 0.849, 0.8401, 1.999])
def test_the_minimum_that_is_named_is_enough_and_little_more_than_that(fixed: float) -> None:
    """`fixed` GiB and two samples of a kilobyte."""

    def demand(_: Topology) -> Demand:
        return Linear(fixed * 2**30, 1e3)

    with pytest.raises(InputError, match=r"--gpu-memory 0\.5: the smallest patch \(8, 8\) with 2 samples needs \d\.\d\d GiB") as error:
        choose_patch((1, 1), (64, 64), 1e9, demand, 0.5)
    least = float(str(error.value).split(" needs ")[1].split()[0])
    assert choose_patch((1, 1), (64, 64), 1e9, demand, least).topology.patch_size
    assert fixed < least < fixed + 0.011
