"""Building blocks."""

from __future__ import annotations

import pytest
import torch

from ldseg_auto.networks.blocks import Attention, TimedBlock, TimeEmbedding, group_norm, same_conv


@pytest.mark.parametrize("channels", [1, 3, 8, 12, 24, 30, 64, 320])
def test_group_norm_has_groups_of_eight_or_more_where_it_can(channels: int) -> None:
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0
    assert channels // norm.num_groups >= min(8, channels)


@pytest.mark.parametrize(("dimensions", "kernel"), [(2, (3, 1)), (3, (1, 3, 5))])
def test_same_conv_keeps_the_grid(dimensions: int, kernel: tuple[int, ...]) -> None:
    x = torch.randn(1, 2, *range(5, 5 + dimensions))
    assert same_conv(dimensions, 2, 4, kernel)(x).shape == (1, 4, *x.shape[2:])


def test_a_timed_block_starts_as_its_skip() -> None:
    torch.manual_seed(0)
    block, x = TimedBlock(2, 8, 8, time_width=16), torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x, torch.randn(2, 16)), x)


def test_time_embedding_tells_times_apart() -> None:
    torch.manual_seed(0)
    out = TimeEmbedding(16)(torch.tensor([0.0, 0.01, 0.5, 0.99, 1.0]))
    assert out.shape == (5, 16)
    assert torch.pdist(out).min() > 1e-3


def test_attention_reads_all_positions() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8), torch.randn(1, 8, 4, 6)
    y = x.clone()
    y[0, :, -1, -1] += 5
    changed = (attention(y) - attention(x))[0, :, 0, 0]
    assert attention(x).shape == x.shape
    assert changed.abs().max() > 1e-4
