"""Normalisation per channel, by the channel's name (nnU-Net v2's rule)."""

from __future__ import annotations

from collections.abc import Sequence

BY_NAME = {"ct": "ct", "nonorm": "none", "none": "none", "zscore": "zscore", "rescale_to_0_1": "rescale_to_0_1", "rgb_to_0_1": "rgb_to_0_1"}
MASK_BELOW = 0.75  # share of the image left by cropping to non-zero


def normalisation(channel_names: Sequence[str], relative_size: float) -> tuple[tuple[str, ...], tuple[bool, ...], str]:
    """Scheme and use of the non-zero mask for each channel.

    `ct`, `nonorm`, `zscore`, `rescale_to_0_1`, `rgb_to_0_1` (any case) choose the scheme of that name; every other name is z-score.
    Statistics are taken over non-zero voxels only where cropping to non-zero leaves less than 75% of the image at the median.

    Args:
        channel_names: as in dataset.json.
        relative_size: median share of the image that remains after cropping.
    """
    schemes = tuple(BY_NAME.get(name.casefold(), "zscore") for name in channel_names)
    masked = relative_size < MASK_BELOW
    use_mask = tuple(masked and scheme == "zscore" for scheme in schemes)
    named = ", ".join(f"{name}: {scheme}" for name, scheme in zip(channel_names, schemes, strict=True))
    why = f"cropping leaves {relative_size:.0%} of the image, statistics over {'non-zero voxels' if any(use_mask) else 'the whole image'}"
    return schemes, use_mask, f"by channel name ({named}); {why}"
