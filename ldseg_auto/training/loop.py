"""The training loop: iterations, epochs, checkpoints; it knows neither folders of data nor commands."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import LdsegError, ModelError
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.progress import Progress
from ldseg_auto.training import checkpoint
from ldseg_auto.training.batches import Batch, Batches, stream
from ldseg_auto.training.ema import EMA
from ldseg_auto.training.log import write_log
from ldseg_auto.training.objective import Objective
from ldseg_auto.training.patches import Patches, calibrate_latent, mean_dice, patch_dice
from ldseg_auto.training.schedule import learning_rate

logger = logging.getLogger(__name__)
EPOCHS_IN_BUDGET = 20  # a time budget is cut into so many epochs, so that its curve can be read,
TRAINING_TO_VALIDATION = 9  # unless validation would then take more than a tenth of it


@dataclass
class State:
    """What a checkpoint holds beside tensors."""

    iteration: int = 0
    epoch: int = 0
    elapsed: float = 0.0  # seconds of training, over all sittings
    best: float = -1.0  # highest pseudo-Dice
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """When training ends: after `iterations`, or `seconds` where given, whichever comes first."""

    iterations: int
    seconds: float | None = None

    def progress(self, state: State, since: float) -> float:
        """0 to 1; `since` is the seconds of this sitting that `state.elapsed` does not hold yet."""
        share = state.iteration / self.iterations
        return share if self.seconds is None else max(share, (state.elapsed + since) / self.seconds)

    def epoch_seconds(self, validation: float) -> float:
        """Longest duration of an epoch, where the last validation took `validation` seconds; infinite without a time budget."""
        return math.inf if self.seconds is None else max(self.seconds / EPOCHS_IN_BUDGET, TRAINING_TO_VALIDATION * validation)


class Trainer:
    """Trains one fold.

    Args:
        configuration, labels: what to train.
        folder: fold_K, where checkpoints and the log go.
        origin: plain values that name the data (stored in each checkpoint).
    """

    def __init__(
        self, configuration: Configuration, labels: LabelSpec, folder: Path, fabric: Fabric, seed: int, origin: dict[str, str]
    ) -> None:
        self.configuration, self.labels, self.folder, self.fabric, self.seed, self.origin = (
            configuration,
            labels,
            folder,
            fabric,
            seed,
            origin,
        )
        self.plan = configuration.training
        torch.manual_seed(seed)
        model = LDSeg(configuration, labels.num_heads)
        self.objective = Objective(model, configuration, labels.has_regions)
        optimiser = torch.optim.AdamW(self.objective.parameters(), lr=self.plan.learning_rate, weight_decay=self.plan.weight_decay)
        self.wrapped, self.optimiser = fabric.setup(self.objective, optimiser)
        self.ema = EMA(model, self.plan.ema_decay)
        self.table = torch.from_numpy(labels.table).to(fabric.device)
        self.state = State()

    @property
    def model(self) -> LDSeg:
        """The weights being trained."""
        return self.objective.model

    def fit(self, batches: Batches, patches: Patches, statistics: Patches, limits: Limits, progress: Progress) -> None:
        """Trains until `limits`, from where the state is; writes latest, best and final checkpoints.

        Validation and writing count into the time budget.

        Args:
            patches: of validation cases, for the pseudo-Dice of every epoch.
            statistics: of training cases, on which the averaged weights' latent is standardised at the end.

        Raises:
            InputError: a case cannot be read.
            LdsegError: the loss is not finite, or a process that makes batches died.
        """
        source = stream(batches, self.state.iteration, self.plan.workers, pin=self.fabric.device.type == "cuda")
        before, start, validation = self.state.elapsed, time.monotonic(), 0.0
        with contextlib.closing(source):
            while limits.progress(self.state, 0) < 1:
                began = time.monotonic()
                losses, rate = self._epoch(source, limits, limits.epoch_seconds(validation), progress)
                trained = time.monotonic()
                self.state.epoch += 1
                self._end_epoch(patches, losses, rate, trained - began)
                validation = time.monotonic() - trained
                self.state.elapsed = before + time.monotonic() - start
                self.save("latest")
        calibrate_latent(self.ema.model, statistics, self.labels, self.fabric.device)
        self.save("final")

    def _epoch(self, source: Iterator[Batch], limits: Limits, longest: float, progress: Progress) -> tuple[dict[str, float], float]:
        """Iterates until the epoch is full, `longest` seconds have passed or training ends; returns mean losses and the last rate."""
        start, sums, count, rate = time.monotonic(), {}, 0, 0.0  # type: float, dict[str, torch.Tensor], int, float
        wanted = min(self.plan.iterations_per_epoch, limits.iterations - self.state.iteration)
        for _ in progress(range(wanted), f"epoch {self.state.epoch}", total=wanted):
            since = time.monotonic() - start
            position = limits.progress(self.state, since)
            if count and (since > longest or position >= 1):
                break
            rate = learning_rate(position, self.plan.learning_rate, self.plan.schedule, self.plan.warmup)
            for name, value in self._step(next(source), rate).items():
                sums[name] = sums.get(name, 0) + value
            count += 1
        means = {name: float(value) / count for name, value in sums.items()}
        if not all(math.isfinite(v) for v in means.values()):
            raise LdsegError(f"the loss is not finite in epoch {self.state.epoch} ({means}); lower training.learning_rate with --set.")
        return means, rate

    def _step(self, batch: Batch, rate: float) -> dict[str, torch.Tensor]:
        """One optimiser step; its noise is a function of (seed, iteration)."""
        torch.manual_seed(self.seed * 1_000_003 + self.state.iteration)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        image, label = self.fabric.to_device(batch)
        valid = torch.ones_like(label[:, None], dtype=torch.float32)
        if self.labels.ignore_index is not None:
            valid = (label != self.labels.ignore_index)[:, None].float()
        self.objective.train()
        losses = self.wrapped(image, self.table[label].movedim(-1, 1).contiguous(), valid)
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(losses["loss"])
        self.fabric.clip_gradients(self.wrapped, self.optimiser, max_norm=self.plan.gradient_clip, error_if_nonfinite=False)
        self.optimiser.step()
        self.ema.update(self.model)
        self.state.iteration += 1
        return {k: v.detach() for k, v in losses.items()}

    def _end_epoch(self, patches: Patches, losses: dict[str, float], rate: float, seconds: float) -> None:
        """Validates on the fixed patches, logs, keeps the best."""
        with self.fabric.autocast():
            dice = patch_dice(self.ema.model, patches, self.labels, 1, self.fabric.device)
        mean = mean_dice(dice)
        row: dict[str, Any] = {
            "epoch": self.state.epoch,
            "iteration": self.state.iteration,
            "seconds": round(seconds, 2),
            "learning_rate": rate,
        }
        row |= {"loss" if k == "loss" else f"loss_{k}": v for k, v in losses.items()} | {"dice_mean": mean}
        row |= {f"dice_{n}": None if d != d else float(d) for n, d in zip(self.labels.foreground_names, dice, strict=True)}
        self.state.rows.append(row)
        write_log(self.folder, self.state.rows)
        logger.info(
            "epoch %d, iteration %d: loss %.4f, pseudo-Dice %.4f, %.1f s",
            self.state.epoch,
            self.state.iteration,
            losses["loss"],
            mean,
            seconds,
        )
        if mean > self.state.best:
            self.state.best = mean
            self.save("best")

    def save(self, name: str) -> None:
        """Writes checkpoint_NAME.pth atomically; `best` holds what prediction needs, the others what continuing needs as well."""
        content: dict[str, Any] = {**self.origin, "seed": self.seed, "ema": self.ema.model.state_dict(), "iteration": self.state.iteration}
        if name != "best":
            content |= {
                "model": self.model.state_dict(), "ema_updates": self.ema.updates, "optimiser": self.optimiser.state_dict(),
                "epoch": self.state.epoch, "elapsed": self.state.elapsed, "best": self.state.best, "rows": self.state.rows,
            }  # fmt: skip
        checkpoint.save(self.folder / f"checkpoint_{name}.pth", content)

    def resume(self, path: Path) -> None:
        """Continues from a checkpoint: weights, EMA, optimiser and position; random states follow from seed and iteration.

        Raises:
            ModelError: the checkpoint is damaged, of other data, or of another network.
        """
        content = checkpoint.load(path, self.fabric.device)
        checkpoint.check_origin(content, self.origin["dataset_name"], self.origin["fingerprint_hash"], path)
        try:
            self.model.load_state_dict(content["model"])
            self.ema.model.load_state_dict(content["ema"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.ema.updates, self.seed = content["ema_updates"], content["seed"]
            self.state = State(**{k: content[k] for k in ("iteration", "epoch", "elapsed", "best", "rows")})
        except (RuntimeError, KeyError, ValueError) as cause:
            first = str(cause).strip().splitlines()[0]
            raise ModelError(
                f"checkpoint {path} does not fit this network ({first}); continue with the plans and --set values it began with."
            ) from cause
