"""An archive as a model folder: verified first, put in place whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ldseg_auto.data.description import Description
from ldseg_auto.errors import DatasetError, InputError, ModelError, PlansError
from ldseg_auto.files import hash_file, read_json, write_json
from ldseg_auto.inference.model_folder import load_network, measured_steps, predicted_dice, read_model_folder
from ldseg_auto.inference.recipe import NAME as RECIPE
from ldseg_auto.inference.recipe import Recipe, read_part
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Plans
from ldseg_auto.planners.serialise import to_dict
from ldseg_auto.progress import Progress, silent
from ldseg_auto.sharing.archive import Archive, parse_json
from ldseg_auto.sharing.manifest import RECORD, WEIGHTS, Manifest
from ldseg_auto.sharing.weights import from_npz
from ldseg_auto.training import checkpoint
from ldseg_auto.training.lock import fold_lock

logger = logging.getLogger(__name__)
CPU = torch.device("cpu")
STAGED, REPLACED = ".tmp_import_", ".tmp_replaced_"
ABANDONED = 24 * 3600.0  # seconds after which the temporary folder of an import that was killed is removed


@dataclass(frozen=True)
class Imported:
    """What was put in place."""

    folder: Path
    manifest: Manifest


def import_model(archive: Path, results: Path, overwrite: bool = False, sha256: str | None = None, progress: Progress = silent) -> Imported:
    """Puts an archive of export_model in place as results/DatasetXXX_Name/PLANS__CONFIG.

    Everything is verified before the folder appears, by a rename: the hashes, and that prediction can read what there is.

    Args:
        results: the results root; made if it is not there.
        overwrite: replace a model folder of that name, all its folds included.
        sha256: of the whole archive, as the one who made it says; without it a manifest made anew cannot be told from the original.

    Raises:
        InputError: the model is there already, a fold of it is being trained, or the archive has another SHA-256.
        ModelError: a damaged or forbidden archive, or weights that do not fit its plans.
        PlansError, DatasetError: plans of another version or impossible ones; an impossible dataset.json.
    """
    if sha256 is not None and (found := _hash(archive)) != sha256.lower():
        raise InputError(f"--sha256 {sha256}: {archive} has {found}; it is another file, or was changed. Get the archive anew.")
    with Archive(archive) as opened, contextlib.ExitStack() as held:
        manifest = opened.manifest
        target = results / manifest.dataset / manifest.model
        _check_target(target, overwrite)
        for fold in sorted(target.glob("fold_*")):
            held.enter_context(fold_lock(fold))
        opened.verify(progress)
        with _staging(target) as staged:
            with _named_as_archive(staged, archive):
                _unpack(opened, staged)
                _check(staged, manifest)
            _put_in_place(staged, target)
    return Imported(target, manifest)


def _hash(archive: Path) -> str:
    if not archive.is_file():
        raise ModelError(f"archive {archive} does not exist, or is no file.")
    return hash_file(archive)


def _check_target(target: Path, overwrite: bool) -> None:
    """Restores what a killed import moved away; raises InputError where the model's place is taken."""
    old = _moved_away(target)
    if old.exists() and not target.exists():
        os.rename(old, target)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target} is a link or a file, which an import does not replace; nothing was changed. Move it away.")
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists already; nothing was changed. Move it away, name other --results, or --overwrite all its folds.")


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A new folder on the same file system, which is gone afterwards unless it was renamed."""
    made = [folder for folder in (target.parent, target.parent.parent) if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(STAGED + "*"):
        if time.time() - old.stat().st_mtime > ABANDONED:
            shutil.rmtree(old, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=STAGED, dir=target.parent))
    try:
        staged = temporary / "model"  # mkdir gives it the permissions that the user's folders have, mkdtemp does not
        staged.mkdir()
        yield staged
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # it holds something now
                folder.rmdir()


@contextlib.contextmanager
def _named_as_archive(staged: Path, archive: Path) -> Iterator[None]:
    """Errors about files in the temporary folder name the archive instead; values of no use are errors of the model."""
    try:
        yield
    except (ModelError, PlansError, DatasetError) as cause:
        kind = next(kind for kind in (ModelError, PlansError, DatasetError) if isinstance(cause, kind))
        raise kind(str(cause).replace(str(staged), str(archive))) from cause
    except (ValueError, TypeError, KeyError) as cause:
        raise ModelError(f"{archive} holds a value that no model has ({type(cause).__name__}: {cause}). Get the archive anew.") from cause


def _unpack(opened: Archive, staged: Path) -> None:
    """Writes the files, and a checkpoint in place of each fold's weights."""
    for name in opened.manifest.files:
        if not name.endswith(WEIGHTS):
            content = opened.read(name)
            if name.endswith(".json"):
                parse_json(content, f"{opened.path}: {name}")
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(content)
    plans = Plans.load(staged / "plans.json")
    description = Description.from_dict(read_json(staged / "dataset.json", ModelError), str(staged / "dataset.json"))
    origin = {
        "dataset_name": plans.dataset_name, "fingerprint_hash": plans.fingerprint_hash, "configuration": plans.default_configuration,
    }  # fmt: skip
    hashes: dict[str, str] = {}
    for fold, record in opened.manifest.folds.items():
        with torch.device("meta"):
            network = LDSeg(plans.configuration(), description.labels.num_heads)
        name = f"fold_{fold}/{WEIGHTS}"
        path = staged / f"fold_{fold}" / f"checkpoint_{record.checkpoint}.pth"
        weights = from_npz(opened.read(name), network, f"{opened.path}: {name}")
        checkpoint.save(path, {**origin, "seed": record.seed, "iteration": record.iteration, "ema": weights})
        hashes[record.sha256] = hash_file(path)
    if (staged / RECIPE).exists():  # it names checkpoints by their hashes
        write_json(staged / RECIPE, _replaced_in(read_json(staged / RECIPE, ModelError), hashes))
    write_json(staged / RECORD, {"archive_sha256": hash_file(opened.path), **to_dict(opened.manifest)})


