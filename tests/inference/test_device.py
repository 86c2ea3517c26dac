"""Devices and their precision."""

from __future__ import annotations

import pytest
import torch

from ldseg_auto.errors import InputError
from ldseg_auto.inference.device import choose_device, inference_type, training_precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


def machine(monkeypatch: pytest.MonkeyPatch, cuda: bool = False, mps: bool = False, amx: bool = False, bf16: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    machine(monkeypatch, cuda, mps)
    assert choose_device("auto").type == chosen
    assert choose_device("cpu") == CPU


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    with pytest.raises(InputError, match="--device cuda: this machine, or this build of torch, has none. Use --device auto"):
        choose_device("cuda")
    with pytest.raises(InputError, match="--device gpu: expected one of auto, cpu, cuda, mps"):
        choose_device("gpu")


@pytest.mark.parametrize(
    ("device", "amx", "bf16", "training", "inference"),
    [
        (CPU, True, True, "bf16-mixed", torch.float32),
        (CPU, False, True, "32-true", torch.float32),
        (CUDA, False, True, "bf16-mixed", torch.float16),
        (CUDA, False, False, "16-mixed", torch.float16),
        (MPS, True, True, "32-true", torch.float32),
    ],
)
def test_precision(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, amx: bool, bf16: bool, training: str, inference: torch.dtype
) -> None:
    machine(monkeypatch, amx=amx, bf16=bf16)
    assert training_precision(device) == training
    assert inference_type(device) == inference
    assert training_precision(device, "float32") == "32-true"
    assert training_precision(device, "bf16") == "bf16-mixed"
    if device == CUDA:
        assert training_precision(device, "float16") == "16-mixed"
    else:
        with pytest.raises(InputError, match=rf"training.precision = float16 needs CUDA, the device is {device.type}. Use bf16"):
            training_precision(device, "float16")
