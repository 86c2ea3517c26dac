"""The report after training: measured reconstruction beside the planned ceiling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ldseg_auto.report.trained import Reconstruction, reconstructions, trained_section


def leave(results: Path, model: str, fold: str, content: object) -> None:
    """A latent.json as training writes it."""
    folder = results / "Dataset001_Toy" / model / f"fold_{fold}"
    folder.mkdir(parents=True)
    (folder / "latent.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_every_class_of_every_fold_of_these_plans(tmp_path: Path) -> None:
    leave(tmp_path, "ldsegPlans__2d", "1", {"reconstruction": {"a": 0.9}, "ceilings": {"a": 0.99}, "ceiling": 0.99})
    leave(tmp_path, "ldsegPlans__2d", "0", {"reconstruction": {"a": 0.95, "b": None}, "ceilings": {"b": 0.97}, "ceiling": 0.97})
    leave(tmp_path, "own__2d", "0", {"reconstruction": {"a": 0.1}, "ceilings": {}, "ceiling": 0.97})
    assert reconstructions(tmp_path, "Dataset001_Toy", "ldsegPlans") == [
        Reconstruction("2d", "0", "a", None, 0.95), Reconstruction("2d", "0", "b", 0.97, None), Reconstruction("2d", "1", "a", 0.99, 0.9),
    ]  # fmt: skip
    assert reconstructions(tmp_path, "Dataset002_Other", "ldsegPlans") == []


@pytest.mark.parametrize("content", ["{", "[]", {"reconstruction": [1], "ceilings": {}}, {"ceilings": {"a": 1}}])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, content: object) -> None:
    leave(tmp_path, "ldsegPlans__2d", "0", content)
    assert reconstructions(tmp_path, "Dataset001_Toy", "ldsegPlans") == []


def test_rows_show_both_numbers_and_names_are_escaped() -> None:
    found = trained_section([Reconstruction("2d", "0", "<b>", 0.9876, 0.9), Reconstruction("2d", "0", "c", None, None)])
    assert "<b>" not in found.body and "&lt;b&gt;" in found.body
    assert "0.988" in found.body and "0.900" in found.body and found.body.count(">-<") == 2
    assert "No model is trained" in trained_section([]).body