def _replaced_in(content: Any, new: dict[str, str]) -> Any:
    """JSON with every text that is a key of `new` replaced by its value."""
    if isinstance(content, dict):
        return {key: _replaced_in(value, new) for key, value in content.items()}
    if isinstance(content, list):
        return [_replaced_in(value, new) for value in content]
    return new.get(content, content) if isinstance(content, str) else content


def _check(staged: Path, manifest: Manifest) -> None:
    """Reads all that prediction reads, as prediction does; raises ModelError, PlansError or DatasetError."""
    folder = read_model_folder(staged)
    plans, channels = folder.plans, len(folder.description.channel_names)
    for name, one, other in (
        ("dataset", manifest.dataset, plans.dataset_name),
        ("configuration", manifest.configuration, plans.default_configuration),
        ("number of image channels", channels, folder.configuration.channels),
    ):
        if one != other:
            raise ModelError(f"{staged}: plans.json has another {name} than the rest: {other} and {one}. Export the model again.")
    for fold in folder.folds:
        load_network(folder, fold, CPU)
    for key in ("chosen", "chosen_for_samples"):
        measured_steps(folder, key)
    predicted_dice(folder)
    if (staged / RECIPE).exists():
        recipe = Recipe.load(staged / RECIPE)
        for part in recipe.models:
            if part.folder != ".":
                raise ModelError(f"{staged / RECIPE} names another model folder, {part.folder}. Export the model again.")
            read_part(staged / RECIPE, part, recipe)


def _put_in_place(staged: Path, target: Path) -> None:
    """By renames alone: at any moment the old folder or the new one is there, or the old one beside its place, which is found again."""
    old = _moved_away(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(staged, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _moved_away(target: Path) -> Path:
    """Where the folder that is replaced waits; its name is not that of a model folder."""
    return target.with_name(REPLACED + target.name.replace("__", "-"))
