"""The model folder's records: what was trained with what, and whether folds belong together."""

from __future__ import annotations

import csv
import logging
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import ldseg_auto
from ldseg_auto.errors import InputError, ModelError
from ldseg_auto.files import write_json, write_text
from ldseg_auto.planners.plans import Plans
from ldseg_auto.training import checkpoint
from ldseg_auto.training.prepare import PREPROCESSED, Prepared

logger = logging.getLogger(__name__)


def last_checkpoint(folder: Path, resume: bool) -> checkpoint.Found | None:
    """The checkpoint to continue from; None for a new training, which never replaces one that is there.

    Raises:
        InputError: nothing to continue, or `folder` holds a training and `resume` is false.
        ModelError: all checkpoints are damaged.
    """
    there = [p for p in (folder / name for name in checkpoint.CONTINUABLE) if p.exists()]
    if resume and not there:
        raise InputError(f"--continue: {folder} holds no checkpoint to continue from. Start without --continue.")
    if there and not resume:
        what = "a finished training" if there[0].name == "checkpoint_final.pth" else "an unfinished training"
        raise InputError(f"{folder} holds {what}. Move it away to train anew, or use --continue to go on with it.")
    return checkpoint.furthest(folder) if resume else None


def say_where(folder: Path, found: checkpoint.Found) -> None:
    """Logs where training goes on, and which iterations of the log are done again."""
    at, log = found.content["iteration"], folder / "training_log.csv"
    logger.info("going on from %s, iteration %d", found.path.name, at)
    rows = list(csv.DictReader(log.read_text(encoding="utf-8").splitlines())) if log.exists() else []
    last = int(rows[-1]["iteration"]) if rows else 0
    if last > at:
        logger.warning("%s goes to iteration %d: %d to %d are done again.", log.name, last, at + 1, last)


def check_siblings(model: Path, prepared: Prepared) -> None:
    """Raises ModelError where the folds that `model` holds already were trained with other plans."""
    path = model / "plans.json"
    if path.exists() and list(model.glob("fold_*/checkpoint_*.pth")):
        there = Plans.load(path)
        if there.fingerprint_hash != prepared.plans.fingerprint_hash or shape(there, prepared.name) != shape(prepared.plans, prepared.name):
            raise ModelError(f"{model} holds folds trained with other plans. Move it away, or use the same --set values.")


def write_record(
    folder: Path, prepared: Prepared, fold: int | str, seed: int, device: torch.device, precision: str,
    began: Mapping[str, Any] | None = None, devices: int = 1,
) -> None:  # fmt: skip
    """plans.json, dataset.json and fingerprint beside the folds; the fold's own plans (lengths may differ) and manifest.

    Args:
        precision: what is computed in (inference/device.py, `NAMES`).
        began: what the pretrained weights were, if training began with some.
        devices: that share each batch, on all nodes.
    """
    model = folder.parent
    prepared.plans.save(model / "plans.json")
    prepared.plans.save(folder / "plans.json")
    for source, target in (("dataset.json", "dataset.json"), ("dataset_fingerprint.json", "dataset_fingerprint.json")):
        if (prepared.folder / source).exists():
            write_text(model / target, (prepared.folder / source).read_text(encoding="utf-8"))
    manifest = {
        "ldseg_auto": ldseg_auto.__version__, "torch": torch.__version__, "python": platform.python_version(),
        "device": str(device), "devices": devices,
        "precision": precision, "fold": str(fold), "seed": seed, "dataset": prepared.plans.dataset_name,
        "fingerprint_hash": prepared.plans.fingerprint_hash, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "train": prepared.train, "validation": prepared.validation,
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest | ({"pretrained": began} if began else {}))


def shape(plans: Plans, name: str) -> tuple[object, ...]:
    """What must agree between the folds of one model folder."""
    c = plans.configuration(name)
    return (c.network, c.network_parts, c.latent, c.patch_size, c.sampling.schedule, *(getattr(c, key) for key in PREPROCESSED))
