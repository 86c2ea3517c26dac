"""What a training is asked for, beside the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldseg_auto.errors import InputError
from ldseg_auto.training import watch

EPOCHS_IN_SHORT_RUN = 20  # --iterations is cut into at least so many epochs


@dataclass(frozen=True)
class Options:
    """How to train one fold.

    Raises:
        InputError: impossible values, or two that set the length of training.
    """

    configuration: str | None = None  # None: the plans' default
    settings: Sequence[str] = ()  # `path=value` overrides; the plans saved with the model hold them
    epochs: int | None = None  # length of training, this or `iterations`; None: the plans'
    iterations: int | None = None
    time_budget: float | None = None  # seconds at most, its validation of patches included; the learning rate anneals over it
    resume: bool = False  # from the last checkpoint with its plans, seed and length; a finished one goes on where the length is now larger
    device: str = "auto"
    devices: int = 1  # of this node; each is a process of its own, and all share the batch
    nodes: int = 1
    seed: int = 0  # of weights, patches and noise
    plans_name: str = "ldsegPlans"
    pretrained: Path | None = None  # model folder, fold or checkpoint whose weights training begins with, as far as they fit
    log_to: Sequence[str] = watch.DEFAULT  # where the log goes beside training_log.csv: names of watch.KNOWN
    early_stopping: int | None = None  # epochs without a better smoothed pseudo-Dice, 0: never; None: the plans'
    validate: bool = True  # predict the fold's validation cases at the end; without, only their patches are looked at

    def __post_init__(self) -> None:
        if self.epochs is not None and self.iterations is not None:
            raise InputError(f"--epochs {self.epochs} and --iterations {self.iterations} both set the length: give one of them.")
        if self.iterations is not None and self.iterations < 1:
            raise InputError(f"--iterations {self.iterations}: expected 1 or more.")
        if self.time_budget is not None and not 0 < self.time_budget < math.inf:
            raise InputError(f"--time-budget {self.time_budget}: expected more than 0 seconds.")
        watch.check(self.log_to)
        if self.pretrained is not None and self.resume:
            raise InputError(f"--pretrained {self.pretrained} and --continue: a training that goes on has weights already. Leave one out.")
        if self.devices < 1 or self.nodes < 1:
            raise InputError(f"--devices {self.devices} --num-nodes {self.nodes}: expected 1 or more.")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: expected 0 or more.")

    def all_settings(self) -> list[str]:
        """`settings` with `epochs` or `iterations` among them, so that the saved plans hold them.

        Raises:
            InputError: a setting says otherwise.
        """
        out = _with_lengths(self.settings, self.epochs, self.iterations)
        if self.early_stopping is None:
            return out
        if any(_sets(setting, "early_stopping") for setting in out):
            raise InputError(f"--early-stopping {self.early_stopping} and --set training.early_stopping: give one of them.")
        return [*out, f"training.early_stopping={self.early_stopping}"]

    @property
    def sets_length(self) -> bool:
        """Whether anything here says how long to train; else a training that goes on keeps the length it began with."""
        given = any(value is not None for value in (self.epochs, self.iterations, self.time_budget))
        return given or any(_sets(setting, "epochs", "iterations_per_epoch") for setting in self.settings)


def _sets(setting: str, *names: str) -> bool:
    """Whether `path=value` sets one of these fields of the plans' training section."""
    return setting.partition("=")[0].strip().endswith(tuple(f"training.{name}" for name in names))


def _with_lengths(settings: Sequence[str], epochs: int | None, iterations: int | None) -> list[str]:
    """--epochs and --iterations as settings, so that the saved plans hold them; raises InputError where a setting says otherwise."""
    out = list(settings)
    flag = f"--epochs {epochs}" if iterations is None else f"--iterations {iterations}"
    own = ("epochs",) if iterations is None else ("epochs", "iterations_per_epoch")
    for setting in out if epochs is not None or iterations is not None else ():
        if _sets(setting, *own):
            raise InputError(f"{flag} and --set {setting} both set the length of training: give one of them.")
    if iterations is not None:
        per_epoch = min(250, max(1, math.ceil(iterations / EPOCHS_IN_SHORT_RUN)))
        out += [f"training.iterations_per_epoch={per_epoch}", f"training.epochs={math.ceil(iterations / per_epoch)}"]
    elif epochs is not None:
        out.append(f"training.epochs={epochs}")
    return out
