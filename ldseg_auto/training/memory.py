"""Memory of a training step and of a prediction, traced: the real network and loss run on the meta device, which allocates nothing.

Every storage that the run makes is counted from its birth to its death, through forward, backward and the optimiser's step. Nothing is
computed, so that the result depends on no machine. Parameters and statistics have a fixed size; every feature map grows with the patch.
They are told apart by their shapes, in a patch whose coarsest grid has a prime number of positions, so that one run serves all patches.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.training.objective import Objective

PRIME = 10007  # positions of the coarsest grid that is traced: a storage whose bytes are a multiple of it grows with the patch
MOST = 1 - 2**-24  # the largest number that torch.rand returns: every share of the batch is rounded up
BLOCK = 512  # bytes: what CUDA's allocator rounds up to
STEPS = 3  # sampling steps that are traced: later ones need no more
aten = torch.ops.aten
CONVOLUTIONS = (aten.convolution.default, aten.convolution_backward.default)
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
LOWERED = (F.conv2d, F.conv3d, F.conv_transpose2d, F.conv_transpose3d, F.linear)  # what autocast computes in bfloat16
RAISED = (F.group_norm,)  # and in float32


@dataclass(frozen=True, eq=False)
class Moments:
    """Bytes in use after each operation: `table` (moments, 1 + stages) has what is fixed, then bytes per position of each stage's grid."""

    table: np.ndarray

    def peak(self, positions: Sequence[float], times: float = 1.0) -> float:
        """The most bytes at once, where the stages' grids have so many positions, and all that grows with them counts `times` over."""
        return float((self.table[:, 0] + times * (self.table[:, 1:] @ np.asarray(positions, dtype=np.float64))).max())

    def growing(self, positions: Sequence[float]) -> float:
        """The same without what is fixed."""
        return float((self.table[:, 1:] @ np.asarray(positions, dtype=np.float64)).max())


@dataclass(frozen=True)
class Kernels:
    """What of a device's arithmetic takes memory."""

    lowered: bool  # autocast to bfloat16 (with CUDA's lists of operations), else float32
    copied: float  # share of a convolution's two feature maps that its kernel holds a second time, in another layout, while it runs
    workspace: int = 0  # bytes that libraries of the device take from torch's allocator for themselves


# cuDNN's fast kernels for bfloat16 want channels last and copy what they read and write; cuBLAS's and cuDNN's workspaces: what ten
# trainings on an H100 took beyond their tensors (documentation/benchmarks.md)
CARD = Kernels(lowered=True, copied=1.0, workspace=75 * 2**20)
HOST = Kernels(lowered=False, copied=0.0)  # measured


def training_moments(configuration: Configuration, heads: int, regions: bool, kernels: Kernels = CARD) -> Moments:
    """One training step of the configuration's network and batch, for patches of any size.

    Args:
        heads: logit channels.
        regions: sigmoid heads.
    """
    configuration = _on_prime(configuration)
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            objective = Objective(LDSeg(configuration, heads), configuration, regions).train()
        weights, buffers = _bytes(objective.parameters()), _bytes(objective.buffers())
        trace = _Storages(_grids(configuration), kernels.copied)
        with trace:
            trace.hold((*objective.parameters(), *objective.buffers()))
            trace.count(0, buffers + 4 * weights)  # averages; gradients of the last step, and AdamW's two moments
            loss = _loss(objective, configuration, heads, kernels.lowered)
            trace.count(0, -weights)  # as the training loop, which drops the old gradients after the forward pass
            loss.backward()
            trace.note({0: weights})  # AdamW takes the square root of all second moments at once
    return trace.result()


