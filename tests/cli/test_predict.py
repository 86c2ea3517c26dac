"""ldseg_predict: the choice of the model, the flags, and the exit code. (Prediction itself: tests/inference, tests/end_to_end.)"""

from __future__ import annotations

import inspect
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ldseg_auto.cli import common
from ldseg_auto.cli.predict import build, work
from ldseg_auto.inference.case_score import CaseScore
from ldseg_auto.inference.outputs import Extras, PredictionTable, case_record
from ldseg_auto.inference.predictor import CaseStatus, Options, Predictor

LOADING, PREDICTING = inspect.signature(Predictor.from_folder), inspect.signature(Predictor.predict_folder)


class Recorder:
    """Stands in for a loaded Predictor; binds calls to the real signatures."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}
        self.predicted: dict[str, Any] = {}
        self.statuses = [CaseStatus("a", "done", "", 1.0)]

    def from_folder(self, *args: Any, **kwargs: Any) -> Recorder:
        bound = LOADING.bind(*args, **kwargs)
        bound.apply_defaults()
        self.loaded = bound.arguments
        return self

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: Any) -> None:
        self.closed = True

    def predict_folder(self, *args: Any, **kwargs: Any) -> list[CaseStatus]:
        self.predicted = PREDICTING.bind(self, *args, **kwargs).arguments
        return self.statuses


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(Predictor, "from_folder", staticmethod(recorder.from_folder))
    return recorder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in (
        "Dataset004_Hippocampus/ldsegPlans__3d_fullres",
        "Dataset004_Hippocampus/ldsegPlans__2d",
        "Dataset012_Knee/ldsegPlans__2d",
    ):
        fold = tmp_path / "results" / name / "fold_0"
        fold.mkdir(parents=True)
        (fold / "checkpoint_final.pth").touch()
    (tmp_path / "results" / "Dataset020_Untrained" / "ldsegPlans__2d" / "fold_0").mkdir(parents=True)
    (tmp_path / "in").mkdir()
    return tmp_path / "results"


def predict(results: Path, *flags: str) -> int:
    return common.run(
        build(), work, ["-i", str(results.parent / "in"), "-o", str(results.parent / "out"), "--results", str(results), *flags]
    )


def test_several_models_are_listed_with_their_flags(results: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(results) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: 3 models are trained in {results}; choose one:"
    assert [line.split() for line in lines[1:]] == [
        ["-d", "4", "-c", "2d", "(Dataset004_Hippocampus)"],
        ["-d", "4", "-c", "3d_fullres", "(Dataset004_Hippocampus)"],
        ["-d", "12", "-c", "2d", "(Dataset012_Knee)"],
    ]
    assert not recorder.loaded


def test_models_of_several_plans_are_told_apart_by_their_name(
    results: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    other = results / "Dataset012_Knee" / "otherPlans__2d"
    (other / "fold_1").mkdir(parents=True)
    (other / "fold_1" / "checkpoint_best.pth").touch()
    assert predict(results, "-d", "12") == 2
    assert "  -d 12 -c 2d -p otherPlans   (Dataset012_Knee)" in capsys.readouterr().err
    assert predict(results, "-d", "12", "-p", "otherPlans") == 0 and recorder.loaded["model_folder"] == other
    assert predict(results, "-d", "12", "-p", "noPlans") == 2
    assert "no model of dataset 12 of plans noPlans is trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("-d", "12"), "Dataset012_Knee/ldsegPlans__2d"),
        (("-c", "3d_fullres"), "Dataset004_Hippocampus/ldsegPlans__3d_fullres"),
        (("-d", "4", "-c", "2d"), "Dataset004_Hippocampus/ldsegPlans__2d"),
    ],
)
def test_flags_choose_the_model(results: Path, recorder: Recorder, flags: tuple[str, ...], expected: str) -> None:
    assert predict(results, *flags) == 0
    assert recorder.loaded["model_folder"] == results / expected


def test_the_only_model_needs_no_flag(results: Path, recorder: Recorder) -> None:
    for folder in results.glob("Dataset004*/*/fold_0/checkpoint_final.pth"):
        folder.unlink()
    assert predict(results) == 0
    assert recorder.loaded["model_folder"] == results / "Dataset012_Knee/ldsegPlans__2d"


def test_no_such_model(results: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(results, "-d", "20") == 2
    err = capsys.readouterr().err
    assert f"no model of dataset 20 is trained in {results}. There are:" in err and "-d 12 -c 2d" in err
    assert predict(results, "--results", str(results / "empty")) == 2
    assert f"no trained model in {results / 'empty'}. Train one with ldseg_train" in capsys.readouterr().err


def test_flags_reach_the_predictor(results: Path, recorder: Recorder) -> None:
    model = results / "Dataset012_Knee" / "ldsegPlans__2d"
    flags = ["-m", str(model), "-f", "0", "all", "--steps", "3", "--samples", "5", "--seed", "7", "--device", "cpu", "--tile-batch", "2"]
    assert predict(results, *flags, "--overwrite") == 0
    expected = {"model_folder": [model], "folds": ["0", "all"], "device": "cpu", "steps": 3, "samples": 5, "seed": 7, "tile_batch": 2}
    assert recorder.loaded == {**expected, "options": Options()}
    assert recorder.closed
    assert recorder.predicted["inputs"] == results.parent / "in" and recorder.predicted["output"] == results.parent / "out"
    assert recorder.predicted["overwrite"] is True


def test_flags_of_how_networks_run_and_of_the_share_of_cases(results: Path, recorder: Recorder) -> None:
    models = [str(results / "Dataset004_Hippocampus" / f"ldsegPlans__{c}") for c in ("2d", "3d_fullres")]
    assert predict(results, "-m", *models, "--tta", "mirror", "--precision", "bf16", "--compile", "--part", "2/3") == 0
    assert recorder.loaded["model_folder"] == [Path(m) for m in models]
    assert recorder.loaded["options"] == Options(mirror=True, mirror_samples=False, precision="bf16", compile=True)
    assert recorder.predicted["part"] == (2, 3)
    assert predict(results, "-m", *models, "--tta", "none") == 0
    assert recorder.loaded["options"] == Options(mirror_samples=False)


def test_going_on(results: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(results, "-d", "12") == 0 and recorder.predicted["resume"] is False
    capsys.readouterr()
    recorder.statuses = [CaseStatus("a", "kept", "", 1.0), CaseStatus("b", "done", "", 1.0)]
    assert predict(results, "-d", "12", "--continue") == 0 and recorder.predicted["resume"] is True
    assert capsys.readouterr().out.startswith("2 of 2 cases predicted, 1 of them earlier: ")
    with pytest.raises(SystemExit, match="2"):
        predict(results, "-d", "12", "--continue", "--overwrite")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_and_gives_its_exit_code(
    results: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def predict_folder(*args: Any, stop: threading.Event, **more: Any) -> list[CaseStatus]:
        signal.raise_signal(number)
        assert stop.wait(5)
        return [CaseStatus("a", "done", "", 1.0)]

    monkeypatch.setattr(recorder, "predict_folder", predict_folder)
    assert predict(results, "-d", "12") == code
    assert capsys.readouterr().err.startswith("interrupted: 1 cases are dealt with, see the manifest in ")
    assert recorder.closed


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/2", "a/b"])
def test_parts_that_cannot_be(results: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        predict(results, f"--part={text}")
    assert f"'{text}' is not a part k/n" in capsys.readouterr().err


def test_without_flags_the_plans_decide(results: Path, recorder: Recorder) -> None:
    assert predict(results, "-d", "12") == 0
    assert [recorder.loaded[k] for k in ("folds", "steps", "samples", "tile_batch")] == [None] * 4
    assert recorder.predicted["overwrite"] is False


def test_failed_cases_are_named_and_the_exit_code_is_1(results: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    recorder.statuses.append(CaseStatus("b", "failed", "b_0000.nii.gz is truncated", 0.1))
    assert predict(results, "-d", "12", "--quiet") == 1
    assert capsys.readouterr().err == "failed: b: b_0000.nii.gz is truncated\n"
    assert predict(results, "-d", "12") == 1
    assert capsys.readouterr().out.startswith("1 of 2 cases predicted: ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-m", "x", "-d", "4"), "-m names the model already"),
        (("-m", "x", "-p", "a"), "-m names the model already"),
        (("-i", "/nowhere/scan.nii.gz"), "-i /nowhere/scan.nii.gz does not exist"),
    ],
)
def test_bad_flags(results: Path, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(results, *flags) == 2
    assert message in capsys.readouterr().err


def test_doubt_flags_reach_the_predictor(results: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(results, "-d", "12") == 0
    assert recorder.predicted["extras"] == Extras() and recorder.predicted["flag_below"] is None
    flags = ["--save-probabilities", "npz", "--save-uncertainty", "--save-samples", "--preview", "--flag-below", "0.8"]
    out = results.parent / "out"
    sizes = CaseScore(1, None, 0.9, 0.85, {}, predicted_dice=0.7)
    table = {"a": case_record(sizes, 0.8), "b": case_record(replace(sizes, predicted_dice=None), 0.8)}
    PredictionTable(out, {}).write(table)
    assert predict(results, "-d", "12", *flags) == 0
    assert recorder.predicted["extras"] == Extras("npz", True, True, True) and recorder.predicted["flag_below"] == 0.8
    assert "flagged in predictions.csv: 1 with a predicted Dice below 0.8, 1 without a predicted Dice" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--flag-below", "1.1"], ["--flag-below", "nan"], ["--save-probabilities", "pickle"]])
def test_impossible_doubt_flags(results: Path, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        predict(results, "-d", "12", *flags)
    assert caught.value.code == 2
