"""A small model and its archive."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ldseg_auto.errors import InputError, ModelError
from ldseg_auto.sharing.export import export_model
from ldseg_auto.sharing.install import import_model


@pytest.fixture(scope="session")
def model(make_dataset: Callable[..., Path], make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of two folds, untrained, with steps.json and a manifest as training leaves them; read it only."""
    root = tmp_path_factory.mktemp("model")
    licence = {"licence": "CC-BY-4.0", "groups": {"toy_000": "patient Smith"}}
    folder = make_model(root / "results", make_dataset(root / "raw", n_cases=2, shape=(4, 20, 16), content=licence), seeds=(0, 1))
    for fold, steps in ((0, 2), (1, 4)):
        (folder / f"fold_{fold}" / "steps.json").write_text(json.dumps({"dice": {"1": 0.5, str(steps): 0.75}, "chosen": steps}))
        (folder / f"fold_{fold}" / "manifest.json").write_text(json.dumps({"train": ["toy_000"], "validation": ["toy_001"]}))
        (folder / f"fold_{fold}" / "curves.png").write_bytes(b"not exported")
    return folder


@pytest.fixture(scope="session")
def archive(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its archive; read it only."""
    return export_model(model, tmp_path_factory.mktemp("archive") / "model.zip").path


@pytest.fixture
def forge(archive: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes an archive by hand.

    Args of it:
        files: name -> bytes in place of the original's (None leaves the file out); their hashes are put into the manifest.
        manifest: keys of the manifest in place of the original's; None leaves it out.
        raw: entries written as they are, unlisted: (ZipInfo or name, bytes).
        compress: of all entries.
        manifest_bytes: in place of the manifest.
        listed: whether the manifest knows of `files`.
    """

    def write(
        files: Mapping[str, bytes | None] | None = None, manifest: Mapping | None = None, raw: tuple = (),
        compress: int = zipfile.ZIP_STORED,
        manifest_bytes: bytes | None = None, listed: bool = True,
    ) -> Path:  # fmt: skip
        with zipfile.ZipFile(archive) as old:
            content = {name: old.read(name) for name in old.namelist()}
        told = json.loads(content.pop("manifest.json"))
        for name, data in (files or {}).items():
            content.pop(name, None)
            if listed:
                told["files"].pop(name, None)
            if data is not None:
                content[name] = data
                if listed:
                    told["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        told |= manifest or {}
        path = tmp_path / "forged.zip"
        with zipfile.ZipFile(path, "w", compress) as out:
            for name, data in content.items():
                out.writestr(name, data)
            out.writestr("manifest.json", json.dumps(told) if manifest_bytes is None else manifest_bytes)
            for entry, data in raw:
                out.writestr(entry, data)
        return path

    return write


@pytest.fixture(scope="session")
def refused() -> Callable[..., None]:
    """An archive that must not be imported, with this message; not even the results root is made."""

    def check(archive: Path, results: Path, match: str, error: type[InputError] = ModelError, **how: Any) -> None:
        with pytest.raises(error, match=match):
            import_model(archive, results, **how)
        assert not results.exists()

    return check
