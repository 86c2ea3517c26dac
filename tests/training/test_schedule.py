"""The learning rate."""

from __future__ import annotations

import math

import pytest

from ldseg_auto.training.schedule import epochs_without_better, learning_rate


@pytest.mark.parametrize(
    ("progress", "shape", "warmup", "expected"),
    [
        (0.0, "poly", 0.0, 1e-3),
        (0.5, "poly", 0.0, 1e-3 * 0.5**0.9),
        (1.0, "poly", 0.0, 0.0),
        (0.0, "poly", 0.1, 1e-5),
        (0.05, "poly", 0.1, 5e-4),
        (0.1, "poly", 0.1, 1e-3),
        (0.55, "poly", 0.1, 1e-3 * 0.5**0.9),
        (0.0, "cosine", 0.0, 1e-3),
        (0.5, "cosine", 0.0, 5e-4),
        (0.25, "cosine", 0.0, 1e-3 * (1 + math.sqrt(0.5)) / 2),
        (1.0, "cosine", 0.2, 0.0),
        (7.0, "poly", 0.0, 0.0),  # a time budget may be overrun
    ],
)
def test_values(progress: float, shape: str, warmup: float, expected: float) -> None:
    assert learning_rate(progress, 1e-3, shape, warmup) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("dice", "epochs"),
    [
        ([], 0),
        ([0.5], 0),
        ([0.1, 0.2, 0.3], 0),
        ([0.3, 0.3, 0.3], 2),
        ([0.5, 0.4, 0.4, 0.4], 3),
        ([0.5, 0.4, 0.9], 0),  # 0.5, 0.49, 0.531
        ([0.5, 0.4, 0.55, 0.5], 3),  # 0.5, 0.49, 0.496, 0.4964
        ([0.0, 0.0], 1),
    ],
)
def test_epochs_without_a_better_smoothed_dice(dice: list[float], epochs: int) -> None:
    """Averages by hand: 0.9 of the old, 0.1 of the new."""
    assert epochs_without_better(dice) == epochs


@pytest.mark.parametrize("shape", ["poly", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.02, 0.5])
def test_the_rate_rises_and_then_falls_to_nothing(shape: str, warmup: float) -> None:
    rates = [learning_rate(i / 1000, 1.0, shape, warmup) for i in range(1001)]
    top = rates.index(max(rates))
    assert max(rates) == 1 and top == round(1000 * warmup)
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True) and rates[-1] == 0
