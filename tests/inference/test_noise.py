"""Noise is a function of (seed, case, sample, step)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ldseg_auto.inference import noise
from ldseg_auto.inference.noise import CENTRE, Planes, case_noise, sample_numbers
from ldseg_auto.planners.method import Method
from ldseg_auto.planners.plans import Configuration, Sampling


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


def test_the_centre_starts_from_zeros_and_has_fresh_noise() -> None:
    assert not case_noise(0, "a", CENTRE, (2, 4, 4)).any()
    assert case_noise(0, "a", CENTRE, (2, 4, 4), 0).any()


@pytest.mark.parametrize(
    ("centre", "prediction", "steps", "samples", "numbers"),
    [
        (True, "z0", 1, 1, [CENTRE]),
        (True, "z0", 2, 1, [0]),
        (True, "z0", 1, 3, [0, 1, 2]),
        (False, "z0", 1, 1, [0]),
        (True, "eps", 1, 1, [0]),
    ],
)
def test_the_centre_is_drawn_for_one_mask_in_one_step(
    make_configuration: Callable[..., Configuration], centre: bool, prediction: str, steps: int, samples: int, numbers: list[int]
) -> None:
    configuration = replace(make_configuration(sampling=Sampling(4, centre=centre)), method=Method(prediction=prediction))
    assert sample_numbers(configuration, steps, samples) == numbers


def test_crops_are_those_of_the_whole_and_each_plane_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles as they come, overlapping, of two samples and DDPM's steps; what was forgotten is drawn again if it is asked for."""
    shape, drawn = (3, 9, 6, 5), []

    def counted(*args: object) -> torch.Tensor:
        drawn.append(args[2:])
        return case_noise(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(noise, "case_noise", counted)
    planes = Planes(4, "a", shape)
    for first in (0, 0, 2, 2, 5):
        planes.forget(first)
        for start, sample, step in itertools.product((0, 2), (0, CENTRE, 3), (-1, 0)):
            box = (slice(first, first + 4), slice(start, start + 4), slice(1, 4))
            assert torch.equal(planes.crop(sample, step, box), case_noise(4, "a", sample, shape, step)[(slice(None), *box)])
    assert len(drawn) == len(set(map(str, drawn))) == 9 * 3 * 2
    planes.crop(0, -1, (slice(0, 1), slice(0, 6), slice(0, 5)))
    assert len(drawn) == 9 * 3 * 2 + 1
