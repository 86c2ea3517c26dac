"""Arrays in memory or in a file: the same numbers, and nothing left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.scratch import Room, Scratch


def resident() -> int:
    """Bytes of this process's memory, mapped files included."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_fits_stays_in_memory(tmp_path: Path) -> None:
    assert not Scratch((3, 4, 5), Room(240, tmp_path)).in_file
    assert Scratch((3, 4, 5), Room(239, tmp_path)).in_file


@pytest.mark.parametrize("limit", [0, 2**29])
def test_it_holds_what_is_written(tmp_path: Path, limit: int) -> None:
    scratch, expected = Scratch((3, 40, 50), Room(limit, tmp_path)), np.zeros((3, 40, 50), np.float32)
    rng = np.random.default_rng(0)
    for _ in range(5):
        values, start = rng.normal(size=(2, 7, 50)).astype(np.float32), int(rng.integers(0, 33))
        scratch.array[:2, start : start + 7] += values
        expected[:2, start : start + 7] += values
        scratch.let_go()
        np.testing.assert_array_equal(scratch.array, expected)


def test_the_file_has_no_name_and_ends_with_the_array(tmp_path: Path) -> None:
    scratch = Scratch((3, 4, 5), Room(0, tmp_path))
    assert list(tmp_path.iterdir()) == []
    scratch.array[:] = 1
    kept = scratch.array
    del scratch
    assert kept.sum() == 60


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read in /proc")
def test_pages_that_were_let_go_do_not_count(tmp_path: Path) -> None:
    size = 2**26
    scratch = Scratch((16, size // 64), Room(0, tmp_path))
    before = resident()
    scratch.array[:] = 1
    assert resident() - before > 0.9 * size
    scratch.let_go()
    assert resident() - before < 0.1 * size
    assert scratch.array[3, 5] == 1


def test_a_full_disk_is_an_error_and_no_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Scratch((3, 4, 5), Room(0, tmp_path))
