"""Memory of training and prediction: of the real network and loss, traced on the meta device (ldseg_auto/training/memory.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import lcm, prod
from typing import TYPE_CHECKING, Protocol

from ldseg_auto.planners.method import Method
from ldseg_auto.planners.plans import Configuration, Latent, Network, Sampling

if TYPE_CHECKING:
    from ldseg_auto.training.memory import Kernels, Moments

GIB = 2**30
LONGEST = 20  # samples: a share is taken as a fraction with at most this denominator
RESERVE = 0.75  # GiB of the card that the tensors cannot have: CUDA's context, and gaps in what the allocator took
SLACK = 1.001  # for what grows with the batch and not with the patch, which the trace of one period does not multiply


class Demand(Protocol):
    """Memory of one training step, by the number of samples."""

    def gib(self, batch: int) -> float:
        """Peak in GiB for `batch` samples."""

    def largest_batch(self, target_gib: float) -> int:
        """The most samples that fit; may be 0 or less."""


@dataclass(frozen=True)
class Linear:
    """A demand of `fixed + batch * per_sample` bytes."""

    fixed: float
    per_sample: float

    def gib(self, batch: int) -> float:
        """Peak in GiB for `batch` samples."""
        return (self.fixed + batch * self.per_sample) / GIB

    def largest_batch(self, target_gib: float) -> int:
        """The most samples that fit; may be 0 or less."""
        return int((target_gib * GIB - self.fixed) // self.per_sample)


@dataclass(frozen=True)
class Plan:
    """What the memory of a configuration depends on, but for patch and batch."""

    network: Network
    latent: Latent
    heads: int  # logit channels
    regions: bool  # sigmoid heads
    channels: int  # of the image
    raters: int

    @property
    def period(self) -> int:
        """Samples of a batch of which every share of the method is a whole number."""
        parts = Method().resolved(self.network.variant, self.raters)
        pure, later, rebuilt, recycled = (
            Fraction(share).limit_denominator(LONGEST).denominator
            for share in (parts.pure_noise, parts.later_steps, parts.reconstruction_share, parts.recycling)
        )
        return lcm(pure * recycled, later, rebuilt)  # recycling is a share of what is left of another share

    def configuration(self, batch: int) -> Configuration:
        """With a small patch."""
        patch = tuple(2 * s for s in self.network.cumulative_strides[-1])
        n, c = len(patch), self.channels
        return Configuration(
            "memory", (1.0,) * n, patch, batch, (1.0,) * 3, ("zscore",) * c, (False,) * c, self.network, self.latent, Sampling(32),
            raters=self.raters,
        )  # fmt: skip

    def regular(self) -> Plan:
        """The same with strides of 2 and kernels of 3 everywhere: as many bytes per position, and no fewer weights."""
        network, stage = self.network, self.network.cumulative_strides.index(self.latent.factor)
        stages, n = len(network.strides), len(network.strides[0])
        strides = ((1,) * n, *(((2,) * n,) * (stages - 1)))
        same = replace(network, strides=strides, kernel_sizes=((3,) * n,) * stages)
        return replace(self, network=same, latent=replace(self.latent, factor=same.cumulative_strides[stage]))


@dataclass(frozen=True)
class Traced:
    """The traced peak of training, the card's reserve included.

    Some samples of a batch get more than others (`method.pure_noise`, `reconstruction_share`, ...), and shares of a batch are rounded to
    whole samples, here up. So a batch is counted as whole periods, of as many samples as divide every share evenly, and a rest. What
    grows with the batch and not with the patch (statistics of norms) is below a thousandth, which is added.
    """

    plan: Plan  # regular, so that one trace serves all topologies of as many stages
    positions: tuple[int, ...]  # of each stage's grid

    def gib(self, batch: int) -> float:
        """Peak in GiB for `batch` samples."""
        period = self.plan.period
        if batch <= period:
            return RESERVE + _workspace() + _training(self.plan, batch).peak(self.positions) / GIB
        times, rest = divmod(batch, period)
        more = _training(self.plan, rest).growing(self.positions) if rest else 0.0
        return RESERVE + _workspace() + SLACK * (_training(self.plan, period).peak(self.positions, times) + more) / GIB

    def largest_batch(self, target_gib: float) -> int:
        """The most samples that fit, 0 where not even one does."""
        low, high = 0, 2
        while self.gib(high) <= target_gib:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.gib(middle) <= target_gib else (low, middle)
        return low


def training_demand(plan: Plan, patch: Sequence[int]) -> Traced:
    """Demand of the training step of `plan` for patches of `patch` voxels per axis, in bfloat16 where autocast uses it."""
    return Traced(plan.regular(), positions_of(plan.network, patch))


def positions_of(network: Network, patch: Sequence[int]) -> tuple[int, ...]:
    """Positions of each stage's grid."""
    return tuple(prod(p // s for p, s in zip(patch, stride, strict=True)) for stride in network.cumulative_strides)


def training_gib(configuration: Configuration, heads: int, regions: bool, kernels: Kernels | None = None) -> float:
    """GiB that the tensors of one training step take at most, without the reserve; on a graphics card, or with other `kernels`."""
    from ldseg_auto.training.memory import CARD, training_moments

    kernels = kernels or CARD
    moments = training_moments(configuration, heads, regions, kernels)
    return (kernels.workspace + moments.peak(positions_of(configuration.network, configuration.patch_size))) / GIB


def prediction_gib(configuration: Configuration, heads: int, kernels: Kernels | None = None) -> float:
    """GiB that the tensors of one network call of prediction take at most, for one model; else as training_gib.

    Logits of planes that tiles still reach are not counted: they lie on the card only where it has room for them twice.
    """
    from ldseg_auto.training.memory import CARD, prediction_moments

    kernels = kernels or CARD
    moments = prediction_moments(configuration, heads, kernels)
    return (kernels.workspace + moments.peak(positions_of(configuration.network, configuration.patch_size))) / GIB


@lru_cache(maxsize=1024)
def _training(plan: Plan, batch: int) -> Moments:
    from ldseg_auto.training.memory import CARD, training_moments

    return training_moments(plan.configuration(batch), plan.heads, plan.regions, CARD)


def _workspace() -> float:
    """GiB."""
    from ldseg_auto.training.memory import CARD

    return CARD.workspace / GIB
