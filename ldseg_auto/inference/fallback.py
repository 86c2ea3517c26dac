"""What to do when an accelerator's memory does not suffice: smaller batches of tiles, and at last the CPU."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ldseg_auto.inference.device import inference_type
from ldseg_auto.inference.window import SlidingWindow
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration

T = TypeVar("T")
logger = logging.getLogger(__name__)
CPU = torch.device("cpu")


def within_memory(windows: Sequence[SlidingWindow], case: str, work: Callable[[bool], T]) -> tuple[T, tuple[str, ...]]:
    """Does `work`, again with less where the device ran out of memory; what it had begun is lost.

    Args:
        windows: their tile_batch is halved, down to 1, and stays so: the next case would not fit either.
        case: for the messages.
        work: takes whether to run on the CPU, which is for this case alone.

    Returns:
        What `work` returned, and what was changed, in words.

    Raises:
        torch.cuda.OutOfMemoryError: there was nothing left to change.
    """
    notes: list[str] = []
    on_cpu = False
    while True:
        try:
            return work(on_cpu), tuple(notes)
        except torch.cuda.OutOfMemoryError:
            largest = max(w.tile_batch for w in windows)
            if on_cpu or (largest == 1 and windows[0].device.type == "cpu"):
                raise
        if largest > 1:
            for window in windows:
                window.tile_batch = max(1, window.tile_batch // 2)
            notes.append(f"out of memory with {largest} tiles at a time: tried again with {max(w.tile_batch for w in windows)}")
        else:
            on_cpu = True
            notes.append("out of memory with one tile at a time: predicted on the CPU")
        logger.warning("case %s: %s", case, notes[-1])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def models_on_cpu(models: Sequence[LDSeg], configuration: Configuration) -> tuple[LDSeg, ...]:
    """Copies of networks; those on the accelerator stay where they are."""
    twins = []
    for model in models:
        twin = LDSeg(configuration, model.heads)
        twin.load_state_dict(model.state_dict())
        twins.append(twin.eval().requires_grad_(False))
    return tuple(twins)


def window_on_cpu(window: SlidingWindow) -> SlidingWindow:
    """The same window for the CPU: tiles one by one, in float32."""
    twin = copy.copy(window)
    twin.device, twin.tile_batch, twin.type = CPU, 1, inference_type(CPU)
    return twin
