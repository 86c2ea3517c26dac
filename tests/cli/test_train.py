"""ldseg_train: flags and what it prints. (Training itself: tests/training, tests/end_to_end.)"""

from __future__ import annotations

import inspect
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldseg_auto.cli import common
from ldseg_auto.cli.train import LOGGERS, build, work
from ldseg_auto.errors import Stopped
from ldseg_auto.training import run
from ldseg_auto.training.options import Options
from ldseg_auto.training.watch import KNOWN

SIGNATURE = inspect.signature(run.train_fold)
SUMMARY = {"mean": 0.75, "per_class": {"organ": 0.75, "lesion": None}, "cases": {"a": {}, "b": {}}}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of train_fold, bound to its real signature; no training."""
    found: list[dict[str, Any]] = []

    def record(*args: Any, **kwargs: Any) -> Path:
        bound = SIGNATURE.bind(*args, **kwargs)
        bound.apply_defaults()
        found.append({**bound.arguments, **vars(bound.arguments["options"])})
        (tmp_path / "fold" / "validation").mkdir(parents=True, exist_ok=True)
        (tmp_path / "fold" / "validation" / "summary.json").write_text(json.dumps(SUMMARY))
        return tmp_path / "fold"

    monkeypatch.setattr(run, "train_fold", record)
    (tmp_path / "preprocessed" / "Dataset004_Test").mkdir(parents=True)
    return found


def train(tmp_path: Path, *flags: str) -> int:
    return common.run(build(), work, [*flags, "--preprocessed", str(tmp_path / "preprocessed"), "--results", str(tmp_path / "results")])


def test_defaults_leave_everything_to_the_plans(tmp_path: Path, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, "4", "0") == 0
    assert calls[0]["preprocessed"] == tmp_path / "preprocessed" / "Dataset004_Test"
    assert (calls[0]["results"], calls[0]["fold"]) == (tmp_path / "results", 0)
    for name in ("configuration", "epochs", "iterations", "time_budget", "resume", "device", "seed", "plans_name"):
        assert calls[0][name] == getattr(Options(), name), name
    assert capsys.readouterr().out == (f"Model: {tmp_path / 'fold'}\nValidation Dice: 0.7500 (organ 0.7500, lesion -; 2 cases)\n")


def test_flags_reach_the_training(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    flags = ["-c", "2d", "--iterations", "30", "--time-budget", "1.5h", "--set", "batch_size=4", "--set", "training.augmentation=false"]
    assert train(tmp_path, "4", "all", *flags, "--continue", "--device", "cpu", "--seed", "3", "--plans-name", "mine", "--quiet") == 0
    expected = {
        "fold": "all", "configuration": "2d", "iterations": 30, "epochs": None, "time_budget": 5400.0, "resume": True,
        "device": "cpu", "seed": 3,
        "settings": ["batch_size=4", "training.augmentation=false"], "plans_name": "mine",
    }  # fmt: skip
    assert {name: calls[0][name] for name in expected} == expected
    assert train(tmp_path, "4", "1", "--epochs", "9") == 0
    assert calls[1]["epochs"] == 9 and calls[1]["pretrained"] is None
    assert train(tmp_path, "4", "1", "--pretrained", "models/a") == 0
    assert calls[2]["pretrained"] == Path("models/a")


def test_where_the_log_goes(tmp_path: Path, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["--log-to", "wandb", "mlflow"], ["--log-to", "none"]):
        assert train(tmp_path, "4", "0", *flags) == 0
    assert [list(c["log_to"]) for c in calls] == [["tensorboard"], ["wandb", "mlflow"], []]
    assert train(tmp_path, "4", "0", "--log-to", "none", "wandb") == 2
    assert "--log-to none wandb: none goes alone" in capsys.readouterr().err
    assert set(LOGGERS) == {*KNOWN, "none"}


def test_early_stopping_and_the_signals_reach_the_training(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    assert train(tmp_path, "4", "1", "--early-stopping", "50") == train(tmp_path, "4", "1") == 0
    assert [call["early_stopping"] for call in calls] == [50, None] and calls[0]["stop"]() is False


def test_compile_is_a_setting_that_the_saved_plans_hold(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    assert train(tmp_path, "4", "1", "--set", "batch_size=3", "--compile") == 0
    assert list(calls[0]["settings"]) == ["batch_size=3", "training.compile=true"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_stops_the_training(
    tmp_path: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*args: Any, stop: Callable[[], bool], **kwargs: Any) -> Path:
        signal.raise_signal(number)
        assert stop()
        raise Stopped("stopped at iteration 7")

    monkeypatch.setattr(run, "train_fold", stopped)
    assert train(tmp_path, "4", "0") == code
    out, err = capsys.readouterr()
    assert err.strip() == "stopped at iteration 7" and not out


def test_dataset_that_is_not_preprocessed(tmp_path: Path, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, "5", "0") == 2
    assert "there is no dataset 5" in capsys.readouterr().err
    assert common.run(build(), work, ["4", "0", "--preprocessed", str(tmp_path / "nowhere")]) == 2
    assert "does not exist. Run ldseg_plan_and_preprocess first" in capsys.readouterr().err
    assert not calls


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["4", "-1"], "FOLD"),
        (["four", "0"], "'four' is not a dataset ID"),
        (["4", "x"], "'x' is not a fold"),
        (["4", "0", "--time-budget", "soon"], "'soon' is not a duration"),
        (["4", "0", "--early-stopping", "-1"], "'-1' is not a whole number of 0 or more"),
        (["4", "0", "--epochs", "0"], "'0' is not a whole number of 1 or more"),
        (["4", "0", "--epochs", "5", "--iterations", "5"], "not allowed with argument"),
        (["4", "0", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["4", "0", "--log-to", "tensorbord"], "invalid choice: 'tensorbord'"),
    ],
)
def test_bad_flags(tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train(tmp_path, *flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
