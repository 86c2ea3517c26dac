"""The choice among candidates, on scores made up for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.selection.candidates import Candidate
from ldseg_auto.selection.choose import Scored, best_single, better
from ldseg_auto.selection.scores import Sample, interval

N = 40
SAMPLE = Sample.of({f"c{i:02d}": f"c{i:02d}" for i in range(N)})
HARD = np.random.default_rng(0).normal(0.8, 0.1, N)  # cases differ by more than models do


def scored(names: str, shift: float, noise: float = 0.0, seed: int = 1) -> Scored:
    """Of models `names`, one letter each: HARD plus a shift and noise of its own."""
    values = (HARD + shift + np.random.default_rng(seed).normal(0, 1, N) * noise)[:, None]
    models: Any = tuple(SimpleNamespace(name=n) for n in names)
    arrays = {"dice": values, "nsd": -values}
    return Scored(Candidate(models, (1,) * len(models), 1), {}, arrays, {m: interval(a, SAMPLE) for m, a in arrays.items()})


def test_the_highest_single_mean() -> None:
    found = [scored("a", 0.0), scored("b", 0.02), scored("c", 0.01), scored("ab", 0.5)]
    assert best_single(found, "dice").candidate.name == "b"
    assert best_single(found, "nsd").candidate.name == "a"


def test_equal_ones_do_not_depend_on_the_order() -> None:
    found = [scored("b", 0.0), scored("a", 0.0)]
    assert best_single(found, "dice").candidate.name == best_single(found[::-1], "dice").candidate.name == "a"


@pytest.mark.parametrize(
    ("shift", "noise", "taken"),
    [
        (0.01, 0.0, True),  # small, but in every case
        (0.01, 0.1, False),  # within noise, though its mean is higher
        (0.1, 0.1, True),
        (0.0, 0.0, False),  # equal: the simpler stays
        (-0.05, 0.0, False),
    ],
)
def test_a_pair_only_where_its_interval_is_above_zero(shift: float, noise: float, taken: bool) -> None:
    single, pair = scored("a", 0.0), scored("ab", shift, noise)
    if shift == 0.01 and noise:
        assert pair.means["dice"][0] > single.means["dice"][0]
    assert (better([pair], single, "dice", SAMPLE) is pair) == taken


def test_of_several_better_ones_the_highest() -> None:
    single, found = scored("a", 0.0), [scored("ab", 0.02), scored("ac", 0.04), scored("bc", 0.1, 2.0, seed=5)]
    assert better(found, single, "dice", SAMPLE).candidate.name == "a + c"
    assert better([], single, "dice", SAMPLE) is single


def test_nothing_to_choose_by() -> None:
    empty = scored("a", np.nan)
    with pytest.raises(InputError, match="no case has a class"):
        best_single([empty], "dice")
