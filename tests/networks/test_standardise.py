"""The latent's normalisation."""

from __future__ import annotations

import pytest
import torch

from ldseg_auto.networks.standardise import FLOOR, MOST, PerSample, Running


def test_first_batch_sets_the_statistics_and_later_ones_move_them() -> None:
    torch.manual_seed(0)
    module = Running(2, momentum=0.1).train()
    batches = [torch.randn(4, 2, 5, 6) * torch.tensor([3.0, 0.5]).view(1, 2, 1, 1) + 7 for _ in range(30)]
    mean, variance = torch.zeros(2), torch.ones(2)
    for i, z in enumerate(batches, start=1):
        out = module(z)
        share = max(0.1, 1 / i)
        mean = (1 - share) * mean + share * z.mean((0, 2, 3))
        variance = (1 - share) * variance + share * z.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(out, (z - mean.view(1, 2, 1, 1)) / variance.sqrt().view(1, 2, 1, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.mean, mean)
    torch.testing.assert_close(module.variance, variance)


def test_frozen_in_evaluation() -> None:
    module = Running(2).train()
    module(torch.randn(4, 2, 8))
    module.eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    z = 100 * torch.randn(3, 2, 8)
    out = module(z)
    torch.testing.assert_close(module.state_dict(), before)
    torch.testing.assert_close(out, (z - before["mean"].view(1, 2, 1)) / before["variance"].sqrt().view(1, 2, 1))


def test_values_are_the_same_in_training_and_evaluation() -> None:
    torch.manual_seed(0)
    module = Running(3).train()
    for _ in range(5):
        z = torch.randn(16, 3, 32) * 2 + 1
        out = module(z)
    torch.testing.assert_close(module.eval()(z), out, rtol=1e-4, atol=1e-5)


def test_scaling_and_shifting_the_latent_gains_nothing() -> None:
    """The loss's derivative along the raw latent's scale and shift is zero, though the statistics lag behind."""
    torch.manual_seed(0)
    module = Running(2).train()
    module(torch.randn(4, 2, 8))
    for size in (1, 3, 100):  # beyond the limits, too
        scale, shift = torch.ones(1, requires_grad=True), torch.zeros(1, requires_grad=True)
        raw, weights = torch.randn(4, 2, 8) * size + size, torch.randn(4, 2, 8)
        (module(raw * scale + shift) * weights).sum().backward()
        assert scale.grad.abs() < 1e-4 and shift.grad.abs() < 1e-4


def trained(module: Running, raw: torch.Tensor) -> tuple[float, float]:
    """Mean and deviation of what comes out of one training batch `(b, 1, n)`."""
    out = module.train()(raw)
    return float(out.mean()), float(out.std(unbiased=False))


def test_a_batch_far_from_the_running_statistics_is_brought_near() -> None:
    """Mean and deviation are limited to MOST in training only; a batch that varies less is left as it is."""
    torch.manual_seed(0)
    raw = torch.randn(8, 1, 64)
    raw = (raw - raw.mean()) / raw.std(unbiased=False)
    for factor, offset, mean, deviation in (
        (10.0, 0.0, 0.0, MOST),
        (1.0, 40.0, MOST, None),
        (1.0, -40.0, -MOST, None),
        (0.5, 0.0, 0.0, 0.5 / (0.95 + 0.05 * 0.25) ** 0.5),  # the running variance has moved by a twentieth
    ):
        module = Running(1)
        module.updates.fill_(100)
        found = trained(module, raw * factor + offset)
        assert found[0] == pytest.approx(mean, abs=1e-4)
        assert deviation is None or found[1] == pytest.approx(deviation, rel=1e-4)
        free = module.eval()(raw * factor + offset)
        assert float(free.std(unbiased=False)) == pytest.approx(factor / float(module.variance) ** 0.5, rel=1e-4)
    assert trained(Running(1), 50 * raw + 7)[1] == pytest.approx(1, rel=1e-4)  # the first batch sets the statistics


def test_a_channel_without_variance_stays_finite() -> None:
    module = Running(1).train()
    z = torch.full((2, 1, 4), 5.0, requires_grad=True)
    out = module(z)
    out.sum().backward()
    assert out.isfinite().all() and z.grad.isfinite().all()
    torch.testing.assert_close(module.eval()(torch.full((1, 1, 4), 5.0 + FLOOR)), torch.ones(1, 1, 4), rtol=1e-3, atol=1e-3)


def test_per_sample_standardises_each_sample() -> None:
    z = torch.randn(3, 2, 5, 5) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1) + 4
    out = PerSample()(z)
    torch.testing.assert_close(out.mean((1, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.var((1, 2, 3), unbiased=False), torch.ones(3), rtol=1e-3, atol=1e-3)
    assert PerSample()(torch.full((1, 2, 5), 3.0)).abs().max() == 0
