"""Interpolation matrices against scipy's zoom on random lines, and resampling slab by slab against the plain way on whole volumes."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from scipy.ndimage import zoom
from skimage.transform import resize

from ldseg_auto.planners.plans import Resampling
from ldseg_auto.preprocessing.operators import along_first, nearest, reached, spline
from ldseg_auto.preprocessing.resample import SLAB, resample_image, resample_label, resample_planes

RNG = np.random.default_rng(0)
SIZES = [(1, 1), (1, 5), (2, 1), (7, 3), (40, 41), (200, 160), (100, 333), (300, 64)]
# more than one slab of planes and more than one block of columns, growing and shrinking
VOLUMES = [((50, 70, 66), (75, 61, 80)), ((90, 40, 90), (41, 90, 89)), ((36, 70, 70), (100, 70, 70))]


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_a_matrix_does_to_a_line_what_scipys_zoom_does(order, old, new):
    x = RNG.normal(size=(old, 2))
    expected = np.stack([zoom(line, new / old, order=order, mode="nearest", grid_mode=True) for line in x.T], 1)
    found = spline(old, new, order).astype(np.float64) @ x
    np.testing.assert_allclose(found, expected, atol=3e-6)  # dropped weights (under 1e-7 each) and their rounding to float32


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_weights_of_a_new_voxel_sum_to_one(order, old, new):
    np.testing.assert_allclose(spline(old, new, order).sum(1), 1, atol=2e-6)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_reached_are_the_new_voxels_with_a_weight_in_the_span(old, new):
    matrix = spline(old, new, 1)
    dense = matrix.toarray() != 0
    for start in range(0, old, 5):
        for stop in range(start + 1, old + 1, 7):
            touched = np.flatnonzero(dense[:, start:stop].any(1))
            span = reached(matrix, slice(start, stop))
            assert set(touched) <= set(range(span.start, span.stop))
            assert (span.stop - span.start == 0) if not len(touched) else (span.start, span.stop) == (touched[0], touched[-1] + 1)


def test_a_block_of_columns_at_a_time_changes_nothing():
    matrix, x = spline(30, 44, 3), RNG.normal(size=(30, 95, 101)).astype(np.float32)
    whole = (matrix @ x.reshape(30, -1)).reshape(44, 95, 101)
    assert np.array_equal(along_first(matrix, x), whole)


@pytest.mark.parametrize(("old", "new"), VOLUMES)
def test_images_are_scipys_zoom_and_skimages_resize(old, new):
    """skimage's cubic resize in double precision, clipped to the image's range, is what nnU-Net does. Within 1e-5 at values up to 5."""
    x = np.clip(RNG.normal(size=old), -5, 5).astype(np.float32)
    found = resample_image(x[None], new, None, Resampling())[0]
    exact = zoom(x.astype(np.float64), np.divide(new, old), order=3, mode="nearest", grid_mode=True)
    assert np.abs(found - exact).max() < 1e-5
    theirs = resize(x.astype(np.float64), new, 3, mode="edge", anti_aliasing=False)
    assert np.abs(np.clip(found, x.min(), x.max()) - theirs).max() < 1e-5


@pytest.mark.parametrize("separate", [None, 0, 2])
@pytest.mark.parametrize(("old", "new"), VOLUMES)
def test_labels_are_the_strongest_of_classes_resized_one_by_one(old, new, separate):
    """Against skimage's linear resize of each class's whole mask, wherever the winner leads by more than rounding."""
    place = np.indices(old).reshape(3, -1).T / np.array(old)
    label = np.zeros(old, np.int16)
    for value, (centre, radius) in enumerate([((0.3, 0.4, 0.5), 0.25), ((0.6, 0.6, 0.5), 0.3), ((0.9, 0.1, 0.1), 0.2)], start=1):
        label[(np.square(place - centre).sum(1) < radius**2).reshape(old)] = value
    moved = label if separate is None else label.take(nearest(old[separate], new[separate]).indices, axis=separate)
    scores = np.stack([resize((moved == v).astype(np.float64), new, 1, mode="edge", anti_aliasing=False) for v in range(4)])
    first, second = np.sort(scores, 0)[:-3:-1]
    clear = first - second > 1e-5
    found = resample_label(label, new, separate, Resampling())
    assert clear.mean() > 0.98 and np.array_equal(found[clear], scores.argmax(0)[clear])


@pytest.mark.parametrize(("old", "new", "separate"), [(90, 120, None), (120, 50, None), (200, 40, 0), (40, 200, 0)])
def test_planes_are_asked_for_once_in_order_and_never_all_held(old, new, separate):
    x, asked, made, most = RNG.normal(size=(old, 5, 6)).astype(np.float32), [], [], 0

    def plane(z: int) -> np.ndarray:
        nonlocal most
        asked.append(z)
        out = x[z].copy()
        made.append(weakref.ref(out))
        most = max(most, sum(r() is not None for r in made))
        return out

    out = np.empty((new, 5, 6), np.float32)
    resample_planes(plane, x.shape, out, separate, 3)
    assert asked == sorted(set(asked)) and len(asked) == (old if separate is None else min(old, new))
    assert most <= SLAB * max(1, old / new) + 30 and most < old
    assert np.array_equal(out, resample_image(x[None], out.shape, separate, Resampling())[0])
