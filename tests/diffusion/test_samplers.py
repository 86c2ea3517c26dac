"""Samplers on Gaussian latents, where the optimal denoiser and the result are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from ldseg_auto.diffusion.samplers import averaged, ddim, ddpm, multistep
from ldseg_auto.diffusion.schedule import alpha_bar

# science.md 4: share of the standard deviation that S steps of DDIM retain, cosine schedule.
RETAINED = {
    4: {1: 0.00, 2: 0.41, 3: 0.58, 4: 0.67, 6: 0.77, 8: 0.82, 12: 0.88, 16: 0.91, 32: 0.95},
    1: {1: 0.00, 2: 0.50, 3: 0.65, 4: 0.73, 6: 0.81, 8: 0.86, 12: 0.90, 16: 0.93, 32: 0.96},
    0.25: {1: 0.00, 2: 0.40, 3: 0.57, 4: 0.66, 6: 0.77, 8: 0.82, 12: 0.88, 16: 0.91, 32: 0.95},
    0.05: {1: 0.00, 2: 0.21, 3: 0.34, 4: 0.44, 6: 0.59, 8: 0.67, 12: 0.77, 16: 0.82, 32: 0.91},
}


def optimal(variance: float, mean: float = 0.0, schedule: str = "cosine", scale: float = 1.0):  # type: ignore[no-untyped-def]
    """E[z0 | zt] for z0 ~ N(mean, variance): linear regression of z0 on zt."""

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = alpha_bar(t.double(), schedule, scale).view(-1, *([1] * (z.ndim - 1)))
        return mean + a.sqrt() * variance / (a * variance + 1 - a) * (z - a.sqrt() * mean)

    return predict


def cosine_share(t: float, scale: float = 1.0) -> float:
    """alpha_bar from the ratio of amplitudes: scale * cot(pi t / 2)."""
    signal, noise = scale * math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)
    return signal**2 / (signal**2 + noise**2)


def closed_product(variance: float, steps: int, scale: float = 1.0) -> float:
    """design.md 4: the product over steps of (sqrt(a_s a_t) v + sqrt((1-a_s)(1-a_t))) / (a_t v + 1 - a_t), over sqrt(v)."""
    product = 1.0
    for t, s in pairwise(np.linspace(1, 0, steps + 1)):
        a_t, a_s = cosine_share(t, scale), cosine_share(s, scale)
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


@pytest.mark.parametrize("variance", [0.25, 4.0])
@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_scale_reaches_every_step(variance: float, scale: float) -> None:
    """DDIM retains what the formula says of the scaled shares; multistep comes nearer to the exact flow, and both reach it."""
    noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    predict = optimal(variance, scale=scale)
    for steps in (1, 4, 16):
        retained = float(ddim(predict, noise, steps, "cosine", scale=scale)) / math.sqrt(variance)
        assert retained == pytest.approx(closed_product(variance, steps, scale), abs=1e-6)
    errors = {s: abs(float(s(predict, noise, 256, "cosine", scale=scale)) - math.sqrt(variance)) for s in (ddim, multistep)}
    assert errors[multistep] < errors[ddim] < 0.05 * math.sqrt(variance)


@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_after_one_step_the_latent_is_the_certain_prediction_noised_to_that_time(scale: float) -> None:
    """zs = signal z0 + noise eps with the eps that the sampler started from, at half the time: by DDIM and its multistep."""
    noise, truth = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.linspace(-2, 2, 24).view(2, 3, 4)
    a = cosine_share(0.5, scale)
    for sampler in (ddim, multistep):
        seen: list[torch.Tensor] = []
        sampler(lambda z, t, seen=seen: seen.append(z) or truth, noise, 2, "cosine", scale=scale)
        torch.testing.assert_close(seen[1], a**0.5 * truth + (1 - a) ** 0.5 * noise)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "quadratic"])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("sampler", [ddim, ddpm, multistep])
def test_a_certain_prediction_is_the_result(sampler: Callable[..., torch.Tensor], scale: float, schedule: str) -> None:
    truth = torch.linspace(-2, 2, 24).view(2, 3, 4)
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == (2,)
        return truth

    fresh = {"fresh": lambda i: torch.full_like(noise, float(i))} if sampler is ddpm else {}
    for steps in (1, 3, 9):
        out = sampler(predict, noise, steps, schedule, scale=scale, **fresh)
        torch.testing.assert_close(out, truth)


@pytest.mark.parametrize("sampler", [ddim, multistep])
def test_times_trail_with_one_evaluation_per_step(sampler: Callable[..., torch.Tensor]) -> None:
    seen: list[float] = []

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(float(t[0]))
        return z

    sampler(predict, torch.zeros(1, 1), 4, "cosine")
    assert seen == [1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(("variance", "steps", "scale"), [(1.0, 4, 1.0), (0.25, 16, 1.0), (1.0, 4, 0.5), (0.25, 8, 0.1)])
def test_variance_of_ddpm_on_a_gaussian(variance: float, steps: int, scale: float) -> None:
    """Var[zs] = (c1 g + c2)^2 Var[zt] + posterior variance, with g the optimal denoiser's gain (Ho et al. 2020, eq. 6-7)."""
    expected = 1.0
    for t, s in pairwise(np.linspace(1, 0, steps + 1)):
        a_t, a_s = cosine_share(t, scale), cosine_share(s, scale)
        beta = 1 - a_t / a_s
        gain = math.sqrt(a_t) * variance / (a_t * variance + 1 - a_t)
        factor = math.sqrt(a_s) * beta / (1 - a_t) * gain + math.sqrt(1 - beta) * (1 - a_s) / (1 - a_t)
        expected = factor**2 * expected + beta * (1 - a_s) / (1 - a_t)
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(n, 1, dtype=torch.float64, generator=generator)  # noqa: E731
    z = ddpm(optimal(variance, scale=scale), draw(), steps, "cosine", lambda i: draw(), scale=scale)
    assert float(z.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / n))
    assert expected < variance


