"""Cropping to non-zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldseg_auto.preprocessing.crop import nonzero_box, nonzero_mask, slices


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 7)] * 3), st.integers(1, 3), st.integers(1, 4))
def test_box_is_the_smallest_that_holds_every_nonzero_voxel(seed, shape, channels, count):
    rng = np.random.default_rng(seed)
    image = np.zeros((channels, *shape), np.float32)
    places = [tuple(int(rng.integers(n)) for n in image.shape) for _ in range(count)]
    for place in places:
        image[place] = rng.choice([-1.0, 2.0])
    expected = tuple((min(p[a] for p in places), max(p[a] for p in places) + 1) for a in (1, 2, 3))
    box = nonzero_box(image)
    assert box == expected
    assert np.count_nonzero(image[(..., *slices(box))]) == np.count_nonzero(image)


def test_an_image_of_zeros_is_kept_whole():
    assert nonzero_box(np.zeros((2, 3, 4, 5))) == ((0, 3), (0, 4), (0, 5))


@pytest.mark.parametrize("opened", [False, True])
def test_mask_fills_holes_but_not_what_is_open_to_the_outside(opened):
    image = np.zeros((1, 5, 5, 5))
    image[0, 1:4, 1:4, 1:4] = 7
    image[0, 2, 2, 2] = 0
    if opened:
        image[0, 2, 2, 3:] = 0
    expected = image[0] != 0
    expected[2, 2, 2] |= not opened
    assert np.array_equal(nonzero_mask(image), expected)


def test_mask_takes_every_channel_together():
    image = np.zeros((2, 2, 2, 2))
    image[0, 0, 0, 0] = image[1, 1, 1, 1] = -3
    assert np.argwhere(nonzero_mask(image)).tolist() == [[0, 0, 0], [1, 1, 1]]
