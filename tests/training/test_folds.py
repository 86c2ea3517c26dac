"""How far the folds of a cross-validation are, and the table of their Dice."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldseg_auto.files import write_json
from ldseg_auto.training.folds import Fold, table


def make(model: Path, number: int, mean: float | None, **classes: float | None) -> Fold:
    """A finished fold."""
    folder = model / f"fold_{number}"
    write_json(folder / "validation/summary.json", {"mean": mean, "per_class": classes, "cases": {}})
    (folder / "checkpoint_final.pth").touch()
    return Fold(number, folder)


@pytest.mark.parametrize(
    ("names", "begun", "finished"),
    [
        ((), False, False),
        (("job.log", "checkpoint_best.pth"), False, False),
        (("checkpoint_previous.pth",), True, False),
        (("checkpoint_latest.pth",), True, False),
        (("checkpoint_final.pth",), True, False),  # killed before it was validated
        (("checkpoint_final.pth", "validation/summary.json"), True, True),
    ],
)
def test_how_far_a_fold_is(tmp_path: Path, names: tuple[str, ...], begun: bool, finished: bool) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    fold = Fold(0, tmp_path)
    assert (fold.begun, fold.finished) == (begun, finished)


def test_table_of_the_finished_folds(tmp_path: Path) -> None:
    """Means by hand; a fold without a class does not count in that class's mean."""
    folds = [make(tmp_path, 0, 0.8, organ=0.9, lesion=0.7), make(tmp_path, 1, 0.5, organ=0.5, lesion=None), Fold(2, tmp_path / "none")]
    assert table(folds) == [
        "fold  Dice    organ   lesion",
        "0     0.8000  0.9000  0.7000",
        "1     0.5000  0.5000  -",
        "mean  0.6500  0.7000  0.7000",
    ]
    assert table(folds[2:]) == []
    assert table([make(tmp_path, 3, None, organ=None)])[-1] == "mean  -     -"