def prediction_moments(configuration: Configuration, heads: int, kernels: Kernels = CARD) -> Moments:
    """The same for one network call of the sliding window, `inference.tile_batch` tiles, of one model."""
    configuration = _on_prime(configuration)
    size, patch = configuration.inference.tile_batch, configuration.patch_size
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            model = LDSeg(configuration, heads).eval().requires_grad_(False)
        trace = _Storages(_grids(configuration), kernels.copied)
        with trace, torch.no_grad():
            trace.hold((*model.parameters(), *model.buffers()))
            tiles = torch.empty(size, configuration.channels, *patch, device="meta")
            noise = torch.empty(size, *model.latent_shape(patch), device="meta")
            with _Lowered(kernels.lowered):
                condition = model.condition(tiles)
                z = model.sample(noise, condition, min(STEPS, configuration.sampling.steps), lambda i: torch.empty_like(noise))
                scores = model.decode(z, condition)
            scores = scores.float()
    return trace.result()


def _on_prime(configuration: Configuration) -> Configuration:
    """The configuration with a patch whose coarsest grid is PRIME positions in a row."""
    first, *others = configuration.network.cumulative_strides[-1]
    return replace(configuration, patch_size=(first * PRIME, *others))


def _grids(configuration: Configuration) -> list[tuple[int, ...]]:
    """Positions per axis of each stage's grid."""
    strides = configuration.network.cumulative_strides
    return [tuple(p // s for p, s in zip(configuration.patch_size, stride, strict=True)) for stride in strides]


def _loss(objective: Objective, configuration: Configuration, heads: int, lowered: bool) -> torch.Tensor:
    """The forward pass, from a batch as the training loop has it on the device."""
    size, patch = configuration.batch_size, configuration.patch_size
    image = torch.empty(size, configuration.channels, *patch, device="meta")
    label = torch.empty(size, *patch, dtype=torch.int64, device="meta")
    valid = torch.ones_like(label[:, None], dtype=torch.float32)
    table = torch.empty(heads + 1, heads, device="meta")
    with _Lowered(lowered):
        return objective(image, table[label].movedim(-1, 1).contiguous(), valid)["loss"]


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


class _Lowered(TorchFunctionMode):
    """Autocast to bfloat16 as on CUDA, for the meta device, which torch.autocast leaves out: casts of weights are made once and kept."""

    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.enabled, self.kept = enabled, dict[int, torch.Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if self.enabled and func in LOWERED:
            args = (*map(self._low, args[:3]), *args[3:])
        elif self.enabled and func in RAISED:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.kept.clear()

    def _low(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None or tensor.dtype != torch.float32:
            return tensor
        if not (isinstance(tensor, nn.Parameter) and tensor.requires_grad and torch.is_grad_enabled()):
            return tensor.bfloat16()
        if id(tensor) not in self.kept:
            self.kept[id(tensor)] = tensor.bfloat16()
        return self.kept[id(tensor)]


class _Storages(TorchDispatchMode):
    """Counts the storages that are alive, after each operation.

    Args:
        grids: positions per axis of each stage, the finest first; none like another.
        copied: see Kernels.
        quick: answer common operations here, with the same shapes and types as torch's own meta kernels, which take milliseconds.
    """

    def __init__(self, grids: Sequence[tuple[int, ...]], copied: float = 0.0, quick: bool = True) -> None:
        super().__init__()
        self.copied, self.quick, self.dimensions = copied, quick, len(grids[0])
        self.positions = [prod(grid) for grid in grids]
        self.grids = {grid: i for i, grid in enumerate(grids, start=1)}
        self.rows = {n: i for i, n in enumerate(self.positions, start=1)}
        self.now = [0] * (1 + len(grids))  # bytes: fixed, then of each stage
        self.alive: dict[int, weakref.ref[Any]] = {}
        self.moments: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is aten.rand.default and list(args[0]) == []:  # only `share` draws a lone number
            return torch.tensor(MOST)
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        answer = _answer(func, args, tensors) if self.quick and not kwargs and any(t.is_meta for t in tensors) else None
        out = func(*args, **(kwargs or {})) if answer is None else answer
        made = [t for t in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(t, torch.Tensor) and t.is_meta]
        for tensor in made:
            self.add(tensor)
        self.note(self._copies([*made, *tensors]) if func in CONVOLUTIONS and self.copied else {})
        return out

    def _copies(self, tensors: list[torch.Tensor]) -> dict[int, int]:
        """Bytes per stage of the two largest feature maps: a kernel reads one and writes the other, or reads both."""
        maps = sorted(((t.nbytes, stage) for t in tensors if (stage := self.stage(t))), reverse=True)[:2]
        found: dict[int, int] = {}
        for size, stage in maps:
            found[stage] = found.get(stage, 0) + int(self.copied * size)
        return found

    def note(self, more: Mapping[int, int]) -> None:
        """This moment counts, with `more` bytes: 0 fixed, i of stage i - 1."""
        self.moments.add(tuple(n + more.get(i, 0) for i, n in enumerate(self.now)) if more else tuple(self.now))

    def result(self) -> Moments:
        """All moments, per position."""
        return Moments(np.array(sorted(self.moments), dtype=np.float64) / np.array([1, *self.positions]))

    def stage(self, tensor: torch.Tensor) -> int:
        """i for what grows with stage i - 1, by its shape: a grid, or all positions of one in a row; 0 for what is fixed."""
        found = self.grids.get(tuple(tensor.shape[-self.dimensions :]))
        if found is None:
            found = next((self.rows[n] for n in tensor.shape if n in self.rows), None)
        if found is None and tensor.numel() % PRIME == 0:
            found = next((self.rows[n] for n in self.positions if tensor.numel() % n == 0), None)
        return found or 0

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Counts what is there already."""
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: torch.Tensor) -> None:
        """Counts the tensor's storage until it dies, unless it is counted already."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        stage = self.stage(tensor)
        size = size if stage else -(-size // BLOCK) * BLOCK

        def dead(_: Any) -> None:
            del self.alive[key]
            self.count(stage, -size)

        self.alive[key] = weakref.ref(storage, dead)
        self.count(stage, size)

    def count(self, stage: int, size: int) -> None:
        """Adds bytes: stage 0 fixed, i of stage i - 1."""
        self.now[stage] += size


def _answer(func: Any, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> Any:
    """What `func` returns on the meta device, or None where torch is to say it."""
    if func is aten.native_group_norm.default:
        x, *_, groups, _ = args
        return torch.empty_like(x), x.new_empty(len(x), groups), x.new_empty(len(x), groups)
    if func is aten.native_batch_norm.default:
        x = args[0]
        statistics = torch.empty(x.shape[1], dtype=torch.float32, device="meta")
        return torch.empty_like(x), statistics, torch.empty_like(statistics)
    if func in (aten.native_group_norm_backward.default, aten.native_batch_norm_backward.default):
        weight = args[4] if func is aten.native_group_norm_backward.default else args[2]
        return torch.empty_like(args[1]), torch.empty_like(weight), torch.empty_like(weight)
    if func is aten.leaky_relu_backward.default:
        return torch.empty_like(args[0])
    if func is aten.addmm.default:
        return args[1].new_empty(len(args[1]), args[2].shape[1])
    if torch.Tag.pointwise not in func.tags:
        return None
    if func._schema.is_mutable:
        return args[0]
    return _elementwise(func, tensors, args)


def _elementwise(func: Any, tensors: list[torch.Tensor], args: tuple[Any, ...]) -> torch.Tensor:
    dtype = tensors[0].dtype if len(args) < 2 else torch.result_type(args[0], args[1])
    name = func._schema.name.removeprefix("aten::")
    if name in COMPARISONS:
        dtype = torch.bool
    shapes = {t.shape for t in tensors}
    shape = shapes.pop() if len(shapes) == 1 else torch.broadcast_shapes(*shapes)
    return torch.empty(shape, dtype=dtype, device="meta")
