"""How many tiles of the sliding window one network call takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

CALL_VOXELS = 2**20  # below, an operation of the first stage takes a large card less time than the host takes to ask for it (reasoned)
MOST_TILES = 64


def choose_tile_batch(patch_size: Sequence[int], fits: Callable[[int], bool]) -> tuple[int, str]:
    """Tiles per call, and why.

    Args:
        patch_size: voxels.
        fits: whether a call of so many tiles fits the card.
    """
    voxels = prod(patch_size)
    wanted = chosen = max(1, min(MOST_TILES, CALL_VOXELS // voxels))
    while chosen > 1 and not fits(chosen):
        chosen //= 2
    reason = f"{wanted} tiles of {voxels} voxels are a call of at most {CALL_VOXELS} voxels, and at most {MOST_TILES} tiles"
    return chosen, reason if chosen == wanted else f"{reason}; {chosen} need no more memory than training"
