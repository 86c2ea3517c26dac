"""The latent's normalisation."""

from __future__ import annotations

import torch

from ldseg_auto.networks.standardise import FLOOR, PerSample, Running


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
    module = Running(3).train()
    for _ in range(5):
        z = torch.randn(4, 3, 8) * 2 + 1
        trained = module(z)
    torch.testing.assert_close(module.eval()(z), trained, rtol=1e-4, atol=1e-5)


def test_scaling_and_shifting_the_latent_gains_nothing() -> None:
    """The loss's derivative along the raw latent's scale and shift is zero, though the statistics lag behind."""
    torch.manual_seed(0)
    module = Running(2).train()
    module(torch.randn(4, 2, 8))
    scale, shift = torch.ones(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    raw, weights = torch.randn(4, 2, 8) * 3, torch.randn(4, 2, 8)
    z = module(raw * scale + shift)
    (z * weights).sum().backward()
    assert scale.grad.abs() < 1e-4 and shift.grad.abs() < 1e-4


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
