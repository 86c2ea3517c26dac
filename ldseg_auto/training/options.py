"""What a training is asked for, beside the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ldseg_auto.errors import InputError

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
    resume: bool = False  # from the last checkpoint with its seed; a finished one goes on where the length is now larger
    device: str = "auto"
    seed: int = 0  # of weights, patches and noise
    plans_name: str = "ldsegPlans"
    validate: bool = True  # predict the fold's validation cases at the end; without, only their patches are looked at

    def __post_init__(self) -> None:
        if self.epochs is not None and self.iterations is not None:
            raise InputError(f"--epochs {self.epochs} and --iterations {self.iterations} both set the length: give one of them.")
        if self.iterations is not None and self.iterations < 1:
            raise InputError(f"--iterations {self.iterations}: expected 1 or more.")
        if self.time_budget is not None and not 0 < self.time_budget < math.inf:
            raise InputError(f"--time-budget {self.time_budget}: expected more than 0 seconds.")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: expected 0 or more.")

    def all_settings(self) -> list[str]:
        """`settings` with `epochs` or `iterations` among them, so that the saved plans hold them.

        Raises:
            InputError: a setting says otherwise.
        """
        return _with_lengths(self.settings, self.epochs, self.iterations)


def _with_lengths(settings: Sequence[str], epochs: int | None, iterations: int | None) -> list[str]:
    """--epochs and --iterations as settings, so that the saved plans hold them; raises InputError where a setting says otherwise."""
    out = list(settings)
    flag = f"--epochs {epochs}" if iterations is None else f"--iterations {iterations}"
    own = ("epochs",) if iterations is None else ("epochs", "iterations_per_epoch")
    for setting in out if epochs is not None or iterations is not None else ():
        if setting.partition("=")[0].strip().endswith(tuple(f"training.{name}" for name in own)):
            raise InputError(f"{flag} and --set {setting} both set the length of training: give one of them.")
    if iterations is not None:
        per_epoch = min(250, max(1, math.ceil(iterations / EPOCHS_IN_SHORT_RUN)))
        out += [f"training.iterations_per_epoch={per_epoch}", f"training.epochs={math.ceil(iterations / per_epoch)}"]
    elif epochs is not None:
        out.append(f"training.epochs={epochs}")
    return out
