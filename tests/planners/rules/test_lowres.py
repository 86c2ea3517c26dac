"""The low-resolution configuration, by cases worked out from the rule (documentation/plans.md)."""

from __future__ import annotations

import math

import pytest

from ldseg_auto.planners.rules.lowres import low_resolution


@pytest.mark.parametrize(
    ("patch_voxels", "shape", "reason"),
    [
        (64**3 * 2, (100, 100, 100), "none: the patch at full resolution holds 52% of the median image's voxels, at least 25%"),
        (128**3, (256, 256, 128), "none: the patch at full resolution holds 25%"),  # 25 % is not below 25 %
        (128**3, (100, 100, 100), "none: the patch at full resolution holds 100%"),  # padded
    ],
)
def test_none_where_the_patch_sees_enough(patch_voxels: int, shape: tuple, reason: str) -> None:
    found, why = low_resolution((1, 1, 1), shape, patch_voxels, lambda s, m: 0)
    assert found is None and why.startswith(reason)


def test_none_where_little_is_gained() -> None:
    """24 % seen: one step of 3 % gives 24 % x 1.03^3 = 26 %, with 1.09 times fewer voxels."""
    found, why = low_resolution((1, 1, 1), (100, 100, 100), 240_000, lambda s, m: 240_000)
    assert found is None and "1.1 times fewer voxels, less than 2" in why


def test_grows_until_a_quarter_is_seen() -> None:
    """n steps of 3 % on three axes: (512 / 1.03^n)^3 <= 4 x 128^3, so n is the first with 1.03^n >= 4 / 4^(1/3)."""
    steps = math.ceil(math.log(4 / 4 ** (1 / 3)) / math.log(1.03))
    found, why = low_resolution((1, 1, 1), (512, 512, 512), 128**3, lambda s, m: 128**3)
    assert found is not None
    spacing, shape = found
    assert spacing == pytest.approx((1.03**steps,) * 3) and shape == (round(512 / 1.03**steps),) * 3
    assert (
        why == "the patch at full resolution holds 1.6% of the median image's voxels: coarsened by 3% steps to 25%, 17 times fewer voxels"
    )


def test_coarse_axis_waits_for_the_others() -> None:
    found, _ = low_resolution((5, 1, 1), (100, 500, 500), 128**3, lambda s, m: 128**3)
    assert found is not None
    low = found[0]
    assert low[0] == 5 and low[1] == low[2] > 1.03  # a quarter is seen before the plane is within half of 5 mm
    found, _ = low_resolution((5, 1, 1), (100, 500, 500), 64**3, lambda s, m: 64**3)
    assert found is not None
    low = found[0]
    assert low[0] > 5 and low[1] > 2.5 and low[0] / low[1] <= 2 * 1.03


def test_the_patch_is_planned_for_whole_voxels() -> None:
    """As nnU-Net does: a median of 40.3 voxels is 40, which needs no padding to 48."""
    asked = []

    def plan(spacing: list[float], shape: list[float]) -> int:
        asked.append(shape)
        return 64**3

    low_resolution((1, 1, 1), (201, 203, 207), 64**3, plan)
    assert asked[0] == [195, 197, 201] and all(n == round(n) >= 1 for shape in asked for n in shape)
