"""Checkpoints: tensors and plain numbers only, so that they load with `weights_only=True`."""

from __future__ import annotations

import contextlib
import logging
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ldseg_auto.errors import ModelError
from ldseg_auto.files import atomic_path

logger = logging.getLogger(__name__)
LATEST, PREVIOUS, FINAL = "checkpoint_latest.pth", "checkpoint_previous.pth", "checkpoint_final.pth"
CONTINUABLE = (FINAL, LATEST, PREVIOUS)  # in order of preference among equals


@dataclass(frozen=True)
class Found:
    """A checkpoint to continue from."""

    path: Path
    content: dict[str, Any]


def save(path: Path, content: dict[str, Any], previous: Path | None = None) -> None:
    """Writes atomically and to the disk itself: whatever happens, `path` holds the old or the new checkpoint, whole.

    Args:
        previous: where the old one goes.

    Raises:
        OSError: it cannot be written, for instance because the disk is full.
    """
    with atomic_path(path) as temporary:
        _write(temporary, content, path)
        if previous is not None and path.exists():
            _keep(path, previous)


def _write(temporary: Path, content: dict[str, Any], path: Path) -> None:
    try:
        with open(temporary, "wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, RuntimeError) as cause:  # torch wraps what writing raises
        full = cause if isinstance(cause, OSError) else cause.__context__
        if not isinstance(full, OSError):
            raise
        raise OSError(full.errno, full.strerror, str(path)) from cause


def _keep(path: Path, previous: Path) -> None:
    """`previous` becomes what `path` is, and `path` stays; it is moved only where the file system has no hard links."""
    link = previous.with_name(f".tmp_{previous.name}")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, previous)
    else:
        os.replace(link, previous)


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint, its checksums compared.

    Raises:
        ModelError: missing, truncated, changed on disk, or holding anything but tensors and plain values.
    """
    if not path.exists():
        raise ModelError(f"checkpoint {path} does not exist; train first with ldseg_train.")
    try:
        with zipfile.ZipFile(path) as archive:  # torch compares no checksums itself
            if (bad := archive.testzip()) is not None:
                raise zipfile.BadZipFile(bad)
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as cause:
        raise ModelError(
            f"checkpoint {path} cannot be read ({type(cause).__name__}); it is damaged or no checkpoint of ldseg_auto."
        ) from cause
    if not isinstance(content, dict):
        raise ModelError(f"checkpoint {path} holds a {type(content).__name__}; it is no checkpoint of ldseg_auto.")
    return content


def furthest(folder: Path, device: str | torch.device = "cpu") -> Found | None:
    """The checkpoint furthest on among final, latest and the one before; None where there is none.

    A damaged one is passed over, with a warning, and set aside as `NAME.damaged`, so that it does not take the place of a good one.

    Raises:
        ModelError: all are damaged.
    """
    best: Found | None = None
    damaged: dict[Path, ModelError] = {}
    for path in (folder / name for name in CONTINUABLE):
        whole = path.name == PREVIOUS and best is not None and (folder / LATEST) not in damaged
        if whole or not path.exists():
            continue
        try:
            content = load(path, device)
        except ModelError as cause:
            damaged[path] = cause
            continue
        if best is None or content.get("iteration", 0) > best.content.get("iteration", 0):
            best = Found(path, content)
    if best is None:
        reasons = " ".join(str(cause) for cause in damaged.values())
        if damaged:
            raise ModelError(f"{folder} holds no checkpoint that can be read: {reasons} Move the folder away and train anew.")
        return None
    for path, reason in damaged.items():
        at = best.content.get("iteration")
        logger.warning("%s Going on from %s, iteration %s; what came after is trained again.", reason, best.path.name, at)
        with contextlib.suppress(FileNotFoundError):  # another rank was faster
            os.replace(path, path.with_name(f"{path.name}.damaged"))
    return best


def check_origin(content: dict[str, Any], dataset_name: str, fingerprint_hash: str, path: Path) -> None:
    """Raises ModelError when the checkpoint was trained on other data than the plans at hand."""
    theirs = (content.get("dataset_name"), content.get("fingerprint_hash"))
    if theirs != (dataset_name, fingerprint_hash):
        raise ModelError(
            f"checkpoint {path} was trained on {theirs[0]} (fingerprint {str(theirs[1])[:12]}), the plans are of "
            f"{dataset_name} ({fingerprint_hash[:12]}). Use the model folder that it came from."
        )


def check_configuration(content: dict[str, Any], name: str, path: Path) -> None:
    """Raises ModelError when the checkpoint is of another configuration; those of earlier versions do not say of which."""
    theirs = content.get("configuration", name)
    if theirs != name:
        raise ModelError(f"checkpoint {path} is of configuration {theirs}, not {name}. Use the model folder that it came from.")


def check_can_continue(content: dict[str, Any], path: Path) -> None:
    """Raises ModelError when the checkpoint holds the averaged weights alone, as an imported model's does."""
    if "model" not in content:
        what = f"checkpoint {path} holds weights alone, as of an imported model, which cannot be continued"
        raise ModelError(f"{what}. Use --pretrained {path}.")
