"""One case to the network's grid and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import DatasetError
from ldseg_auto.planners.plans import Resampling
from ldseg_auto.preprocessing.case import class_locations, preprocess_array, preprocess_labels, scores_to_indices, target_spacing

CLASSES = LabelSpec.from_dict({"background": 0, "a": 2, "b": 7, "ignore": 9})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "spot": 3}, [1, 2, 3])
ORDERS = list(itertools.permutations(range(3)))


def framed(rng: np.random.Generator, shape: tuple[int, ...], frame: tuple[int, ...]) -> np.ndarray:
    """An image (1, z, y, x) that is zero in a frame of these widths, before and behind."""
    image = np.zeros((1, *(n + 2 * f for n, f in zip(shape, frame, strict=True))), np.float32)
    image[(0, *(slice(f, f + n) for n, f in zip(shape, frame, strict=True)))] = rng.uniform(1, 2, shape)
    return image


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(0, 2)] * 3), st.sampled_from(ORDERS), st.booleans()
)  # fmt: skip
def test_labels_come_back_as_they_went_when_nothing_is_resampled(make_plans, seed, shape, frame, order, regions):
    """For any transposition and crop: the scores are the one-hot (or multi-hot) of the preprocessed labels."""
    rng = np.random.default_rng(seed)
    image, spec = framed(rng, shape, frame), REGIONS if regions else CLASSES
    label = np.where(image[0] > 0, rng.integers(0, len(spec.values), image.shape[1:]), 0).astype(np.int16)
    spacing = (1.5, 2.0, 0.5)
    plans = make_plans([spacing[a] for a in order], transpose=order)
    data, properties = preprocess_array(image, spacing, plans, plans.configurations["3d"])
    moved = preprocess_labels(label[None], properties, plans, plans.configurations["3d"])
    assert data.shape[1:] == moved.shape[1:] == tuple(shape[a] for a in order) == properties.preprocessed_shape
    scores = np.moveaxis(spec.table[moved[0]], -1, 0) - (0.5 if regions else 0)
    back = scores_to_indices(scores, properties, plans, spec)
    assert back.shape == label.shape and back.dtype == np.int16 and np.array_equal(back, label)


@pytest.mark.parametrize("order", ORDERS)
def test_image_and_labels_stay_together_when_both_are_resampled(make_plans, order):
    """A step edge that is in both lies at the same voxels of both afterwards, and of the label map that comes back."""
    image = np.ones((1, 12, 10, 14), np.float32)
    image[0, 6:] = 3
    label = (image > 2).astype(np.int16)
    spacing = (1.0, 1.0, 1.0)
    plans = make_plans((0.5, 0.5, 0.5), schemes=("none",), transpose=order, resampling=Resampling(order_image=1))
    data, properties = preprocess_array(image, spacing, plans, plans.configurations["3d"])
    moved = preprocess_labels(label, properties, plans, plans.configurations["3d"])
    assert data.shape[1:] == tuple(2 * image.shape[1:][a] for a in order)
    assert np.array_equal(data[0] > 2, moved[0] == 1)
    scores = np.moveaxis(CLASSES.table[moved[0]], -1, 0)
    assert np.array_equal(scores_to_indices(scores, properties, plans, CLASSES), label[0])


def test_every_step_is_recorded(make_plans):
    image = framed(np.random.default_rng(0), (4, 6, 8), (1, 2, 0))
    plans = make_plans((2.0, 5.0, 1.5), transpose=(2, 0, 1))  # x, z, y
    data, p = preprocess_array(image, (5.0, 1.0, 2.0), plans, plans.configurations["3d"])
    assert (p.spacing, p.shape) == ((5.0, 1.0, 2.0), (6, 10, 8))
    assert p.box == ((0, 8), (1, 5), (2, 8)) and p.cropped_shape == (8, 4, 6)
    assert p.preprocessed_shape == data.shape[1:] == (8, 4, 4)
    assert p.separate_axis == 1  # z, 5 mm against 1 mm


def test_coarse_axis_is_resampled_nearest(make_plans):
    image = np.arange(1, 5, dtype=np.float32)[None, :, None, None] * np.ones((1, 4, 6, 6), np.float32)
    plans = make_plans((4.0, 2.0, 2.0), schemes=("none",))
    data, p = preprocess_array(image, (8.0, 2.0, 2.0), plans, plans.configurations["3d"])
    assert p.separate_axis == 0
    assert data[0, :, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_a_2d_configuration_leaves_the_first_axis(make_plans):
    plans = make_plans((1.0, 1.0), transpose=(1, 0, 2))
    configuration = plans.configurations["3d"]
    assert target_spacing((7.0, 3.0, 2.0), configuration) == (7.0, 1.0, 1.0)
    data, _ = preprocess_array(np.ones((1, 4, 5, 6), np.float32), (3.0, 7.0, 2.0), plans, configuration)
    assert data.shape == (1, 5, 12, 12)


def test_statistics_are_those_of_the_crop(make_plans):
    image = framed(np.random.default_rng(0), (4, 6, 8), (3, 3, 3))
    plans = make_plans()
    data, _ = preprocess_array(image, (1, 1, 1), plans, plans.configurations["3d"])
    assert abs(data.mean()) < 1e-5 and abs(data.std() - 1) < 1e-5


def test_background_outside_the_crop_even_where_scores_say_otherwise(make_plans):
    image = framed(np.random.default_rng(0), (2, 2, 2), (1, 1, 1))
    plans = make_plans()
    _, properties = preprocess_array(image, (1, 1, 1), plans, plans.configurations["3d"])
    scores = np.stack([np.zeros((2, 2, 2)), np.ones((2, 2, 2)), np.zeros((2, 2, 2))]).astype(np.float32)
    assert np.array_equal(scores_to_indices(scores, properties, plans, CLASSES), image[0] > 0)


def test_scores_are_resampled_before_they_are_compared(make_plans):
    """At half the resolution the edge between two probabilities lies where they cross, not at a coarse voxel's border."""
    plans = make_plans((1.0, 1.0, 1.0))
    _, properties = preprocess_array(np.ones((1, 1, 1, 32), np.float32), (1, 1, 0.25), plans, plans.configurations["3d"])
    assert properties.preprocessed_shape == (1, 1, 8)
    foreground = np.linspace(0.0, 0.9, 8, dtype=np.float32).reshape(1, 1, 8)
    found = scores_to_indices(np.stack([1 - foreground, foreground, 0 * foreground]), properties, plans, CLASSES)
    position = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    assert np.array_equal(found[0, 0], position * 0.9 / 7 > 0.5)


