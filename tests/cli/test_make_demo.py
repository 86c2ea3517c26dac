"""ldseg_make_demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldseg_auto.cli import common
from ldseg_auto.cli.make_demo import build, work


def make(*flags: str) -> int:
    return common.run(build(), work, flags)


def test_writes_the_dataset_and_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make("--raw", str(tmp_path), "-d", "12", "--cases", "5", "--held-out", "1", "--seed", "1") == 0
    folder = tmp_path / "Dataset012_Demo"
    assert len(list((folder / "imagesTr").iterdir())) == 5
    assert len(list((folder / "labelsTs").iterdir())) == 1
    assert capsys.readouterr().out == f"{folder}: 5 training cases and 1 test cases.\nNext: ldseg_plan_and_preprocess -d 12\n"


def test_takes_the_folder_from_the_environment_or_the_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ldseg_raw", str(tmp_path / "variable"))
    assert make("--cases", "5", "--held-out", "0", "--quiet") == 0
    assert make(str(tmp_path / "argument"), "--cases", "5", "--held-out", "0", "--quiet") == 0
    assert (tmp_path / "variable" / "Dataset900_Demo" / "dataset.json").exists()
    assert (tmp_path / "argument" / "Dataset900_Demo" / "dataset.json").exists()


def test_keeps_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (str(tmp_path), "--cases", "5", "--held-out", "0")
    assert make(*flags) == 0
    assert make(*flags) == 2
    assert "is there already; nothing was changed" in capsys.readouterr().err
    assert make(*flags, "--overwrite") == 0
