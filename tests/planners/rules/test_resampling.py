"""Whether the coarse axis is resampled by itself, by a table of cases (nnU-Net's rule), and that resampling does what the plan says."""

from __future__ import annotations

import pytest

from ldseg_auto.planners.plans import Resampling
from ldseg_auto.planners.rules.resampling import resampling_reason
from ldseg_auto.preprocessing.resample import coarse_axis


@pytest.mark.parametrize(
    ("spacing", "alone", "said"),
    [
        ((1, 1, 1), False, "all axes together: coarsest spacing 1 times the finest, not above 3"),
        ((3, 1, 1), False, "all axes together: coarsest spacing 3 times the finest, not above 3"),  # 3 is not above 3
        ((3.1, 1, 1), True, "the coarse axis by itself, nearest: 3.1 times the finest, above 3"),
        ((7.5, 0.5, 0.5), True, "the coarse axis by itself, nearest: 15 times the finest, above 3"),
        ((1, 1.2, 4), True, "the coarse axis by itself, nearest: 4 times the finest, above 3"),  # any axis
        ((5, 5, 1), False, "all axes together, two are equally coarse: 5 times the finest, above 3"),
        ((999, 1, 1), True, "the coarse axis by itself, nearest: 999 times the finest, above 3"),  # natural images
    ],
)
def test_table(spacing: tuple, alone: bool, said: str) -> None:
    """A case that is at the target spacing already is decided by that alone."""
    reason = resampling_reason(spacing, Resampling())
    assert reason == f"images by splines of order 3, labels by order 1, scores linear; {said}"
    assert (coarse_axis(spacing, spacing, 3.0) is not None) == alone


def test_the_plans_own_numbers_are_named() -> None:
    reason = resampling_reason((4, 1, 1), Resampling(order_image=1, order_label=0, separate_axis_threshold=5.0))
    assert reason.startswith("images by splines of order 1, labels by order 0, scores linear; all axes together: ")
    assert reason.endswith("coarsest spacing 4 times the finest, not above 5")
