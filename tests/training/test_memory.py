"""The trace of memory, against sums by hand, torch's own meta kernels and a second way to look at the same run."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch

from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration, Latent, Network, Sampling
from ldseg_auto.training.memory import CARD, HOST, PRIME, Kernels, Moments, _Lowered, _Storages, prediction_moments, training_moments
from ldseg_auto.training.objective import Objective

FLAT = Network("auto", (8, 16, 32), ((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3)
DEEP = Network("auto", (8, 16, 16), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), ((1, 3, 3), (3, 3, 3), (3, 3, 3)))


def configuration(network: Network = FLAT, batch: int = 2, raters: int = 1, patch: int = 2, steps: int = 1) -> Configuration:
    total = network.cumulative_strides[-1]
    size = tuple(patch * t for t in total)
    latent = Latent(network.cumulative_strides[1], 4)
    return Configuration(
        "x", (1.0,) * len(size), size, batch, (1.0, 1.0, 1.0), ("zscore",), (False,), network, latent, Sampling(steps), raters=raters
    )


def peak(moments: Moments, network: Network, patch: tuple[int, ...]) -> float:
    return moments.peak([prod(p // s for p, s in zip(patch, stride, strict=True)) for stride in network.cumulative_strides])


def parameters(c: Configuration, heads: int) -> int:
    return sum(p.numel() for p in LDSeg(c, heads).parameters())


def test_storages_are_counted_once_and_until_they_die() -> None:
    trace = _Storages([(PRIME, 4), (PRIME, 2)])
    with trace:
        a = torch.empty(3, PRIME, 4, device="meta")
        view = a[1:]
        assert trace.now == [0, 48 * PRIME, 0]
        b = a + 1
        a += b
        assert trace.now == [0, 96 * PRIME, 0]
        del a
        assert trace.now == [0, 96 * PRIME, 0]  # the view holds it
        del view
        assert trace.now == [0, 48 * PRIME, 0]
        flat = torch.empty(5, 2 * PRIME, device="meta", dtype=torch.bfloat16)  # the second stage's positions in a row
        small = torch.empty(10, device="meta")
        assert trace.now == [512, 48 * PRIME, 20 * PRIME]  # what is fixed comes in the allocator's blocks
        del b, small, flat
    assert trace.now == [0, 0, 0]


def test_peak_of_a_chain_by_hand() -> None:
    """exp keeps its result for the backward pass, square its input: x, exp(x) and the square are there at once; then a gradient each."""
    trace = _Storages([(PRIME, 2), (PRIME, 1)])
    with trace:
        x = torch.empty(PRIME, 2, device="meta", requires_grad=True)
        y = x.exp().square().sum()
        assert trace.now[1] == 2 * 4 * 2 * PRIME  # x and exp(x)
        y.backward()
    assert trace.result().peak([1.0, 0.0]) >= 3 * 4


def test_moments_by_hand() -> None:
    moments = Moments(np.array([[10.0, 1.0, 0.0], [0.0, 0.0, 5.0]]))
    assert moments.peak([4, 2]) == 14 and moments.peak([4, 3]) == 15
    assert moments.peak([4, 2], times=3) == 30 and moments.growing([4, 2]) == 10


@pytest.mark.parametrize("raters", [1, 4])
@pytest.mark.parametrize("network", [FLAT, DEEP, replace(FLAT, variant="direct")])
@pytest.mark.parametrize("regions", [True, False])
def test_quick_answers_are_those_of_torch(network: Network, raters: int, regions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short cuts change time, not bytes."""
    c = configuration(network, 3, raters)
    quick = training_moments(c, 3, regions), prediction_moments(c, 3)
    monkeypatch.setattr("ldseg_auto.training.memory._answer", lambda *_: None)
    slow = training_moments(c, 3, regions), prediction_moments(c, 3)
    assert all(np.array_equal(a.table, b.table) for a, b in zip(slow, quick, strict=True))


