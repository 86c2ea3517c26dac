"""Intensity normalisation per channel."""

from __future__ import annotations

import numpy as np

from ldseg_auto.planners.plans import Configuration, Intensities

FLOOR = 1e-8  # smallest deviation divided by


def normalise(image: np.ndarray, mask: np.ndarray | None, configuration: Configuration, intensities: tuple[Intensities, ...]) -> np.ndarray:
    """Normalises each channel of `image` (c, z, y, x) by its scheme.

    Args:
        mask: (z, y, x) bool, non-zero voxels; needed where a channel's use_mask_for_norm is set.
        intensities: per channel, of the dataset's foreground (scheme `ct`).

    Returns:
        A new float32 array (c, z, y, x).
    """
    out = np.empty(image.shape, np.float32)
    for c, scheme in enumerate(configuration.normalisation):
        use_mask = configuration.use_mask_for_norm[c] and mask is not None and bool(mask.any())
        out[c] = _channel(image[c], mask if use_mask else None, scheme, intensities[c])
    return out


def _channel(x: np.ndarray, mask: np.ndarray | None, scheme: str, intensities: Intensities) -> np.ndarray:
    if scheme == "ct":
        clipped = np.clip(x, intensities.percentile_00_5, intensities.percentile_99_5)
        return (clipped - intensities.mean) / max(intensities.std, FLOOR)
    if scheme == "zscore":
        inside = x if mask is None else x[mask]
        mean, deviation = inside.mean(dtype=np.float64), inside.std(dtype=np.float64)
        scaled = (x - mean) / max(deviation, FLOOR)
        return scaled if mask is None else np.where(mask, scaled, 0)
    if scheme == "rescale_to_0_1":
        low, high = float(x.min()), float(x.max())
        return (x - low) / max(high - low, FLOOR)
    return x / 255 if scheme == "rgb_to_0_1" else x
