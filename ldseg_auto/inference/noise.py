"""Noise as a function of (seed, case, sample): nothing else, so that batch size, tile order and company cannot matter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from ldseg_auto.planners.plans import Configuration

CENTRE = -1  # the sample that starts from zero noise, the centre of all draws


def case_noise(seed: int, case: str, sample: int, shape: Sequence[int], step: int = -1, planes: slice = slice(None)) -> torch.Tensor:
    """Standard normal float32 for a whole volume's latent; `step` >= 0 gives DDPM's fresh noise of that step.

    Each plane along the first spatial axis is drawn by itself, so that a part of the volume has the numbers that the whole has there.
    Sample `CENTRE` starts from zeros.

    Args:
        shape: of the whole latent, `(k, *latent_spatial)`.
        planes: which ones to draw, along the first spatial axis.

    Returns:
        `(k, planes, ...)`.
    """
    numbers = range(shape[1])[planes]
    out = torch.zeros(shape[0], len(numbers), *shape[2:])
    if sample == CENTRE and step < 0:
        return out
    for position, number in enumerate(numbers):
        digest = hashlib.sha256(f"{seed}|{case}|{sample}|{step}|{number}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        out[:, position] = torch.randn(shape[0], *shape[2:], generator=generator)
    return out


class Planes:
    """`case_noise` of one case: each plane is drawn once, while tiles move along the first axis.

    Args:
        shape: of the whole latent, `(k, *latent_spatial)`.
    """

    def __init__(self, seed: int, case: str, shape: Sequence[int]) -> None:
        self.seed, self.case, self.shape = seed, case, tuple(shape)
        self._kept: dict[tuple[int, int, int], torch.Tensor] = {}  # sample, step, plane

    def crop(self, sample: int, step: int, box: Sequence[slice]) -> torch.Tensor:
        """`(k, *box)` of the noise of a sample and step."""
        planes = range(box[0].start, box[0].stop)
        for plane in planes:
            if (sample, step, plane) not in self._kept:
                drawn = case_noise(self.seed, self.case, sample, self.shape, step, slice(plane, plane + 1))
                self._kept[sample, step, plane] = drawn[:, 0]
        return torch.stack([self._kept[sample, step, plane][(slice(None), *box[1:])] for plane in planes], 1)

    def forget(self, before: int) -> None:
        """Planes before this one will not be asked for again."""
        for key in [key for key in self._kept if key[2] < before]:
            del self._kept[key]


def sample_numbers(configuration: Configuration, steps: int, samples: int) -> list[int]:
    """Which samples to draw: the centre where one mask in one step is asked for, the best single answer; else 0, 1, 2, ...

    More steps need noise: zeros are no draw from what the denoiser sees at t < 1.
    """
    return [CENTRE] if configuration.centre and steps == samples == 1 else list(range(samples))
