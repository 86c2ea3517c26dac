"""Volume intervals that hold as often as they say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldseg_auto.evaluation.intervals import FEWEST, LEVEL, Intervals, fit_intervals, stretch, stretched
from ldseg_auto.evaluation.predicted_dice import PredictedDice, likely_volumes
from ldseg_auto.planners.serialise import RuleBroken

SIZES = st.lists(st.tuples(*[st.integers(0, 40)] * 3), min_size=FEWEST, max_size=30)  # low, high less low, volume: whole voxels


def spans(rows: list[tuple[float, float, float]]) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    return {f"c{i:02d}": {"x": [row]} for i, row in enumerate(rows)}


def inside(row: tuple[float, float, float], factor: float) -> bool:
    return row[0] / factor <= row[2] * (1 + 1e-9) and row[2] <= row[1] * factor * (1 + 1e-9)


def smallest(rows: list[tuple[float, float, float]]) -> float:
    """The smallest factor that holds 90 % of the cases and one that lies nowhere, by trying every factor that puts a volume on an end."""
    tried = [1.0, *(f for low, high, v in rows for f in (low / v if v else math.inf, v / high) if f > 1)]
    enough = [f for f in tried if math.isfinite(f) and sum(inside(r, f) for r in rows) >= LEVEL * (len(rows) + 1)]
    return min(enough, default=math.inf)


@given(SIZES)
def test_the_smallest_factor_that_holds_enough_cases(sizes: list[tuple[int, int, int]]) -> None:
    rows = [(float(low), float(low + more), float(v)) for low, more, v in sizes]
    known, found = [r for r in rows if r[1] > 0], fit_intervals(spans(rows))
    factor = smallest(known) if len(known) >= FEWEST else math.inf
    if not math.isfinite(factor):
        assert found is None
        return
    assert found is not None and found.factors == {"x": pytest.approx(factor)} and found.total == found.cases == len(known)
    others = [(smallest(known[:i] + known[i + 1 :]), row) for i, row in enumerate(known)]
    assert found.held == sum(inside(row, other) if math.isfinite(other) else True for other, row in others)


@pytest.mark.parametrize(("cases", "share"), [(9, 0.9), (10, 10 / 11), (39, 0.9), (100, 91 / 101)])
def test_a_new_case_is_held_as_often_as_promised(cases: int, share: float) -> None:
    """Of n + 1 exchangeable cases the last is held by the factor of the others with probability ceil(0.9 (n + 1)) / (n + 1)."""
    generator = np.random.default_rng(0)
    hits = []
    for _ in range(4000):
        missed = np.exp(np.abs(generator.normal(0, 0.2, cases + 1)))
        hits.append(missed[-1] <= stretch(missed[:-1], np.arange(cases)))
    assert np.mean(hits) == pytest.approx(share, abs=0.015)


def test_raters_of_a_case_share_its_weight() -> None:
    """Three raters that say the same are one; a rater among three that is far off counts a third of a case."""
    one, case = 1 + np.arange(19) / 100, np.arange(19)
    assert stretch(np.tile(one, 3), np.tile(case, 3)) == stretch(one, case) == pytest.approx(1.17)
    assert stretch(np.append(one, (1.18, 9.0)), np.append(case, (18, 18))) == pytest.approx(1.17)
    assert stretch(one[:8], case[:8]) == math.inf


def test_classes_have_their_own_and_hopeless_ones_none() -> None:
    """A class whose reference is missing in a fifth of the cases has no factor; one that is hardly ever predicted neither."""
    found = fit_intervals(
        {
            str(i): {
                "wide": [(1.0, 2.0, 4.0)], "narrow": [(1.0, 2.0, 1.5)], "absent": [(1.0, 2.0, 0.0 if i % 5 == 0 else 1.0)],
                "rare": [(1.0, 2.0, 1.0) if i < 9 else (0.0, 0.0, 3.0)],
            }
            for i in range(20)
        }
    )  # fmt: skip
    assert found == Intervals({"wide": 2.0, "narrow": 1.0}, 40, 40, 20)
    words = "likely low to high, stretched by a factor of 1.00 to 2.00, by class, held 40 of 40 volumes of the references (100%)"
    assert found.sentence == f"{words} on 20 validation cases, each by the factor of the others"
    assert fit_intervals({}) is None and fit_intervals({"a": {}}) is None


def test_several_models(tmp_path: Path) -> None:
    """The geometric mean of their factors; of models without one nothing; and nothing where no sample shows the class."""
    one, other = Intervals({"x": 2.0}, 9, 10, 10), Intervals({"x": 8.0, "y": 1.5}, 9, 10, 10)
    fits = [PredictedDice(None, None, several_volumes=v) for v in (one, other, None)]
    assert likely_volumes(fits, "x", 4.0, 5.0, 4) == pytest.approx((1.0, 20.0))
    assert likely_volumes(fits, "y", 3.0, 4.0, 4) == pytest.approx((2.0, 6.0))
    assert (
        likely_volumes(fits, "x", 0.0, 0.0, 4) is likely_volumes(fits, "x", 4.0, 5.0, 1) is likely_volumes(fits, "z", 1.0, 2.0, 4) is None
    )
    assert stretched(1.0, 2.0, []) is None
    equal = PredictedDice(None, None, equal_samples=True, single_volumes=one)
    assert likely_volumes([equal], "x", 4.0, 4.0, 4) == (2.0, 8.0) and one.sentence in equal.words_of_volumes(4)
    for fit in (*fits, equal):
        fit.save(tmp_path / "f.json")
        assert PredictedDice.load(tmp_path / "f.json") == fit


@pytest.mark.parametrize(
    ("factors", "numbers"),
    [({"x": 0.9}, (9, 10, 10)), ({}, (9, 10, 10)), ({"x": math.inf}, (9, 10, 10)), ({"x": 2.0}, (11, 10, 10)),
     ({"x": 2.0}, (0, 0, 10)), ({"x": 2.0}, (9, 9, 9))],
)  # fmt: skip
def test_impossible_numbers_are_refused(factors: dict[str, float], numbers: tuple[int, int, int]) -> None:
    with pytest.raises(RuleBroken):
        Intervals(factors, *numbers)
