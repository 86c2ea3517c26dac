"""Latent dimension by the reconstruction ceiling (design.md 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

TARGET_CEILING = 0.99  # reconstruction Dice of the worst class
NEAR_BEST = 0.005  # Dice of the worst class that a smaller latent may lose against the best that is allowed
MAX_SIZE = 1.0  # numbers per voxel; more would be larger than the label map that it codes
EDGES = (4, 8, 16)  # largest factor over the axes
CHANNELS = (1, 2, 4, 8, 16, 32)
Ceilings = Mapping[tuple[int, ...], Mapping[int, Mapping[str, float]]]  # factor -> channels -> class -> reconstruction Dice


class Candidate(Protocol):
    """What this module reads of a fingerprint's LatentCandidate."""

    @property
    def factor(self) -> tuple[int, ...]: ...

    @property
    def ceilings(self) -> dict[str, dict[str, float]]: ...


@dataclass(frozen=True)
class Choice:
    """The latent dimension chosen."""

    factor: tuple[int, ...]
    channels: int
    ceiling: float  # of the worst class
    reason: str
    warning: str  # names the class that no candidate codes well enough; empty where the target is reached


@dataclass(frozen=True)
class CurvePoint:
    """One latent that was considered."""

    factor: tuple[int, ...]  # voxels per latent position and axis
    channels: int
    size: float  # numbers per voxel
    ceilings: dict[str, float]  # class -> reconstruction Dice
    worst: str  # class of the lowest ceiling
    allowed: bool  # at most 1 number per voxel, or the only ones there are
    chosen: bool

    @property
    def ceiling(self) -> float:
        """Of the worst class."""
        return self.ceilings[self.worst]

    @property
    def mean(self) -> float:
        """Over classes."""
        return sum(self.ceilings.values()) / len(self.ceilings)

    @property
    def name(self) -> str:
        """For a person, for instance `4x8x8 with 16 channels`."""
        return f"{'x'.join(map(str, self.factor))} with {self.channels} channel{'s' if self.channels > 1 else ''}"


def candidate_factors(cumulative_strides: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The network's grids whose largest downsampling is 4, 8 or 16; its coarsest grid where it has none of these.

    The strides follow the spacing, so that anisotropic data bring anisotropic factors: 1x4x4, 2x8x8, 4x16x16, or 1x4x4, 1x8x8, 1x16x16.
    """
    found = [factor for factor in dict.fromkeys(cumulative_strides) if max(factor) in EDGES]
    return found or [cumulative_strides[-1]]


def latent_curve(ceilings: Ceilings, factor: tuple[int, ...] = (), channels: int = 0) -> list[CurvePoint]:
    """Every latent that was considered, smallest first (of equals the better first): the rows of a table or the points of a plot.

    Args:
        ceilings: factor -> channels -> class -> reconstruction Dice of the block code; see by_factor.
        factor, channels: of the plan, marked as chosen; without them no point is.
    """
    points = []
    for at, channels_there, dice in ((tuple(f), k, dict(d)) for f, by_channels in ceilings.items() for k, d in by_channels.items() if d):
        worst = min(sorted(dice), key=lambda name: dice[name])
        size = channels_there / prod(at)
        chosen = (at, channels_there) == (tuple(factor), channels)
        points.append(CurvePoint(at, channels_there, size, dice, worst, size <= MAX_SIZE, chosen))
    if not any(p.allowed for p in points):
        points = [replace(p, allowed=True) for p in points]
    return sorted(points, key=lambda p: (p.size, -p.ceiling, p.factor))


def by_factor(candidates: Sequence[Candidate]) -> dict[tuple[int, ...], dict[int, dict[str, float]]]:
    """A fingerprint's candidates (`fingerprint.latent[grid]`, whose keys are text as in JSON) as the rule takes them."""
    return {c.factor: {int(k): dice for k, dice in c.ceilings.items() if dice} for c in candidates}


def choose_latent(ceilings: Ceilings) -> Choice:
    """The smallest latent (numbers per voxel) whose worst class is as good as is worth its size.

    With `best` the highest worst-class ceiling of the latents of at most one number per voxel,

        choose argmin size  subject to  worst-class ceiling >= min(0.99, best - 0.005)

    and, of those that are left, a mean over classes within 0.005 of the best mean (or 0.99), which decides where no latent considered
    codes the worst class at all, as with a hundred classes and fewer channels. Of two equally small ones the higher ceiling wins. Where
    `best` is below 0.99, the reason says so, and a warning names the class.

    Args:
        ceilings: factor -> channels -> class -> reconstruction Dice of the block code.
    """
    points = [p for p in latent_curve(ceilings) if p.allowed]
    best = max(points, key=lambda p: (p.ceiling, -p.size))
    goal = min(TARGET_CEILING, best.ceiling - NEAR_BEST)
    good = [p for p in points if p.ceiling >= goal]
    mean_goal = min(TARGET_CEILING, max(p.mean for p in good) - NEAR_BEST)
    chosen = next(p for p in good if p.mean >= mean_goal)
    shown = f"{chosen.name} ({chosen.size:.3g} numbers per voxel): worst class {chosen.worst}, ceiling {chosen.ceiling:.3f}"
    shown += f", mean {chosen.mean:.3f}" if len(chosen.ceilings) > 1 else ""
    if chosen.ceiling >= TARGET_CEILING:
        return Choice(chosen.factor, chosen.channels, chosen.ceiling, f"the smallest that reaches {TARGET_CEILING}: {shown}", "")
    limit = f"the best of at most {MAX_SIZE:g} number per voxel"
    if chosen == best:
        reason = f"{limit}, and no smaller one is within {NEAR_BEST} of it: {shown}"
    else:
        reason = f"the smallest within {NEAR_BEST} of {limit} ({best.name}, {best.ceiling:.3f}): {shown}"
    warning = ""
    if best.ceiling < TARGET_CEILING:
        warning = f"class {best.worst}: no latent considered reconstructs it to {TARGET_CEILING} (best {best.ceiling:.3f})"
        warning += "; image skips must carry its detail"
        reason = f"{TARGET_CEILING} is out of reach; {reason}"
    return Choice(chosen.factor, chosen.channels, chosen.ceiling, reason, warning)
