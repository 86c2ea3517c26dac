"""ldseg_export and ldseg_import: flags and what they print. (Archives themselves: tests/sharing, tests/end_to_end.)"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ldseg_auto.cli import common, export, import_model


def run(module: object, *words: object) -> int:
    return common.run(module.build(), module.work, [str(w) for w in words])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def model(make_dataset: Callable[..., Path], make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    return make_model(root / "results", make_dataset(root / "raw", n_cases=2), seeds=(0, 1))


def test_what_is_printed(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "a.zip"
    assert run(export, model, "-o", archive) == 0
    first, licence, names, digest = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{archive}: \d+\.\d MiB, 4 files, folds 0 1", first)
    assert licence == "licence of the weights: not stated; name one with --licence" and "--anonymous" in names
    assert digest == f"SHA-256: {hashlib.sha256(archive.read_bytes()).hexdigest()}"
    assert run(import_model, archive, "--results", tmp_path / "results", "--sha256", digest.split()[1].upper()) == 0
    folder = tmp_path / "results" / "Dataset001_Toy" / "ldsegPlans__3d_fullres"
    assert capsys.readouterr().out.splitlines() == [
        f"Model: {folder} (Dataset001_Toy, 3d_fullres, folds 0 1)",
        "licence of the weights: not stated",
        f"Predict with: ldseg_predict -i IMAGES -o MASKS -m {folder}",
    ]


def test_flags_reach_the_export(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"old")
    assert run(export, model, "-o", archive, "-f", 1, "--licence", "mine", "--anonymous", "--overwrite", "--quiet") == 0
    assert capsys.readouterr().out == ""
    with zipfile.ZipFile(archive) as opened:
        told = json.loads(opened.read("manifest.json"))
    assert (list(told["folds"]), told["licence"], told["anonymous"]) == (["1"], "mine", True)
    assert run(export, model, "-o", tmp_path / "b.zip", "--checkpoint", "best") == 2
    assert "has no checkpoint_best.pth" in capsys.readouterr().err


def test_results_from_the_environment(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert run(export, model, "-o", tmp_path / "a.zip", "--quiet") == 0
    monkeypatch.setenv("ldseg_results", str(tmp_path / "models"))
    assert run(import_model, tmp_path / "a.zip") == 0
    assert run(import_model, tmp_path / "a.zip") == 2
    assert "exists already; nothing was changed" in capsys.readouterr().err
    assert run(import_model, tmp_path / "a.zip", "--overwrite") == 0
    assert (tmp_path / "models" / "Dataset001_Toy" / "ldsegPlans__3d_fullres" / "plans.json").exists()


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        (export, ["model"], "the following arguments are required: -o/--output"),
        (export, ["model", "-o", "a.zip", "-f", "x"], "'x' is not a fold"),
        (export, ["model", "-o", "a.zip", "--checkpoint", "latest"], "invalid choice: 'latest'"),
        (import_model, [], "the following arguments are required: FILE"),
        (import_model, ["a.zip", "--sha256", "abc"], "'abc' is no SHA-256; expected 64 hexadecimal digits"),
    ],
)
def test_bad_flags(module: object, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(module, *words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("module", [export, import_model])
def test_help_has_examples_and_exit_codes(module: object) -> None:
    text = module.build().format_help()  # type: ignore[attr-defined]
    assert "examples:\n  ldseg_" in text and "exit code: 0 done, 1 failed, 2 bad input, 130 interrupted" in text
