"""Intensities of a case in a few numbers, and of a dataset as histograms; the same for any order of the cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ldseg_auto.planners.fingerprint import Histogram, IntensityRange

VOXELS = 1 << 16  # looked at, per case and channel
QUANTILES = 512  # per case and channel, for the histograms
BINS = 64
SKEW = 50.0  # a range of more than this many interquartile ranges is drawn on an axis that is logarithmic far from the median
WHOLE = 1024  # different whole numbers are few: an 8-bit picture, not a scan


@dataclass(frozen=True)
class Quantiles:
    """Evenly spaced quantiles of one case: an equally large sample of each."""

    image: np.ndarray  # (channels, 512)
    foreground: np.ndarray  # (channels, 512), or (channels, 0) without foreground


def measure_intensities(
    image: np.ndarray, foreground: np.ndarray
) -> tuple[tuple[tuple[IntensityRange, ...], tuple[IntensityRange, ...]], Quantiles]:
    """Ranges and quantiles of one case.

    Args:
        image: `(c, z, y, x)`, cropped. Zeros are left out channel by channel: they are padding or a masked background.
        foreground: `(c, n)`; n may be 0.

    Returns:
        The ranges of the image and of the foreground, and the quantiles of both.
    """
    seen = thinned(image, VOXELS)
    parts = [np.sort(_without_zeros(channel.reshape(-1))) for channel in seen]
    inside = np.sort(foreground, axis=1) if foreground.shape[1] else np.zeros((len(image), 0), np.float32)
    ranges = tuple(_range(p) for p in parts), tuple(_range(p) for p in inside if p.size)
    return ranges, Quantiles(np.stack([_spread(p) for p in parts]), np.stack([_spread(p) for p in inside]))


def thinned(image: np.ndarray, voxels: int) -> np.ndarray:
    """A view of `(c, z, y, x)` with every k-th voxel of each axis, k as small as leaves about `voxels` of them or fewer."""
    shape = image.shape[1:]
    step = 1
    while prod(-(-n // step) for n in shape) > voxels:
        step += 1
    return image[:, ::step, ::step, ::step]


def histograms(cases: Sequence[Quantiles]) -> dict[str, Histogram]:
    """Channel index -> histogram over the dataset; edges are shared by image and foreground."""
    out = {}
    for channel in range(len(cases[0].image)):
        image = np.concatenate([c.image[channel] for c in cases])
        foreground = np.concatenate([c.foreground[channel] for c in cases])
        edges = bin_edges(image, *_ends([c.image[channel] for c in cases]))
        first, second = (tuple(int(n) for n in np.histogram(v, edges)[0]) for v in (image, foreground))
        out[str(channel)] = Histogram(tuple(float(e) for e in edges), first, second, _short(1 - sum(first) / image.size))
    return out


def _ends(cases: Sequence[np.ndarray]) -> tuple[float, float]:
    """What the histogram shows: all that nine of ten cases hold, so that a case of another scale does not squeeze the others.

    The tenth percentile over the cases of their percentile 0.5, and the ninetieth of their percentile 99.5.
    """
    extremes = np.array([np.percentile(c, (0.5, 99.5)) for c in cases])
    low = np.percentile(extremes[:, 0], 10, method="lower")  # of up to ten cases the least and the most of all
    return float(low), float(np.percentile(extremes[:, 1], 90, method="higher"))


def bin_edges(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """About 64 bins from `low` to `high` for `values` (n,).

    Whole numbers get bins of equal numbers of them, so that no bin is empty by rounding. Where the range is more than 50 times the
    interquartile range, or `high` more than 50 times a positive `low`, edges are spaced logarithmically; with values below zero, by asinh
    of the distance to the median, which is linear near it.
    """
    first, median, third = (float(v) for v in np.percentile(values, (25, 50, 75)))
    if high <= low:
        return np.array([low - 0.5, low + 0.5])
    middle = third - first
    if low > 0 and high > SKEW * low and not _few_whole_numbers(values, low, high):
        edges = np.geomspace(low, high, BINS + 1)
        return np.unique([*(np.round(edges[:-1] - 0.5) + 0.5), np.ceil(high) + 0.5]) if _whole(values) else _distinct(edges)
    if middle > 0 and high - low > SKEW * middle:
        ends = [float(np.arcsinh((v - median) / middle)) for v in (low, high)]
        return _distinct(median + middle * np.sinh(np.linspace(ends[0], ends[1], BINS + 1)))
    if _whole(values):
        width = max(1, int(np.ceil((high - low + 1) / BINS)))
        return np.arange(np.floor(low), np.ceil(high) + width + 1, width) - 0.5
    return _distinct(np.linspace(low, high, BINS + 1))


def _whole(values: np.ndarray) -> bool:
    return np.array_equal(values, np.round(values))


def _few_whole_numbers(values: np.ndarray, low: float, high: float) -> bool:
    return high - low < WHOLE and _whole(values)


def _distinct(edges: np.ndarray) -> np.ndarray:
    """To six digits, where that keeps them apart."""
    short = np.array([_short(e) for e in edges])
    return short if (np.diff(short) > 0).all() else edges


def _without_zeros(values: np.ndarray) -> np.ndarray:
    kept = values[values != 0]
    return kept if kept.size else values


def _range(ordered: np.ndarray) -> IntensityRange:
    """Of sorted values (n,), n above 0; percentiles interpolated as numpy does."""
    places = np.array((0.005, 0.5, 0.995)) * (ordered.size - 1)
    below = places.astype(int)
    ends = ordered[below].astype(float), ordered[np.minimum(below + 1, ordered.size - 1)].astype(float)
    low, median, high = (_short(float(v)) for v in ends[0] + (ends[1] - ends[0]) * (places - below))
    return IntensityRange(_short(float(ordered.mean(dtype=np.float64))), low, median, high)


def _spread(ordered: np.ndarray) -> np.ndarray:
    """Quantiles (i + 1/2) / 512 of sorted values (n,); none of none."""
    if not ordered.size:
        return ordered
    return ordered[((np.arange(QUANTILES) + 0.5) * ordered.size / QUANTILES).astype(int)]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
