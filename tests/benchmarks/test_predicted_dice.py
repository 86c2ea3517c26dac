"""The benchmark of predicted Dice: its checks on pairs whose answer is known, its table and its picture."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from ldseg_auto.evaluation.coverage import Coverage
from ldseg_auto.evaluation.predicted_dice import Evidence, Pair, PredictedDice, fit, fit_file

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """benchmarks/predicted_dice.py."""
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("benchmark_predicted_dice", FOLDER / "predicted_dice.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(FOLDER))
    return module


def line(count: int) -> list[Pair]:
    """Dice = softmax - 0.1, without noise."""
    return [Pair(f"c{i:02d}", Evidence(float(s), 1.0), float(s) - 0.1) for i, s in enumerate(np.linspace(0.6, 1, count))]


def test_a_perfect_line_is_predicted_without_error(benchmark: ModuleType) -> None:
    pairs = line(24)
    for checked in (benchmark.cross_fit(fit(pairs)), benchmark.halves(pairs)):
        row = checked.row
        assert row["error"] == pytest.approx(0, abs=1e-9) and row["rank"] == pytest.approx(1)
        assert row["augrc"] == pytest.approx(row["augrc_best"]) and row["augrc_best"] < row["augrc_random"]
    assert row["cases"] == 24 and row["dice"] == pytest.approx(0.7)


def test_halves_hold_out_what_they_check(benchmark: ModuleType) -> None:
    """Every other case has another Dice at the same confidence: each half predicts the other's."""
    pairs = [Pair(f"c{i:02d}", Evidence(0.9, 1.0), 0.5 + 0.2 * (i % 2)) for i in range(20)]
    checked = benchmark.halves(pairs)
    np.testing.assert_allclose(np.abs(checked.predicted - checked.true), 0.2)
    assert benchmark.halves(pairs[:15]) is None  # seven in one half


def test_table_and_picture(benchmark: ModuleType, tmp_path: Path) -> None:
    measured = Coverage(3, 4, 2, 4)
    second = replace(fit_file(line(12), []), coverage=measured)
    folds = {"fold_0": fit_file(line(24), None), "fold_1": second, "fold_2": PredictedDice(None, None, "too few")}
    text, content = benchmark.report(folds)
    assert [words in text for words in ("fold_0, volumes, several samples: all samples are equal", measured.sentence)] == [True, True]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(row.split("|")) for row in lines} == {13}
    assert [key for key in content if "fold_1" in key] == ["fold_1, one sample, cross-fit"]
    assert "| fold_2 | one sample | too few |" in text
    benchmark.draw(tmp_path / "plot.png", "Toy", folds)
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 800
