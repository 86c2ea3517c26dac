"""Where a training's figures go beside the CSV file: TensorBoard, Weights & Biases, MLflow, or a watcher of your own.

Each row of the log is sent once, with its iteration as the step. A training that goes on with --continue neither repeats nor loses points:
TensorBoard is told to forget what comes after the checkpoint, the others are sent what they do not have yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ldseg_auto.errors import InputError, Stopped
from ldseg_auto.planners.plans import Plans
from ldseg_auto.training.log import Row
from ldseg_auto.training.loggers import MLflow, TensorBoard, WandB

logger = logging.getLogger(__name__)
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


class Watcher(Protocol):
    """Follows one training."""

    def start(self, plans: Plans, folder: Path, rows: Sequence[Row]) -> None:
        """Before the first iteration.

        Args:
            plans: with the settings of this training; the default configuration is the one that is trained.
            folder: fold_K.
            rows: of earlier sittings, one per epoch; empty for a new training.
        """

    def epoch(self, row: Row) -> None:
        """After each epoch, with its row of training_log.csv: a number or None per column."""

    def figure(self, name: str, path: Path, iteration: int) -> None:
        """A picture was written: `overlays` (PNG). It shows the images of patients."""

    def close(self, status: str) -> None:
        """At the end: `finished`, `stopped` (it can be continued) or `failed`."""


@dataclass(frozen=True)
class Service:
    """A watcher that comes with the package."""

    make: Callable[[], Watcher]
    module: str  # that it needs
    package: str  # for pip install
    advice: str  # where it does not start


KNOWN = {
    "tensorboard": Service(TensorBoard, "tensorboardX", "tensorboardX", "Free the disk, or use --log-to none."),
    "wandb": Service(WandB, "wandb", "'ldseg-auto[wandb]'", "Log in with `wandb login`, or set WANDB_MODE=offline."),
    "mlflow": Service(
        MLflow, "mlflow", "'ldseg-auto[mlflow]'", "Set MLFLOW_TRACKING_URI to your server, or to sqlite:///FILE for a file of your own."
    ),
}
DEFAULT = ("tensorboard",)


class Watchers:
    """Several as one. One that fails is named in a warning and left out from then on: no training ends because of its log."""

    def __init__(self) -> None:
        self._left: list[tuple[str, Watcher]] = []

    def add(self, name: str, watcher: Watcher) -> None:
        """One that is started already."""
        self._left.append((name, watcher))

    def epoch(self, row: Row) -> None:
        """See Watcher."""
        self._each(lambda watcher: watcher.epoch(row))

    def figure(self, name: str, path: Path, iteration: int) -> None:
        """See Watcher."""
        self._each(lambda watcher: watcher.figure(name, path, iteration))

    def close(self, status: str) -> None:
        """See Watcher; a second call does nothing."""
        self._each(lambda watcher: watcher.close(status))
        self._left = []

    def _each(self, call: Callable[[Watcher], None]) -> None:
        for name, watcher in list(self._left):
            try:
                call(watcher)
            except Exception as cause:
                self._left.remove((name, watcher))
                what = f"{type(cause).__name__}: {cause}"
                logger.warning("%s failed and gets no more figures (%s); training_log.csv goes on.", name, what)


@contextmanager
def watching(names: Sequence[str], plans: Plans, folder: Path, rows: Sequence[Row]) -> Iterator[Watchers]:
    """Starts watchers and closes them with the status that the block ends with; the block may close them with another one before.

    Args:
        names: keys of KNOWN.
        plans, folder, rows: see Watcher.start.

    Raises:
        InputError: an unknown name, a package that is not installed, or a service that is not set up or cannot be reached. Where only
            the default's package is missing, it is left out with a message.
    """
    watchers = Watchers()
    try:
        for name in dict.fromkeys(names):
            watcher = _started(name, plans, folder, rows)
            if watcher is not None:
                watchers.add(name, watcher)
        yield watchers
    except BaseException as cause:
        watchers.close(STOPPED if isinstance(cause, (KeyboardInterrupt, Stopped)) else FAILED)
        raise
    watchers.close(FINISHED)


def check(names: Sequence[str]) -> None:
    """Raises InputError for a name that is not known."""
    unknown = [n for n in names if n not in KNOWN]
    if unknown:
        raise InputError(f"--log-to {unknown[0]}: expected names among {', '.join(KNOWN)}.")


def _started(name: str, plans: Plans, folder: Path, rows: Sequence[Row]) -> Watcher | None:
    """None for the default watcher where its package is missing."""
    service = KNOWN[name]
    advice = f"Install it with: pip install {service.package}"
    try:
        watcher = service.make()
        watcher.start(plans, folder, rows)
    except ImportError as cause:
        if name in DEFAULT and (cause.name or "").split(".")[0] == service.module:
            logger.info("%s is not installed: no TensorBoard files; training_log.csv holds the figures. %s", service.module, advice)
            return None
        raise InputError(f"--log-to {name}: the package {service.module} cannot be imported ({cause}). {advice}") from cause
    except Exception as cause:
        what = f"{type(cause).__name__}: {cause}"
        raise InputError(f"--log-to {name}: {service.module} did not start ({what}). {service.advice}") from cause
    return watcher
