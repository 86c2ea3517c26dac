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
    """Positions along one axis of the latent grid that reach one output of the denoiser, far from the border; the fewest of any output.

    Followed from an output back to the input: a convolution of width 3 reads one position more on either side; a transposed one, which
    enlarges by s, reads position p // s of the coarser grid; a strided one reads positions s q - 1 to s q + 1 of the finer grid. There
    are: entry and exit on the latent grid; two convolutions in each level's block, two in the middle; for each level but the last the
    strided one that leaves it, the transposed one back to it, and two convolutions in the block that merges.

    The field is not centred, and outputs differ by where they lie in a position of the coarser grids.

    | stride 2, levels | 1 | 2 | 3 | 4 | 5 |
    |---|---|---|---|---|---|
    | positions | 13 | 31 | 65 | 133 | 269 |

    Args:
        strides: along the axis, one for each level; the first (into the latent grid) does not count.
    """
    return min(_field(position, strides[1:]) for position in range(prod(strides[1:])))


def _field(position: int, strides: Sequence[int]) -> int:
    low, high = position - 1, position + 1  # exit
    for stride in strides:
        low, high = (low - 2) // stride, (high + 2) // stride  # merge, transposed
    low, high = low - 4, high + 4  # middle, the last level's block
    for stride in reversed(strides):
        low, high = low * stride - 3, high * stride + 3  # strided, block
    return high - low + 3  # entry


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
