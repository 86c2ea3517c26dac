"""Noise is a function of (seed, case, sample, step)."""

from __future__ import annotations

import itertools

import pytest
import torch

from ldseg_auto.inference.noise import case_noise


def test_each_argument_matters_and_nothing_else() -> None:
    keys = [(0, "a", 0, -1), (1, "a", 0, -1), (0, "b", 0, -1), (0, "a", 1, -1), (0, "a", 0, 0), (1, "1", 1, -1), (11, "", 1, -1)]
    draws = [case_noise(seed, case, sample, (2, 4, 4), step) for seed, case, sample, step in keys]
    torch.manual_seed(5)
    for key, draw in zip(keys, draws, strict=True):
        assert torch.equal(case_noise(*key[:3], (2, 4, 4), key[3]), draw)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(draws, 2))


def test_standard_normal() -> None:
    noise = case_noise(0, "a", 0, (4, 50, 50))
    assert noise.shape == (4, 50, 50) and noise.dtype == torch.float32
    assert float(noise.mean()) == pytest.approx(0, abs=0.05)
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
