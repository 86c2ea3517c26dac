"""The training log."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ldseg_auto.training import log

ROWS = [
    {"epoch": i, "iteration": 5 * i, "seconds": 1.0, "learning_rate": 0.1, "loss": 2.0 / i, "dice_mean": 0.1 * i, "dice_a": None}
    for i in (1, 2, 3)
]


def test_table_and_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log.write_log(tmp_path, ROWS)
    with open(tmp_path / "training_log.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(r["loss"]) for r in rows] == [2.0, 1.0, 2 / 3]
    assert rows[0]["dice_a"] == ""
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_table_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, rows: object) -> None:
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(log, "_draw", missing)
    log.write_log(tmp_path, ROWS)
    assert [p.name for p in tmp_path.iterdir()] == ["training_log.csv"]


def test_nothing_to_write(tmp_path: Path) -> None:
    log.write_log(tmp_path, [])
    assert not list(tmp_path.iterdir())