def test_averaged_predictions_are_their_running_mean_and_steer_the_steps() -> None:
    """By hand for two steps of DDIM: the second starts from the first's latent at half the time, and ends at the mean."""
    seen: list[torch.Tensor] = []
    guesses = iter([torch.tensor([[3.0]]), torch.tensor([[1.0]]), torch.tensor([[8.0]])])

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(z)
        return next(guesses)

    drawn = ddim(averaged(predict), torch.tensor([[2.0]]), 3, "cosine")
    eps = 2.0  # of pure noise, and then of what is left when the mean is taken away
    assert float(seen[1]) == pytest.approx(math.sqrt(cosine_share(2 / 3)) * 3 + math.sqrt(1 - cosine_share(2 / 3)) * eps)
    eps = (float(seen[1]) - math.sqrt(cosine_share(2 / 3)) * 2) / math.sqrt(1 - cosine_share(2 / 3))
    assert float(seen[2]) == pytest.approx(math.sqrt(cosine_share(1 / 3)) * 2 + math.sqrt(1 - cosine_share(1 / 3)) * eps)
    assert float(drawn) == pytest.approx((3 + 1 + 8) / 3)


@pytest.mark.parametrize(("steps", "seed"), [(1, 0), (2, 1), (3, 2), (7, 3), (12, 4)])
def test_averaging_errors_that_do_not_depend_on_each_other_makes_them_smaller(steps: int, seed: int) -> None:
    """Predictions with independent errors of deviation 1: n of them leave 1 / sqrt(n), the last one alone leaves 1."""
    generator = torch.Generator().manual_seed(seed)
    predict = lambda z, t: 5 + torch.randn(z.shape, generator=generator)  # noqa: E731
    drawn = ddim(averaged(predict), torch.randn(20_000, 1, generator=generator), steps, "cosine")
    assert float(drawn.mean()) == pytest.approx(5, abs=0.05)
    assert float(drawn.std()) == pytest.approx(1 / math.sqrt(steps), rel=0.05)


