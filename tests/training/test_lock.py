"""The lock of a fold's folder."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.training import lock
from ldseg_auto.training.lock import fold_lock, remove_leftovers

pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="needs flock")
HOLDER = """
import os, sys, time
from pathlib import Path
from ldseg_auto.training.lock import fold_lock
with fold_lock(Path(sys.argv[1])):
    if "fork" not in sys.argv or os.fork() == 0:
        print(os.getpid(), flush=True)  # a child says so itself: then it has forgotten the lock
    time.sleep(60)
    os._exit(0)
"""


def holder(folder: Path, *more: str) -> tuple[subprocess.Popen, int]:
    """A process that holds the lock, and the id of the child that it has forked, or its own."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), *more], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_living_process_blocks_and_is_named_a_dead_one_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "fold_0"
    process, _ = holder(folder)
    with (
        pytest.raises(InputError, match=rf"fold_0 is in use by process {process.pid} on \S+, since .*Wait until it has ended"),
        fold_lock(folder),
    ):
        pass
    assert (folder / "lock").exists()
    process.kill()
    process.wait()
    assert (folder / "lock").exists()  # its file is still there
    with fold_lock(folder):
        assert str(os.getpid()) in (folder / "lock").read_text()
    assert list(folder.iterdir()) == []


def test_a_worker_that_outlives_its_parent_does_not_hold_the_lock(tmp_path: Path) -> None:
    process, child = holder(tmp_path, "fork")
    process.kill()
    process.wait()
    try:
        with fold_lock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_folders_that_stay_empty_are_taken_away_and_others_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError), fold_lock(tmp_path / "results" / "model" / "fold_0"):
        raise InputError("bad")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with fold_lock(tmp_path / "there"):
        pass
    with fold_lock(tmp_path / "new" / "fold_0"):
        (tmp_path / "new" / "fold_0" / "checkpoint_latest.pth").touch()
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "new", "new/fold_0", "new/fold_0/checkpoint_latest.pth", "there",
    ]  # fmt: skip


def test_a_file_system_without_locks_is_said_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING), fold_lock(tmp_path):
        pass
    assert "has no locks (No locks available); let no other process train this fold" in caplog.text


def test_another_error_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    monkeypatch.setattr(lock.fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"), fold_lock(tmp_path):
        pass
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)


def test_many_processes_at_once(tmp_path: Path) -> None:
    """Four processes take the lock as often as they can for a second; a counter that is read and written under it loses nothing."""
    code = """
import sys, time
from pathlib import Path
from ldseg_auto.errors import InputError
from ldseg_auto.training.lock import fold_lock
folder, counter, taken = Path(sys.argv[1]), Path(sys.argv[2]), 0
end = time.monotonic() + 1
while time.monotonic() < end:
    try:
        with fold_lock(folder):
            value = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(value + 1))
            taken += 1
    except InputError:
        time.sleep(0.0005)
print(taken)
"""
    counter, folder = tmp_path / "counter", tmp_path / "fold_0"
    counter.write_text("0")
    folder.mkdir()
    command = [sys.executable, "-c", code, str(folder), str(counter)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    taken = [int(p.communicate(timeout=60)[0]) for p in processes]
    assert int(counter.read_text()) == sum(taken) > 0


def test_leftovers_of_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    for name in (".tmp_x_checkpoint_latest.pth", "checkpoint_latest.pth", "overlays/.tmp_x_epoch_0004.png", "overlays/epoch_0002.png"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"checkpoint_latest.pth", "epoch_0002.png"}
