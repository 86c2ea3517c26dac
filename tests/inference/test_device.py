"""Devices and their precision."""

from __future__ import annotations

import pytest
import torch

from ldseg_auto.errors import InputError
from ldseg_auto.inference import device as devices
from ldseg_auto.inference.device import bf16_pays, choose_device, inference_type, training_precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


def machine(
    monkeypatch: pytest.MonkeyPatch, cuda: bool = False, mps: bool = False, amx: bool = False, bf16: bool = True, avx: bool = False
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
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


@pytest.mark.parametrize(("pays", "processes", "expected"), [(True, 1, "bf16-mixed"), (False, 1, "32-true"), (True, 2, "32-true")])
def test_a_cpu_whose_bf16_may_be_slow_is_tried_out(monkeypatch: pytest.MonkeyPatch, pays: bool, processes: int, expected: str) -> None:
    machine(monkeypatch, avx=True)
    monkeypatch.setattr(devices, "bf16_pays", lambda: pays)
    assert training_precision(CPU, "auto", processes) == expected
    machine(monkeypatch, amx=True, avx=True)
    assert training_precision(CPU, "auto", processes) == "bf16-mixed"
    machine(monkeypatch)
    assert training_precision(CPU, "auto", processes) == "32-true"


@pytest.mark.parametrize(("seconds", "pays"), [((1.0, 0.5), True), ((1.0, 0.9), False), ((1.0, 1.3), False)])
def test_the_trial_compares_the_fastest_of_each(monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], pays: bool) -> None:
    """A clock that advances by what each precision takes, and once by much more: a pause of a busy machine."""
    clock, starts = [0.0], iter(range(100))
    lowered: list[bool] = []
    real = torch.nn.functional.conv3d

    def watched(*args: torch.Tensor, padding: int) -> torch.Tensor:
        lowered.append(torch.is_autocast_enabled("cpu"))
        clock[0] += seconds[lowered[-1]] + 100 * (next(starts) in (1, 4))
        return real(*args, padding=padding)

    monkeypatch.setattr(torch.nn.functional, "conv3d", watched)
    monkeypatch.setattr(devices.time, "perf_counter", lambda: clock[0])
    state = torch.random.get_rng_state()
    bf16_pays.cache_clear()
    assert bf16_pays() is pays
    bf16_pays.cache_clear()
    assert {True, False} == set(lowered) and torch.equal(state, torch.random.get_rng_state())  # weights drawn later stay the same


def test_grids_thinner_than_their_kernels_stay_in_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, amx=True)
    assert training_precision(CPU, thin=[]) == "bf16-mixed"
    assert training_precision(CPU, thin=[2]) == training_precision(CPU, "float32", thin=[2]) == "32-true"
    with pytest.raises(
        InputError, match="precision = bf16: the network has 3D grids of 2, 3 planes, fewer than the kernels on them, whose"
    ):
        training_precision(CPU, "bf16", thin=[2, 3])
    assert training_precision(CUDA, thin=[2]) == training_precision(CUDA, "bf16", thin=[2]) == "bf16-mixed"


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this CPU has no AVX512-BF16: bf16 is not chosen on it")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("depth", [1, 3, 4, 5, 6, 8])
def test_gradients_of_other_volumes_are_right_in_bf16(depth: int, stride: int) -> None:
    """Against float32, with freed memory full of a large number: what a convolution leaves as it was shows."""
    torch.manual_seed(0)
    image, layer = torch.randn(2, 16, depth, 5, 7, requires_grad=True), torch.nn.Conv3d(16, 32, 3, stride, 1)
    expected = layer(image)
    direction = torch.randn_like(expected)
    exact = torch.autograd.grad(expected, (image, layer.weight), direction)
    del expected
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            lowered = layer(image)
        for size in (2**n for n in range(6, 19)):
            torch.full((size,), 1e30)
        found = torch.autograd.grad(lowered, (image, layer.weight), direction.bfloat16())
        for one, other in zip(found, exact, strict=True):
            assert float((one - other).abs().max()) < 0.05 * float(other.abs().max())
