"""Resampling against torch, against scipy's map_coordinates, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from ldseg_auto.planners.plans import Resampling
from ldseg_auto.preprocessing.resample import coarse_axis, nearest, new_shape, resample_image, resample_label, resample_score

RNG = np.random.default_rng(0)
SHAPES = [((5, 7, 6), (9, 4, 11)), ((8, 8, 8), (3, 16, 8)), ((1, 6, 5), (1, 9, 10)), ((2, 3, 4), (7, 1, 2))]
SIZES = st.tuples(*[st.integers(1, 9)] * 3)


def coordinates(old, new) -> list[np.ndarray]:
    """Where new voxel centres lie in old voxels, when the borders of both grids coincide."""
    return [(np.arange(n) + 0.5) * o / n - 0.5 for o, n in zip(old, new, strict=True)]


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_linear_is_torchs(old, new):
    x = RNG.normal(size=old).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(x)[None, None], new, mode="trilinear", align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(resample_score(x, new, None), expected, atol=1e-5)
    np.testing.assert_allclose(resample_image(x[None], new, None, Resampling(order_image=1))[0], expected, atol=1e-5)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_splines_are_scipys_on_the_stated_coordinates(order, old, new):
    x = RNG.normal(size=(2, *old)).astype(np.float32)
    grid = np.meshgrid(*coordinates(old, new), indexing="ij")
    expected = [map_coordinates(c, grid, order=order, mode="nearest") for c in x.astype(np.float64)]
    np.testing.assert_allclose(resample_image(x, new, None, Resampling(order_image=order)), expected, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_separate_axis_is_nearest_along_it_and_spline_across(axis, old, new):
    x = RNG.normal(size=(1, *old)).astype(np.float32)
    found = resample_image(x, new, axis, Resampling())
    where = coordinates(old, new)
    # the nearest centre; halfway between two the upper one
    where[axis] = np.minimum(np.floor(where[axis] + 0.5 + 1e-9), old[axis] - 1)
    slices = []
    for index in where[axis].astype(int):
        plane = np.take(x[0].astype(np.float64), index, axis=axis)
        across = np.meshgrid(*(w for a, w in enumerate(where) if a != axis), indexing="ij")
        slices.append(map_coordinates(plane, across, order=3, mode="nearest"))
    np.testing.assert_allclose(found[0], np.stack(slices, axis), atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(SIZES, SIZES, st.sampled_from([None, 0, 1, 2]), st.sampled_from([0, 1]), st.integers(0, 2**31))
def test_labels_never_gain_values(old, new, axis, order, seed):
    label = np.random.default_rng(seed).choice([0, 2, 7], size=old).astype(np.int16)
    out = resample_label(label, new, axis, Resampling(order_label=order))
    assert out.shape == new and out.dtype == np.int16
    assert set(np.unique(out)) <= set(np.unique(label))


@settings(max_examples=30, deadline=None)
@given(SIZES, SIZES, st.sampled_from([None, 0, 1, 2]), st.integers(0, 5))
def test_a_constant_stays_constant(old, new, axis, order):
    x = np.full(old, 3.25, np.float32)
    out = resample_image(x[None], new, axis, Resampling(order_image=order))
    assert out.shape == (1, *new) and out.dtype == np.float32
    np.testing.assert_allclose(out, 3.25, rtol=1e-5)
    np.testing.assert_allclose(resample_score(x, new, axis), 3.25, rtol=1e-6)
    assert (resample_label(np.full(old, 3, np.int16), new, axis, Resampling()) == 3).all()


@pytest.mark.parametrize("axis", [None, 0, 2])
def test_equal_shape_is_the_identity(axis):
    x = RNG.normal(size=(2, 4, 5, 6)).astype(np.float32)
    label = RNG.integers(0, 3, (4, 5, 6)).astype(np.int16)
    assert np.array_equal(resample_image(x, (4, 5, 6), axis, Resampling()), x)
    assert np.array_equal(resample_label(label, (4, 5, 6), axis, Resampling()), label)
    assert np.array_equal(resample_score(x[0], (4, 5, 6), axis), x[0])


def test_label_is_the_class_of_the_highest_interpolated_probability():
    label = RNG.integers(0, 4, (6, 7, 5)).astype(np.int16)
    new = (9, 10, 8)
    onehot = torch.from_numpy(np.stack([label == k for k in range(4)]).astype(np.float32))
    score = torch.nn.functional.interpolate(onehot[None], new, mode="trilinear", align_corners=False)[0]
    top = score.topk(2, 0).values
    clear = (top[0] - top[1] > 1e-5).numpy()  # equal scores may fall to either class
    found = resample_label(label, new, None, Resampling())
    assert clear.mean() > 0.9 and np.array_equal(found[clear], score.argmax(0).numpy()[clear])


def test_nearest_does_not_shift():
    x = np.arange(6).reshape(1, 1, 6)
    assert nearest(x, (1, 1, 3), None).ravel().tolist() == [1, 3, 5]  # new centres at 0.5, 2.5, 4.5: halfway, the upper one
    assert nearest(x, (1, 1, 12), None).ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert nearest(x, (1, 4, 6), 1).shape == (1, 4, 6)


@pytest.mark.parametrize(
    ("shape", "spacing", "target", "expected"),
    [
        ((10, 20, 30), (3, 1, 1), (3, 1, 1), (10, 20, 30)),
        ((10, 20, 30), (3, 1, 1), (1, 2, 0.5), (30, 10, 60)),
        ((10, 7, 1), (1, 1, 1), (3, 3, 3), (3, 2, 1)),
        ((1, 1, 1), (1, 1, 1), (50, 50, 50), (1, 1, 1)),  # never vanishes
    ],
)
def test_new_shape(shape, spacing, target, expected):
    assert new_shape(shape, spacing, target) == expected


@pytest.mark.parametrize(
    ("spacing", "target", "expected"),
    [
        ((1, 1, 1), (1, 1, 1), None),
        ((3, 1, 1), (3, 1, 1), None),  # exactly three times is not more
        ((3.1, 1, 1), (1, 1, 1), 0),
        ((1, 1, 5), (1, 1, 1), 2),
        ((1, 1, 1), (1, 4, 1), 1),  # only after resampling
        ((1, 1, 5), (5, 1, 1), 2),  # before comes first
        ((999, 1, 1), (999, 1, 1), 0),
        ((1, 4, 4), (1, 4, 4), None),  # two equally coarse axes: nnU-Net treats none of them apart
    ],
)
def test_coarse_axis(spacing, target, expected):
    assert coarse_axis(spacing, target, 3.0) == expected
