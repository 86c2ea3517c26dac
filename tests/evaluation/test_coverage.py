"""How often volume intervals held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.evaluation.coverage import Coverage, coverage
from ldseg_auto.evaluation.predicted_dice import PredictedDice
from ldseg_auto.planners.serialise import RuleBroken


def test_by_hand() -> None:
    """Ends count as inside, also where a mean of equal numbers is not quite that number; nothing in nothing is no evidence."""
    third = 0.1 + 0.2  # 0.30000000000000004
    spans = {
        "a": {"x": [(1.0, 2.0, 1.0), (1.0, 2.0, 2.0)], "y": [(1.0, 2.0, 2.1)]},
        "b": {"x": [(third, third, 0.3), (0.0, 0.0, 0.0)], "y": [(0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]},
        "c": {"x": [(0.0, 0.0, 0.0)]},
    }
    assert coverage(spans, 4) == Coverage(held=4, total=6, cases=2, samples=4)
    assert coverage({"c": spans["c"]}, 4) is None and coverage({}, 4) is None


def test_a_volume_that_is_one_more_draw_is_held_as_often_as_the_percentiles_say() -> None:
    """Low and high of n exchangeable draws are their ends for n = 2: the third lies between them in a third of all cases."""
    drawn = np.random.default_rng(0).normal(10, 1, (3000, 3))
    found = coverage({str(i): {"x": [(min(a, b), max(a, b), c)]} for i, (a, b, c) in enumerate(drawn.tolist())}, 2)
    assert found is not None and found.held / found.total == pytest.approx(1 / 3, abs=0.03)


def test_words_and_file(tmp_path: Path) -> None:
    found = Coverage(58, 80, 40, 4)
    assert found.sentence == "low to high of 4 samples held 58 of 80 volumes of the references (72%) on 40 held-out validation cases"
    stored = PredictedDice(None, None, "too few", coverage=found)
    stored.save(tmp_path / "f.json")
    assert PredictedDice.load(tmp_path / "f.json") == stored and stored.words_of_volumes(4).startswith(found.sentence)
    assert PredictedDice(None, None).words_of_volumes(4).startswith("how often low to high holds was not measured")
    assert "equal" in PredictedDice(None, None, equal_samples=True).words_of_volumes(4)


@pytest.mark.parametrize("numbers", [(3, 2, 1, 2), (-1, 2, 1, 2), (0, 0, 1, 2), (1, 2, 0, 2), (1, 2, 1, 1)])
def test_impossible_numbers_are_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(RuleBroken):
        Coverage(*numbers)
