"""Target spacing and order of axes, by a table of cases worked out by hand from documentation/plans.md."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.planners.rules.spacing import target_grid, transposition

PLANE = (20, 200, 200)


@pytest.mark.parametrize(
    ("spacings", "shape", "target"),
    [
        ([(1, 1, 1), (2, 1, 1), (3, 1, 1)], (60, 60, 60), (2, 1, 1)),  # median
        ([(1, 1, 1), (2, 1, 1)], (60, 60, 60), (1.5, 1, 1)),  # of an even number
        ([(s, 1, 1) for s in range(4, 15)], PLANE, (5, 1, 1)),  # coarse with few slices: the second of eleven
        ([(1, s, 1) for s in range(4, 15)], (200, 20, 200), (1, 5, 1)),  # the same along y
        ([(1, 1, s) for s in range(4, 15)], (200, 200, 20), (1, 1, 5)),  # and along x
        ([(s, 1, 1) for s in (4, 5, 6)], (100, 200, 200), (5, 1, 1)),  # coarse with many slices: 3 x 100 is not below 200
        ([(s, 1, 1) for s in (4, 5, 6)], (67, 200, 200), (5, 1, 1)),  # 3 x 67 = 201
        ([(s, 1, 1) for s in (4, 5, 6)], (66, 200, 200), (4.2, 1, 1)),  # 3 x 66 = 198: the tenth of the way from 4 to 5, doubled
        ([(s, 1, 1) for s in (2, 3, 4)], PLANE, (3, 1, 1)),  # 3 is not above 3 x 1
        ([(s, 1, 1.5) for s in (2, 4.4, 6)], PLANE, (4.4, 1, 1.5)),  # 3 x the larger of the others is 4.5
        ([(0.5, 1, 1)] * 3 + [(8, 1, 1)] * 7, PLANE, (1.00001, 1, 1)),  # the percentile would be finer than the plane
        ([(1, 1, 1)] * 3 + [(8, 1, 1)] * 7, PLANE, (1, 1, 1)),  # as fine as the plane is allowed
        ([(5, 5, 1), (6, 5, 1)], (60, 60, 300), (5.5, 5, 1)),  # two coarse axes: neither is coarse against the other
        ([(999, 1, 1)] * 3, (1, 540, 800), (999, 1, 1)),  # natural images
    ],
)
def test_table(spacings: list, shape: tuple, target: tuple) -> None:
    assert target_grid(spacings, [shape] * len(spacings)).spacing == pytest.approx(target, rel=1e-12)


def test_reasons_say_which_rule_decided() -> None:
    coarse = target_grid([(s, 1.0, 1.0) for s in range(4, 15)], [PLANE] * 11)
    assert coarse.reason == "median over 11 cases; axis z is coarse (9 mm, 20 slices): 10th percentile"
    assert target_grid([(1, 1, 1)] * 4, [(9, 9, 9)] * 4).reason == "median over 4 cases"


def test_median_shape_is_that_of_the_resampled_cases() -> None:
    """Round half to even, case by case, then the median; exact arithmetic as the reference."""
    spacings = [(2.0, 1.0, 0.5), (1.0, 1.0, 1.0), (3.0, 0.5, 0.75)]
    shapes = [(21, 33, 90), (45, 30, 51), (10, 71, 77)]
    grid = target_grid(spacings, shapes)
    exact = [
        [round(Fraction(n) * Fraction(s) / Fraction(t)) for n, s, t in zip(*c, grid.spacing, strict=True)]
        for c in zip(shapes, spacings, strict=True)
    ]
    assert grid.median_shape == tuple(np.median(exact, axis=0))


def test_thickness_of_a_single_slice_is_no_distance() -> None:
    """With the 10th percentile (1.9 mm) the median case would become three slices of the same picture."""
    spacings = [(1 + 9 * i / 29, 1.0, 1.0) for i in range(30)]
    grid = target_grid(spacings, [(1, 256, 256)] * 30)
    assert grid.spacing == (5.5, 1, 1) and grid.median_shape == (1, 256, 256) and "in-plane spacing" in grid.reason


def test_no_axis_vanishes() -> None:
    """One voxel of 0.1 mm at a target of 1 mm is a tenth of a voxel."""
    grid = target_grid([(0.1, 1, 1), (1, 1, 1), (1, 1, 1)], [(1, 9, 9), (1, 9, 9), (1, 9, 9)])
    assert grid.median_shape == (1, 9, 9)
    assert target_grid([(1, 1, 1)], [(1, 9, 9)], (30, 30, 30)).median_shape == (1, 1, 1)


def test_the_order_of_cases_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    spacings, shapes = rng.uniform(0.5, 6, (31, 3)), rng.integers(10, 300, (31, 3))
    order = rng.permutation(31)
    assert target_grid(spacings.tolist(), shapes.tolist()) == target_grid(spacings[order].tolist(), shapes[order].tolist())


def test_given_spacing_replaces_the_rule() -> None:
    spacings, shapes = [(2, 1, 1), (2.5, 1, 1)], [(20, 100, 80)] * 2
    plane = target_grid(spacings, shapes, (2, 2))
    assert plane.spacing == (2.25, 2, 2) and plane.median_shape[1:] == (50, 40) and "--target-spacing; z: median" in plane.reason
    assert target_grid(spacings, shapes, (6, 0.5, 1)).spacing == (6, 0.5, 1)


@pytest.mark.parametrize("given", [(1,), (1, 2, 3, 4), (0, 1, 1), (1, -1), (float("nan"), 1)])
def test_impossible_given_spacing(given: tuple) -> None:
    with pytest.raises(InputError, match="--target-spacing .*: expected three numbers"):
        target_grid([(1, 1, 1)], [(9, 9, 9)], given)


@pytest.mark.parametrize(
    ("spacing", "shape", "order", "why"),
    [
        ((5, 1, 1), (20, 100, 100), (0, 1, 2), "axis z first (coarsest, 5 mm)"),
        ((1, 5, 1), (100, 20, 100), (1, 0, 2), "axis y first (coarsest, 5 mm)"),
        ((1, 1, 5), (100, 100, 20), (2, 0, 1), "axis x first (coarsest, 5 mm)"),
        ((1, 1, 1), (50, 50, 50), (0, 1, 2), "axis z first (coarsest, 1 mm)"),
        ((1, 2, 2), (50, 50, 50), (1, 0, 2), "axis y first (coarsest, 2 mm)"),
        ((999, 1, 1), (1, 540, 800), (0, 1, 2), "axis z first (one slice)"),
        ((9, 1, 1), (30, 100, 1), (2, 0, 1), "axis x first (one slice)"),  # whatever its spacing
        ((0.5, 1, 1), (1, 100, 100), (0, 1, 2), "axis z first (one slice)"),
    ],
)
def test_transposition(spacing: tuple, shape: tuple, order: tuple, why: str) -> None:
    assert transposition(spacing, shape) == (order, why)
