"""A process that makes batches is killed in the middle of a training: a clear error, and the last checkpoint is whole."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import get_worker_info

from ldseg_auto.training import checkpoint, loop
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.supply import Waiting, stream
from ldseg_auto.training.transforms import Batch, Raw


def test_a_worker_killed_in_the_third_epoch(bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Epochs of two iterations; batches are made at most four ahead of the one that kills, so the first epoch's checkpoint is there."""
    original = Batches.raws

    def raws(self: Batches, index: int) -> list[Raw]:
        if index == 7 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, index)

    def one_worker(batches: Batches, first: int, workers: int, waiting: Waiting) -> Iterator[Batch]:
        return stream(batches, first, 1, waiting)

    monkeypatch.setattr(Batches, "raws", raws)
    monkeypatch.setattr(loop, "stream", one_worker)
    assert bench.train(1, 1, length=("--epochs", 6)) == 1
    error = capsys.readouterr().err
    assert re.search(r"failed: a process that makes training batches ended unexpectedly \(.*Try --set training.workers=0", error)
    assert "Traceback" not in error
    folder = bench.model(1, "3d_fullres") / "fold_1"
    reached = checkpoint.load(folder / "checkpoint_latest.pth")["iteration"]
    assert reached in (2, 4, 6)
    assert not (folder / "checkpoint_final.pth").exists()
    monkeypatch.undo()
    assert bench.train(1, 1, length=("--epochs", 4, "--continue")) == 0
    assert checkpoint.load(folder / "checkpoint_final.pth")["iteration"] == 8
