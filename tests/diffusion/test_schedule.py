"""Noise schedules against discrete products and high-precision values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ldseg_auto.diffusion.schedule import alpha_bar, signal_and_noise, trailing_times

SCHEDULES = ("cosine", "linear", "quadratic")


def discrete_product(name: str, steps: int = 1000) -> np.ndarray:
    """alpha_bar after each of `steps` discrete steps (steps + 1 values), in float64, as published for 1000; others scale beta to match."""
    first, last = 1e-4 * 1000 / steps, 0.02 * 1000 / steps
    betas = np.linspace(first, last, steps) if name == "linear" else np.linspace(first**0.5, last**0.5, steps) ** 2
    return np.concatenate([[1.0], np.cumprod(1 - betas)])


def nichol_product(offset: float, steps: int = 1000) -> np.ndarray:
    """Nichol & Dhariwal 2021, eq. 17 with their betas, clipped at 0.999: alpha_bar after each of `steps` discrete steps."""
    f = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.concatenate([[1.0], np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))])


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_continuous_schedule_is_the_limit_of_the_published_betas(name: str) -> None:
    steps = np.arange(0, 1001, 50)
    ours = alpha_bar(torch.from_numpy(steps / 1000), name).numpy()
    published = discrete_product(name)[steps]
    np.testing.assert_allclose(ours, published, atol=1e-3)
    np.testing.assert_allclose(np.log(ours[1:]), np.log(published[1:]), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_distance_to_the_published_betas_halves_with_twice_the_steps(name: str) -> None:
    """It is a sum taken for an integral: of order 1/T, so 2 log(product of 2T) - log(product of T) leaves order 1/T^2."""
    t = np.arange(1, 21) / 20
    ours = np.log(alpha_bar(torch.from_numpy(t), name).numpy())
    coarse, fine = (np.log(discrete_product(name, steps)[np.round(t * steps).astype(int)]) for steps in (1000, 2000))
    np.testing.assert_allclose((coarse - ours) / (fine - ours), 2, rtol=0.01)
    np.testing.assert_allclose(2 * fine - coarse, ours, atol=4e-4)


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_beta_is_the_rate_at_which_signal_is_lost(name: str) -> None:
    """-d log(alpha_bar)/dt = beta(t): from 0.1 to 20, linear in t itself or in its root."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64, requires_grad=True)
    (rate,) = torch.autograd.grad(-alpha_bar(t, name).log().sum(), t)
    line = np.linspace(0.1, 20, 11) if name == "linear" else np.linspace(0.1**0.5, 20**0.5, 11) ** 2
    np.testing.assert_allclose(rate.numpy(), line, rtol=1e-12)


@pytest.mark.parametrize(("name", "published", "limit"), [("linear", 0.00635, 0.00657), ("quadratic", 0.02708, 0.02772), ("cosine", 0, 0)])
def test_signal_at_the_end(name: str, published: float, limit: float) -> None:
    """Of the amplitude. 1000 published steps end 2 to 4% lower than their limit; cosine ends at nothing, exactly."""
    signal, noise = signal_and_noise(torch.ones(1), name, dimensions=2)
    assert float(signal) == pytest.approx(limit, abs=5e-6 if limit else 0)
    assert float(signal) ** 2 + float(noise) ** 2 == pytest.approx(1, abs=1e-6)
    if published:
        assert discrete_product(name)[-1] ** 0.5 == pytest.approx(published, abs=5e-6)


def test_cosine_is_the_product_of_nichols_betas() -> None:
    """Without the offset to the last digits, but for the clipped last step. With theirs (0.008) it moves less than slope x shift."""
    ours = alpha_bar(torch.arange(1001, dtype=torch.float64) / 1000, "cosine").numpy()
    np.testing.assert_allclose(ours[:-1], nichol_product(0.0)[:-1], rtol=1e-9)
    assert ours[-1] < 1e-30 < nichol_product(0.0)[-1] < 1e-8
    np.testing.assert_allclose(ours, nichol_product(0.008), atol=math.pi / 2 * 0.008)


def test_cosine_is_nichols_without_the_offset() -> None:
    t = torch.tensor([0, 0.25, 0.5, 2 / 3, 1], dtype=torch.float64)
    expected = [1, (2 + math.sqrt(2)) / 4, 0.5, 0.25, 0]
    np.testing.assert_allclose(alpha_bar(t, "cosine").numpy(), expected, atol=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_only_grows(name: str) -> None:
    share = alpha_bar(torch.linspace(0, 1, 1001, dtype=torch.float64), name)
    assert share[0] == 1
    assert (share.diff() < 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_signal_and_noise_keep_their_digits_in_float32(name: str) -> None:
    t = torch.tensor([0, 1e-5, 1e-3, 0.1, 0.5, 0.9, 0.999, 1])
    signal, noise = signal_and_noise(t, name, dimensions=3)
    assert signal.shape == noise.shape == (8, 1, 1, 1, 1)
    exact = alpha_bar(t.double(), name)
    np.testing.assert_allclose(signal.flatten().double(), exact.sqrt(), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(noise.flatten().double(), (1 - exact).clamp_min(0).sqrt(), rtol=1e-4, atol=1e-7)
    assert signal.flatten()[0] == 1 and noise.flatten()[0] == 0 and noise.flatten()[-1] > 0.999


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0])
def test_scale_multiplies_the_ratio_and_keeps_the_variance(name: str, scale: float) -> None:
    """signal / noise is `scale` times the plain one (Chen 2023), signal^2 + noise^2 is 1; alpha_bar says the same."""
    t = torch.tensor([0, 1e-4, 0.1, 0.5, 0.9, 0.999, 1])
    signal, noise = (x.double().flatten() for x in signal_and_noise(t, name, 2, scale))
    plain = alpha_bar(t.double(), name)
    ratio = scale * (plain / (1 - plain).clamp_min(1e-300)).sqrt()
    np.testing.assert_allclose(signal.square() + noise.square(), 1, rtol=1e-6)
    np.testing.assert_allclose((signal / noise)[1:], ratio[1:], rtol=1e-3, atol=1e-6)
    exact = alpha_bar(t.double(), name, scale)
    np.testing.assert_allclose(signal, exact.sqrt(), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(noise, (1 - exact).clamp_min(0).sqrt(), rtol=1e-3, atol=1e-7)
    assert float(exact[0]) == pytest.approx(1, rel=1e-12) and signal[0] == 1 and noise[0] == 0
    assert name != "cosine" or signal[-1] == 0


@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_a_smaller_scale_is_noisier_at_every_time(scale: float) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for name in SCHEDULES:
        share = alpha_bar(t, name, scale)
        assert (share[1:-1] < alpha_bar(t, name)[1:-1]).all() and (share.diff() < 0).all()


def test_unknown_schedule() -> None:
    for function in (lambda: alpha_bar(torch.zeros(1), "sigmoid"), lambda: signal_and_noise(torch.zeros(1), "sigmoid", 2)):
        with pytest.raises(ValueError, match="schedule = 'sigmoid': expected cosine, linear or quadratic"):
            function()


def test_trailing_times() -> None:
    assert trailing_times(1) == [1, 0]
    assert trailing_times(4) == [1, 0.75, 0.5, 0.25, 0]
    with pytest.raises(ValueError, match="steps = 0: expected 1 or more"):
        trailing_times(0)
