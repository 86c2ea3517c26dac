"""Large arrays that need not be in memory: in a temporary file without a name, whose pages a process lets go of as it works on them."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Room:
    """Where large arrays may lie. Results do not depend on it."""

    limit: int = 2**29  # bytes of one array in memory; a larger one goes to a file
    folder: Path | None = None  # for that file, of which nothing is left behind; None takes the system's temporary folder


class Scratch:
    """A float32 array `array` of zeros, in memory or in a file.

    Args:
        shape: of the array.
        room: decides where.

    Raises:
        OSError: the disk has no room for the file.
    """

    def __init__(self, shape: Sequence[int], room: Room) -> None:
        size = 4 * math.prod(shape)
        self._mapped: mmap.mmap | None = None
        if size <= room.limit or not hasattr(mmap, "MADV_DONTNEED") or not hasattr(os, "posix_fallocate"):
            self.array = np.zeros(tuple(shape), np.float32)
            return
        with tempfile.TemporaryFile(dir=room.folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk shows here, and not as a crash later
            self._mapped = mmap.mmap(file.fileno(), size)
        self.array = np.frombuffer(self._mapped, np.float32).reshape(tuple(shape))

    @property
    def in_file(self) -> bool:
        """Whether the array lies in a file."""
        return self._mapped is not None

    def let_go(self) -> None:
        """Pages of the file that were touched stop counting as this process's memory; what they hold stays in the file."""
        if self._mapped is not None:
            self._mapped.madvise(mmap.MADV_DONTNEED)
