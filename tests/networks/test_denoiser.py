"""The denoiser as the plan sizes it: levels, the image encoder that feeds it, attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ldseg_auto.networks.blocks import Attention
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration, Latent, Network, Sampling


def configuration(levels: int = 0, positions: int = 0, variant: str = "auto") -> Configuration:
    """A patch of 64 x 32 with five stages and the latent at 1/4: a latent grid of 16 x 8, 8 x 4 and 4 x 2 below it."""
    strides = ((1, 1), *[(2, 2)] * 4)
    network = Network(variant, (8, 8, 16, 16, 16), strides, ((3, 3),) * 5, denoiser_levels=levels, attention_positions=positions)
    return Configuration("data", (1.0, 1.0), (64, 32), 2, (1.0, 64.0, 32.0), ("zscore",), (False,), network, Latent((4, 4), 3), Sampling(2))


def attends(model: LDSeg) -> bool:
    return any(isinstance(m, Attention) for m in model.denoiser.modules())


@pytest.mark.parametrize(("levels", "built"), [(0, 3), (1, 1), (2, 2), (3, 3), (9, 3)])
@pytest.mark.parametrize("variant", ["auto", "direct"])
def test_levels(variant: str, levels: int, built: int) -> None:
    """So many grids at most; the image encoder ends where the denoiser does, and every parameter is used."""
    model = LDSeg(configuration(levels, variant=variant), 2)
    assert len(model.denoiser.blocks) == built and len(model.image_encoder.stages) == 2 + built
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # it starts at zero, which would hide what is used
    image, noise = torch.randn(2, 1, 64, 32), torch.randn(2, *model.latent_shape((64, 32)))
    logits = model.predict(image, noise, 2)
    assert logits.shape == (2, 2, 64, 32)
    logits.square().sum().backward()
    assert all(p.grad is not None for part in (model.image_encoder, model.denoiser) for p in part.parameters())


@pytest.mark.parametrize(("levels", "positions", "expected"), [(0, 7, False), (0, 8, True), (2, 31, False), (2, 32, True), (0, 0, False)])
def test_attention_where_the_coarsest_grid_is_small_enough(levels: int, positions: int, expected: bool) -> None:
    c = configuration(levels, positions)
    assert c.attention is expected and attends(LDSeg(c, 2)) is expected
    larger = replace(c, patch_size=(128, 64))  # four times the positions
    assert larger.attention is (0 < 4 * (8 if levels == 0 else 32) <= positions)


def test_paper_keeps_its_own_denoiser() -> None:
    """LDSeg as published: two grids with attention on the coarser one, whatever the plan says of the U-shaped denoiser."""
    models = [LDSeg(configuration(levels, positions, "paper"), 2) for levels, positions in ((0, 0), (1, 512))]
    shapes = [{name: tuple(p.shape) for name, p in m.named_parameters()} for m in models]
    assert shapes[0] == shapes[1] and all(len(m.denoiser.blocks) == 2 and attends(m) for m in models)


@pytest.mark.parametrize("name", ["denoiser_levels", "attention_positions"])
def test_negative_is_refused(name: str) -> None:
    with pytest.raises(Exception, match=f"{name} = -1 is not possible: expected 0 or more"):
        replace(configuration().network, **{name: -1})
