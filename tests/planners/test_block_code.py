"""The block code against scikit-learn-free, dense linear algebra."""

import numpy as np
import pytest

from ldseg_auto.planners.block_code import Blocks, ceilings, cut, fit, joined, sampled, thinned


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
    code = fit(blocks, np.eye(3), 5)
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
    curve = ceilings(fit(blocks, np.eye(3), 24), blocks, np.eye(3)[:, 1:], (1, 4, 16, 24))
    worst = [c.min() for c in curve.values()]
    assert worst == sorted(worst)
    assert worst[-1] == pytest.approx(1, abs=1e-6)  # 8 voxels x 3 classes hold at most 16 dimensions


def test_absent_class_is_nan() -> None:
    label = (shapes(np.random.default_rng(3), 1)[0] > 0).astype(np.uint16)
    blocks = cut(label, (4, 4, 4), 3, 1000, np.random.default_rng(0))
    curve = ceilings(fit(blocks, np.eye(3), 8), blocks, np.eye(3)[:, 1:], (8,))
    assert np.isnan(curve[8][1]) and curve[8][0] > 0.9


@pytest.mark.parametrize("factor", [(4, 4, 4), (1, 4, 4), (2, 8, 8), (3, 5, 2)])
def test_cut_finds_the_blocks_that_a_loop_finds(factor: tuple[int, int, int]) -> None:
    label = shapes(np.random.default_rng(4), 1)[0][:15, :23, :21]
    blocks = cut(label, factor, 3, 10_000, np.random.default_rng(0))
    padded = np.zeros([-(-n // f) * f for n, f in zip(label.shape, factor, strict=True)], label.dtype)
    padded[:15, :23, :21] = label
    mixed, constant = [], np.zeros(3)
    for z in range(0, padded.shape[0], factor[0]):
        for y in range(0, padded.shape[1], factor[1]):
            for x in range(0, padded.shape[2], factor[2]):
                block = padded[z : z + factor[0], y : y + factor[1], x : x + factor[2]].reshape(-1)
                if block.min() == block.max():
                    constant[block[0]] += 1
                else:
                    mixed.append(block)
    assert np.array_equal(blocks.mixed, mixed) and np.array_equal(blocks.constant, constant)
    assert np.all(blocks.weight == 1)


def organs(rng: np.random.Generator, n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Which of four classes a block holds: background and class 1 nearly always, class 2 in 5 %, class 3 in seven blocks."""
    holds = np.zeros((n, 4), bool)
    holds[:, :2] = True
    holds[rng.choice(n, n // 20, replace=False), 2] = True
    holds[rng.choice(n, 7, replace=False), 3] = True
    return holds, rng.uniform(1, 3, n)


def test_sampling_keeps_every_block_of_a_rare_class_and_every_class_s_weight_in_its_stratum() -> None:
    holds, weight = organs(np.random.default_rng(0))
    kept, new = sampled(holds, weight, 60, np.random.default_rng(1))
    assert np.all(np.diff(kept) > 0) and len(kept) <= 60
    assert holds[kept, 3].sum() == 7 and new.sum() == pytest.approx(weight.sum())
    rare = holds[kept, 3]
    assert np.array_equal(new[rare], weight[kept[rare]])  # a stratum that is taken whole keeps its own weights
    second = holds[kept, 2] & ~rare
    assert second.sum() >= 20 and new[second].sum() == pytest.approx(weight[holds[:, 2] & ~holds[:, 3]].sum())


def test_sampled_sums_are_right_on_average() -> None:
    """Horvitz and Thompson: the weighted sum of any quantity over the sample estimates the sum over all without bias."""
    rng = np.random.default_rng(2)
    holds, weight = organs(rng)
    quantity = rng.exponential(size=len(weight)) * (1 + 5 * holds[:, 2])
    estimates = []
    for seed in range(400):
        kept, new = sampled(holds, weight, 90, np.random.default_rng(seed))
        estimates.append((quantity[kept] * new).sum())
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx((quantity * weight).sum(), abs=4 * error)


def test_a_sample_that_is_large_enough_is_everything() -> None:
    holds, weight = organs(np.random.default_rng(3), 50)
    kept, new = sampled(holds, weight, 50, np.random.default_rng(0))
    assert np.array_equal(kept, np.arange(50)) and np.array_equal(new, weight)


def test_ceiling_is_the_dice_of_every_head_voxel_by_voxel() -> None:
    """Regions: a head may hold several classes. Counted block by block, without a confusion matrix."""
    blocks = joined([cut(s, (4, 4, 4), 3, 40, np.random.default_rng(0)) for s in shapes(np.random.default_rng(5))])
    table = np.array([[0, 0], [1, 0], [1, 1]], float)  # whole, core
    code = fit(blocks, np.eye(3), 4)
    found = ceilings(code, blocks, table, (1, 4))
    rows, weight = blocks.rows()
    for k in (1, 4):
        guess = code.decode(code.encode(rows)[:, :k])
        for head, members in enumerate(((1, 2), (2,))):
            a, b = np.isin(rows, members), np.isin(guess, members)
            dice = 2 * ((a & b).sum(1) @ weight) / (a.sum(1) @ weight + b.sum(1) @ weight)
            assert found[k][head] == pytest.approx(dice)
