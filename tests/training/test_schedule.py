"""The learning rate."""

from __future__ import annotations

import math

import pytest

from ldseg_auto.training.schedule import learning_rate


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