@pytest.mark.parametrize("kernels", [CARD, HOST])
@pytest.mark.parametrize("network", [FLAT, DEEP])
def test_one_trace_serves_every_patch(network: Network, kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of positions gives the same bytes per voxel, within what is not a multiple of the patch."""
    c = configuration(network, 2)
    first = training_moments(c, 3, False, kernels)
    monkeypatch.setattr("ldseg_auto.training.memory.PRIME", 20011)
    second = training_moments(c, 3, False, kernels)
    for times in (1, 8, 32):
        patch = tuple(times * s for s in network.cumulative_strides[-1])
        assert peak(second, network, patch) == pytest.approx(peak(first, network, patch), rel=1e-9)


def test_autograd_keeps_no_less_than_the_trace_says() -> None:
    """A second way: what the forward pass saves for the backward pass, by saved_tensors_hooks, is alive at the trace's peak."""
    c = replace(configuration(FLAT, 4), patch_size=(64, 64))
    objective = Objective(LDSeg(c, 3), c, False).train()
    saved: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if not isinstance(t, torch.nn.Parameter):
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    label = torch.randint(0, 3, (4, 64, 64))
    onehot = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float().contiguous()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        objective(torch.randn(4, 1, 64, 64), onehot, torch.ones(4, 1, 64, 64))
    kept = sum(saved.values())
    held = 4 * 5 * sum(p.numel() for p in objective.parameters())
    found = peak(training_moments(c, 3, False, HOST), FLAT, (64, 64))
    assert kept + held <= found <= 1.25 * kept + held


@pytest.mark.parametrize("network", [FLAT, DEEP])
def test_a_patch_of_no_voxels_holds_weights_gradients_moments_and_averages(network: Network) -> None:
    c = configuration(network)
    count = parameters(c, 3)
    nothing = (0,) * len(network.strides[0])
    least = peak(training_moments(c, 3, False), network, nothing)
    assert 6 * 4 * count <= least <= 6.5 * 4 * count + 2 * 512 * 300  # five copies and AdamW's square roots; blocks of 512 bytes
    alone = peak(prediction_moments(c, 3), network, nothing)
    assert 4 * count <= alone <= 7 * count + 2 * 512 * 300  # and copies in bfloat16 of layers at work


def test_more_samples_more_heads_and_float32_need_more() -> None:
    def need(batch: int = 2, heads: int = 3, kernels: Kernels = CARD) -> float:
        return peak(training_moments(configuration(FLAT, batch), heads, False, kernels), FLAT, (128, 128))

    assert need() < need(batch=3) < need(batch=4)
    assert need() < need(heads=9)
    assert need() < need(kernels=HOST)
    assert need(kernels=Kernels(True, 0.0)) <= need() < need(kernels=Kernels(True, 9.0))


def test_prediction_needs_no_more_for_more_steps_and_less_than_training() -> None:
    few, many = (peak(prediction_moments(configuration(DEEP, 2, steps=s), 3), DEEP, (64, 64, 64)) for s in (3, 30))
    assert few == many
    assert few < peak(training_moments(configuration(DEEP, 2), 3, False), DEEP, (64, 64, 64))


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    training_moments(configuration(), 3, False)
    prediction_moments(configuration(), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_lowered_layers_compute_in_bfloat16_and_norms_in_float32() -> None:
    """The types are those that torch.autocast documents for CUDA."""
    x, layer = torch.randn(2, 4, 8, 8), torch.nn.Conv2d(4, 4, 3)
    with _Lowered(True) as mode:
        y = layer(x)
        again = layer(x)
        assert y.dtype == again.dtype == torch.bfloat16
        assert len(mode.kept) == 2  # weight and bias, cast once
        assert torch.nn.functional.group_norm(y, 2).dtype == torch.float32
        assert torch.nn.functional.instance_norm(y).dtype == torch.bfloat16
    y.sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
    with _Lowered(False):
        assert layer(x).dtype == torch.float32
