"""One fold from the preprocessed folder to the model folder."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning_fabric import Fabric

from ldseg_auto.inference.device import choose_device, training_precision
from ldseg_auto.progress import Progress, silent
from ldseg_auto.training.finish import final_validation, measure_method
from ldseg_auto.training.loop import Limits, Trainer
from ldseg_auto.training.options import Options
from ldseg_auto.training.prepare import Prepared, batches, prepare, statistics_patches, validation_patches
from ldseg_auto.training.record import check_siblings, last_checkpoint, write_record


def train_fold(preprocessed: Path, results: Path, fold: int | str, options: Options | None = None, progress: Progress = silent) -> Path:
    """Trains, validates and leaves a complete model folder.

    Args:
        preprocessed: preprocessed/DatasetXXX_Name.
        results: the results root.
        fold: 0 ... or "all".
        options: None trains as planned.

    Returns:
        The fold's folder.

    Raises:
        InputError: not preprocessed, fold out of range, impossible length, nothing to continue, or trained before.
        ModelError: the model folder holds folds of other plans, or the checkpoint to continue from is damaged.
        LdsegError: the loss is not finite, or a process that makes batches died.
    """
    options = options or Options()
    chosen = choose_device(options.device)
    prepared = prepare(preprocessed, fold, options.configuration, options.plans_name, options.all_settings())
    folder = results / preprocessed.name / f"{options.plans_name}__{prepared.name}" / f"fold_{fold}"
    last = last_checkpoint(folder, options.resume)
    check_siblings(folder.parent, prepared)
    trainer = _trainer(prepared, folder, chosen, options.seed)
    if last:
        trainer.resume(last)
    write_record(folder, prepared, fold, trainer.seed, chosen)
    plan = prepared.configuration.training
    limits = Limits(options.iterations or plan.epochs * plan.iterations_per_epoch, options.time_budget)
    patches = validation_patches(prepared)
    trainer.fit(batches(prepared, trainer.seed, limits.iterations), patches, statistics_patches(prepared), limits, progress)
    chosen_steps = measure_method(prepared, trainer, patches)
    if options.validate:
        final_validation(prepared, trainer, chosen_steps, progress)
    return folder


def _trainer(prepared: Prepared, folder: Path, device: torch.device, seed: int) -> Trainer:
    precision = training_precision(device, prepared.configuration.training.precision)
    fabric = Fabric(accelerator=device.type, devices=1, precision=precision)  # type: ignore[arg-type]
    origin = {"dataset_name": prepared.plans.dataset_name, "fingerprint_hash": prepared.plans.fingerprint_hash}
    return Trainer(prepared.configuration, prepared.description.labels, folder, fabric, seed, origin)
