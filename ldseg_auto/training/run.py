"""One fold from the preprocessed folder to the model folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from ldseg_auto.errors import LdsegError
from ldseg_auto.inference.device import NAMES, choose_device, training_precision
from ldseg_auto.inference.fallback import out_of_memory
from ldseg_auto.networks.depths import thin_grids
from ldseg_auto.planners.plans import Plans
from ldseg_auto.progress import Progress, silent
from ldseg_auto.training import checkpoint
from ldseg_auto.training.connect import launch, make_fabric, rank_of
from ldseg_auto.training.finish import final_validation, measure_method
from ldseg_auto.training.label_code import begin_as_block_code
from ldseg_auto.training.lock import fold_lock, remove_leftovers
from ldseg_auto.training.loop import Trainer
from ldseg_auto.training.options import Options
from ldseg_auto.training.overlays import overlays
from ldseg_auto.training.patches import Patches
from ldseg_auto.training.prepare import Prepared, batches, prepare, read_plans, statistics_patches, validation_patches
from ldseg_auto.training.pretrained import begin
from ldseg_auto.training.record import check_siblings, last_checkpoint, say_where, write_record
from ldseg_auto.training.settings import check_settings
from ldseg_auto.training.state import Limits
from ldseg_auto.training.stop import Interruptible, Stop, interruptible, never
from ldseg_auto.training.watch import watching


def train_fold(
    preprocessed: Path, results: Path, fold: int | str, options: Options | None = None, progress: Progress = silent, stop: Stop = never
) -> Path:
    """Trains, validates and leaves a complete model folder.

    Args:
        preprocessed: preprocessed/DatasetXXX_Name.
        results: the results root.
        fold: 0 ... or "all".
        options: None trains as planned.
        stop: asked between iterations, patches and cases; once it is true, training stops with a checkpoint.

    Returns:
        The fold's folder.

    Raises:
        InputError: not preprocessed, fold out of range, impossible length, nothing to continue, trained before, or in use by another
            process.
        ModelError: the model folder holds folds of other plans, or the checkpoint to continue from or to begin with is damaged.
        LdsegError: the loss is not finite, or a process that makes batches, or another one that trains with this one, died.
        Stopped: `stop` said so.
    """
    options = options or Options()
    chosen = choose_device(options.device)
    planned = read_plans(preprocessed, options.plans_name)
    name = options.configuration or planned.default_configuration
    planned.configuration(name)
    folder = results / preprocessed.name / f"{options.plans_name}__{name}" / f"fold_{fold}"
    first = rank_of(chosen, options.devices, options.nodes) == 0
    with fold_lock(folder) if first else contextlib.nullcontext():
        if first:
            remove_leftovers(folder)
        prepared, trainer, limits = _begin(preprocessed, folder, fold, planned, options, chosen)
        with trainer.ranks.explained(stop), _memory(prepared):
            statistics = statistics_patches(prepared)
            if prepared.configuration.parts.block_code and not options.resume:
                begin_as_block_code((trainer.model, trainer.ema.model), statistics, prepared.description.labels, trainer.ranks)
            began = begin(options.pretrained, (trainer.model, trainer.ema.model), prepared, folder if options.resume else None)
            if first:
                write_record(folder, prepared, fold, trainer.seed, chosen, trainer.precision, began, trainer.ranks.size)
            _run(prepared, trainer, statistics, limits, options, progress, stop)
            trainer.ranks.leave()
    return folder


def _begin(
    preprocessed: Path, folder: Path, fold: int | str, planned: Plans, options: Options, device: torch.device
) -> tuple[Prepared, Trainer, Limits]:
    """A new training, or one that goes on with the plans, seed and length it began with and what the options now change of them."""
    found = last_checkpoint(folder, options.resume)
    name, base = folder.parent.name.removeprefix(f"{options.plans_name}__"), None
    if found:
        checkpoint.check_origin(found.content, planned.dataset_name, planned.fingerprint_hash, found.path)
        checkpoint.check_configuration(found.content, name, found.path)
        checkpoint.check_can_continue(found.content, found.path)
        base = Plans.load(folder / "plans.json") if (folder / "plans.json").exists() else None
    prepared = prepare(preprocessed, fold, name, options.plans_name, options.all_settings(), base)
    if found:
        check_settings(found.content.get("settings", {}), prepared.configuration, found.path)
    check_siblings(folder.parent, prepared)
    trainer = _trainer(prepared, folder, device, options, found.content.get("precision") if found else None)
    plan = prepared.configuration.training
    limits = Limits(options.iterations or plan.epochs * plan.iterations_per_epoch, options.time_budget)
    if found:
        trainer.resume(found)
        if trainer.ranks.first:
            say_where(folder, found)
        if not options.sets_length and "limits" in found.content:
            limits = Limits(**found.content["limits"])
    return prepared, trainer, limits


def _run(
    prepared: Prepared, trainer: Trainer, statistics: Patches, limits: Limits, options: Options, progress: Progress, stop: Stop
) -> None:  # fmt: skip
    """Iterations, and what follows the last one."""
    patches = validation_patches(prepared)
    folder, first = trainer.folder, trainer.ranks.first
    trainer.overlays = overlays(prepared, folder) if first else None
    with watching(options.log_to if first else (), prepared.plans, folder, trainer.state.rows) as trainer.watchers:
        trainer.fit(batches(prepared, trainer.seed, limits.iterations), patches, statistics, limits, progress, stop)
        chosen_steps = measure_method(prepared, trainer, Interruptible(patches, stop))
        if options.validate:
            final_validation(prepared, trainer, chosen_steps, interruptible(progress, stop))


@contextlib.contextmanager
def _memory(prepared: Prepared) -> Iterator[None]:
    """Turns the want of GPU memory into advice; raises LdsegError."""
    try:
        yield
    except RuntimeError as cause:
        if not out_of_memory(cause):
            raise
        configuration = prepared.configuration
        what = f"batch_size {configuration.batch_size} of patch_size {list(configuration.patch_size)} does not fit the GPU's free memory"
        raise LdsegError(
            f"{what} ({configuration.memory_gib:.1f} GiB are planned): end what else runs there (nvidia-smi shows it), plan for a smaller "
            "card with ldseg_plan --gpu-memory, or use --set batch_size."
        ) from cause


def _trainer(prepared: Prepared, folder: Path, device: torch.device, options: Options, before: str | None) -> Trainer:
    """`before`: what a training that goes on was computed in; `auto` stays with it on a CPU, where it is tried out."""
    configuration = prepared.configuration
    wanted, heads = configuration.training.precision, prepared.description.labels.num_heads
    thin = thin_grids(configuration, heads) if device.type == "cpu" else []
    precision = training_precision(device, wanted, options.devices * options.nodes, thin)
    if wanted == "auto" and device.type == "cpu" and before in (NAMES["float32"], NAMES["bf16"]):
        precision = before
    fabric = make_fabric(device, precision, options.devices, options.nodes)
    launch(fabric, configuration.batch_size)
    plans = prepared.plans
    origin = {"dataset_name": plans.dataset_name, "fingerprint_hash": plans.fingerprint_hash, "configuration": prepared.name}
    return Trainer(configuration, prepared.description.labels, folder, fabric, options.seed, origin)
