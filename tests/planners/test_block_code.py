"""The block code against scikit-learn-free, dense linear algebra."""

import numpy as np
import pytest

from ldseg_auto.planners.block_code import Blocks, ceilings, cut, fit, joined, thinned


def shapes(rng: np.random.Generator, n: int = 6) -> list[np.ndarray]:
    z, y, x = np.mgrid[:16, :24, :24]
    out = []
    for _ in range(n):
        c, r = rng.uniform(6, 14, 3), rng.uniform(4, 7)
        d = np.sqrt((z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2)
        out.append(((d < r).astype(np.uint16) + (d < r / 2)).astype(np.uint16))
    return out


def test_cut_counts_every_block_once() -> None:
    label = shapes(np.random.default_rng(0), 1)[0][:15, :23, :23]
    blocks = cut(label, (4, 4, 4), 3, 10_000, np.random.default_rng(0))
    assert blocks.weight.sum() + blocks.constant.sum() == 4 * 6 * 6
    voxels = sum((blocks.mixed == c).sum() + blocks.constant[c] * 64 for c in (1, 2))
    assert voxels == (label > 0).sum()


def test_sampling_keeps_the_total_weight() -> None:
    label = shapes(np.random.default_rng(0), 1)[0]
    full, few = (cut(label, (4, 4, 4), 3, n, np.random.default_rng(0)) for n in (10_000, 5))
    assert len(few.mixed) == 5 and few.weight.sum() == pytest.approx(full.weight.sum())
    big = Blocks(np.tile(full.mixed, (100, 1)), np.tile(full.weight, 100), full.constant)
    assert thinned(big, np.random.default_rng(0)).weight.sum() == pytest.approx(big.weight.sum())


def test_fit_is_the_weighted_principal_components() -> None:
    blocks = joined([cut(s, (2, 4, 4), 3, 10_000, np.random.default_rng(0)) for s in shapes(np.random.default_rng(1))])
    code = fit(blocks, 3, 5)
    rows, weight = blocks.rows()
    onehot = np.eye(3)[rows].transpose(0, 2, 1).reshape(len(rows), -1)  # (n, classes x voxels)
    share = weight / weight.sum()
    mean = share @ onehot
    values, vectors = np.linalg.eigh((onehot - mean).T @ ((onehot - mean) * share[:, None]))
    assert np.allclose(code.mean.reshape(-1), mean, atol=1e-5)
    found = code.components.reshape(5, -1)
    assert np.allclose(found @ found.T, np.eye(5), atol=1e-3)
    for k in range(5):
        assert abs(found[k] @ vectors[:, -1 - k]) == pytest.approx(1, abs=1e-2)
    assert np.allclose(code.encode(rows), (onehot - mean) @ found.T, atol=1e-3)


def test_ceiling_rises_with_channels_and_ends_at_one() -> None:
    blocks = joined([cut(s, (2, 2, 2), 3, 10_000, np.random.default_rng(0)) for s in shapes(np.random.default_rng(2))])
    curve = ceilings(fit(blocks, 3, 24), blocks, np.eye(3)[:, 1:], (1, 4, 16, 24))
    worst = [c.min() for c in curve.values()]
    assert worst == sorted(worst)
    assert worst[-1] == pytest.approx(1, abs=1e-6)  # 8 voxels x 3 classes hold at most 16 dimensions


def test_absent_class_is_nan() -> None:
    label = (shapes(np.random.default_rng(3), 1)[0] > 0).astype(np.uint16)
    blocks = cut(label, (4, 4, 4), 3, 1000, np.random.default_rng(0))
    curve = ceilings(fit(blocks, 3, 8), blocks, np.eye(3)[:, 1:], (8,))
    assert np.isnan(curve[8][1]) and curve[8][0] > 0.9
