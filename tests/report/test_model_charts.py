"""The charts of a model's report: readable with one epoch and with a thousand, and with many classes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ldseg_auto.evaluation.calibration import Reliability
from ldseg_auto.evaluation.coverage import Coverage
from ldseg_auto.evaluation.intervals import Intervals
from ldseg_auto.evaluation.predicted_dice import Evidence, Pair, fit_file
from ldseg_auto.report.charts import Line, Mark, trend_chart
from ldseg_auto.report.model_charts import calibration_figure, predicted_figures, step_figures, training_figures
from ldseg_auto.report.model_files import FoldFiles


def rows(epochs: int, classes: int) -> list[dict[str, Any]]:
    """A training whose class k ends at Dice 0.5 + k / 200."""
    return [
        {"epoch": e, "iteration": 10.0 * e, "seconds": 5.0, "learning_rate": 0.1, "loss": 2.0 / e, "loss_segmentation": 1.0 / e,
         "dice_mean": 0.6, **{f"dice_c{k}": 0.5 + k / 200 for k in range(classes)}}
        for e in range(1, epochs + 1)
    ]  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 2, 1000])
@pytest.mark.parametrize("classes", [1, 6, 60])
def test_training(epochs: int, classes: int) -> None:
    figures = training_figures(rows(epochs, classes), [f"c{k}" for k in range(classes)], "0")
    assert [re.search("<b>([^<]*)</b>", f)[1] for f in figures] == ["Training loss", "Pseudo-Dice", "Learning rate", "Seconds per epoch"]  # type: ignore[index]
    dice = figures[1]
    assert dice.count('<path class="line') == 1 + min(classes, 6)
    assert all(f"c{k} {0.5 + k / 200:.3f}" in dice for k in (0, classes - 1))
    assert ("Of 60 classes the 3 lowest and the 3 highest" in dice) == (classes == 60)
    assert len(dice) < 250_000 and 'aria-label="pseudo-Dice of fold 0"' in dice
    assert "iteration 10: mean 0.6" in dice
    places = [float(v) for v in re.findall(r"[ML](-?[\d.]+),", "".join(figures))]
    assert min(places) >= 0 and max(places) <= 460


def test_columns_without_a_value_are_left_out() -> None:
    empty = [{"epoch": 1.0, "iteration": 10.0, "loss": 1.0, "dice_mean": 0.0, "dice_a": None, "learning_rate": None, "seconds": 2.0}]
    titles = [re.search("<b>([^<]*)</b>", f)[1] for f in training_figures(empty, ["a"], "0")]  # type: ignore[index]
    assert titles == ["Training loss", "Pseudo-Dice", "Seconds per epoch"]
    assert training_figures([], ["a"], "0") == []


def test_a_trend_line_goes_where_its_values_are() -> None:
    marks = tuple(Mark(float(i), float(i), f"at {i}") for i in range(5))
    chart = trend_chart([Line("rising", marks)], ("t", "x", "y"))
    path = re.search(r'<path class="line t0" d="M([^"]*)"', chart)[1]  # type: ignore[index]
    x, y = np.array([[float(v) for v in p.split(",")] for p in path.split("L")]).T
    assert np.allclose(np.diff(x), np.diff(x)[0]) and np.allclose(np.diff(y), np.diff(y)[0]) and x[1] > x[0] and y[1] < y[0]
    assert chart.count('<rect class="hit"') == 5 and "<title>at 3</title>" in chart


def test_reliability_lies_on_the_diagonal_where_it_is_calibrated() -> None:
    centres = (np.arange(4) + 0.5) / 4
    found = calibration_figure(Reliability(centres, centres, np.array([0, 5, 5, 10])), "voxels")
    places = [(float(a), float(b)) for a, b in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', found)]
    a, b, c, d = (float(v) for v in re.search(r'class="target" x1="([\d.]+)" x2="([\d.]+)" y1="([\d.]+)" y2="([\d.]+)"', found).groups())  # type: ignore[union-attr]
    assert len(places) == 3  # an empty bin has no point
    assert all(y == pytest.approx(c + (x - a) / (b - a) * (d - c), abs=0.2) for x, y in places)
    assert "Expected calibration error 0.000 over 20 voxels, 4 bins" in found


def test_predicted_dice_and_steps() -> None:
    pairs = [Pair(f"case{i}", Evidence(0.7 + i / 100, 3.0), 0.6 + i / 50) for i in range(10)]
    fold = FoldFiles("0", predicted=fit_file(pairs, None), steps={"dice": {"1": 0.7, "2": 0.8, "4": 0.8}, "chosen": 2})
    (figure,) = predicted_figures([fold, FoldFiles("1")])
    assert figure.count("<circle") == 10 and "held-out validation cases" in figure and "case3: predicted 0.6" in figure
    measured = FoldFiles("2", predicted=replace(fit_file(pairs, pairs), coverage=Coverage(3, 4, 2, 4)))
    one, several = predicted_figures([fold, measured])
    assert "Volumes, fold 2: low to high of 4 samples held 3 of 4" in several and "Volumes" not in one
    likely = replace(measured, predicted=replace(fit_file(pairs, pairs), single_volumes=Intervals({"organ": 1.25}, 9, 10, 10)))
    one, several = predicted_figures([fold, likely])
    assert "Volumes, fold 2: likely low to high, stretched by a factor of 1.25, held 9 of 10" in one and "Volumes" not in several
    (steps,) = step_figures([fold])
    assert steps.count('class="ring"') == 1 and "fold 0, 2 steps: 0.8000" in steps and 'class="target"' not in steps
    assert step_figures([FoldFiles("1")]) == predicted_figures([FoldFiles("1")]) == []


def test_one_step_alone() -> None:
    (steps,) = step_figures([FoldFiles("all", steps={"dice": {"1": 0.7}, "chosen": 1, "distance": {}})])
    assert "fold all, 1 steps: 0.7000" in steps
