"""The closed formula of the step rule against DDIM itself, run with the optimal denoiser on correlated Gaussian latents."""

import math

import numpy as np
import pytest
import torch

from ldseg_auto.diffusion.samplers import ddim
from ldseg_auto.diffusion.schedule import alpha_bar
from ldseg_auto.planners.rules.steps import MAX_STEPS, retained, sampling_steps, steps_curve

POSITIONS = 12
VARIANCES = np.geomspace(0.02, 30, POSITIONS)


def modes() -> torch.Tensor:
    """An orthonormal basis (positions, modes): discrete cosine transform, by its formula."""
    i = np.arange(POSITIONS)
    basis = np.cos(np.pi * (i[:, None] + 0.5) * i[None] / POSITIONS) * math.sqrt(2 / POSITIONS)
    basis[:, 0] /= math.sqrt(2)
    return torch.from_numpy(basis)


def optimal(covariance: torch.Tensor):  # type: ignore[no-untyped-def]
    """E[z0 | zt] = sqrt(a) C (a C + (1 - a) I)^-1 zt for z0 ~ N(0, C); zt is (n, positions)."""

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = float(alpha_bar(t[:1].double(), "cosine"))
        gain = math.sqrt(a) * covariance @ torch.linalg.inv(a * covariance + (1 - a) * torch.eye(POSITIONS, dtype=torch.float64))
        return z @ gain.T

    return predict


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 20])
def test_exact_propagation(steps: int) -> None:
    """DDIM is linear here: unit noises go in, the matrix that it applies comes out; its action on each mode is the formula's."""
    basis = modes()
    covariance = basis @ torch.diag(torch.from_numpy(VARIANCES)) @ basis.T
    applied = ddim(optimal(covariance), torch.eye(POSITIONS, dtype=torch.float64), steps, "cosine").T
    in_modes = basis.T @ applied @ basis
    expected = np.diag(retained(VARIANCES, steps) * np.sqrt(VARIANCES))
    np.testing.assert_allclose(in_modes.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("steps", [2, 6])
def test_monte_carlo(steps: int) -> None:
    """The deviation of 20 000 sampled latents in each mode, against the deviation of as many true ones."""
    generator = torch.Generator().manual_seed(steps)
    basis = modes()
    covariance = basis @ torch.diag(torch.from_numpy(VARIANCES)) @ basis.T
    noise = torch.randn(20_000, POSITIONS, dtype=torch.float64, generator=generator)
    truth = torch.randn(20_000, POSITIONS, dtype=torch.float64, generator=generator) @ torch.linalg.cholesky(covariance).T
    drawn = ddim(optimal(covariance), noise, steps, "cosine")
    share = (drawn @ basis).std(0) / (truth @ basis).std(0)
    np.testing.assert_allclose(share.numpy(), retained(VARIANCES, steps), rtol=0.04)  # four deviations of the ratio's estimate


def test_more_steps_retain_more_and_all_in_the_limit() -> None:
    shares = np.array([retained(VARIANCES, s) for s in (1, 2, 3, 4, 8, 16, 64, 512, 4096)])
    assert np.all(shares[0] == 0)
    assert np.all(np.diff(shares, axis=0) > 0) and np.all(shares < 1)
    assert np.all(shares[-1] > 0.998)


@pytest.mark.parametrize("steps", [1, 2, 5, 16])
def test_a_mode_and_its_inverse_lose_alike(steps: int) -> None:
    """R(v) = R(1 / v): reversing the times of the cosine schedule swaps signal and noise."""
    np.testing.assert_allclose(retained(1 / VARIANCES, steps), retained(VARIANCES, steps), rtol=1e-9, atol=1e-12)


def test_a_mode_as_wide_as_the_noise_is_the_easiest() -> None:
    for steps in (2, 8):
        shares = retained(np.geomspace(1, 1000, 20), steps)
        assert np.all(np.diff(shares) < 0)


def test_unit_variance_by_hand() -> None:
    """For v = 1 a step multiplies by cos of the angle it turns, pi / (2 S): R = cos^S."""
    for steps in (2, 3, 8, 32):
        assert float(retained(np.ones(1), steps)[0]) == pytest.approx(math.cos(math.pi / 2 / steps) ** steps)


def test_curve_is_what_the_choice_was_made_from() -> None:
    spectrum = [(0.2, 1.0), (1.0, 2.0), (9.0, 0.5)]
    curve = steps_curve(spectrum, chosen=5)
    assert [p.steps for p in curve] == list(range(1, MAX_STEPS + 1)) and [p.steps for p in curve if p.chosen] == [5]
    by_hand = sum(float(retained(np.array([v]), 5)[0]) * w for v, w in spectrum) / 3.5
    assert curve[4].share == pytest.approx(by_hand)
    chosen = [sampling_steps(spectrum, target=target)[0] for target in (0.5, 0.7, 0.8, 0.85, 0.9)]
    assert chosen == sorted(chosen) and chosen[0] < chosen[-1]
    assert chosen[3] == next(p.steps for p in curve if p.share >= 0.85)
    assert steps_curve([(v, 7 * w) for v, w in spectrum])[4].share == pytest.approx(by_hand)  # shares of variance, whatever their sum
    assert steps_curve([]) == [] and steps_curve([(1.0, 0.0)]) == []


@pytest.mark.parametrize(
    ("variance", "shares"),
    [  # ../shared/science.md, section 4; its rows differ from the formula by up to 0.014 (found by two of us; v = 1 is exact)
        (4, {1: 0.00, 2: 0.41, 3: 0.58, 4: 0.67, 6: 0.77, 8: 0.82, 12: 0.88, 16: 0.91, 32: 0.95}),
        (1, {1: 0.00, 2: 0.50, 3: 0.65, 4: 0.73, 6: 0.81, 8: 0.86, 12: 0.90, 16: 0.93, 32: 0.96}),
        (0.25, {1: 0.00, 2: 0.40, 3: 0.57, 4: 0.66, 6: 0.77, 8: 0.82, 12: 0.88, 16: 0.91, 32: 0.95}),
        (0.05, {1: 0.00, 2: 0.21, 3: 0.34, 4: 0.44, 6: 0.59, 8: 0.67, 12: 0.77, 16: 0.82, 32: 0.91}),
    ],
)
def test_table(variance: float, shares: dict[int, float]) -> None:
    for steps, share in shares.items():
        assert float(retained(np.array([variance]), steps)[0]) == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize(
    ("modes", "target", "steps", "why"),
    [
        ([(1.0, 1.0)], 0.85, 8, "the fewest that retain 0.85"),  # cos(pi / 16)^8 = 0.856, cos(pi / 14)^7 = 0.838
        ([(1.0, 1.0)], 0.86, 9, "the fewest that retain 0.86"),  # cos(pi / 18)^9 = 0.871
        ([(1.0, 1.0)], 0.49, 2, "the fewest that retain 0.49"),  # cos(pi / 4)^2 = 0.5
        ([], 0.85, 1, "the label code does not vary: one step"),
        ([(1.0, 0.0)], 0.85, 1, "the label code does not vary: one step"),
        ([(1e6, 1.0)], 0.85, MAX_STEPS, "0.85 is out of reach: the most allowed"),
    ],
)
def test_fewest_that_reach_the_target(modes: list, target: float, steps: int, why: str) -> None:
    found, reason = sampling_steps(modes, target=target)
    assert found == steps and reason.startswith(why)


def test_a_first_step_that_is_a_draw_needs_no_other() -> None:
    assert sampling_steps([(1.0, 1.0)], first_draws=True)[0] == 1
