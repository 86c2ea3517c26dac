"""What augmentation does to each sample, drawn by nnU-Net's probabilities and ranges (nnunet.md 1.9; transforms.py applies it).

Everything is drawn from one generator per sample, so that a sample is the same whichever process or device makes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ANISOTROPY = 3.0  # patches this much longer than their first axis are deformed within slices only
ROTATED, SCALED, SCALES = 0.2, 0.2, (0.7, 1.4)
NOISY, DEVIATIONS = 0.1, (0.0, 0.1)
BLURRED, BLURRED_CHANNEL, SIGMAS = 0.2, 0.5, (0.5, 1.0)  # voxels
BRIGHTENED, FACTORS = 0.15, (0.75, 1.25)
CONTRASTED = 0.15
COARSENED, COARSENED_CHANNEL, RESOLUTIONS = 0.25, 0.5, (0.5, 1.0)  # voxels kept per axis
GAMMA_INVERTED, GAMMA, GAMMAS = 0.1, 0.3, (0.7, 1.5)
MIRRORED = 0.5


@dataclass(frozen=True)
class Draw:
    """What one sample of `c` channels and `n` axes undergoes, in this order; None where a transform leaves it as it is."""

    affine: np.ndarray | None = None  # (n, n): offset from the patch's centre to offset from the source's, voxels
    noise: float | None = None  # standard deviation
    seed: int = 0  # of the noise
    blur: np.ndarray | None = None  # (c, n) standard deviations, voxels; 0 leaves a channel
    brightness: np.ndarray | None = None  # (c,) factors
    contrast: np.ndarray | None = None  # (c,) factors of the deviation from the mean
    resolution: np.ndarray | None = None  # (c,) shares of the voxels of each axis that are kept; 1 leaves a channel
    gamma_inverted: np.ndarray | None = None  # (c,) exponents, of the negative
    gamma: np.ndarray | None = None  # (c,) exponents
    mirror: tuple[int, ...] = ()  # axes


def in_slices(patch: Sequence[int]) -> bool:
    """Whether spatial transforms leave the first axis alone."""
    return len(patch) == 3 and max(patch) / patch[0] > ANISOTROPY


def rotation_limit(patch: Sequence[int]) -> float:
    """Largest rotation, radians: 30 degrees in 3D, 180 within slices, 15 for long 2D patches."""
    flat = patch[-2:] if in_slices(patch) else patch
    if len(flat) == 2:
        return math.radians(15 if max(flat) / min(flat) > 1.5 else 180)
    return math.radians(30)


def source_size(patch: Sequence[int], affine: np.ndarray | None) -> tuple[int, ...]:
    """Voxels to read so that `affine` finds image everywhere in `patch`, with one more for interpolation.

    Odd where the patch is odd and even where it is even, so that both have the same centre.
    """
    if affine is None:
        return tuple(patch)
    half = (np.asarray(patch) - 1) / 2
    reach = np.abs(affine) @ half
    more = np.where((affine == np.eye(len(patch))).all(1), 0, np.ceil(reach - half + 1)).astype(int)
    return tuple(int(max(p + 2 * m, 2 - p % 2)) for p, m in zip(patch, more, strict=True))


def draw(rng: np.random.Generator, patch: Sequence[int], channels: int, mirror_axes: Sequence[int] | None = None) -> Draw:
    """One sample's transforms.

    Args:
        mirror_axes: of the patch, each mirrored half of the time; None takes all.
    """
    axes = range(len(patch)) if mirror_axes is None else mirror_axes
    return Draw(
        affine=_affine(rng, patch),
        noise=rng.uniform(*DEVIATIONS) if rng.random() < NOISY else None,
        seed=int(rng.integers(2**31)),
        blur=_some(rng, BLURRED, BLURRED_CHANNEL, rng.uniform(*SIGMAS, (channels, len(patch))), 0),
        brightness=_around_one(rng, BRIGHTENED, FACTORS, channels),
        contrast=_around_one(rng, CONTRASTED, FACTORS, channels),
        resolution=_some(rng, COARSENED, COARSENED_CHANNEL, rng.uniform(*RESOLUTIONS, channels), 1),
        gamma_inverted=_around_one(rng, GAMMA_INVERTED, GAMMAS, channels),
        gamma=_around_one(rng, GAMMA, GAMMAS, channels),
        mirror=tuple(a for a in axes if rng.random() < MIRRORED),
    )


def _affine(rng: np.random.Generator, patch: Sequence[int]) -> np.ndarray | None:
    """Rotation about each axis in turn times one scale; None half of the time and more (0.8 x 0.8)."""
    rotated, scaled = rng.random(2) < (ROTATED, SCALED)
    if not rotated and not scaled:
        return None
    scale = rng.uniform(*SCALES) if scaled else 1.0
    flat = 2 if in_slices(patch) else len(patch)
    limit = rotation_limit(patch) if rotated else 0.0
    angles = rng.uniform(-limit, limit, 1 if flat == 2 else 3)
    out = np.eye(len(patch))
    out[-flat:, -flat:] = scale * (_plane(2, 0, 1, angles[0]) if flat == 2 else _rotation(angles))
    return out


def _rotation(angles: np.ndarray) -> np.ndarray:
    return _plane(3, 0, 1, angles[2]) @ _plane(3, 2, 0, angles[1]) @ _plane(3, 1, 2, angles[0])


def _plane(axes: int, i: int, j: int, angle: float) -> np.ndarray:
    """Rotation of axis i towards axis j."""
    out = np.eye(axes)
    out[i, i] = out[j, j] = math.cos(angle)
    out[i, j], out[j, i] = -math.sin(angle), math.sin(angle)
    return out


def _some(rng: np.random.Generator, chance: float, chance_per_channel: float, values: np.ndarray, unchanged: float) -> np.ndarray | None:
    """`values` (c, ...) of the channels that are drawn and `unchanged` for the others; None where the sample, or no channel, is drawn."""
    chosen = (rng.random() < chance) & (rng.random(len(values)) < chance_per_channel)
    return np.where(chosen.reshape(-1, *[1] * (values.ndim - 1)), values, unchanged) if chosen.any() else None


def _around_one(rng: np.random.Generator, chance: float, limits: tuple[float, float], channels: int) -> np.ndarray | None:
    """Per channel below 1 half of the time and above 1 the other half, uniform on either side."""
    values = np.where(rng.random(channels) < 0.5, rng.uniform(limits[0], 1, channels), rng.uniform(1, limits[1], channels))
    return values if rng.random() < chance else None
