"""Tiles per network call."""

from __future__ import annotations

import pytest

from ldseg_auto.planners.rules.window import choose_tile_batch


@pytest.mark.parametrize(
    ("patch", "most", "expected"),
    [
        ((40, 56, 40), 99, 11), ((128, 128, 128), 99, 1), ((512, 512), 99, 4), ((56, 40), 99, 64), ((128, 128), 99, 64),
        ((40, 56, 40), 10, 5), ((40, 56, 40), 4, 2), ((40, 56, 40), 0, 1),
    ],
)  # fmt: skip
def test_a_call_has_a_million_voxels_where_they_fit(patch: tuple[int, ...], most: int, expected: int) -> None:
    """2^20 voxels and 64 tiles at most; halved until the card holds them, and one tile in any case."""
    chosen, reason = choose_tile_batch(patch, lambda number: number <= most)
    assert chosen == expected
    assert ("no more memory than training" in reason) == (most < 99)
