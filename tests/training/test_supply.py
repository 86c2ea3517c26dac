"""Batches in order from workers, errors of workers, and the time that training waits for them."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldseg_auto.errors import DatasetError, InputError, LdsegError
from ldseg_auto.planners.plans import Configuration, Intensities, Plans
from ldseg_auto.training import supply
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.supply import Waiting, augment_there, explained, stream
from ldseg_auto.training.transforms import Batch

Make = Callable[..., Configuration]
Store = Callable[..., list[str]]
CPU = torch.device("cpu")


def items_equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_workers_change_nothing(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    batches = Batches(tmp_path, store(tmp_path, (6, 20, 24)), make_configuration(patch=(4, 8, 8)), 0, 6, True)
    alone, together = (list(stream(batches, 2, workers, Waiting(CPU))) for workers in (0, 2))
    assert len(alone) == 4
    assert all(items_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert items_equal(alone[0], batches[2])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("patch", [(8, 12), (6, 12, 12)])
def test_the_device_makes_the_same_batches(
    tmp_path: Path, store: Store, make_configuration: Make, workers: int, patch: tuple[int, ...]
) -> None:
    """augment_on = device, whose device is the CPU here: the same samples up to rounding, and the same labels."""
    names = store(tmp_path, (8, 20, 24))
    there, here = (
        Batches(tmp_path, names, make_configuration(patch=patch, batch=12, augment_on=place), 0, 3, True) for place in ("device", "cpu")
    )
    for (image, label), (expected, labels) in zip(stream(there, 0, workers, Waiting(CPU)), stream(here, 0, 0, Waiting(CPU)), strict=True):
        torch.testing.assert_close(image, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(label, labels)


def test_where_augmentation_runs() -> None:
    cuda = torch.device("cuda", 0)
    assert augment_there("device", CPU) and augment_there("auto", cuda) and augment_there("device", cuda)
    assert not augment_there("auto", CPU) and not augment_there("cpu", cuda) and not augment_there("cpu", CPU)


class Failing(Batches):
    """Item 1 raises `error`, or its process gets the signal."""

    error: Exception | signal.Signals = signal.SIGKILL

    def __getitem__(self, index: int) -> Batch:
        if index == 1 and isinstance(self.error, signal.Signals):
            os.kill(os.getpid(), self.error)
        elif index == 1:
            raise self.error
        return super().__getitem__(index)


def failing(folder: Path, store: Store, make_configuration: Make, error: Exception | signal.Signals) -> Failing:
    batches = Failing(folder, store(folder, (6, 20, 24)), make_configuration(patch=(4, 8, 8)), 0, 6, False)
    batches.error = error
    return batches


def test_a_killed_worker_is_explained(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    batches = failing(tmp_path, store, make_configuration, signal.SIGKILL)
    with pytest.raises(LdsegError, match=r"makes training batches ended unexpectedly .*Try --set training.workers=0"):
        list(stream(batches, 0, 1, Waiting(CPU)))


def test_shared_memory_that_runs_out_is_explained(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    """A worker gets SIGBUS when /dev/shm is full; torch sees either the signal or that the process has gone."""
    batches = failing(tmp_path, store, make_configuration, signal.SIGBUS)
    with pytest.raises(LdsegError, match=r"shared memory.*/dev/shm has \d+ of \d+ MiB free.*workers=0.*--shm-size=8g"):
        list(stream(batches, 0, 1, Waiting(CPU)))


IN_SMALL_SHARED_MEMORY = """
import sys, torch
from pathlib import Path
from ldseg_auto.planners.plans import Plans
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.supply import Waiting, stream
plans = Plans.load(Path(sys.argv[1]) / "plans.json")
batches = Batches(Path(sys.argv[1]), ["case0"], plans.configuration(), 0, 40, False)
list(stream(batches, 0, 2, Waiting(torch.device("cpu"))))
"""


def test_full_shared_memory_ends_the_training(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    """A real /dev/shm of 1 MiB, in a mount namespace of its own; batches of 0.4 MiB, of which eight are made ahead."""
    small = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("mounting needs to be root")
    store(tmp_path, (32, 32, 32), number=1)
    configuration = make_configuration(patch=(32, 32, 32), batch=1)
    none = Intensities(0, 0, 1, 0, 1, 0, 1)
    Plans("Dataset001_T", "p", "none", ".nii.gz", (0, 1, 2), (none,), {"c": configuration}, "c").save(tmp_path / "plans.json")
    command = [*small, sys.executable, "-c", IN_SMALL_SHARED_MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.search(r"LdsegError: .* ran out of shared memory .*No space left.*; /dev/shm has \d of 1 MiB free", done.stderr)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (DatasetError("case x is odd"), DatasetError, "^case x is odd$"),
        (MemoryError("Unable to allocate 3 GiB"), LdsegError, r"memory ran out .*Unable to allocate 3 GiB\).*fewer training.workers"),
        (OSError(24, "Too many open files"), LdsegError, r"file descriptors.*ulimit -n 4096"),
        (RuntimeError("unable to write to file </torch_12_3>"), LdsegError, r"shared memory.*unable to write"),
        (ZeroDivisionError("a bug"), ZeroDivisionError, "a bug"),
    ],
)
def test_errors_of_workers_keep_their_cause(
    tmp_path: Path, store: Store, make_configuration: Make, workers: int, error: Exception, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        list(stream(failing(tmp_path, store, make_configuration, error), 0, workers, Waiting(CPU)))


def test_other_errors_of_training_pass_unchanged() -> None:
    for error in (LdsegError("the loss\nis nan. Error: yes"), RuntimeError("shapes differ"), InputError("no")):
        with pytest.raises(type(error)) as caught, explained():
            raise error
        assert caught.value is error


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_case_is_named(tmp_path: Path, store: Store, make_configuration: Make, workers: int) -> None:
    names = store(tmp_path, (6, 20, 24), number=1)
    (tmp_path / f"{names[0]}.b2nd").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"^[^\n]*case0.b2nd cannot be read[^\n]*$"):
        next(stream(Batches(tmp_path, names, make_configuration(patch=(4, 8, 8)), 0, 6, False), 0, workers, Waiting(CPU)))


class Slow(Batches):
    def __getitem__(self, index: int) -> Batch:
        time.sleep(0.05)
        return super().__getitem__(index)


def test_the_share_of_waiting_is_measured_and_warned_of(
    tmp_path: Path, store: Store, make_configuration: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """0.05 s a batch, and 0.05 s of work: half; with a worker the work hides the making of the next."""
    batches = Slow(tmp_path, store(tmp_path, (6, 20, 24)), make_configuration(patch=(4, 8, 8)), 0, 100, False)
    shares = {}
    for workers in (0, 1):
        waiting = Waiting(CPU)
        source = stream(batches, 0, workers, waiting)
        for _ in range(3):
            waiting.begin()
            for _ in range(5):
                next(source)
                time.sleep(0.05 if workers == 0 else 0.1)
            shares[workers] = waiting.share(workers)
        source.close()
    assert shares[0] == pytest.approx(0.5, abs=0.15)
    assert shares[1] < 0.2
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and "% of the last epoch was spent waiting for batches. Use more workers" in warnings[0]
    assert 1 - supply.MUCH > 0.5
