"""The best linear code of label blocks: what a latent of a given size can hold of the shapes (design.md 4).

A block of `prod(factor)` voxels is one-hot coded; the leading eigenvectors of the blocks' covariance are the best linear code.
Blocks of a single class are counted, not stored; mixed ones are sampled, stratified by their rarest class, with weights that keep every
sum over blocks right in expectation (Horvitz and Thompson 1952). So small organs are seen, and memory does not grow with the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from scipy.linalg import eigh

BLOCK_VALUES = 4_000_000  # blocks x voxels that a fit or an evaluation holds at most
MAX_BLOCKS = 1500
CHUNK_VALUES = 4_000_000  # voxels whose classes are noted at a time


@dataclass(frozen=True)
class Blocks:
    """Blocks of label maps.

    Attributes:
        mixed: (n, voxels of a block) indices, uint8 or uint16, blocks of two classes or more (a sample).
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
    """Cuts `label` (z, y, x), padded with background, into blocks of `factor` voxels; about `limit` mixed ones are kept (see sampled)."""
    grid = [ceil(n / f) for n, f in zip(label.shape, factor, strict=True)]
    padded = np.pad(label, [(0, g * f - n) for g, f, n in zip(grid, factor, label.shape, strict=True)])
    low, high = _extreme(padded, factor, np.minimum), _extreme(padded, factor, np.maximum)
    is_mixed = low != high
    constant = np.bincount(low[~is_mixed], minlength=classes).astype(float)
    blocks = padded.reshape(grid[0], factor[0], grid[1], factor[1], grid[2], factor[2]).transpose(0, 2, 4, 1, 3, 5)
    mixed = blocks[np.nonzero(is_mixed)].reshape(-1, prod(factor)).astype(np.uint8 if classes <= 256 else np.uint16)
    kept, weight = sampled(_classes_of(mixed, classes), np.ones(len(mixed)), limit, rng)
    return Blocks(mixed[kept], weight, constant)


def _extreme(array: np.ndarray, factor: Sequence[int], smaller: np.ufunc) -> np.ndarray:
    """The least (np.minimum) or greatest (np.maximum) value of each block, one axis after the other."""
    for axis, f in enumerate(factor):
        parts = [array[(slice(None),) * axis + (slice(i, None, f),)] for i in range(f)]
        array = parts[0] if f == 1 else smaller(parts[0], parts[1])
        for part in parts[2:]:
            smaller(array, part, out=array)
    return array


