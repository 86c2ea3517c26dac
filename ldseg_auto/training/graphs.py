"""CUDA graphs: what a training step asks of the card, recorded once and then started as a whole (plans: training.graphs).

Forward and backward pass of a step are thousands of operations. On a small patch the card does each in less time than the host takes to
ask for it, and idles in between; a recorded sequence needs no asking (NVIDIA, CUDA C++ Programming Guide, "CUDA Graphs"). The optimiser,
a few operations on all weights at once, stays outside, and so does whatever draws on the host (draw.py): steps that drew other numbers of
samples are other sequences, each recorded when it comes up the second time. The first time runs as it would without graphs, which lets
cuDNN choose its algorithms. A recorded step computes what the plain one does, noise included.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ldseg_auto.inference.fallback import out_of_memory
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.training.draw import Draw

logger = logging.getLogger(__name__)
Losses = dict[str, torch.Tensor]
Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Draw], Losses]
Key = tuple[tuple[int, ...], ...]
MOST = 16  # recorded sequences; a kind of step that comes up later runs plainly
ROOM = 2.0  # times a training's planned memory that must be free: recorded steps keep theirs, beside that of plain ones and of validation


@dataclass(frozen=True)
class Recorded:
    """One kind of step."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[torch.Tensor, ...]  # image, onehot, valid, order, rebuilt: what they hold is read at every start
    names: tuple[str, ...]
    losses: torch.Tensor  # (names,) of the last start
    used: frozenset[int]  # numbers of the weights that got a gradient


class Graphs:
    """Calls `compute(image, onehot, valid, draw)`, which leaves gradients in `weights` and returns losses, by graphs where it can.

    Args:
        compute: starts from weights without gradients and the random numbers that follow torch.manual_seed; depends on the values of its
            tensors through operations on the device alone.
        weights: those that it may leave gradients in.
    """

    def __init__(self, compute: Compute, weights: Iterable[nn.Parameter]) -> None:
        self.compute, self.weights, self.on = compute, [w for w in weights if w.requires_grad], True
        self._seen: set[Key] = set()
        self._recorded: dict[Key, Recorded] = {}
        self._gradients: list[torch.Tensor] = []  # of all weights, shared by the recorded steps
        self._pool: tuple[int, int] | None = None  # the memory that they share

    def __call__(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, draw: Draw) -> Losses:
        """`compute`'s losses and gradients.

        Raises:
            RuntimeError: as `compute`; where it runs out of memory beside recorded steps, these go and it runs once more.
        """
        key: Key = (tuple(image.shape), tuple(onehot.shape), draw.kind)
        known, inputs = self._recorded.get(key), (image, onehot, valid, draw.order, draw.rebuilt)
        if known is None and self.on and key in self._seen and len(self._recorded) < MOST:
            known = self._record(key, inputs, draw)
        if known is not None:
            return self._start(known, inputs)
        self._seen.add(key)
        try:
            return self.compute(image, onehot, valid, draw)
        except RuntimeError as cause:
            if not self._recorded or not out_of_memory(cause):
                raise
            self._end(cause)
        return self.compute(image, onehot, valid, draw)

    def _record(self, key: Key, inputs: tuple[torch.Tensor, ...], draw: Draw) -> Recorded | None:
        """Records this kind of step; None, and no more is recorded, where that fails."""
        if not self._recorded:
            logger.info("steps that come up again are recorded as CUDA graphs (training.graphs)")
        device = inputs[0].device
        self._clear()
        try:
            inputs = tuple(x.to(device, copy=True) for x in inputs)
            self._gradients = self._gradients or [torch.zeros_like(w) for w in self.weights]
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                losses = self.compute(inputs[0], inputs[1], inputs[2], draw._replace(order=inputs[3], rebuilt=inputs[4]))
                used = [i for i, w in enumerate(self.weights) if w.grad is not None]
                torch._foreach_copy_([self._gradients[i] for i in used], [self.weights[i].grad for i in used])
                values = torch.stack([loss.detach() for loss in losses.values()])
        except RuntimeError as cause:
            self._end(cause)
            _new_random_state(device)
            return None
        finally:
            self._clear()
        self._pool = graph.pool()
        self._recorded[key] = Recorded(graph, inputs, tuple(losses), values, frozenset(used))
        return self._recorded[key]

    def _start(self, known: Recorded, inputs: tuple[torch.Tensor, ...]) -> Losses:
        """Runs a recorded step on new values."""
        for kept, new in zip(known.inputs, inputs, strict=True):
            kept.copy_(new, non_blocking=True)
        known.graph.replay()
        for i, (weight, gradient) in enumerate(zip(self.weights, self._gradients, strict=True)):
            weight.grad = gradient if i in known.used else None
        return dict(zip(known.names, known.losses.clone().unbind(), strict=True))

    def _clear(self) -> None:
        for weight in self.weights:
            weight.grad = None

    def _end(self, cause: BaseException) -> None:
        """Without graphs from here on; the memory that they held is free again."""
        logger.warning("training goes on without CUDA graphs: %s", (str(cause).strip() or type(cause).__name__).splitlines()[0])
        self.on = False
        self._recorded.clear()
        self._clear()
        self._gradients, self._pool = [], None
        torch.cuda.empty_cache()


def _new_random_state(device: torch.device) -> None:
    """A recording that failed leaves the device's generator waiting for its end: a new one in its place begins where the step began."""
    generator = torch.cuda.default_generators[device.index or 0]
    fresh = torch.Generator(device)
    fresh.manual_seed(generator.initial_seed())
    generator.graphsafe_set_state(fresh.graphsafe_get_state())


def wanted(configuration: Configuration, device: torch.device, precision: str, processes: int) -> bool:
    """Whether a training takes graphs: on CUDA, alone, without a scaled loss, where the memory is there; `off` never.

    `auto` leaves a compiled network as it is; `on` records it as well.

    Args:
        precision: Lightning Fabric's name.
    """
    plan = configuration.training
    if plan.graphs == "off" or device.type != "cuda" or processes > 1 or precision == "16-mixed":
        return False
    if plan.graphs == "on":
        return True
    return not plan.compile and torch.cuda.mem_get_info(device)[0] >= ROOM * configuration.memory_gib * 2**30
