"""Convolutions of single tiles on a CPU by oneDNN.

For a batch of one and feature maps of fewer than 20 480 values without the last axis torch takes its own im2col convolution instead of
oneDNN's, which was measured 2 to 2.6 times faster there (128 channels on 10 x 14 x 10, 256 on 5 x 7 x 5; AVX-512, one thread). Networks
spend half of their time in such layers.
"""

from __future__ import annotations

import platform

import torch
from torch import nn

ONEDNN_MACHINES = ("x86_64", "amd64")  # elsewhere its kernels may be the reference ones


class _Convolution:
    """Stands in for `_conv_forward` of nn.Conv2d and nn.Conv3d, whose weights it uses: the same values up to rounding."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def _conv_forward(self, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.ops.aten.mkldnn_convolution(image, weight, bias, self.padding, self.stride, self.dilation, self.groups)


class _Conv2d(_Convolution, nn.Conv2d):
    pass


class _Conv3d(_Convolution, nn.Conv3d):
    pass


def use_onednn(model: nn.Module) -> int:
    """Gives the convolutions of `model`, on a CPU and in float32, to oneDNN; those of one voxel stay, which torch does as fast.

    Returns:
        How many; 0 where oneDNN is not there.
    """
    if not torch.backends.mkldnn.is_available() or platform.machine().lower() not in ONEDNN_MACHINES:
        return 0
    known: dict[type, type] = {nn.Conv2d: _Conv2d, nn.Conv3d: _Conv3d}
    found = [m for m in model.modules() if type(m) in known and max(m.kernel_size) > 1 and m.padding_mode == "zeros"]
    for module in found:
        module.__class__ = known[type(module)]
    return len(found)