def _classes_of(blocks: np.ndarray, classes: int) -> np.ndarray:
    """(n, classes) whether a block (n, voxels) holds a class."""
    out = np.zeros((len(blocks), classes), bool)
    step = max(1, CHUNK_VALUES // max(1, blocks.shape[1]))
    for start in range(0, len(blocks), step):
        part = blocks[start : start + step]
        out[np.arange(start, start + len(part))[:, None], part] = True
    return out


def sampled(holds: np.ndarray, weight: np.ndarray, limit: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws about `limit` of n blocks; their new weights keep the weight of every stratum.

    The stratum of a block is its rarest class (the one that the fewest blocks hold, by weight). `limit` is shared equally between the
    strata, and what a small one leaves goes to the others. One that is not taken whole is drawn from systematically, with probability
    proportional to weight.

    Args:
        holds: (n, classes) which classes a block holds.
        weight: (n,) how many blocks each stands for.

    Returns:
        Indices (m,) in rising order, and their weights (m,).
    """
    if len(weight) <= limit:
        return np.arange(len(weight)), weight.astype(float)
    stratum = np.where(holds, holds.T @ weight, np.inf).argmin(1)
    kept, weights = [], []
    for members, share in _shares(stratum, limit):
        if share == len(members):
            kept.append(members)
            weights.append(weight[members])
            continue
        total = np.cumsum(weight[members])
        points = (rng.random() + np.arange(share)) * (total[-1] / share)
        at, times = np.unique(np.minimum(np.searchsorted(total, points, side="right"), len(members) - 1), return_counts=True)
        kept.append(members[at])
        weights.append(times * (total[-1] / share))
    order = np.argsort(np.concatenate(kept))
    return np.concatenate(kept)[order], np.concatenate(weights)[order]


def _shares(stratum: np.ndarray, limit: int) -> Iterator[tuple[np.ndarray, int]]:
    """Members of each stratum and how many of them to draw, at least one; the smallest strata first."""
    found, counts = np.unique(stratum, return_counts=True)
    left = limit
    for done, i in enumerate(np.argsort(counts, kind="stable")):
        share = max(1, min(int(counts[i]), left // (len(found) - done)))
        left -= share
        yield np.flatnonzero(stratum == found[i]), share


def joined(parts: Sequence[Blocks]) -> Blocks:
    """The blocks of several label maps together."""
    return Blocks(
        np.concatenate([p.mixed for p in parts]), np.concatenate([p.weight for p in parts]), np.sum([p.constant for p in parts], axis=0)
    )


def thinned(blocks: Blocks, rng: np.random.Generator) -> Blocks:
    """About as many mixed blocks as a fit may hold (see sampled)."""
    limit = max(64, min(MAX_BLOCKS, BLOCK_VALUES // blocks.mixed.shape[1]))
    kept, weight = sampled(_classes_of(blocks.mixed, len(blocks.constant)), blocks.weight, limit, rng)
    return Blocks(blocks.mixed[kept], weight, blocks.constant)


@dataclass(frozen=True)
class Code:
    """A linear code of blocks: `mean` (heads, voxels), orthonormal `components` (k, heads, voxels), leading first, and the `variance` (k,)
    of their coefficients. `encode` and `decode` are for heads that are the classes, one-hot.
    """

    mean: np.ndarray
    components: np.ndarray
    variance: np.ndarray

    def encode(self, blocks: np.ndarray) -> np.ndarray:
        """Blocks (n, voxels) of indices to coefficients (n, k)."""
        k = len(self.components)
        out = self.components.sum(2).T[blocks[:, 0]]  # as if of the first voxel's class throughout, (n, k)
        where = np.flatnonzero((blocks != blocks[:, :1]).any(1))
        mixed = blocks[where]
        total = np.zeros((len(mixed), k), np.float32)
        for c in np.unique(mixed):
            having = np.flatnonzero((mixed == c).any(1))
            total[having] += (mixed[having] == c).astype(np.float32) @ self.components[:, c].T
        out[where] = total
        return out - self.components.reshape(k, -1) @ self.mean.reshape(-1)

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


def fit(blocks: Blocks, table: np.ndarray, components: int) -> Code:
    """Weighted principal components of the blocks in heads: one-hot classes, or multi-hot regions.

    They are found in the space of the blocks (at most some thousand), not of the voxels: with rows x_i of weight w_i (sum 1), mean
    m and centred Gram matrix K_ij = sqrt(w_i w_j) (x_i - m).(x_j - m) with eigenpairs (l, a), a component is
    `sum_i sqrt(w_i) a_i (x_i - m) / sqrt(l)`.

    Args:
        table: (indices, heads) which heads an index switches on; the unit matrix for classes.
        components: at most so many; fewer where the blocks have fewer.
    """
    rows, weight = blocks.rows()
    share = weight / weight.sum()
    gram = np.zeros((len(rows), len(rows)), np.float32)
    heads = table.shape[1]
    mean = np.zeros((heads, rows.shape[1]), np.float32)
    for head in range(heads):
        on = table[:, head] > 0
        having = np.flatnonzero(on[rows].any(1))
        hot = on[rows[having]].astype(np.float32)
        gram[np.ix_(having, having)] += hot @ hot.T
        mean[head] = share[having].astype(np.float32) @ hot
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
    out = np.zeros((mix.shape[1], heads, rows.shape[1]), np.float32)
    for head in range(heads):
        out[:, head] = mix.T @ (table[:, head] > 0)[rows].astype(np.float32)
    return Code(mean, out, values.astype(np.float32))


def ceilings(code: Code, blocks: Blocks, table: np.ndarray, channels: Sequence[int]) -> dict[int, np.ndarray]:
    """Dice per head after coding `blocks` with each number of channels; NaN for a head that is absent.

    Args:
        table: (indices, heads) which heads an index switches on.
    """
    rows, weight = blocks.rows()
    coefficients = code.encode(rows)
    heads, classes = (table > 0).astype(float), len(table)
    each = np.repeat(weight, rows.shape[1])
    out = {}
    for k in channels:
        pairs = rows.astype(np.int32) * classes + code.decode(coefficients[:, :k])
        confusion = np.bincount(pairs.reshape(-1), each, minlength=classes**2).reshape(classes, classes)  # voxels (true, found)
        size, found = confusion.sum(1) @ heads, confusion.sum(0) @ heads
        overlap = np.einsum("th,tf,fh->h", heads, confusion, heads, optimize=True)
        out[k] = np.where(size > 0, 2 * overlap / np.maximum(size + found, 1e-12), np.nan)
    return out
