"""Where a training stands: what a checkpoint holds beside weights, and how far that is along the schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

EPOCHS_IN_BUDGET = 20  # a time budget is cut into so many epochs, so that its curve can be read,
TRAINING_TO_VALIDATION = 9  # unless validation would then take more than a tenth of it
COOLDOWN = 0.1  # of the iterations done when training stops early: in so many more the learning rate falls to 0


@dataclass
class Partial:
    """The epoch in work: what its row of the log is made from."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)  # of each loss over the iterations
    count: int = 0  # iterations
    seconds: float = 0.0
    rate: float = 0.0  # learning rate of the last iteration

    def add(self, losses: Mapping[str, torch.Tensor], rate: float) -> None:
        """One iteration."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.count, self.rate = self.count + 1, rate

    @property
    def means(self) -> dict[str, float]:
        """Of each loss."""
        return {name: float(value) / self.count for name, value in self.sums.items()}


@dataclass(frozen=True)
class Cooldown:
    """The end of a training that stopped early: the rest of the schedule, run through in few iterations.

    A linear fall of the learning rate to 0 over 10 to 20 % of the iterations reaches what a schedule planned for that length reaches
    (Haegele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations").
    """

    start: int  # iteration
    length: int  # iterations
    position: float  # of the schedule at the start, 0 to 1

    def progress(self, iteration: int) -> float:
        """Position in the schedule, 1 at the end."""
        share = min(1.0, (iteration - self.start) / self.length)
        return 1.0 if share == 1 else self.position + (1 - self.position) * share


@dataclass
class State:
    """What a checkpoint holds beside the tensors of model, EMA and optimiser."""

    iteration: int = 0
    epoch: int = 0  # epochs done
    elapsed: float = 0.0  # seconds of training, over all sittings
    best: float = -1.0  # highest pseudo-Dice
    rows: list[dict[str, Any]] = field(default_factory=list)
    partial: Partial = field(default_factory=Partial)
    cooldown: Cooldown | None = None

    def to_dict(self) -> dict[str, Any]:
        """Numbers, text, lists, dictionaries and tensors only."""
        shallow = {f.name: getattr(self, f.name) for f in fields(self)}
        return shallow | {"partial": dict(vars(self.partial)), "cooldown": self.cooldown and asdict(self.cooldown)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> State:
        """Raises KeyError where something is missing; checkpoints of earlier versions were written between epochs only."""
        plain = {k: content[k] for k in ("iteration", "epoch", "elapsed", "best", "rows")}
        cooldown = content.get("cooldown")
        return cls(**plain, partial=Partial(**content.get("partial", {})), cooldown=Cooldown(**cooldown) if cooldown else None)


@dataclass(frozen=True)
class Limits:
    """When training ends: after `iterations`, or `seconds` where given, whichever comes first."""

    iterations: int
    seconds: float | None = None

    def progress(self, state: State, elapsed: float) -> float:
        """Position in the schedule, 0 to 1 and above, `elapsed` seconds of training (all sittings) from its begin."""
        share = state.iteration / self.iterations
        share = share if self.seconds is None else max(share, elapsed / self.seconds)
        return share if state.cooldown is None else max(share, state.cooldown.progress(state.iteration))

    def epoch_seconds(self, validation: float) -> float:
        """Longest duration of an epoch, where the last validation took `validation` seconds; infinite without a time budget."""
        return math.inf if self.seconds is None else max(self.seconds / EPOCHS_IN_BUDGET, TRAINING_TO_VALIDATION * validation)
