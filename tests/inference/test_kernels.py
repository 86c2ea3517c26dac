"""oneDNN's convolutions give what torch's own give."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ldseg_auto.inference.kernels import use_onednn
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration

SETUPS = {"2d": {"patch": (32, 48)}, "3d": {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "stage": 2, "patch": (4, 8, 16)}}


@pytest.fixture(autouse=True)
def x86(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize("setup", SETUPS)
def test_networks_predict_the_same(make_configuration: Callable[..., Configuration], setup: str) -> None:
    torch.manual_seed(0)
    model = LDSeg(make_configuration(**SETUPS[setup]), 3).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    patch = SETUPS[setup]["patch"]
    image, noise = torch.randn(1, 1, *patch), torch.randn(1, *model.latent_shape(patch))
    before, weights = model.predict(image, noise, 2), {k: v.clone() for k, v in model.state_dict().items()}
    count = use_onednn(model)
    assert count == sum(isinstance(m, (nn.Conv2d, nn.Conv3d)) and max(m.kernel_size) > 1 for m in model.modules()) > 10
    with torch.inference_mode():
        torch.testing.assert_close(model.predict(image, noise, 2), before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(dict(model.state_dict()), weights, rtol=0, atol=0)
    assert use_onednn(model) == 0  # all done


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (5, 1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_one_convolution(kernel: tuple[int, ...], stride: int, bias: bool) -> None:
    layer = nn.Conv3d(4, 6, kernel, stride, padding=tuple(k // 2 for k in kernel), bias=bias).requires_grad_(False)
    image = torch.randn(1, 4, 6, 7, 8)
    expected = layer(image)
    assert use_onednn(layer) == 1
    torch.testing.assert_close(layer(image), expected, rtol=1e-4, atol=1e-5)


def test_what_stays_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = nn.Sequential(nn.Conv3d(2, 2, 1), nn.Conv3d(2, 2, 3, padding=1, padding_mode="reflect"), nn.ConvTranspose3d(2, 2, 2, 2))
    assert use_onednn(layers) == 0
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert use_onednn(nn.Conv3d(2, 2, 3)) == 0
