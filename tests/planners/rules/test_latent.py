"""The latent rule against an exhaustive search, and the curve that reports show."""

from math import prod

import numpy as np
import pytest

from ldseg_auto.planners.fingerprint import LatentCandidate
from ldseg_auto.planners.rules.latent import (
    CHANNELS,
    MAX_SIZE,
    NEAR_BEST,
    TARGET_CEILING,
    by_factor,
    candidate_factors,
    choose_latent,
    latent_curve,
)
from ldseg_auto.planners.rules.topology import topology

Curves = dict[tuple[int, ...], dict[int, dict[str, float]]]


def random_curves(seed: int, easy: float) -> Curves:
    """Worst classes below or above the target: `easy` divides the error."""
    rng = np.random.default_rng(seed)
    factors = [(1, 4, 4), (2, 8, 8), (4, 16, 16)] if seed % 2 else [(4, 4, 4), (8, 8, 8), (16, 16, 16)]
    return {f: {k: {name: 1 - rng.uniform(0.2, 1) * prod(f) ** 0.5 / k / easy / 100 for name in "abc"} for k in CHANNELS} for f in factors}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("easy", [0.2, 1, 5, 20])
def test_nothing_smaller_is_good_enough(seed: int, easy: float) -> None:
    """The rule of documentation/method.md, by looking at every pair."""
    curves = random_curves(seed, easy)
    chosen = choose_latent(curves)
    worst = {(f, k): min(d.values()) for f, by_k in curves.items() for k, d in by_k.items() if k / prod(f) <= MAX_SIZE}
    mean = {(f, k): float(np.mean(list(curves[f][k].values()))) for f, k in worst}
    goal = min(TARGET_CEILING, max(worst.values()) - NEAR_BEST)
    good = {pair: c for pair, c in worst.items() if c >= goal}
    mean_goal = min(TARGET_CEILING, max(mean[pair] for pair in good) - NEAR_BEST)
    good = {pair: c for pair, c in good.items() if mean[pair] >= mean_goal - 1e-12}
    size = chosen.channels / prod(chosen.factor)
    assert chosen.ceiling == good[chosen.factor, chosen.channels] >= goal
    assert size == min(k / prod(f) for f, k in good)
    assert chosen.ceiling == max(c for (f, k), c in good.items() if k / prod(f) == size)
    assert bool(chosen.warning) == (max(worst.values()) < TARGET_CEILING)
    assert choose_latent(dict(reversed(curves.items()))) == chosen  # the order of candidates does not matter


def test_out_of_reach_a_latent_sixteen_times_smaller_is_worth_half_a_point() -> None:
    curves = {(1, 8, 8): {1: {"a": 0.90}, 2: {"a": 0.951}, 32: {"a": 0.955}}}
    chosen = choose_latent(curves)
    assert (chosen.channels, chosen.ceiling) == (2, 0.951)
    assert "out of reach" in chosen.reason and "0.955" in chosen.reason and "class a" in chosen.warning
    assert choose_latent({(1, 8, 8): {1: {"a": 0.90}, 2: {"a": 0.949}, 32: {"a": 0.955}}}).channels == 32


def test_where_no_latent_codes_the_worst_class_the_mean_decides() -> None:
    """A hundred classes and at most 32 channels: the linear code leaves the smallest ones out at any size."""
    common = {1: 0.1, 8: 0.5, 16: 0.797, 32: 0.8}
    curves = {(4, 4, 4): {k: {"tiny": 0.0, "large": dice} for k, dice in common.items()}}
    chosen = choose_latent(curves)
    assert chosen.channels == 16 and chosen.ceiling == 0 and "class tiny" in chosen.warning and "mean 0.399" in chosen.reason


def test_a_latent_larger_than_the_label_is_none() -> None:
    """1x4x4 with 32 channels codes without loss because it holds two numbers per voxel."""
    curves = {(1, 4, 4): {16: {"a": 0.97}, 32: {"a": 1.0}}, (2, 8, 8): {32: {"a": 0.968}}}
    chosen = choose_latent(curves)
    assert (chosen.factor, chosen.channels) == ((2, 8, 8), 32)
    assert "at most 1 number per voxel" in chosen.reason
    assert choose_latent({(2, 2): {8: {"a": 1.0}}}).channels == 8  # where there is nothing else


@pytest.mark.parametrize(
    ("spacing", "patch", "factors"),
    [
        ((1, 1, 1), (128, 128, 128), [(4, 4, 4), (8, 8, 8), (16, 16, 16)]),
        ((3.6, 0.625, 0.625), (20, 320, 256), [(1, 4, 4), (2, 8, 8), (4, 16, 16)]),
        ((10, 1, 1), (12, 256, 256), [(1, 4, 4), (1, 8, 8), (2, 16, 16)]),
        ((10, 1, 1), (6, 256, 256), [(1, 4, 4), (1, 8, 8), (1, 16, 16)]),
        ((5, 0.7, 0.7), (64, 160, 160), [(1, 4, 4), (2, 8, 8), (4, 16, 16)]),
        ((1, 1), (512, 512), [(4, 4), (8, 8), (16, 16)]),
    ],
)
def test_candidates_follow_the_spacing(spacing: tuple, patch: tuple, factors: list) -> None:
    """A factor grows along the coarse axis only once the plane is about as coarse: blocks stay as cubic in mm as the grid allows."""
    total, strides = [1] * len(patch), []
    for stride in topology(spacing, patch).strides:
        total = [t * s for t, s in zip(total, stride, strict=True)]
        strides.append(tuple(total))
    assert candidate_factors(strides[1:]) == factors


def test_curve_has_every_latent_once_and_marks_the_choice() -> None:
    stored = [LatentCandidate((4, 4), {"1": {"a": 0.9, "b": 0.8}, "32": {"a": 1.0, "b": 0.99}, "2": {}}, {})]
    curves = by_factor(stored)
    points = latent_curve(curves, (4, 4), 1)
    assert [(p.channels, p.size, p.worst, p.ceiling, p.allowed, p.chosen) for p in points] == [
        (1, 1 / 16, "b", 0.8, True, True),
        (32, 2.0, "b", 0.99, False, False),
    ]
    assert points[0].ceilings == {"a": 0.9, "b": 0.8} and points[0].name == "4x4 with 1 channel"
    assert not any(p.chosen for p in latent_curve(curves))


def test_grids_without_a_candidate_leave_the_coarsest() -> None:
    assert candidate_factors([(1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16), (8, 32, 32)]) == [(1, 4, 4), (2, 8, 8), (4, 16, 16)]
    assert candidate_factors([(2, 2)]) == [(2, 2)]


def test_smallest_that_reaches_the_target_in_its_worst_class() -> None:
    curves = {
        (4, 4): {1: {"a": 0.995, "b": 0.98}, 2: {"a": 0.999, "b": 0.991}},
        (8, 8): {4: {"a": 0.99, "b": 0.992}, 8: {"a": 1.0, "b": 1.0}},
    }
    found = choose_latent(curves)
    assert (found.factor, found.channels, found.ceiling) == ((8, 8), 4, 0.99)  # 1/16 number per voxel against 1/8
    assert found.warning == ""


def test_best_reachable_warns_and_names_the_class() -> None:
    found = choose_latent({(4, 4): {1: {"a": 0.9, "tiny": 0.2}, 2: {"a": 0.99, "tiny": 0.6}}})
    assert found.channels == 2
    assert "tiny" in found.warning and "0.600" in found.warning
