"""Normalisation per channel, by the channel's name (nnU-Net v2's rule)."""

from __future__ import annotations

import re
from collections.abc import Sequence

BY_NAME = {"ct": "ct", "nonorm": "none", "zscore": "zscore", "rescale_to_0_1": "rescale_to_0_1", "rgb_to_0_1": "rgb_to_0_1"}
MASK_BELOW = 0.75  # share of the image left by cropping to non-zero
SHOWN = 4  # channels per scheme that a reason names


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
    where = "non-zero voxels" if any(use_mask) else "the whole image"
    why = f"by channel name ({_named(channel_names, schemes)}); cropping leaves {relative_size:.1%} of the image, statistics over {where}"
    alike = [n for n, scheme in zip(channel_names, schemes, strict=True) if scheme == "zscore" and "ct" in _words(n)]
    if alike:
        why += f"; {', '.join(alike)} would be clipped and scaled as CT, over the dataset, only under the name CT in dataset.json"
    return schemes, use_mask, why


def _named(names: Sequence[str], schemes: Sequence[str]) -> str:
    """Channels by scheme, the first few of each by name."""
    parts = []
    for scheme in dict.fromkeys(schemes):
        these = [n for n, s in zip(names, schemes, strict=True) if s == scheme]
        more = f" and {len(these) - SHOWN} more" if len(these) > SHOWN else ""
        parts.append(f"{scheme}: {', '.join(these[:SHOWN])}{more}")
    return "; ".join(parts)


def _words(name: str) -> list[str]:
    return re.split(r"[\W_\d]+", name.casefold())
