"""What a fold's files say: scores by hand, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ldseg_auto.report.model_files import read_fold, read_scores

FILES = ("manifest.json", "training_log.csv", "steps.json", "latent.json", "validation/summary.json", "predicted_dice.json")


def metrics(dice: float | None, reference: float | None = 2.0, predicted: float | None = 1.0) -> dict:
    return {"dice": dice, "volume_reference_ml": reference, "volume_predicted_ml": predicted}


def test_scores_are_means_over_raters_and_present_classes(tmp_path: Path) -> None:
    cases = {
        "a": {"0": {"x": metrics(0.8), "y": metrics(None, 0.0, 0.0)}, "1": {"x": metrics(0.6, 4.0), "y": metrics(0.5, 1.0, 0.0)}},
        "b": {"0": {"x": metrics(None, None, None), "y": metrics(None, None, None)}},
    }
    (tmp_path / "summary.json").write_text(json.dumps({"cases": cases}))
    a, b = read_scores(tmp_path / "summary.json", "0")
    assert a.classes == {"x": pytest.approx(0.7), "y": 0.5} and a.dice == pytest.approx(0.6)
    assert a.volumes == (pytest.approx((2.0 + 5.0) / 2), 1.0)
    assert b.dice is None and b.volumes is None


def test_an_empty_folder_misses_everything(tmp_path: Path) -> None:
    found = read_fold(tmp_path / "fold_3")
    assert found.fold == "3" and tuple(found.missing) == FILES and not found.finished and not found.rows


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "fold_0" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe{")
    assert any(m.startswith(f"{name} (it cannot be read:") for m in read_fold(tmp_path / "fold_0").missing)


@pytest.mark.parametrize("content", [{"dice": [0.5]}, {"dice": {"1": "high"}}])
def test_curves_of_no_numbers_are_damaged(tmp_path: Path, content: dict) -> None:
    (tmp_path / "steps.json").write_text(json.dumps(content))
    assert any("expected numbers" in m for m in read_fold(tmp_path).missing)
