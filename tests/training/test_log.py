"""The training log."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldseg_auto.report.model_files import read_log
from ldseg_auto.training import log

ROWS: list[dict[str, Any]] = [
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


def test_rows_of_an_older_version_lack_a_column(tmp_path: Path) -> None:
    log.write_log(tmp_path, [*ROWS, {**ROWS[2], "epoch": 4, "iteration": 20, "waiting": 0.1}])
    assert [r["waiting"] for r in read_log(tmp_path / "training_log.csv")] == [None, None, None, 0.1]


@pytest.mark.parametrize("epochs", [1, 1000])
@pytest.mark.parametrize("classes", [1, 12, 60])
def test_curves_of_any_length_and_of_many_classes(tmp_path: Path, epochs: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every class has a line; the legend names each, or of many the lowest and the highest."""
    from matplotlib.figure import Figure

    made: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (made.append(self), save(self, *a, **k))[1])
    names = [f"$x_{i}" for i in range(classes)]
    dice = {f"dice_{n}": 0.5 + i / 200 for i, n in enumerate(names)}
    rows = [{**ROWS[0], "epoch": e, "iteration": 5 * e, "dice_mean": 0.5, **dice} for e in range(1, epochs + 1)]
    for row in rows:
        del row["dice_a"]
    log.write_log(tmp_path, rows)
    panel = made[0].axes[1]
    assert len(panel.lines) == classes + 1
    assert all(len(line.get_xdata()) == epochs for line in panel.lines)
    legend = [text.get_text() for text in panel.get_legend().get_texts()]
    assert len(legend) == (classes + 1 if classes <= 12 else 10)
    assert r"\$x_0  0.500" in legend and any(f"x_{classes - 1} " in entry for entry in legend)
    assert np.asarray(Image.open(tmp_path / "curves.png").convert("L")).min() < 100  # something is drawn


def test_without_matplotlib_the_table_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, rows: object) -> None:
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(log, "_draw", missing)
    log.write_log(tmp_path, ROWS)
    assert [p.name for p in tmp_path.iterdir()] == ["training_log.csv"]


def test_nothing_to_write(tmp_path: Path) -> None:
    log.write_log(tmp_path, [])
    assert not list(tmp_path.iterdir())
