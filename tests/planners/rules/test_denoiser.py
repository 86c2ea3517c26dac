"""The denoiser's depth: its receptive field as the real network has it, and the fewest levels that cover a latent grid."""

import math

import pytest
import torch
from torch import nn

from ldseg_auto.networks.parts import Denoiser
from ldseg_auto.planners.rules.denoiser import CHEAP_POSITIONS, choose_denoiser, receptive_field


def linear_denoiser(strides: list[int]) -> Denoiser:
    """The real one, its norms and activations taken out and all weights 1: a gradient then shows exactly what an output reads."""
    denoiser = Denoiser(1, (4,) * len(strides), (4,) * len(strides), [(s, 1) for s in strides], False).double()
    for module in list(denoiser.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (nn.GroupNorm, nn.SiLU)):
                setattr(module, name, nn.Identity())
    for parameter in denoiser.parameters():
        nn.init.ones_(parameter)
    return denoiser


@pytest.mark.parametrize(("strides", "length"), [([1], 40), ([1, 2], 96), ([2, 2, 2], 192), ([1, 1, 2], 128), ([1, 2, 1], 128)])
def test_receptive_field_is_the_networks_own(strides: list[int], length: int) -> None:
    """The smallest of all positions in one of the coarsest grid's."""
    grid = torch.zeros(1, 1, length, 3, dtype=torch.float64, requires_grad=True)
    out = linear_denoiser(strides)(grid, torch.zeros(1, dtype=torch.float64), [])[0, 0].sum(1)
    sizes = []
    for position in range(length // 2, length // 2 + math.prod(strides[1:])):
        (gradient,) = torch.autograd.grad(out[position], grid, retain_graph=True)
        read = gradient[0, 0].sum(1).nonzero().flatten()
        assert int(read[-1] - read[0]) + 1 == len(read)
        sizes.append(len(read))
    assert min(sizes) == receptive_field(strides)


@pytest.mark.parametrize(
    ("grid", "levels", "chosen"),
    [  # 13, 31, 65, 133, 269 positions for 1 to 5 levels of stride 2
        ((7, 5), 1, 1),
        ((7, 7), 3, 1),
        ((8, 7), 3, 2),
        ((14, 10), 4, 2),
        ((32, 32), 4, 3),
        ((128, 128), 6, 5),
        ((128, 128), 3, 3),  # all there are
        ((10, 14, 10), 2, 2),
    ],
)
def test_fewest_levels_that_cover_the_grid(grid: tuple, levels: int, chosen: int) -> None:
    strides = [(2,) * len(grid)] * levels
    found = choose_denoiser(grid, strides)
    assert found.levels == chosen
    field = receptive_field([2] * chosen)
    assert ("the fewest" in found.levels_reason) == (field >= 2 * max(grid) - 1)
    assert f"{chosen} of {levels}" in found.levels_reason and str(field) in found.levels_reason
    assert chosen == 1 or receptive_field([2] * (chosen - 1)) < 2 * max(grid) - 1


def test_an_axis_that_is_not_halved_counts_for_itself() -> None:
    """Eight slices that stay eight: the plane is covered by two levels, the slices by two levels of 23 positions."""
    found = choose_denoiser((8, 16, 16), [(1, 2, 2), (1, 2, 2), (2, 2, 2)])
    assert receptive_field([1, 1]) == 23 and found.levels == 2
    assert "23 x 31 x 31" in found.levels_reason


def test_attention_reason_counts_the_coarsest_grid() -> None:
    found = choose_denoiser((64, 64), [(2, 2)] * 4)
    assert found.levels == 4 and "64 positions (at most 512)" in found.attention_reason
    wide = choose_denoiser((64, 64), [(2, 2)])
    assert "4096 positions (above 512)" in wide.attention_reason and CHEAP_POSITIONS == 512
