"""Noise as a function of (seed, case, sample): nothing else, so that batch size, tile order and company cannot matter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def case_noise(seed: int, case: str, sample: int, shape: Sequence[int], step: int = -1) -> torch.Tensor:
    """Standard normal float32 `shape` for a whole volume's latent; `step` >= 0 gives DDPM's fresh noise of that step."""
    digest = hashlib.sha256(f"{seed}|{case}|{sample}|{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(*shape, generator=generator)