@pytest.mark.parametrize("sampler", [ddim, multistep])
def test_adjust_runs_after_every_step(sampler: Callable[..., torch.Tensor]) -> None:
    calls: list[int] = []

    def adjust(z: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return z + 1

    z = sampler(lambda z, t: torch.zeros_like(z), torch.zeros(1, 1), 5, "cosine", adjust)
    assert len(calls) == 5
    assert float(z) == pytest.approx(1.0)


def log_snr(t: float, schedule: str) -> float:
    """lambda(t) without alpha_bar: log cot(pi t / 2) for cosine, else -log(exp(B) - 1) / 2 with B the integral of beta."""
    if schedule == "cosine":
        return math.log(math.cos(t * math.pi / 2) / math.sin(t * math.pi / 2))
    root, rise = math.sqrt(0.1), math.sqrt(20) - math.sqrt(0.1)
    spent = 0.1 * t + 9.95 * t**2 if schedule == "linear" else ((root + rise * t) ** 3 - root**3) / (3 * rise)
    return -math.log(math.expm1(spent)) / 2


def paper_2m(variance: float, steps: int, schedule: str) -> float:
    """Lu et al. 2022, algorithm 2 as printed, on one number: x_t = sigma_t/sigma_s x_s - alpha_t (exp(-h) - 1) D; the end is D."""
    times = [1 - i / steps for i in range(steps)]
    lambdas = [-math.inf if t == 1 and schedule == "cosine" else log_snr(t, schedule) for t in times]
    alpha = [math.sqrt(1 / (1 + math.exp(-2 * value))) if value > -math.inf else 0.0 for value in lambdas]
    sigma = [math.sqrt(1 / (1 + math.exp(2 * value))) for value in lambdas]
    x = [1.0]
    predictions = [alpha[0] * variance / (alpha[0] ** 2 * variance + sigma[0] ** 2)]
    for i in range(1, steps):
        h = lambdas[i] - lambdas[i - 1]
        towards = predictions[i - 1]
        if i > 1:
            r = (lambdas[i - 1] - lambdas[i - 2]) / h
            towards = (1 + 1 / (2 * r)) * predictions[i - 1] - 1 / (2 * r) * predictions[i - 2]
        x.append(sigma[i] / sigma[i - 1] * x[i - 1] - alpha[i] * math.expm1(-h) * towards)
        predictions.append(alpha[i] * variance / (alpha[i] ** 2 * variance + sigma[i] ** 2) * x[i])
    return predictions[-1]


def result(sampler: Callable[..., torch.Tensor], variance: float, steps: int, schedule: str = "cosine") -> float:
    return float(sampler(optimal(variance, schedule=schedule), torch.ones(1, 1, dtype=torch.float64), steps, schedule))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "quadratic"])
@pytest.mark.parametrize("variance", [0.05, 0.25, 1.0, 4.0])
def test_multistep_is_the_published_recursion(variance: float, schedule: str) -> None:
    for steps in (1, 2, 4, 8, 16):  # powers of two: the times that `predict` gets are exact in float32
        assert result(multistep, variance, steps, schedule) == pytest.approx(paper_2m(variance, steps, schedule), rel=1e-12, abs=1e-15)
    for steps in (3, 6, 12):
        assert result(multistep, variance, steps, schedule) == pytest.approx(paper_2m(variance, steps, schedule), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("schedule", "same"), [("cosine", 3), ("linear", 2), ("quadratic", 2)])
def test_multistep_is_ddim_to_the_bit_while_it_has_no_usable_history(schedule: str, same: int, dtype: torch.dtype) -> None:
    noise = torch.randn(2, 3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    predict = lambda z, t: torch.tanh(z + t.view(-1, 1, 1).to(z))  # noqa: E731
    for steps in range(1, same + 1):
        assert torch.equal(multistep(predict, noise, steps, schedule), ddim(predict, noise, steps, schedule))
    assert not torch.allclose(multistep(predict, noise, same + 1, schedule), ddim(predict, noise, same + 1, schedule), atol=1e-3)


@pytest.mark.parametrize("variance", [0.05, 0.25, 1.0, 4.0])
@pytest.mark.parametrize("steps", [2, 4, 8, 16])
def test_multistep_is_never_worse_than_ddim_on_a_gaussian(steps: int, variance: float) -> None:
    exact = math.sqrt(variance)
    ours, first_order = (abs(result(sampler, variance, steps) - exact) for sampler in (multistep, ddim))
    assert ours < 0.99 * first_order if steps >= 8 else ours <= first_order


@pytest.mark.parametrize("variance", [0.25, 4.0])
def test_order_of_convergence(variance: float) -> None:
    """DDIM's error is c/S; multistep's (c + d log S)/S^2, as equal steps in t are far from equal in log-SNR at both ends."""
    sizes = [128, 256, 512, 1024]
    ratios = {}
    for sampler in (ddim, multistep):
        errors = [abs(result(sampler, variance, steps) - math.sqrt(variance)) for steps in sizes]
        ratios[sampler] = [coarse / fine for coarse, fine in pairwise(errors)]
    assert ratios[ddim] == pytest.approx([2, 2, 2], abs=0.02)
    assert ratios[multistep] == sorted(ratios[multistep])
    assert ratios[multistep][0] > 3 and 3.3 < ratios[multistep][-1] < 4
    grown = np.diff([error * steps**2 for error, steps in zip(errors, sizes, strict=True)])  # errors: multistep's
    np.testing.assert_allclose(grown, grown.mean(), rtol=0.05)
