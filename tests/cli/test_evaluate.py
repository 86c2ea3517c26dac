"""ldseg_evaluate."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ldseg_auto.cli import common
from ldseg_auto.cli.evaluate import build, work
from ldseg_auto.data.demo import write_demo


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A demo whose two test masks are copied as predictions."""
    folder = write_demo(tmp_path / "raw" / "Dataset900_Demo", cases=5, held_out=2)
    shutil.copytree(folder / "labelsTs", tmp_path / "prediction")
    return tmp_path / "raw"


def evaluate(raw: Path, *flags: str, dataset: tuple[str, ...] = ("-d", "900")) -> int:
    folder = raw / "Dataset900_Demo"
    return common.run(
        build(), work, [str(folder / "labelsTs"), str(raw.parent / "prediction"), "--raw", str(raw), "-np", "1", *dataset, *flags]
    )


def test_summary_lies_beside_the_predictions(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(raw) == 0
    summary = json.loads((raw.parent / "prediction" / "summary.json").read_text())
    assert summary["foreground_mean"] == {"dice": 1.0, "iou": 1.0, "hd95": 0.0, "nsd": 1.0}
    rows = list(csv.DictReader((raw.parent / "prediction" / "summary.csv").open()))
    assert len(rows) == 2 * 3 and {r["dice"] for r in rows} == {"1.0"}
    assert "organ_a          1.0000" in capsys.readouterr().out


def test_again_finds_the_summary_no_obstacle(raw: Path) -> None:
    assert evaluate(raw) == evaluate(raw) == 0


def test_output_and_tolerance(raw: Path) -> None:
    assert evaluate(raw, "-o", str(raw / "out" / "scores.json"), "--tolerance", "2.5") == 0
    assert json.loads((raw / "out" / "scores.json").read_text())["tolerance"] == 2.5
    assert sorted(f.name for f in (raw / "out").iterdir()) == ["scores.csv", "scores.json"]
    assert not (raw.parent / "prediction" / "summary.json").exists()


def test_dataset_json_by_name_or_below_preprocessed(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = raw / "Dataset900_Demo" / "dataset.json"
    assert evaluate(raw, dataset=("--dataset-json", str(source))) == 0
    preprocessed = raw.parent / "preprocessed"
    (preprocessed / "Dataset901_Other").mkdir(parents=True)
    shutil.copy(source, preprocessed / "Dataset901_Other" / "dataset.json")
    assert evaluate(raw, "--preprocessed", str(preprocessed), dataset=("-d", "901")) == 0
    assert evaluate(raw, "--preprocessed", str(preprocessed), dataset=("-d", "7")) == 2
    assert "there is no dataset 7" in capsys.readouterr().err


def test_missing_prediction(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw.parent / "prediction" / "demo_test_001.nii.gz").unlink()
    assert evaluate(raw) == 2
    assert "lacks 1 of 2 cases" in capsys.readouterr().err
    assert evaluate(raw, "--allow-missing") == 0
    assert json.loads((raw.parent / "prediction" / "summary.json").read_text())["missing"] == ["demo_test_001"]


def test_picture(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = raw / "compare.png"
    assert evaluate(raw, "--picture", str(png), "--images", str(raw / "Dataset900_Demo" / "imagesTs")) == 0
    with Image.open(png) as image:
        assert image.format == "PNG" and min(image.size) > 500
    assert evaluate(raw, "--picture", str(png)) == 2
    assert "--picture and --images go together" in capsys.readouterr().err
    assert evaluate(raw, "--picture", str(png), "--images", str(raw / "Dataset900_Demo" / "imagesTr")) == 2
    assert "holds no image of case demo_test_00" in capsys.readouterr().err


def test_output_of_another_kind_is_refused(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(raw, "-o", str(raw / "scores.csv")) == 2
    assert "expected a file name that ends in .json" in capsys.readouterr().err
