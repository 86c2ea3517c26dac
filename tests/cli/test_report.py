"""ldseg_report: flags, bad input and help. (The page itself: tests/report; with a trained model: tests/end_to_end.)"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ldseg_auto import model_report
from ldseg_auto.cli import common
from ldseg_auto.cli.report import build, work
from ldseg_auto.model_report import Look


def report(tmp_path: Path, *flags: str) -> int:
    roots = ["--results", str(tmp_path / "results"), "--preprocessed", str(tmp_path / "preprocessed")]
    return common.run(build(), work, [*flags, *roots])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two models of dataset 4 with a checkpoint each."""
    for name in ("2d", "3d_fullres"):
        folder = tmp_path / "results" / "Dataset004_Toy" / f"ldsegPlans__{name}"
        (folder / "fold_0").mkdir(parents=True)
        (folder / "fold_0" / "checkpoint_final.pth").touch()
        (folder / "plans.json").write_text(json.dumps({"dataset_name": "Dataset004_Toy"}))
    return tmp_path / "results"


def test_flags_reach_the_report(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr(model_report, "write_model_report", lambda *a, **k: calls.append((*a[:4], k)) or Path("page.html"))
    (tmp_path / "preprocessed" / "Dataset004_Toy").mkdir(parents=True)
    flags = ["--cases", "3", "--time-budget", "90s", "--device", "cpu", "-o", "x.html"]
    assert report(tmp_path, "4", "-c", "2d", *flags) == 0
    model = models / "Dataset004_Toy" / "ldsegPlans__2d"
    assert calls[0][:4] == (model, Path("x.html"), tmp_path / "preprocessed" / "Dataset004_Toy", Look(3, 90.0, "cpu"))
    assert capsys.readouterr().out == "Report: page.html\n"
    (tmp_path / "preprocessed" / "Dataset004_Toy").rmdir()
    assert report(tmp_path, "-m", str(model)) == 0
    assert calls[1][:4] == (model, None, None, Look())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), r"2 models are trained in .*; choose one:\n  4 -c 2d   \(Dataset004_Toy\)\n  4 -c 3d_fullres   \(Dataset004_Toy\)"),
        (("5",), r"no model of dataset 5 is trained in .* There are:\n  4 -c 2d "),
        (("4", "-m", "here"), "-m names the model already: leave out DATASET, -c and -p."),
        (("4", "-c", "2d", "-o", "page.txt"), r"-o page.txt: expected a file name that ends in .html"),
        (("-m", "nowhere"), r"nowhere is no model folder: it has no plans.json. Expected results/DatasetXXX_Name/PLANS__CONFIG"),
    ],
)
def test_bad_input(tmp_path: Path, models: Path, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(tmp_path, *flags) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and "Traceback" not in err


@pytest.mark.parametrize(("flag", "value"), [("--cases", "-1"), ("--time-budget", "soon"), ("--device", "tpu")])
def test_bad_values(tmp_path: Path, flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        report(tmp_path, f"{flag}={value}")
    assert stop.value.code == 2 and flag in capsys.readouterr().err


def test_help_has_examples_and_exit_codes() -> None:
    text = build().format_help()
    assert "examples:" in text and "exit code: 0 done, 1 failed, 2 bad input, 130 interrupted" in text
