"""ldseg_find_best: flags, and which inference.json ldseg_predict follows. (The work itself: tests/selection, tests/end_to_end.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ldseg_auto.cli import common, find_best, predict
from ldseg_auto.errors import InputError
from ldseg_auto.selection.find_best import Question


def run(*flags: object) -> int:
    return common.run(find_best.build(), find_best.work, [str(f) for f in flags])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["0"], "'0' is not a dataset ID"),
        (["4", "-f", "x"], "'x' is not a fold"),
        (["4", "--metric", "iou"], "invalid choice: 'iou'"),
        (["4", "--tolerance", "0"], "'0' is not a number above zero"),
        (["4", "--samples", "0"], "'0' is not a whole number of 1 or more"),
        (["4", "--steps", "-1"], "argument --steps"),
        (["4", "--no-ensemble"], "unrecognized arguments: --no-ensemble"),
    ],
)
def test_impossible_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*flags)
    assert message in capsys.readouterr().err


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(4, "--preprocessed", tmp_path / "none", "--results", tmp_path) == 2
    assert "Run ldseg_plan_and_preprocess first" in capsys.readouterr().err
    (tmp_path / "pre" / "Dataset004_Toy").mkdir(parents=True)
    assert run(4, "--preprocessed", tmp_path / "pre", "--results", tmp_path / "res") == 2
    assert "no model of dataset 4 in" in capsys.readouterr().err


def test_flags_reach_the_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask(preprocessed: Path, results: Path, question: Question, progress: Any) -> None:
        asked.extend([preprocessed, results, question])
        raise InputError("enough")

    monkeypatch.setattr("ldseg_auto.selection.find_best.find_best", ask)
    for root in ("pre", "res"):
        (tmp_path / root / "Dataset004_Toy").mkdir(parents=True)
    flags = ["-c", "2d", "own", "-p", "a", "-f", "0", "2", "--metric", "nsd", "--tolerance", "2.5", "--no-ensembles"]
    roots = ["--preprocessed", tmp_path / "pre", "--results", tmp_path / "res"]
    assert run(4, *flags, "--samples", "2", "8", "--steps", "3", "--device", "cpu", *roots) == 2
    expected = Question(["2d", "own"], ["a"], ["0", "2"], "nsd", 2.5, False, [2, 8], 3, "cpu")
    assert asked == [tmp_path / "pre" / "Dataset004_Toy", tmp_path / "res" / "Dataset004_Toy", expected]


@pytest.mark.parametrize("bad", [{"metric": "iou"}, {"samples": ()}, {"samples": (0, 4)}, {"steps": 0}])
def test_impossible_questions(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        Question(**bad)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Dataset 4 with an inference.json of its own and in its 2D model; dataset 12 with none."""
    for name in ("Dataset004_A/ldsegPlans__2d", "Dataset004_A/ldsegPlans__3d_fullres", "Dataset012_B/ldsegPlans__2d"):
        (tmp_path / name / "fold_0").mkdir(parents=True)
        (tmp_path / name / "fold_0" / "checkpoint_final.pth").touch()
    for name in ("Dataset004_A", "Dataset004_A/ldsegPlans__2d"):
        (tmp_path / name / "inference.json").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["-d", "4"], "Dataset004_A"),
        (["-d", "4", "-f", "0"], "Dataset004_A"),
        (["-d", "4", "-c", "2d"], "Dataset004_A/ldsegPlans__2d"),
        (["-d", "4", "-c", "3d_fullres"], None),
        (["-d", "4", "-p", "ldsegPlans"], None),  # two models: the flags choose neither
        (["-m", "Dataset004_A/ldsegPlans__2d"], "Dataset004_A/ldsegPlans__2d"),
        (["-m", "Dataset004_A/ldsegPlans__3d_fullres"], None),
        (["-m", "Dataset004_A/ldsegPlans__2d", "Dataset004_A/ldsegPlans__3d_fullres"], None),
        (["-d", "12"], None),
        ([], None),  # two datasets
    ],
)
def test_which_inference_json_is_followed(
    results: Path, flags: list[str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(results)
    args = predict.build().parse_args(["-i", "in", "-o", "out", "--results", ".", *flags])
    found = predict._recipe(args)
    assert found == (None if expected is None else Path(expected) / "inference.json")


def test_the_only_dataset_needs_no_flag(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (results / "Dataset012_B" / "ldsegPlans__2d" / "fold_0" / "checkpoint_final.pth").unlink()
    args = predict.build().parse_args(["-i", "in", "-o", "out", "--results", str(results)])
    assert predict._recipe(args) == results / "Dataset004_A" / "inference.json"
