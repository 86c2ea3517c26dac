"""Import: what prediction needs arrives unchanged, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldseg_auto.errors import InputError, ModelError
from ldseg_auto.files import hash_file
from ldseg_auto.inference.model_folder import load_network, measured_steps, read_model_folder
from ldseg_auto.inference.recipe import Recipe, read_part
from ldseg_auto.sharing import install
from ldseg_auto.sharing.export import export_model
from ldseg_auto.sharing.install import import_model
from ldseg_auto.training import checkpoint
from ldseg_auto.training.lock import fold_lock

CPU = torch.device("cpu")
Forge = Callable[..., Path]


def test_the_model_arrives(model: Path, archive: Path, tmp_path: Path) -> None:
    done = import_model(archive, tmp_path / "results")
    assert done.folder == tmp_path / "results" / "Dataset001_Toy" / "ldsegPlans__3d_fullres"
    old, new = read_model_folder(model), read_model_folder(done.folder)
    assert (new.plans, new.description) == (old.plans, old.description)
    for fold in ("0", "1"):
        one, two = load_network(old, fold, CPU).state_dict(), load_network(new, fold, CPU).state_dict()
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert measured_steps(new) == measured_steps(old) == 4
    record = json.loads((done.folder / "imported.json").read_text())
    assert (record["archive_sha256"], record["licence"]) == (hash_file(archive), "CC-BY-4.0")
    assert sorted(p.name for p in done.folder.parent.iterdir()) == [done.folder.name]
    assert stat.S_IMODE(done.folder.stat().st_mode) == stat.S_IMODE((tmp_path / "results").stat().st_mode)


def test_it_can_be_exported_again(archive: Path, tmp_path: Path) -> None:
    """Same weights, same files, same licence; only the checkpoints' hashes are new."""
    folder = import_model(archive, tmp_path / "results").folder
    again = export_model(folder, tmp_path / "again.zip").manifest
    with zipfile.ZipFile(archive) as opened:
        before = json.loads(opened.read("manifest.json"))
    assert {name: entry.sha256 for name, entry in again.files.items()} == {name: e["sha256"] for name, e in before["files"].items()}
    assert again.licence == "CC-BY-4.0"


def test_the_recipe_names_the_new_checkpoints(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / model.name)
    hashes = {fold: hash_file(copy / f"fold_{fold}" / "checkpoint_final.pth") for fold in ("0", "1")}
    content = {"dataset": "Dataset001_Toy", "ldseg_auto": "0", "models": [{"folder": ".", "checkpoints": hashes, "steps": 2}]}
    (copy / "inference.json").write_text(json.dumps(content))
    export_model(copy, tmp_path / "a.zip")
    folder = import_model(tmp_path / "a.zip", tmp_path / "results").folder
    found = Recipe.load(folder / "inference.json")
    assert found.models[0].checkpoints == {fold: hash_file(folder / f"fold_{fold}" / "checkpoint_final.pth") for fold in ("0", "1")}
    assert list(read_part(folder / "inference.json", found.models[0], found).folds) == ["0", "1"]


def test_the_sha256_of_the_archive(refused: Callable, archive: Path, forge: Forge, tmp_path: Path) -> None:
    """What a manifest cannot tell: an archive forged as a whole."""
    forged = forge(manifest={"licence": "free"})
    refused(forged, tmp_path / "results", "forged.zip has .*; it is another file, or was changed", InputError, sha256=hash_file(archive))
    assert import_model(archive, tmp_path / "results", sha256=hash_file(archive).upper()).folder.is_dir()


def test_a_model_that_is_there_already(archive: Path, forge: Forge, tmp_path: Path, tree: Callable) -> None:
    results = tmp_path / "results"
    folder = import_model(archive, results).folder
    (folder / "fold_3").mkdir()
    (folder / "notes.txt").write_text("mine")
    before = tree(results)
    with pytest.raises(InputError, match="ldsegPlans__3d_fullres exists already; nothing was changed. Move it away"):
        import_model(archive, results)
    with pytest.raises(ModelError):
        import_model(forge(files={"fold_0/steps.json": b"["}), results, overwrite=True)
    assert tree(results) == before
    import_model(forge(manifest={"licence": "new"}), results, overwrite=True)
    assert json.loads((folder / "imported.json").read_text())["licence"] == "new"
    assert not (folder / "notes.txt").exists() and [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_model_that_is_being_trained_is_not_replaced(archive: Path, tmp_path: Path, tree: Callable) -> None:
    folder = import_model(archive, tmp_path / "results").folder
    before = tree(tmp_path / "results")
    with fold_lock(folder / "fold_1"), pytest.raises(InputError, match=rf"fold_1 is in use by process {os.getpid()} on"):
        import_model(archive, tmp_path / "results", overwrite=True)
    assert tree(tmp_path / "results") == before


def test_a_link_in_the_models_place_is_not_followed(archive: Path, tmp_path: Path) -> None:
    place = tmp_path / "results" / "Dataset001_Toy" / "ldsegPlans__3d_fullres"
    place.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link or a file, which an import does not replace"):
        import_model(archive, tmp_path / "results", overwrite=True)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Every file and folder below a folder."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("where", ["write", "checkpoint", "rename"])
@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Callable, where: str, there: bool
) -> None:  # fmt: skip
    """Wherever it fails, the old state is there as it was."""
    results = tmp_path / "results"
    if there:
        import_model(archive, results)
        (results / "Dataset001_Toy" / "ldsegPlans__3d_fullres" / "notes.txt").write_text("mine")
    before = tree(results)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rename = os.rename
    if where == "write":
        monkeypatch.setattr(Path, "write_bytes", full)
    elif where == "checkpoint":
        monkeypatch.setattr(checkpoint, "save", full)
    else:
        monkeypatch.setattr(os, "rename", lambda a, b: full() if Path(a).name == "model" else rename(a, b))
    with pytest.raises(OSError, match="No space left"):
        import_model(archive, results, overwrite=there)
    assert tree(results) == before and results.exists() == there
    monkeypatch.undo()
    import_model(archive, results, overwrite=there)


def test_a_kill_between_the_two_renames(archive: Path, tmp_path: Path) -> None:
    """The old model waits beside its place; the next import finds it there again."""
    results = tmp_path / "results"
    folder = import_model(archive, results).folder
    (folder / "notes.txt").write_text("mine")
    folder.rename(folder.with_name(".tmp_replaced_ldsegPlans-3d_fullres"))
    with pytest.raises(InputError, match="exists already"):
        import_model(archive, results)
    assert (folder / "notes.txt").read_text() == "mine" and [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_what_a_killed_import_left_is_removed_after_a_day(archive: Path, tmp_path: Path) -> None:
    parent = tmp_path / "results" / "Dataset001_Toy"
    old, new = parent / ".tmp_import_old", parent / ".tmp_import_new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    import_model(archive, tmp_path / "results")
    assert (old.exists(), new.exists()) == (False, True)
    assert install.ABANDONED == 24 * 3600


def test_kill_at_any_moment(archive: Path, tmp_path: Path) -> None:
    """A real process, killed once it has begun to unpack: no model folder, and the next import is not disturbed."""
    place = tmp_path / "results" / "Dataset001_Toy"
    command = [sys.executable, "-m", "ldseg_auto.cli.import_model", str(archive), "--results", str(place.parent)]
    with subprocess.Popen(command) as process:
        while process.poll() is None and not list(place.glob(".tmp_import_*/model/*")):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (place / "ldsegPlans__3d_fullres").exists()
    assert read_model_folder(import_model(archive, place.parent).folder).folds
