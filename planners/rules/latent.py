"""Latent dimension by the reconstruction ceiling (design.md 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

TARGET_CEILING = 0.99  # reconstruction Dice of the worst class
EDGES = (4, 8, 16)  # largest factor over the axes
CHANNELS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Choice:
    """The latent dimension chosen."""

    factor: tuple[int, ...]
    channels: int
    ceiling: float  # of the worst class
    reason: str
    warning: str  # names the class that no candidate codes well enough; empty where the target is reached


def candidate_factors(cumulative_strides: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The network's grids whose largest downsampling is 4, 8 or 16; its coarsest grid where it has none of these."""
    found = [factor for factor in dict.fromkeys(cumulative_strides) if max(factor) in EDGES]
    return found or [cumulative_strides[-1]]


def choose_latent(ceilings: Mapping[tuple[int, ...], Mapping[int, Mapping[str, float]]]) -> Choice:
    """The smallest latent (numbers per voxel) whose worst class reaches 0.99; else the one with the best worst class.

    Of two equally small ones the higher ceiling wins.

    Args:
        ceilings: factor -> channels -> class -> reconstruction Dice of the block code.
    """
    table = []
    for factor, by_channels in ceilings.items():
        for channels, dice in by_channels.items():
            worst = min(dice, key=lambda name: dice[name])
            table.append((channels / prod(factor), -dice[worst], factor, channels, worst, dice[worst]))
    enough = sorted(row for row in table if row[5] >= TARGET_CEILING)
    size, _, factor, channels, worst, ceiling = enough[0] if enough else min(table, key=lambda row: (row[1], row[0]))
    shown = f"{'x'.join(map(str, factor))} with {channels} channels ({size:.3g} numbers per voxel)"
    shown += f": worst class {worst}, ceiling {ceiling:.3f}"
    if enough:
        return Choice(factor, channels, ceiling, f"the smallest that reaches {TARGET_CEILING}: {shown}", "")
    warning = f"class {worst}: no latent considered reconstructs it to {TARGET_CEILING} (best {ceiling:.3f})"
    warning += "; image skips must carry its detail"
    return Choice(factor, channels, ceiling, f"{TARGET_CEILING} is out of reach, the best reachable: {shown}", warning)
