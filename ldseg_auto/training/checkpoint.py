"""Checkpoints: tensors and plain numbers only, so that they load with `weights_only=True`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ldseg_auto.errors import ModelError
from ldseg_auto.files import atomic_path


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes atomically: whatever happens, `path` holds the old or the new checkpoint, whole."""
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint.

    Raises:
        ModelError: missing, truncated, or holding anything but tensors and plain values.
    """
    if not path.exists():
        raise ModelError(f"checkpoint {path} does not exist; train first with ldseg_train.")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as cause:
        raise ModelError(
            f"checkpoint {path} cannot be read ({type(cause).__name__}); it is damaged or no checkpoint of ldseg_auto."
        ) from cause
    if not isinstance(content, dict):
        raise ModelError(f"checkpoint {path} holds a {type(content).__name__}; it is no checkpoint of ldseg_auto.")
    return content


def check_origin(content: dict[str, Any], dataset_name: str, fingerprint_hash: str, path: Path) -> None:
    """Raises ModelError when the checkpoint was trained on other data than the plans at hand."""
    theirs = (content.get("dataset_name"), content.get("fingerprint_hash"))
    if theirs != (dataset_name, fingerprint_hash):
        raise ModelError(
            f"checkpoint {path} was trained on {theirs[0]} (fingerprint {str(theirs[1])[:12]}), the plans are of "
            f"{dataset_name} ({fingerprint_hash[:12]}). Use the model folder that it came from."
        )
