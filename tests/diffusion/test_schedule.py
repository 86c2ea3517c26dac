"""Noise schedules against discrete products and high-precision values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ldseg_auto.diffusion.schedule import alpha_bar, signal_and_noise, trailing_times

SCHEDULES = ("cosine", "linear", "quadratic")


def discrete_product(name: str, steps: int = 1000) -> np.ndarray:
    """alpha_bar after each of `steps` discrete steps (steps + 1 values), in float64, as the published schedules define them."""
    betas = np.linspace(1e-4, 0.02, steps) if name == "linear" else np.linspace(1e-4**0.5, 0.02**0.5, steps) ** 2
    return np.concatenate([[1.0], np.cumprod(1 - betas)])


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_continuous_schedule_is_the_limit_of_the_published_betas(name: str) -> None:
    steps = np.arange(0, 1001, 50)
    ours = alpha_bar(torch.from_numpy(steps / 1000), name).numpy()
    published = discrete_product(name)[steps]
    np.testing.assert_allclose(ours, published, atol=1e-3)
    np.testing.assert_allclose(np.log(ours[1:]), np.log(published[1:]), rtol=0.02, atol=1e-4)


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


def test_unknown_schedule() -> None:
    for function in (lambda: alpha_bar(torch.zeros(1), "sigmoid"), lambda: signal_and_noise(torch.zeros(1), "sigmoid", 2)):
        with pytest.raises(ValueError, match="schedule = 'sigmoid': expected cosine, linear or quadratic"):
            function()


def test_trailing_times() -> None:
    assert trailing_times(1) == [1, 0]
    assert trailing_times(4) == [1, 0.75, 0.5, 0.25, 0]
    with pytest.raises(ValueError, match="steps = 0: expected 1 or more"):
        trailing_times(0)
