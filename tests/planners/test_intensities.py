"""Intensities of a case and histograms of a dataset, against numpy on all voxels."""

from __future__ import annotations

import numpy as np
import pytest

from ldseg_auto.planners.intensities import BINS, QUANTILES, VOXELS, Quantiles, bin_edges, histograms, measure_intensities, thinned


def of(image: np.ndarray, foreground: np.ndarray | None = None) -> Quantiles:
    return measure_intensities(image, np.zeros((len(image), 0), np.float32) if foreground is None else foreground)[1]


def test_ranges_are_percentiles_of_what_is_not_zero() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 20, (2, 20, 30, 40)).astype(np.float32)
    image[0, :10] = 0
    foreground = rng.normal(5, 1, (2, 999)).astype(np.float32)
    (ranges, inside), _ = measure_intensities(image, foreground)
    for found, values in zip((*ranges, *inside), (image[0, 10:], image[1], *foreground), strict=True):
        low, middle, high = np.percentile(values.astype(float), (0.5, 50, 99.5))
        shown = (found.mean, found.percentile_00_5, found.median, found.percentile_99_5)
        assert shown == pytest.approx((values.astype(float).mean(), low, middle, high), rel=1e-5)


def test_a_channel_of_zeros_and_a_case_without_foreground() -> None:
    image = np.zeros((2, 3, 4, 5), np.float32)
    image[1] = 7
    (ranges, inside), quantiles = measure_intensities(image, np.zeros((2, 0), np.float32))
    assert inside == () and quantiles.foreground.shape == (2, 0)
    assert [(r.median, r.width) for r in ranges] == [(0.0, 0.0), (7.0, 0.0)]


@pytest.mark.parametrize("shape", [(1, 1, 3000, 3000), (1, 400, 300, 300), (3, 1, 5, 5), (1, 2000, 7, 9)])
def test_a_large_image_is_thinned_without_copying(shape: tuple[int, ...]) -> None:
    image = np.empty(shape, np.float32)
    seen = thinned(image, VOXELS)
    assert VOXELS / 10 < seen[0].size <= VOXELS or seen.shape == shape
    assert seen.base is image


def test_quantiles_are_an_even_sample() -> None:
    """Of 0 .. 5119 without 0 the quantile (i + 1/2) / 512 is within a ten-thousandth of 10 i + 5."""
    values = np.random.default_rng(0).permutation(5120).astype(np.float32)
    found = of(values.reshape(1, 16, 16, 20)).image[0]
    assert np.abs(found - (10 * np.arange(QUANTILES) + 5)).max() <= 1


def test_histogram_counts_every_case_alike_and_in_any_order() -> None:
    rng = np.random.default_rng(1)
    cases = [
        of(rng.normal(m, 3, (1, 10, n, 30)).astype(np.float32), rng.normal(m, 1, (1, 40)).astype("f4")) for m, n in ((50, 30), (90, 9))
    ]
    found = histograms(cases)["0"]
    assert found == histograms(cases[::-1])["0"]
    middle = np.searchsorted(found.edges, 70)
    assert sum(found.image[:middle]) == pytest.approx(sum(found.image[middle:]), abs=12)
    assert sum(found.foreground) == 2 * QUANTILES
    assert found.outside == pytest.approx(1 - sum(found.image) / (2 * QUANTILES), abs=1e-6) and found.outside < 0.02


def test_one_case_of_another_scale_does_not_squeeze_the_others() -> None:
    rng = np.random.default_rng(2)
    cases = [of(rng.normal(0, 100, (1, 5, 20, 20)).astype("f4") * (1000 if i == 3 else 1)) for i in range(20)]
    found = histograms(cases)["0"]
    assert found.edges[0] > -500 and found.edges[-1] < 500
    assert found.outside == pytest.approx(1 / 20, abs=0.02)


@pytest.mark.parametrize(
    ("values", "low", "high", "equal"),
    [
        (np.linspace(-1000.5, 3000, 999), -1000.0, 3000.0, np.diff),  # CT: equally wide
        (np.arange(256.0), 0.0, 255.0, np.diff),  # whole numbers
        (np.geomspace(3, 1e6, 999), 3.0, 1e6, lambda e: e[1:] / e[:-1]),  # MR of many scales: equal ratios
    ],
)
def test_bins_are_equally_wide_on_their_axis(values: np.ndarray, low: float, high: float, equal) -> None:
    edges = bin_edges(values, low, high)
    assert edges[0] <= low and edges[-1] >= high - 1e-6 and len(edges) <= BINS + 2
    widths = equal(edges)
    assert widths == pytest.approx(np.full(len(widths), widths[0]), rel=1e-3)


def test_bins_of_whole_numbers_hold_equally_many() -> None:
    edges = bin_edges(np.arange(200.0), 0.0, 199.0)
    assert set(np.histogram(np.arange(200), edges)[0][:-1]) == {4}


def test_logarithmic_bins_of_whole_numbers_are_never_empty_by_rounding() -> None:
    values = np.arange(1.0, 5000.0)
    edges = bin_edges(values, 1.0, 4999.0)
    assert (np.histogram(values, edges)[0] > 0).all() and edges[0] == 0.5 and edges[-1] >= 4999
    assert (edges % 1 == 0.5).all() and np.diff(edges)[0] == 1 and np.diff(edges)[-1] > 100


def test_bins_of_a_long_tail_around_zero_and_of_a_constant() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(0, 1, 5000), [-4000, 9000]])
    edges = bin_edges(values, -4000.0, 9000.0)
    assert (np.diff(edges) > 0).all() and edges[0] == -4000 and edges[-1] == 9000
    assert np.diff(edges).min() < 1 and np.diff(edges).max() > 500
    assert bin_edges(np.full(9, 4.0), 4.0, 4.0).tolist() == [3.5, 4.5]
