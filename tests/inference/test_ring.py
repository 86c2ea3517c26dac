"""The ring of unfinished planes against sums over a whole volume."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldseg_auto.inference import ring as module
from ldseg_auto.inference.ring import make_ring
from ldseg_auto.scratch import Room

CPU = torch.device("cpu")


@given(
    st.integers(1, 6),
    st.lists(st.integers(0, 3), min_size=1, max_size=7),
    st.integers(0, 3),
    st.sampled_from([0, 2**29]),
    st.integers(1, 9),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blending_is_that_of_whole_volumes(
    monkeypatch: pytest.MonkeyPatch, depth: int, moves: list[int], more: int, limit: int, piece: int
) -> None:
    """Tiles of 3 rows, `depth` planes and a plane of 2 x 3 of 4 x 3 voxels; a ring larger than the tile by `more`."""
    monkeypatch.setattr(module, "PIECE", 4 * 6 * depth * piece)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(depth, 2, 3, generator=generator) + 0.1
    starts = torch.tensor([0, *[min(m, depth) for m in moves]]).cumsum(0).tolist()
    total = starts[-1] + depth
    sums, weight = torch.zeros(3, total, 4, 3), torch.zeros(total, 4, 3)
    found = []
    ring = make_ring((3, depth + more, 4, 3), weights, CPU, Room(limit))
    for start, after in zip(starts, [*starts[1:], total], strict=True):
        for y in (0, 2):
            box, scores = (slice(start, start + depth), slice(y, y + 2), slice(0, 3)), torch.randn(3, depth, 2, 3, generator=generator)
            ring.add(0, box, scores[:2])
            ring.add(2, box, scores[2:])
            ring.count(box)
            sums[(slice(None), *box)] += scores * weights
            weight[box] += weights
        if after > start:
            found.append(ring.take(slice(start, after)).clone())
    assert torch.equal(torch.cat(found, 1), sums / weight)
