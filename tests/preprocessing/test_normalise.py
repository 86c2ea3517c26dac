"""Each scheme against its formula in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from ldseg_auto.preprocessing.normalise import normalised_planes

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(50, 30, (1, 4, 6, 5)).astype(np.float32)
MASK = RNG.random((4, 6, 5)) < 0.6
EXACT = IMAGE[0].astype(np.float64)


def normalise(image, mask, plans):
    channels = normalised_planes(image, mask, plans.configurations["3d"], plans.foreground_intensities)
    out = np.stack([np.stack([plane(z) for z in range(image.shape[1])]) for plane in channels])
    assert out.dtype == np.float32 and out.shape == image.shape
    return out


def apply(make_plans, scheme, image=IMAGE, mask=None):
    plans = make_plans(schemes=(scheme,), masks=(mask is not None,))
    return normalise(image, mask, plans)[0]


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("zscore", (EXACT - EXACT.mean()) / EXACT.std()),
        ("ct", (np.minimum(np.maximum(EXACT, -10), 120) - 40) / 20),  # clipped to the percentiles, then the dataset's mean and deviation
        ("rescale_to_0_1", (EXACT - EXACT.min()) / (EXACT.max() - EXACT.min())),
        ("rgb_to_0_1", EXACT / 255),
        ("none", EXACT),
    ],
)
def test_formula(make_plans, scheme, expected):
    np.testing.assert_allclose(apply(make_plans, scheme), expected, rtol=1e-5, atol=1e-6)


def test_ct_clips(make_plans):
    out = apply(make_plans, "ct", np.array([-3000, -10, 40, 120, 3000], np.float32).reshape(1, 1, 1, 5))
    np.testing.assert_allclose(out.ravel(), [-2.5, -2.5, 0, 4, 4])


def test_mask_gives_the_statistics_and_outside_becomes_zero(make_plans):
    inside = EXACT[MASK]
    expected = np.where(MASK, (EXACT - inside.mean()) / inside.std(), 0)
    np.testing.assert_allclose(apply(make_plans, "zscore", mask=MASK), expected, rtol=1e-5, atol=1e-6)


def test_empty_mask_counts_as_none(make_plans):
    assert np.array_equal(apply(make_plans, "zscore", mask=np.zeros_like(MASK)), apply(make_plans, "zscore"))


@pytest.mark.parametrize("scheme", ["zscore", "rescale_to_0_1"])
@pytest.mark.parametrize("value", [0, -7, 1000.25])
def test_constant_channel_becomes_zero(make_plans, scheme, value):
    assert not apply(make_plans, scheme, np.full((1, 2, 3, 4), value, np.float32)).any()


def test_large_values_keep_their_precision(make_plans):
    """float32 sums of 1e6 + noise would lose the noise."""
    image = (1e6 + RNG.normal(0, 1, (1, 20, 60, 60))).astype(np.float32)
    out = apply(make_plans, "zscore", image).astype(np.float64)
    assert abs(out.mean()) < 1e-2 and abs(out.std() - 1) < 1e-2


def test_channels_are_independent_and_the_input_is_left_alone(make_plans):
    image = np.concatenate([IMAGE, IMAGE * 2 + 5, IMAGE])
    before = image.copy()
    plans = make_plans(schemes=("zscore", "ct", "none"), masks=(True, False, False))
    out = normalise(image, MASK, plans)
    assert np.array_equal(image, before)
    assert np.array_equal(out[0], apply(make_plans, "zscore", mask=MASK))
    np.testing.assert_allclose(out[1], (np.clip(image[1], -10, 120) - 41) / 20, rtol=1e-5, atol=1e-6)  # the second channel's mean is 41
    assert np.array_equal(out[2], IMAGE[0])
