"""What a training that goes on from a checkpoint must keep of the configuration it began with, and what it may change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ldseg_auto.errors import ModelError
from ldseg_auto.planners.plans import Configuration

logger = logging.getLogger(__name__)
RECORDS = ("reasons", "memory_gib", "prediction_memory_gib", "inherits_from", "latent.ceiling")  # training does not read them
MAY_CHANGE = (
    "training.epochs", "training.iterations_per_epoch", "training.early_stopping", "training.learning_rate", "training.schedule",
    "training.warmup", "training.weight_decay", "training.gradient_clip", "training.ema_decay", "training.validation_patches",
    "training.workers", "training.precision", "training.compile", "training.graphs", "training.augment_on", "sampling.steps",
    "sampling.samples", "inference",
)  # fmt: skip


def settings_of(configuration: Configuration) -> dict[str, Any]:
    """Dotted path -> value, plain ones only, for a checkpoint."""
    return _flat({k: v for k, v in asdict(configuration).items() if k not in RECORDS}, "")


def check_settings(before: Mapping[str, Any], configuration: Configuration, path: Path) -> None:
    """Compares what the checkpoint at `path` was trained with (`settings_of`) with the configuration that is to go on.

    Lengths, the optimiser's settings and those of prediction may change, and the log says so; paths that only one of the two versions
    knows are left alone.

    Raises:
        ModelError: anything else differs: network, latent, loss, batches.
    """
    now = settings_of(configuration)
    differing = [p for p in now if p in before and before[p] != now[p]]
    refused = [p for p in differing if not _within(p, MAY_CHANGE) and not _within(p, RECORDS)]
    if refused:
        shown = "; ".join(f"{p} = {now[p]!r}, there {before[p]!r}" for p in refused)
        raise ModelError(
            f"--continue: {path} was trained with other settings ({shown}). Lengths and learning rate may change, these may not: "
            f"leave them out to continue, or move {path.parent} away to train anew."
        )
    for p in differing:
        logger.info("continuing with %s = %r, until now %r", p, now[p], before[p])


def _within(path: str, sections: tuple[str, ...]) -> bool:
    return any(path == s or path.startswith(f"{s}.") for s in sections)


def _flat(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in content.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out
