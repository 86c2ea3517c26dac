"""Metrics against closed forms, against brute force over all pairs of surface voxels, and their laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from ldseg_auto.evaluation.metrics import bounding_box, is_flat, overlap, surface_distances, surface_metrics, volumes

SPACING = (3.0, 1.0, 0.7)
MASKS = arrays(bool, st.tuples(*[st.integers(2, 6)] * 3))


def surface_voxels(mask: np.ndarray) -> np.ndarray:
    """Voxels with a face neighbour outside the mask, one by one, (n, ndim)."""
    found = []
    for voxel in np.argwhere(mask):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            neighbour = voxel.copy()
            neighbour[axis] += step
            outside = not (0 <= neighbour[axis] < mask.shape[axis])
            if outside or not mask[tuple(neighbour)]:
                found.append(voxel)
                break
    return np.array(found)


def brute_force(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> tuple[float, float]:
    """HD95 and NSD from the table of all distances."""
    table = cdist(surface_voxels(a) * spacing, surface_voxels(b) * spacing)
    there, back = table.min(1), table.min(0)
    near = (there <= tolerance + 1e-6).sum() + (back <= tolerance + 1e-6).sum()
    return max(np.percentile(there, 95), np.percentile(back, 95)), near / (len(there) + len(back))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    a = draw(MASKS)
    b = draw(arrays(bool, a.shape))
    a[tuple(draw(st.integers(0, s - 1)) for s in a.shape)] = True
    b[tuple(draw(st.integers(0, s - 1)) for s in a.shape)] = True
    return a, b


@settings(max_examples=100, deadline=None)
@given(pairs(), st.sampled_from([0.5, 1.0, 2.0, 3.0]))
def test_surface_metrics_equal_brute_force_over_all_pairs(masks: tuple[np.ndarray, np.ndarray], tolerance: float) -> None:
    hd95, nsd = brute_force(*masks, SPACING, tolerance)
    found = surface_metrics(*masks, SPACING, tolerance)
    assert found["hd95"] == pytest.approx(hd95, abs=1e-9)
    assert found["nsd"] == pytest.approx(nsd)


@settings(max_examples=50, deadline=None)
@given(pairs(), st.permutations(range(3)))
def test_surface_metrics_are_symmetric_and_follow_the_axes(masks: tuple[np.ndarray, np.ndarray], order: list[int]) -> None:
    a, b = masks
    expected = surface_metrics(a, b, SPACING, 1.0)
    assert surface_metrics(b, a, SPACING, 1.0) == pytest.approx(expected)
    turned = surface_metrics(a.transpose(order), b.transpose(order), [SPACING[i] for i in order], 1.0)
    assert turned == pytest.approx(expected)


@pytest.mark.parametrize(("axis", "shift"), [(0, 1), (1, 2), (2, 3)])
def test_shifted_box_has_the_distance_of_its_shift(axis: int, shift: int) -> None:
    a = np.zeros((16, 24, 24), bool)
    a[4:10, 6:16, 6:16] = True
    b = np.roll(a, shift, axis)
    distance = shift * SPACING[axis]
    found = surface_metrics(a, b, SPACING, distance)
    # The leading face, more than 5 % of the surface, lies exactly `shift` voxels from the other box; no point lies farther.
    assert found["hd95"] == pytest.approx(distance)
    assert found["nsd"] == 1.0
    assert surface_metrics(a, b, SPACING, distance * 0.99)["nsd"] < 1


def test_concentric_balls_are_as_far_apart_as_their_radii_differ() -> None:
    z, y, x = np.meshgrid(*[np.arange(n) for n in (24, 64, 64)], indexing="ij")
    radius = np.sqrt(((z - 11.5) * 2.5) ** 2 + (y - 31.5) ** 2 + (x - 31.5) ** 2)
    a, b = radius <= 25, radius <= 20
    found = surface_metrics(a, b, (2.5, 1, 1), 1.0)
    assert found["hd95"] == pytest.approx(5, abs=1.25)  # half a voxel diagonal of discretisation
    assert found["nsd"] < 0.05
    assert surface_metrics(a, b, (2.5, 1, 1), 8.0)["nsd"] == 1.0
    dice = overlap(int((a & b).sum()), int(a.sum()), int(b.sum()))["dice"]
    assert dice == pytest.approx(2 * 20**3 / (25**3 + 20**3), abs=0.01)


def test_equal_masks_have_no_distance() -> None:
    a = np.zeros((5, 6, 7), bool)
    a[1:4, 2:5, 3:6] = True
    assert surface_metrics(a, a, SPACING, 1.0) == {"hd95": 0.0, "nsd": 1.0}


def test_2d_image_is_measured_within_its_plane() -> None:
    a = np.zeros((1, 20, 20), bool)
    a[0, 5:15, 5:15] = True
    b = np.roll(a, 3, axis=1)
    flat = surface_metrics(a, b, (999, 1, 1), 1.0)
    assert flat == surface_metrics(a, b, (1, 1, 1), 1.0)
    there, back = surface_distances(a, b, (999, 1, 1))
    assert len(there) == len(back) == 36  # the outline of 10 x 10 pixels, not all 100
    assert flat["hd95"] == 3.0


def test_mask_of_one_slice_in_a_volume_is_all_surface() -> None:
    a = np.zeros((3, 10, 10), bool)
    a[1, 2:8, 2:8] = True
    there, _ = surface_distances(a, a, SPACING)
    assert len(there) == 36


def test_empty_masks() -> None:
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    both = surface_metrics(empty, empty, SPACING, 1.0)
    assert math.isnan(both["hd95"]) and math.isnan(both["nsd"])
    for pair in ((empty, full), (full, empty)):
        assert surface_metrics(*pair, SPACING, 1.0) == {"hd95": math.inf, "nsd": 0.0}
    none = overlap(0, 0, 0)
    assert math.isnan(none["dice"]) and math.isnan(none["iou"])
    assert overlap(0, 7, 0) == {"dice": 0.0, "iou": 0.0, "tp": 0, "fp": 0, "fn": 7, "n_reference": 7, "n_predicted": 0}


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
def test_dice_and_iou_agree(fp: int, fn: int, tp: int) -> None:
    found = overlap(tp, tp + fn, tp + fp)
    assert (found["fp"], found["fn"]) == (fp, fn)
    assert found["dice"] == pytest.approx(2 * found["iou"] / (1 + found["iou"]))


def test_tolerance_forgives_rounding() -> None:
    a = np.zeros((8, 8, 8), bool)
    a[0, 0, 0] = True
    b = np.roll(a, 3, axis=0)
    assert 3 * 0.1 > 0.3  # in floating point
    assert surface_metrics(a, b, (0.1, 1, 1), 0.3)["nsd"] == 1.0


def test_volumes_are_millilitres_and_natural_images_have_none() -> None:
    assert volumes(2000, 500, (2.0, 1.0, 0.5)) == {"volume_reference_ml": 2.0, "volume_predicted_ml": 0.5}
    assert is_flat((999, 1, 1)) and is_flat((499.5, 0.25, 0.5)) and not is_flat((5, 1, 1))
    assert all(math.isnan(v) for v in volumes(10, 10, (999, 1, 1)).values())


def test_bounding_box_stays_inside() -> None:
    mask = np.zeros((5, 6, 7), bool)
    mask[0, 2:4, 6] = True
    assert bounding_box(mask) == (slice(0, 1), slice(2, 4), slice(6, 7))
    assert bounding_box(mask, margin=1) == (slice(0, 2), slice(1, 5), slice(5, 7))
    assert mask[bounding_box(np.zeros_like(mask))].size == 0
