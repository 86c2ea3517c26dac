"""Checkpoints: whole or not at all, and refused when damaged or of other data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ldseg_auto.errors import ModelError
from ldseg_auto.training import checkpoint

CONTENT = {
    "ema": {"weight": torch.arange(3.0)},
    "iteration": 7,
    "rows": [{"dice": None, "loss": 0.5}],
    "dataset_name": "A",
    "fingerprint_hash": "f",
}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "fold_0" / "checkpoint.pth"
    checkpoint.save(path, CONTENT)
    content = checkpoint.load(path)
    assert content["rows"] == CONTENT["rows"] and content["iteration"] == 7
    torch.testing.assert_close(content["ema"], CONTENT["ema"])


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pth"
    checkpoint.save(path, CONTENT)
    before = path.read_bytes()

    def full(content: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"iteration": 8})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.pth does not exist; train first"):
        checkpoint.load(tmp_path / "none.pth")


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    checkpoint.save(path, CONTENT)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelError, match=r"checkpoint.pth cannot be read .*damaged"):
        checkpoint.load(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"ema": Path("x")}, path)
    with pytest.raises(ModelError, match="UnpicklingError"):
        checkpoint.load(path)


def test_something_else(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="holds a list; it is no checkpoint"):
        checkpoint.load(path)


def test_origin() -> None:
    checkpoint.check_origin(CONTENT, "A", "f", Path("p"))
    for name, digest in (("B", "f"), ("A", "g")):
        with pytest.raises(ModelError, match=rf"trained on A \(fingerprint f\), the plans are of {name} \({digest}\)"):
            checkpoint.check_origin(CONTENT, name, digest, Path("p"))
    with pytest.raises(ModelError, match="trained on None"):
        checkpoint.check_origin({}, "A", "f", Path("p"))