def test_number_of_channels(make_plans):
    plans = make_plans(schemes=("zscore", "ct"))
    with pytest.raises(DatasetError, match="the image has 1 channels, the plans of Dataset001_Toy have 2"):
        preprocess_array(np.ones((1, 4, 4, 4), np.float32), (1, 1, 1), plans, plans.configurations["3d"])


def test_raters_are_resampled_one_by_one(make_plans):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (3, 6, 6, 6)).astype(np.int16)
    plans = make_plans((1.5, 1.5, 1.5))
    configuration = plans.configurations["3d"]
    _, properties = preprocess_array(np.ones((1, 6, 6, 6), np.float32), (1, 1, 1), plans, configuration)
    together = preprocess_labels(labels, properties, plans, configuration)
    assert together.shape == (3, 4, 4, 4)
    for alone, found in zip(labels, together, strict=True):
        assert np.array_equal(preprocess_labels(alone[None], properties, plans, configuration)[0], found)


def test_locations_of_what_some_rater_annotated():
    """Nobody annotated the first three of five planes; the sample is drawn evenly from the voxels of the others, never from those."""
    labels = np.full((2, 5, 40, 50), CLASSES.ignore_index, np.int16)
    labels[0, 3] = labels[1, 4, :20] = 0
    found = class_locations(labels, CLASSES, "case")
    assert set(found) == {0} and found[0].dtype == np.int32
    voxels = {tuple(v) for v in found[0].tolist()}
    assert len(voxels) == len(found[0]) and voxels <= {(z, y, x) for z in (3, 4) for y in range(40 if z == 3 else 20) for x in range(50)}
    assert np.mean(found[0][:, 0] == 4) == pytest.approx(1 / 3, abs=0.03)
    nothing = class_locations(np.full_like(labels, CLASSES.ignore_index), CLASSES, "case")
    assert nothing == {}


def test_locations_are_of_the_class_in_any_rater_and_not_of_ignore():
    labels = np.zeros((2, 3, 4, 5), np.int16)
    labels[0, 1, 2, 3] = labels[1, 0, 0, 1] = 1
    labels[1, 2, 3, 4] = CLASSES.ignore_index
    found = class_locations(labels, CLASSES, "case")
    assert {c: v.tolist() for c, v in found.items()} == {1: [[0, 0, 1], [1, 2, 3]]}


def test_many_locations_are_drawn_once_and_always_the_same():
    labels = np.zeros((1, 30, 40, 50), np.int16)
    labels[0, :, :20] = 1  # 30,000 voxels: 10,000 are kept
    first, again, other = (class_locations(labels, CLASSES, name)[1] for name in ("a", "a", "b"))
    assert first.shape == (10_000, 3) and len(np.unique(first, axis=0)) == 10_000 and first[:, 1].max() < 20
    assert np.array_equal(first, again) and not np.array_equal(first, other)
