"""Grids thinner than the kernels on them, against the convolutions of a network that runs on real tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ldseg_auto.networks.depths import thin_grids
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration

Make = Callable[..., Configuration]
HALVED = ((1, 1, 1), (2, 2, 2), (2, 2, 2))


@pytest.mark.parametrize(
    ("variant", "planes", "strides", "expected"),
    [
        ("auto", 8, HALVED, [2]),  # 8, 4, 2
        ("auto", 16, HALVED, []),  # 16, 8, 4
        ("auto", 12, HALVED, []),  # 12, 6, 3: as many as the kernel
        ("auto", 4, HALVED, [2]),  # 4, 2, 1: one plane is right
        ("auto", 4, ((1, 1, 1), (1, 2, 2), (1, 2, 2)), []),
        ("auto", 2, ((1, 1, 1), (1, 2, 2), (1, 2, 2)), [2]),
        ("direct", 8, HALVED, [2]),
    ],
)
def test_planes_of_the_networks_grids(
    make_configuration: Make, variant: str, planes: int, strides: tuple[tuple[int, ...], ...], expected: list[int]
) -> None:
    assert thin_grids(make_configuration(variant, strides=strides, stage=1, patch=(planes, 16, 16)), 3) == expected


@pytest.mark.parametrize("variant", ["auto", "paper", "direct"])
@pytest.mark.parametrize("planes", [2, 4, 6, 8, 12])
def test_they_are_those_that_the_convolutions_see(make_configuration: Make, variant: str, planes: int) -> None:
    """The paper's denoiser halves the latent's grid once more than the plan says."""
    configuration = make_configuration(variant, strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), stage=2, patch=(planes, 16, 16))
    model, seen = LDSeg(configuration, 2).eval(), set()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv3d):
            layer.register_forward_pre_hook(lambda conv, given: seen.add((given[0].shape[2], conv.kernel_size[0], conv.stride[0])))
    with torch.no_grad():
        model.encode_label(torch.rand(1, 2, planes, 16, 16))
        model.predict(torch.rand(1, 1, planes, 16, 16), torch.randn(1, *model.latent_shape((planes, 16, 16))), 1)
    assert thin_grids(configuration, 2) == sorted({n for n, kernel, stride in seen if stride == 1 and 1 < n < kernel})


def test_2d_has_none(make_configuration: Make) -> None:
    assert thin_grids(replace(make_configuration("auto"), patch_size=(16, 16)), 3) == []
