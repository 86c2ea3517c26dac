"""The best linear code of label blocks: what a latent of a given size can hold of the shapes (design.md 4).

A block of `prod(factor)` voxels is one-hot coded; the leading eigenvectors of the blocks' covariance are the best linear code.
Blocks of a single class are counted, not stored, so that mixed blocks can be sampled and the statistics stay exact in expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from scipy.linalg import eigh

BLOCK_VALUES = 4_000_000  # blocks x voxels that a fit or an evaluation holds at most
MAX_BLOCKS = 1500


@dataclass(frozen=True)
class Blocks:
    """Blocks of label maps.

    Attributes:
        mixed: (n, voxels of a block) uint16 indices, blocks of two classes or more (a sample).
        weight: (n,) how many blocks of the label maps each stands for.
        constant: (classes,) number of blocks that are of one class only.
    """

    mixed: np.ndarray
    weight: np.ndarray
    constant: np.ndarray

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """All blocks, the constant ones once each, with their weights: (n + classes, voxels), (n + classes,)."""
        present = np.flatnonzero(self.constant)
        size = self.mixed.shape[1]
        constant = np.repeat(present[:, None], size, axis=1).astype(self.mixed.dtype)
        return np.concatenate([self.mixed, constant]), np.concatenate([self.weight, self.constant[present]])


def cut(label: np.ndarray, factor: Sequence[int], classes: int, limit: int, rng: np.random.Generator) -> Blocks:
    """Cuts `label` (z, y, x), padded with background, into blocks of `factor` voxels; at most `limit` mixed ones are kept."""
    grid = [ceil(n / f) for n, f in zip(label.shape, factor, strict=True)]
    padded = np.pad(label, [(0, g * f - n) for g, f, n in zip(grid, factor, label.shape, strict=True)])
    blocks = padded.reshape(grid[0], factor[0], grid[1], factor[1], grid[2], factor[2]).transpose(0, 2, 4, 1, 3, 5).reshape(prod(grid), -1)
    first = blocks[:, 0]
    is_mixed = (blocks != first[:, None]).any(1)
    where = np.flatnonzero(is_mixed)
    kept = np.sort(rng.choice(where, limit, replace=False)) if len(where) > limit else where
    weight = np.full(len(kept), len(where) / max(1, len(kept)))
    constant = np.bincount(first[~is_mixed], minlength=classes).astype(float)
    return Blocks(blocks[kept].astype(np.uint16), weight, constant)


def joined(parts: Sequence[Blocks]) -> Blocks:
    """The blocks of several label maps together."""
    return Blocks(
        np.concatenate([p.mixed for p in parts]), np.concatenate([p.weight for p in parts]), np.sum([p.constant for p in parts], axis=0)
    )


def thinned(blocks: Blocks, rng: np.random.Generator) -> Blocks:
    """At most as many mixed blocks as a fit may hold, the weights raised accordingly."""
    n = len(blocks.mixed)
    limit = max(64, min(MAX_BLOCKS, BLOCK_VALUES // blocks.mixed.shape[1]))
    if n <= limit:
        return blocks
    kept = np.sort(rng.choice(n, limit, replace=False, p=blocks.weight / blocks.weight.sum()))
    return Blocks(blocks.mixed[kept], np.full(limit, blocks.weight.sum() / limit), blocks.constant)


@dataclass(frozen=True)
class Code:
    """A linear code: `mean` (classes, voxels) and orthonormal `components` (k, classes, voxels), leading first."""

    mean: np.ndarray
    components: np.ndarray

    def encode(self, blocks: np.ndarray) -> np.ndarray:
        """Blocks (n, voxels) of indices to coefficients (n, k)."""
        k, classes, _ = self.components.shape
        offset = (self.components.reshape(k, -1) @ self.mean.reshape(-1))[None]
        total = np.zeros((len(blocks), k), np.float32)
        for c in range(classes):
            total += (blocks == c).astype(np.float32) @ self.components[:, c].T
        return total - offset

    def decode(self, coefficients: np.ndarray) -> np.ndarray:
        """Coefficients (n, k' <= k) to the most likely indices (n, voxels)."""
        k = coefficients.shape[1]
        best = self.mean[0] + coefficients @ self.components[:k, 0]
        out = np.zeros(best.shape, np.uint16)
        for c in range(1, len(self.mean)):
            score = self.mean[c] + coefficients @ self.components[:k, c]
            stronger = score > best
            out[stronger], best[stronger] = c, score[stronger]
        return out


def fit(blocks: Blocks, classes: int, components: int) -> Code:
    """Weighted principal components of the one-hot blocks.

    They are found in the space of the blocks (at most some thousand), not of the voxels: with rows x_i of weight w_i (sum 1), mean
    m and centred Gram matrix K_ij = sqrt(w_i w_j) (x_i - m).(x_j - m) with eigenpairs (l, a), a component is
    `sum_i sqrt(w_i) a_i (x_i - m) / sqrt(l)`.
    """
    rows, weight = blocks.rows()
    share = weight / weight.sum()
    gram = np.zeros((len(rows), len(rows)), np.float32)
    mean = np.zeros((classes, rows.shape[1]), np.float32)
    for c in range(classes):
        onehot = (rows == c).astype(np.float32)
        gram += onehot @ onehot.T
        mean[c] = share.astype(np.float32) @ onehot
    centred = gram.astype(np.float64)
    towards_mean = centred @ share
    centred = centred - towards_mean[:, None] - towards_mean[None] + share @ towards_mean
    root = np.sqrt(share)
    n = len(rows)
    values, vectors = eigh(centred * root[:, None] * root[None], subset_by_index=[max(0, n - components), n - 1])
    keep = values > 1e-9 * max(values[-1], 1e-30)
    values, vectors = values[keep][::-1], vectors[:, keep][:, ::-1]
    mix = root[:, None] * vectors / np.sqrt(values)[None]
    mix = (mix - share[:, None] * mix.sum(0)[None]).astype(np.float32)
    out = np.zeros((mix.shape[1], classes, rows.shape[1]), np.float32)
    for c in range(classes):
        out[:, c] = mix.T @ (rows == c).astype(np.float32)
    return Code(mean, out)


def ceilings(code: Code, blocks: Blocks, table: np.ndarray, channels: Sequence[int]) -> dict[int, np.ndarray]:
    """Dice per head after coding `blocks` with each number of channels; NaN for a head that is absent.

    Args:
        table: (indices, heads) which heads an index switches on.
    """
    rows, weight = blocks.rows()
    coefficients = code.encode(rows)
    true = table[rows] > 0
    size = (true.sum(1) * weight[:, None]).sum(0)
    out = {}
    for k in channels:
        found = table[code.decode(coefficients[:, :k])] > 0
        overlap = ((true & found).sum(1) * weight[:, None]).sum(0)
        total = size + (found.sum(1) * weight[:, None]).sum(0)
        out[k] = np.where(size > 0, 2 * overlap / np.maximum(total, 1e-12), np.nan)
    return out
