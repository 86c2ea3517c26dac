"""What to do when an accelerator's memory does not suffice (smaller batches of tiles, and at last the CPU), or float16's range."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch

from ldseg_auto.inference.device import inference_type
from ldseg_auto.inference.window import NotFinite, SlidingWindow
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration

T = TypeVar("T")
logger = logging.getLogger(__name__)
CPU = torch.device("cpu")
Way = Literal["planned", "float32", "cpu"]


def within_memory(windows: Sequence[SlidingWindow], case: str, work: Callable[[Way], T]) -> tuple[T, tuple[str, ...]]:
    """Does `work`, again with less where the device ran out of memory, or float16 of range; what it had begun is lost.

    Args:
        windows: their tile_batch is halved, down to 1, and stays so: the next case would not fit either.
        case: for the messages.
        work: takes how to run: as planned, in float32, or on the CPU; what is not as planned is for this case alone.

    Returns:
        What `work` returned, and what was changed, in words.

    Raises:
        RuntimeError: there was no memory, and nothing left to change.
        NotFinite: the networks give no numbers in float32 either.
    """
    notes: list[str] = []
    way: Way = "planned"
    while True:
        try:
            return work(way), tuple(notes)
        except NotFinite:
            if way != "planned":
                raise
            largest = 0
        except RuntimeError as cause:
            if not out_of_memory(cause) or way == "cpu":
                raise
            largest = max(w.tile_batch for w in windows)
            if largest == 1 and windows[0].device.type == "cpu":
                raise
        if not largest:
            way = "float32"
            notes.append("an activation left the range of float16: predicted in float32")
        elif largest > 1:
            for window in windows:
                window.tile_batch = max(1, window.tile_batch // 2)
            notes.append(f"out of memory with {largest} tiles at a time: tried again with {max(w.tile_batch for w in windows)}")
        else:
            way = "cpu"
            notes.append("out of memory with one tile at a time: predicted on the CPU")
        logger.warning("case %s: %s", case, notes[-1])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(cause: BaseException) -> bool:
    """Whether an accelerator, or a library that runs on it, found no memory; cuBLAS and cuDNN have errors of their own for that."""
    if isinstance(cause, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(cause, RuntimeError) and any(text in str(cause) for text in ("_STATUS_ALLOC_FAILED", "out of memory"))


def adapted(
    way: Way, models: Sequence[LDSeg], window: SlidingWindow, configuration: Configuration
) -> tuple[tuple[LDSeg, ...], SlidingWindow]:  # fmt: skip
    """Networks and window, to be run in this way."""
    if way == "planned":
        return tuple(models), window
    twin = copy.copy(window)
    if way == "float32":
        twin.type = torch.float32
        return tuple(models), twin
    twin.device, twin.tile_batch, twin.type = CPU, 1, inference_type(CPU)  # tiles one by one, see SlidingWindow
    return models_on_cpu(models, configuration), twin


def models_on_cpu(models: Sequence[LDSeg], configuration: Configuration) -> tuple[LDSeg, ...]:
    """Copies of networks; those on the accelerator stay where they are."""
    twins = []
    for model in models:
        twin = LDSeg(configuration, model.heads)
        twin.load_state_dict(model.state_dict())
        twins.append(twin.eval().requires_grad_(False))
    return tuple(twins)
