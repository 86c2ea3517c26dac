"""Samplers on Gaussian latents, where the optimal denoiser and the result are known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from ldseg_auto.diffusion.samplers import ddim, ddpm
from ldseg_auto.diffusion.schedule import alpha_bar

# science.md 4: share of the standard deviation that S steps of DDIM retain, cosine schedule.
RETAINED = {
    4: {1: 0.00, 2: 0.41, 3: 0.58, 4: 0.67, 6: 0.77, 8: 0.82, 12: 0.88, 16: 0.91, 32: 0.95},
    1: {1: 0.00, 2: 0.50, 3: 0.65, 4: 0.73, 6: 0.81, 8: 0.86, 12: 0.90, 16: 0.93, 32: 0.96},
    0.25: {1: 0.00, 2: 0.40, 3: 0.57, 4: 0.66, 6: 0.77, 8: 0.82, 12: 0.88, 16: 0.91, 32: 0.95},
    0.05: {1: 0.00, 2: 0.21, 3: 0.34, 4: 0.44, 6: 0.59, 8: 0.67, 12: 0.77, 16: 0.82, 32: 0.91},
}


def optimal(variance: float, mean: float = 0.0, schedule: str = "cosine"):  # type: ignore[no-untyped-def]
    """E[z0 | zt] for z0 ~ N(mean, variance): linear regression of z0 on zt."""

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = alpha_bar(t.double(), schedule).view(-1, *([1] * (z.ndim - 1)))
        return mean + a.sqrt() * variance / (a * variance + 1 - a) * (z - a.sqrt() * mean)

    return predict


def closed_product(variance: float, steps: int) -> float:
    """design.md 4: the product over steps of (sqrt(a_s a_t) v + sqrt((1-a_s)(1-a_t))) / (a_t v + 1 - a_t), over sqrt(v)."""
    product = 1.0
    for t, s in pairwise(np.linspace(1, 0, steps + 1)):
        a_t, a_s = math.cos(t * math.pi / 2) ** 2, math.cos(s * math.pi / 2) ** 2
        product *= (math.sqrt(a_s * a_t) * variance + math.sqrt((1 - a_s) * (1 - a_t))) / (a_t * variance + 1 - a_t)
    return product / math.sqrt(variance)


@pytest.mark.parametrize("variance", sorted(RETAINED))
def test_ddim_on_a_gaussian_retains_what_the_formula_says(variance: float) -> None:
    noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for steps, table in RETAINED[variance].items():
        retained = float(ddim(optimal(variance), noise, steps, "cosine")) / math.sqrt(variance)
        assert retained == pytest.approx(closed_product(variance, steps), abs=1e-6)
        assert retained == pytest.approx(table, abs=0.0051 if variance == 1 else 0.015)


def test_ddim_is_linear_in_the_noise_and_keeps_the_mean() -> None:
    noise = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = ddim(optimal(0.25, mean=3.0), noise, 8, "cosine")
    np.testing.assert_allclose((z - 3).numpy(), noise.numpy() * 0.5 * closed_product(0.25, 8), rtol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "quadratic"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_certain_prediction_is_the_result(sampler: str, schedule: str) -> None:
    truth = torch.linspace(-2, 2, 24).view(2, 3, 4)
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == (2,)
        return truth

    for steps in (1, 3):
        args = (predict, noise, steps, schedule)
        out = ddim(*args) if sampler == "ddim" else ddpm(*args, fresh=lambda i: torch.full_like(noise, float(i)))
        torch.testing.assert_close(out, truth)


def test_times_trail() -> None:
    seen: list[float] = []

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(float(t[0]))
        return z

    ddim(predict, torch.zeros(1, 1), 4, "cosine")
    assert seen == [1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(("variance", "steps"), [(1.0, 4), (0.25, 16)])
def test_variance_of_ddpm_on_a_gaussian(variance: float, steps: int) -> None:
    """Var[zs] = (c1 g + c2)^2 Var[zt] + posterior variance, with g the optimal denoiser's gain (Ho et al. 2020, eq. 6-7)."""
    expected = 1.0
    for t, s in pairwise(np.linspace(1, 0, steps + 1)):
        a_t, a_s = math.cos(t * math.pi / 2) ** 2, math.cos(s * math.pi / 2) ** 2
        beta = 1 - a_t / a_s
        gain = math.sqrt(a_t) * variance / (a_t * variance + 1 - a_t)
        factor = math.sqrt(a_s) * beta / (1 - a_t) * gain + math.sqrt(1 - beta) * (1 - a_s) / (1 - a_t)
        expected = factor**2 * expected + beta * (1 - a_s) / (1 - a_t)
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(n, 1, dtype=torch.float64, generator=generator)  # noqa: E731
    z = ddpm(optimal(variance), draw(), steps, "cosine", lambda i: draw())
    assert float(z.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / n))
    assert expected < variance


def test_adjust_runs_after_every_step() -> None:
    calls: list[int] = []

    def adjust(z: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return z + 1

    z = ddim(lambda z, t: torch.zeros_like(z), torch.zeros(1, 1), 3, "cosine", adjust)
    assert len(calls) == 3
    assert float(z) == pytest.approx(1.0)
