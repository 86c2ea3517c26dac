"""Noise as a function of (seed, case, sample): nothing else, so that batch size, tile order and company cannot matter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from ldseg_auto.planners.plans import Configuration

CENTRE = -1  # the sample that starts from zero noise, the centre of all draws


def case_noise(seed: int, case: str, sample: int, shape: Sequence[int], step: int = -1) -> torch.Tensor:
    """Standard normal float32 `shape` for a whole volume's latent; `step` >= 0 gives DDPM's fresh noise of that step.

    Sample `CENTRE` starts from zeros.
    """
    if sample == CENTRE and step < 0:
        return torch.zeros(*shape)
    digest = hashlib.sha256(f"{seed}|{case}|{sample}|{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(*shape, generator=generator)


def sample_numbers(configuration: Configuration, steps: int, samples: int) -> list[int]:
    """Which samples to draw: the centre where one mask in one step is asked for, the best single answer; else 0, 1, 2, ...

    More steps need noise: zeros are no draw from what the denoiser sees at t < 1.
    """
    return [CENTRE] if configuration.centre and steps == samples == 1 else list(range(samples))
