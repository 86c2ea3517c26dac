"""Which 3D grids are thinner than the kernels on them, as the network itself says."""

from __future__ import annotations

import torch
from torch import nn

from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration


def thin_grids(configuration: Configuration, heads: int) -> list[int]:
    """Numbers of planes, rising, of the grids with more than one plane but fewer than a convolution's kernel has there (strides of 1 along
    that axis); none in 2D. The network runs on the meta device, which computes nothing.

    Args:
        heads: logit channels.
    """
    with torch.device("meta"):
        model = LDSeg(configuration, heads).eval()
        image = torch.empty(1, configuration.channels, *configuration.patch_size)
        noise, time = torch.empty(1, *model.latent_shape(configuration.patch_size)), torch.ones(1)
        onehot = torch.empty(1, heads, *configuration.patch_size)
    found: set[int] = set()

    def note(layer: nn.Conv3d, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        planes = inputs[0].shape[2]
        if layer.stride[0] == 1 and 1 < planes < layer.kernel_size[0]:
            found.add(planes)

    for layer in model.modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_hook(note)
    with torch.no_grad():
        condition = model.condition(image)
        model.raw_latent(onehot)
        model.decode(model.denoise(noise, time, condition), condition)
    return sorted(found)
