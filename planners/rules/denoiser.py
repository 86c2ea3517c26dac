"""Depth of the denoiser from the latent grid, and where it attends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

ATTENTION_POSITIONS = 0  # on the coarsest grid at most; 0: never (documentation/method.md says why, and what was measured)
CHEAP_POSITIONS = 512  # up to which attention would cost little: its map has at most 512^2 values a head and sample


@dataclass(frozen=True)
class DenoiserChoice:
    """The denoiser's size and the reasons."""

    levels: int
    attention_positions: int
    levels_reason: str
    attention_reason: str


def receptive_field(strides: Sequence[int]) -> int:
    """Positions along one axis of the latent grid that reach one output of the denoiser, far from the border.

    Let j_i be the product of the strides from the latent grid down to level i (j_0 = 1), and n the number of levels. A convolution of
    width 3 on level i widens the field by 2 j_i. There are: entry and exit (level 0); two in each level's block and two more in the
    middle (level n - 1); for each level i but the last the strided one that leaves it, the one after the enlargement back to it, and two
    in the block that merges. In all

        5 + sum over i of 4 j_i + 4 j_(n-1) + sum over i < n - 1 of 8 j_i

    The field is not centred: it reaches up to j_(n-1) - 1 positions further on one side than on the other.

    | stride 2, levels | 1 | 2 | 3 | 4 | 5 |
    |---|---|---|---|---|---|
    | positions | 13 | 33 | 73 | 153 | 313 |

    Args:
        strides: along the axis, one for each level; the first (into the latent grid) does not count.
    """
    at, scales = 1, []
    for level, stride in enumerate(strides):
        at = at * stride if level else 1
        scales.append(at)
    return 5 + sum(4 * j for j in scales) + 4 * scales[-1] + sum(8 * j for j in scales[:-1])


def choose_denoiser(grid: Sequence[int], strides: Sequence[Sequence[int]]) -> DenoiserChoice:
    """The fewest levels with which every position of the latent grid sees every other, from corner to corner.

    That is a receptive field of at least 2 n - 1 along each axis of n positions; all levels that the network has, where none suffices.

    Args:
        grid: positions of one patch's latent, per axis.
        strides: of the network's stages from the latent's own on, per axis.
    """

    def fields(levels: int) -> list[int]:
        return [receptive_field([s[axis] for s in strides[:levels]]) for axis in range(len(grid))]

    wanted = [2 * n - 1 for n in grid]
    enough = [n for n in range(1, len(strides) + 1) if all(f >= w for f, w in zip(fields(n), wanted, strict=True))]
    levels = enough[0] if enough else len(strides)
    coarsest = prod(n // prod(s[axis] for s in strides[1:levels]) for axis, n in enumerate(grid))
    rule = "the fewest levels that see the latent grid from corner to corner" if enough else "all levels that the network has"
    reason = f"{rule}: grid {_times(grid)} asks for {_times(wanted)} positions, {levels} of {len(strides)} see {_times(fields(levels))}"
    cheap = f"the coarsest grid has {coarsest} positions ({'at most' if coarsest <= CHEAP_POSITIONS else 'above'} {CHEAP_POSITIONS})"
    return DenoiserChoice(levels, ATTENTION_POSITIONS, reason, f"off: not shown to help; {cheap}")


def _times(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))
