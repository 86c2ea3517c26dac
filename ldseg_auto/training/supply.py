"""Hands batches to the training: made ahead by worker processes, moved to the device, and how long the device waited for them."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ldseg_auto.errors import LdsegError
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.transforms import Batch, Raw, apply, collate

logger = logging.getLogger(__name__)
AHEAD = 4  # batches per worker
MUCH = 0.2  # share of an epoch spent waiting above which a warning says so
SHARED_MEMORY = Path("/dev/shm")


class Waiting:
    """Seconds for which the device had nothing to do because the next batch was not there.

    On CUDA the host runs ahead of the device: what counts is the time from the device's last work to the batch's arrival.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._seconds, self._began, self._epochs = device, 0.0, 0.0, 0
        self._warned = False
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextlib.contextmanager
    def for_batch(self) -> Iterator[None]:
        """Around fetching one batch."""
        start = time.monotonic()
        marks = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) if self.side else None
        if marks:
            marks[0].record(torch.cuda.current_stream(self.device))
        yield
        if marks:
            marks[1].record(self.side)  # which is idle: the time is now
            self._marks.append(marks)
        else:
            self._seconds += time.monotonic() - start

    def begin(self) -> None:
        """At the start of an epoch."""
        self._seconds, self._marks, self._began = 0.0, [], time.monotonic()

    def share(self, workers: int) -> float:
        """Of the time since `begin`, 0 to 1; on CUDA it waits for the device.

        Above a fifth it warns, once and not in the first epoch, in which the workers start.
        """
        for before, after in self._marks:
            before.synchronize()
            after.synchronize()
            self._seconds += max(0.0, before.elapsed_time(after) / 1000)
        share = min(1.0, self._seconds / max(time.monotonic() - self._began, 1e-9))
        self._marks, self._epochs = [], self._epochs + 1
        if share > MUCH and self._epochs > 1 and not self._warned:
            self._warned = True
            logger.warning(
                "%.0f %% of the last epoch was spent waiting for batches. Use more workers (--set training.workers=%d), if there are cores "
                "for them; on a GPU augment there (--set training.augment_on=device); or put the preprocessed data on a faster disk.",
                100 * share,
                max(2, 2 * workers),
            )
        return share


class Handed(Dataset):
    """Batches, augmented or (`late`) as read; a worker puts them into shared memory itself.

    Where that is full, the error so reaches the training. The thread that feeds a worker's queue, which would do it otherwise, drops the
    batch instead, and the training waits for it for ever (seen with torch 2.13).
    """

    def __init__(self, batches: Batches, late: bool) -> None:
        self.batches, self.late = batches, late

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Raw | Batch:
        item = collate(self.batches.raws(index)) if self.late else self.batches[index]
        if get_worker_info() is not None:
            for tensor in item:
                if isinstance(tensor, torch.Tensor):
                    tensor.share_memory_()
        return item


def augment_there(augment_on: str, device: torch.device) -> bool:
    """Whether the device augments (plans: training.augment_on); `auto` says so on CUDA."""
    return augment_on == "device" or (augment_on == "auto" and device.type == "cuda")


def stream(batches: Batches, first: int, workers: int, waiting: Waiting) -> Generator[Batch, None, None]:
    """Yields items first, first + 1, ... in order and on `waiting.device`; closing it ends the workers.

    Args:
        workers: processes that make them; 0: this one does.

    Raises:
        InputError: a case cannot be read.
        LdsegError: a worker process was killed, or memory, shared memory or file descriptors ran out.
    """
    device = waiting.device
    late = batches.augment and augment_there(batches.configuration.training.augment_on, device)
    loader = DataLoader(
        Handed(batches, late), batch_size=None, sampler=range(first, len(batches)), num_workers=workers,
        pin_memory=device.type == "cuda", prefetch_factor=AHEAD if workers else None, worker_init_fn=_apart,
    )  # fmt: skip
    with explained():
        source = iter(loader)
        while True:
            with waiting.for_batch():
                item = next(source, None)
            if item is None:
                return
            yield _on_cuda(item, waiting.side) if waiting.side else _moved(item, device)


def _apart(worker: int) -> None:
    """In a worker: a signal to the training's whole process group (Ctrl-C, a batch system's SIGTERM) is the training's to deal with."""
    del worker
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _moved(item: Raw | Batch, device: torch.device) -> Batch:
    if isinstance(item, Raw):
        return apply(item.to(device))
    image, label = item
    return image.to(device, non_blocking=True), label.to(device, non_blocking=True)


def _on_cuda(item: Raw | Batch, side: torch.cuda.Stream) -> Batch:
    """Moved, and augmented, beside the step that the device is still busy with."""
    main = torch.cuda.current_stream(side.device)
    with torch.cuda.stream(side):
        batch = _moved(item, side.device)
    main.wait_stream(side)
    for tensor in batch:
        tensor.record_stream(main)
    return batch


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns what workers die of into a message; torch may raise it at any moment in the process that they work for.

    Raises:
        InputError, LdsegError: as `stream`.
    """
    try:
        yield
    except LdsegError as cause:
        if "in DataLoader worker" not in str(cause):
            raise
        raise type(cause)(_last_line(cause)) from cause  # its text holds the worker's traceback
    except (RuntimeError, OSError, MemoryError) as cause:
        message = _explanation(cause)
        if message is None:
            raise
        raise LdsegError(message) from cause


def _last_line(cause: BaseException) -> str:
    return (str(cause).strip() or type(cause).__name__).splitlines()[-1].split("Error: ", 1)[-1]


def _explanation(cause: BaseException) -> str | None:
    """None where it is not about workers."""
    text, line = str(cause), _last_line(cause)
    advice = "--set training.workers=0, a smaller batch_size, or more shared memory (docker run --shm-size=8g, or --ipc=host)"
    if any(sign in text for sign in ("Bus error", "shared memory", "/torch_")):
        return f"the processes that make training batches ran out of shared memory ({line}); {_room(SHARED_MEMORY)}. Use {advice}."
    if "DataLoader worker (pid" in text:
        return (
            f"a process that makes training batches ended unexpectedly ({line}). "
            f"Usually memory or shared memory ran out; {_room(SHARED_MEMORY)}. Try {advice}."
        )
    if "Too many open files" in text or "ancdata" in text:
        return f"the processes that make training batches ran out of file descriptors ({line}). Raise the limit: ulimit -n 4096."
    if isinstance(cause, MemoryError):
        return f"memory ran out while training batches were made ({line}). Use fewer training.workers."
    return None


def _room(folder: Path) -> str:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return f"{folder} cannot be read"
    return f"{folder} has {usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free"
