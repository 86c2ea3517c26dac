"""The training loop: iterations, epochs, checkpoints; it knows neither folders of data nor commands."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import LdsegError, ModelError, Stopped
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.progress import Progress
from ldseg_auto.training import checkpoint
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.compilation import compile_parts, compiling
from ldseg_auto.training.draw import Draw
from ldseg_auto.training.ema import EMA
from ldseg_auto.training.graphs import Compute, Graphs, wanted
from ldseg_auto.training.log import write_log
from ldseg_auto.training.objective import Objective
from ldseg_auto.training.overlays import Overlays
from ldseg_auto.training.patches import Patches, calibrate_latent, mean_dice, patch_dice
from ldseg_auto.training.ranks import Ranks
from ldseg_auto.training.schedule import epochs_without_better, learning_rate
from ldseg_auto.training.settings import settings_of
from ldseg_auto.training.state import COOLDOWN, Cooldown, Limits, Partial, State
from ldseg_auto.training.stop import Interruptible, Stop, check, never
from ldseg_auto.training.supply import Waiting, explained, stream
from ldseg_auto.training.transforms import Batch
from ldseg_auto.training.watch import Watchers

logger = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 600.0  # at most between two checkpoints, within long epochs


class Trainer:
    """Trains one fold; one of several processes where `fabric` has connected them (ranks.py), of which the first alone writes files.

    Args:
        configuration, labels: what to train.
        folder: fold_K, where checkpoints and the log go.
        origin: names of the data and the configuration (stored in each checkpoint).
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
        self.ranks = Ranks(fabric)
        self.objective = Objective(model, configuration, labels.has_regions, self.ranks)
        optimiser = torch.optim.AdamW(self.objective.parameters(), lr=self.plan.learning_rate, weight_decay=self.plan.weight_decay)
        self.wrapped, self.optimiser = fabric.setup(self.objective, optimiser)
        self.ema = EMA(model, self.plan.ema_decay)
        self.table = torch.from_numpy(labels.table).to(fabric.device)
        self.waiting, self._waited = Waiting(fabric.device), 0.0
        if self.plan.compile:
            compile_parts(model)
        self._gradients: Compute = self._plain_gradients
        if wanted(configuration, fabric.device, self.precision, self.ranks.size):
            self._gradients = Graphs(self._plain_gradients, self.objective.parameters())
        self.state = State()
        self._stop: Stop = never
        self._limits = Limits(1)
        self._start = self._saved = time.monotonic()  # this sitting's begin, less earlier ones, and the last checkpoint's time
        self._whole = True  # no iteration is half done
        self.watchers = Watchers()
        self.overlays: Overlays | None = None

    @property
    def model(self) -> LDSeg:
        """The weights being trained."""
        return self.objective.model

    @property
    def precision(self) -> str:
        """What is computed in, by Lightning Fabric's name."""
        return str(self.fabric.strategy.precision.precision)

    def fit(self, batches: Batches, patches: Patches, statistics: Patches, limits: Limits, progress: Progress, stop: Stop = never) -> None:
        """Trains until `limits`, from where the state is; writes latest, previous, best and final checkpoints.

        Validation and writing count into the time budget.

        Args:
            patches: of validation cases, for the pseudo-Dice of every epoch.
            statistics: of training cases, on which the averaged weights' latent is standardised at the end.
            stop: asked between iterations and between patches.

        Raises:
            InputError: a case cannot be read.
            LdsegError: the loss is not finite, or a process that makes batches died.
            Stopped: `stop` said so; the latest checkpoint holds everything up to there.
        """
        self._limits, self._stop, self._start = limits, stop, time.monotonic() - self.state.elapsed
        self._saved = self._start + self.state.elapsed
        batches = batches.of_rank(self.ranks.rank, self.ranks.size)
        source = stream(batches, self.state.iteration, self.plan.workers, self.waiting)
        try:
            with contextlib.closing(source), explained(), compiling(self.plan.compile):
                self._epochs(source, patches, progress)
            calibrate_latent(self.ema.model, Interruptible(statistics, self.stopping), self.labels, self.fabric.device, self.ranks)
        except Exception as cause:
            if not self._whole or not (isinstance(cause, Stopped) or self.stopping()):
                raise
            self._check_finite()
            self.save("latest")  # whatever else the signal that asks to stop has ended, processes that make batches for instance
            at = f"stopped at iteration {self.state.iteration}, which checkpoint_latest.pth holds; go on with --continue."
            raise Stopped(at) from cause
        self.save("final")

    def _epochs(self, source: Iterator[Batch], patches: Patches, progress: Progress) -> None:
        validation = 0.0
        while self.state.partial.count or self._agreed_position() < 1:
            self._epoch(source, self._limits.epoch_seconds(validation), progress)
            trained = time.monotonic()
            self._end_epoch(patches)
            validation = time.monotonic() - trained
            self.save("latest")

    def stopping(self) -> bool:
        """Whether training has been asked to stop."""
        return self._stop()

    def _elapsed(self) -> float:
        """Seconds of training until now, over all sittings."""
        return time.monotonic() - self._start

    def _position(self) -> float:
        """In the schedule: 1 at its end."""
        return self._limits.progress(self.state, self._elapsed())

    def _agreed_position(self) -> float:
        """The position of rank 0; all ranks ask."""
        return self.ranks.agree(False, self._position())[1][0]

    def _epoch(self, source: Iterator[Batch], longest: float, progress: Progress) -> None:
        """Iterates until the epoch is full, has lasted `longest` seconds, or training ends; goes on with the partial epoch."""
        part, before, start = self.state.partial, self.state.partial.seconds, time.monotonic()
        self.waiting.begin()
        wanted = min(self.plan.iterations_per_epoch - part.count, self._limits.iterations - self.state.iteration)
        for _ in progress(range(wanted), f"epoch {self.state.epoch + 1}", total=max(0, wanted)):
            stop, (position, seconds, longest) = self.ranks.agree(self.stopping(), self._position(), part.seconds, longest)
            if part.count and (seconds > longest or position >= 1):
                break
            self._between_iterations(stop)
            rate = learning_rate(position, self.plan.learning_rate, self.plan.schedule, self.plan.warmup)
            batch = next(source)
            self._whole = False
            part.add(self._step(batch, rate), rate)
            part.seconds = before + time.monotonic() - start
            self._whole = True
        self._waited = self.waiting.share(self.plan.workers)
        self._check_finite()

    def _between_iterations(self, stop: bool) -> None:
        """Stops where asked to; writes a checkpoint where the last one is old."""
        check(lambda: stop)
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self._check_finite()
            self.save("latest")

    def _check_finite(self) -> None:
        means = self.state.partial.means
        if not all(math.isfinite(v) for v in means.values()):
            raise LdsegError(f"the loss is not finite in epoch {self.state.epoch + 1} ({means}); lower training.learning_rate with --set.")

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
        self.optimiser.zero_grad(set_to_none=True)
        draw = self.objective.draw(self.ranks.held(len(image), self.configuration.batch_size).size)
        losses = self._gradients(image, self.table[label].movedim(-1, 1).contiguous(), valid, draw)
        self.ranks.add_gradients(self.objective.parameters())
        self.fabric.clip_gradients(self.wrapped, self.optimiser, max_norm=self.plan.gradient_clip, error_if_nonfinite=False)
        self.optimiser.step()
        self.ema.update(self.model)
        self.state.iteration += 1
        return losses

    def _plain_gradients(self, image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, draw: Draw) -> dict[str, torch.Tensor]:
        """Losses of a step; the weights hold their gradients."""
        losses = self.wrapped(image, onehot, valid, draw)
        self.fabric.backward(losses["loss"])
        return {k: v.detach() for k, v in losses.items()}

    def _end_epoch(self, patches: Patches) -> None:
        """Validates on the fixed patches, logs, keeps the best."""
        with self.fabric.autocast():
            dice = patch_dice(self.ema.model, Interruptible(patches, self.stopping), self.labels, 1, self.fabric.device, self.ranks)
        self._whole = False
        mean, losses, seconds = mean_dice(dice), self.state.partial.means, self.state.partial.seconds
        row: dict[str, Any] = {
            "epoch": self.state.epoch + 1,
            "iteration": self.state.iteration,
            "seconds": round(seconds, 2),
            "waiting": round(self._waited, 3),
            "learning_rate": self.state.partial.rate,
        }
        row |= {"loss" if k == "loss" else f"loss_{k}": v for k, v in losses.items()} | {"dice_mean": mean}
        row |= {f"dice_{n}": None if d != d else float(d) for n, d in zip(self.labels.foreground_names, dice, strict=True)}
        self.state.rows.append(row)
        self.state.epoch, self.state.partial = self.state.epoch + 1, Partial()
        if self.ranks.first:
            write_log(self.folder, self.state.rows)
            self._show(row)
            text = "epoch %d, iteration %d: loss %.4f, pseudo-Dice %.4f, %.1f s"
            logger.info(text, self.state.epoch, self.state.iteration, losses["loss"], mean, seconds)
        if mean > self.state.best:
            self.state.best = mean
            self.save("best")
        self._stop_early()
        self._whole = True

    def _show(self, row: dict[str, Any]) -> None:
        """The row to the watchers; now and then, and at the end, a picture."""
        self.watchers.epoch(row)
        if self.overlays is not None and (self.overlays.due(self.state.epoch) or self._position() >= 1):
            path = self.overlays.draw(self.ema.model, self.state.epoch, self.state.iteration)
            if path is not None:
                self.watchers.figure("overlays", path, self.state.iteration)

    def _stop_early(self) -> None:
        """Begins the cooldown where the smoothed pseudo-Dice has not risen for `training.early_stopping` epochs."""
        patience, iteration = self.plan.early_stopping, self.state.iteration
        if not patience or self.state.cooldown or epochs_without_better([r["dice_mean"] for r in self.state.rows]) < patience:
            return
        self.state.cooldown = Cooldown(iteration, max(1, round(COOLDOWN * iteration)), min(1.0, self._agreed_position()))
        text = "no better smoothed pseudo-Dice in %d epochs: the learning rate now falls to 0 within %d iterations, then training ends"
        logger.info(text, patience, self.state.cooldown.length)

    def save(self, name: str) -> None:
        """Writes checkpoint_NAME.pth atomically; `best` holds what prediction needs, the others what continuing needs as well.

        The latest that was there becomes checkpoint_previous.pth, until there is a final one. Rank 0 alone writes.

        Raises:
            OSError: it cannot be written; the checkpoints that were there are as they were.
        """
        content: dict[str, Any] = {**self.origin, "seed": self.seed, "ema": self.ema.model.state_dict(), "iteration": self.state.iteration}
        if name != "best":
            self.state.elapsed = self._elapsed()
            content |= {
                "model": self.model.state_dict(), "ema_updates": self.ema.updates, "optimiser": self.optimiser.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(), "precision": self.precision,
                "settings": settings_of(self.configuration), "limits": asdict(self._limits), **self.state.to_dict(),
            }  # fmt: skip
        if self.ranks.first:
            previous = self.folder / checkpoint.PREVIOUS if name == "latest" else None
            checkpoint.save(self.folder / f"checkpoint_{name}.pth", content, previous)
            if name == "final":  # of which the latest is a second copy
                (self.folder / checkpoint.PREVIOUS).unlink(missing_ok=True)
        if name == "latest":
            self._saved = time.monotonic()

    def resume(self, found: checkpoint.Found) -> None:
        """Continues from a checkpoint: weights, EMA, optimiser, scaler and position; random states follow from seed and iteration.

        Raises:
            ModelError: the checkpoint is of other data, of another configuration, network or method.
        """
        content, path = found.content, found.path
        checkpoint.check_origin(content, self.origin["dataset_name"], self.origin["fingerprint_hash"], path)
        try:
            self.model.load_state_dict(content["model"])
            self.ema.model.load_state_dict(content["ema"])
            self.optimiser.load_state_dict(content["optimiser"])
            if content.get("scaler"):
                self.fabric.strategy.precision.load_state_dict(content["scaler"])
            self.ema.updates, self.seed = content["ema_updates"], content["seed"]
            self.state = State.from_dict(content)
        except (RuntimeError, KeyError, ValueError, TypeError) as cause:
            first = str(cause).strip().splitlines()[0]
            raise ModelError(
                f"checkpoint {path} does not fit this network ({first}); continue with the plans and --set values it began with."
            ) from cause
        self._start = time.monotonic() - self.state.elapsed
        if not self.plan.early_stopping:
            self.state.cooldown = None
