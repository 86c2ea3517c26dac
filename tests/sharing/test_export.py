"""What lands in an archive, and that it is the same each time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ldseg_auto import __version__
from ldseg_auto.errors import InputError, ModelError
from ldseg_auto.files import hash_file
from ldseg_auto.inference.recipe import Part, Recipe
from ldseg_auto.sharing.export import Export, export_model
from ldseg_auto.training import checkpoint


def read(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_archive(model: Path, archive: Path) -> None:
    files = read(archive)
    told = json.loads(files.pop("manifest.json"))
    folds = [f"fold_{f}/{name}" for f in (0, 1) for name in ("manifest.json", "steps.json", "weights.npz")]
    assert sorted(files) == sorted(["dataset.json", "plans.json", *folds])
    assert told["files"] == {n: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()}
    assert (told["dataset"], told["model"], told["configuration"]) == ("Dataset001_Toy", "ldsegPlans__3d_fullres", "3d_fullres")
    assert (told["format"], told["version"], told["ldseg_auto"], told["licence"]) == ("ldseg_auto model", 1, __version__, "CC-BY-4.0")
    assert told["folds"]["1"]["sha256"] == hash_file(model / "fold_1" / "checkpoint_final.pth")
    for name in files:
        if not name.endswith("npz"):
            assert files[name] == (model / name).read_bytes()


def test_weights_are_those_of_the_checkpoint_without_pickle(model: Path, archive: Path, tmp_path: Path) -> None:
    """Read by numpy alone. A layer that the network holds under two names is there once."""
    (tmp_path / "w.npz").write_bytes(read(archive)["fold_1/weights.npz"])
    expected = checkpoint.load(model / "fold_1" / "checkpoint_final.pth")["ema"]
    with np.load(tmp_path / "w.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {name for name in expected if "all_modules" not in name}
        for name in arrays.files:
            assert arrays[name].dtype == expected[name].numpy().dtype
            np.testing.assert_array_equal(arrays[name], expected[name])


def test_the_same_bytes_each_time(model: Path, archive: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "elsewhere" / model.parent.name / model.name)
    for path in copy.rglob("*"):
        os.utime(path, (time.time() - 1e6,) * 2)
    assert export_model(copy, tmp_path / "again.zip").path.read_bytes() == archive.read_bytes()


def test_what_is_returned(model: Path, tmp_path: Path) -> None:
    done = export_model(model, tmp_path / "a.zip", Export(["1"], licence="mine"))
    assert (done.size, done.sha256) == ((tmp_path / "a.zip").stat().st_size, hash_file(tmp_path / "a.zip"))
    assert list(done.manifest.folds) == ["1"] and done.manifest.licence == "mine"
    assert not [name for name in read(tmp_path / "a.zip") if name.startswith("fold_0")]


def test_best_weights_come_without_what_was_measured_with_the_final_ones(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / model.name)
    with pytest.raises(ModelError, match=r"fold 0, 1 of .* has no checkpoint_best\.pth"):
        export_model(copy, tmp_path / "a.zip", Export(checkpoint="best"))
    for fold in ("fold_0", "fold_1"):
        (copy / fold / "checkpoint_final.pth").rename(copy / fold / "checkpoint_best.pth")
    with pytest.raises(ModelError, match="has no checkpoint_final.pth. Finish its training .*--checkpoint best"):
        export_model(copy, tmp_path / "a.zip")
    done = export_model(copy, tmp_path / "a.zip", Export(checkpoint="best"))
    assert {fold.checkpoint for fold in done.manifest.folds.values()} == {"best"}
    assert sorted(done.manifest.files) == [
        "dataset.json", "fold_0/manifest.json", "fold_0/weights.npz", "fold_1/manifest.json", "fold_1/weights.npz", "plans.json"
    ]  # fmt: skip


def test_anonymous(model: Path, tmp_path: Path) -> None:
    """No file says the name of a case or of a patient; what prediction reads stays."""
    copy = shutil.copytree(model, tmp_path / model.name)
    fit = {
        "curve": {"kind": "constant", "features": [], "intercept": 0.5, "weights": [], "knots": [], "sizes": [0, 1]}, "error": 0.1,
        "baseline": 0.1, "held_out": [0.5], "pairs": [{"case": "toy_001", "evidence": {"softmax": 0.5}, "dice": 0.5}],
    }  # fmt: skip
    (copy / "fold_0" / "predicted_dice.json").write_text(json.dumps({"version": 1, "single": fit, "several": None, "note": ""}))
    for name in ("dataset_fingerprint.json", "fold_0/validation/summary.json"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(json.dumps({"cases": ["toy_001"]}))
    plain, anonymous = (export_model(copy, tmp_path / f"{a}.zip", Export(anonymous=a)) for a in (False, True))
    text = b"".join(read(plain.path).values())
    assert b"toy_001" in text and b"Smith" in text
    files = read(anonymous.path)
    text = b"".join(files.values())
    assert b"toy_0" not in text and b"Smith" not in text
    assert anonymous.manifest.anonymous and {"fold_0/steps.json", "fold_0/predicted_dice.json"} <= set(files)
    found = json.loads(files["fold_0/predicted_dice.json"])
    assert found["single"]["pairs"][0] == fit["pairs"][0] | {"case": "case_0000"} and found["single"]["curve"] == fit["curve"]
    old, new = json.loads((copy / "dataset.json").read_text()), json.loads(files["dataset.json"])
    assert new == {key: value for key, value in old.items() if key != "groups"}


def recipe(model: Path, folds: tuple[str, ...] = ("0", "1"), folder: str = ".") -> Recipe:
    hashes = {fold: hash_file(model / f"fold_{fold}" / "checkpoint_final.pth") for fold in folds}
    return Recipe("Dataset001_Toy", __version__, (Part(folder, hashes, 2),))


def test_the_recipe_goes_along_where_it_holds(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = shutil.copytree(model, tmp_path / model.name)
    recipe(copy).save(copy / "inference.json")
    assert "inference.json" in export_model(copy, tmp_path / "a.zip").manifest.files
    assert "inference.json" not in export_model(copy, tmp_path / "b.zip", Export(["0"])).manifest.files
    assert "inference.json is left out: it names models or folds that are not exported" in caplog.text
    recipe(copy, folder="mine__2d").save(copy / "inference.json")
    assert "inference.json" not in export_model(copy, tmp_path / "c.zip").manifest.files
    recipe(copy).save(copy / "inference.json")
    shutil.copy(copy / "fold_0" / "checkpoint_final.pth", copy / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match=r"inference\.json was written before .*fold_1"):
        export_model(copy, tmp_path / "d.zip")


def test_what_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "there.zip").write_bytes(b"mine")
    for source, output, match in (
        (model, tmp_path / "a.tar", r"a\.tar: expected a name that ends in \.zip"),
        (model, tmp_path / "there.zip", r"there\.zip exists already; nothing was changed"),
        (model / "fold_0", tmp_path / "a.zip", r"is a fold. Name its model folder, .* with -f 0"),
        (tmp_path, tmp_path / "a.zip", "is no model folder"),
    ):
        with pytest.raises(InputError, match=match):
            export_model(source, output)
    with pytest.raises(ModelError, match="fold 7 is not trained"):
        export_model(model, tmp_path / "a.zip", Export(["7"]))
    with pytest.raises(InputError, match="checkpoint = 'latest': expected one of final, best"):
        Export(checkpoint="latest")
    assert [p.name for p in tmp_path.iterdir()] == ["there.zip"] and (tmp_path / "there.zip").read_bytes() == b"mine"
    export_model(model, tmp_path / "there.zip", Export(["0"]), overwrite=True)
    assert zipfile.is_zipfile(tmp_path / "there.zip")


def test_weights_that_cannot_predict(model: Path, tmp_path: Path) -> None:
    """Not finite, or of another configuration: nothing is written."""
    copy = shutil.copytree(model, tmp_path / model.name)
    path = copy / "fold_0" / "checkpoint_final.pth"
    content = checkpoint.load(path)
    checkpoint.save(path, content | {"configuration": "2d"})
    with pytest.raises(ModelError, match=r"checkpoint_final\.pth is of configuration 2d, not 3d_fullres"):
        export_model(copy, tmp_path / "a.zip")
    content["ema"]["decoder.head.bias"][0] = torch.inf
    checkpoint.save(path, content)
    with pytest.raises(ModelError, match="decoder.head.bias hold values that are not finite"):
        export_model(copy, tmp_path / "a.zip")
    assert [p.name for p in tmp_path.iterdir()] == [model.name]


def test_a_name_that_no_folder_has(model: Path, tmp_path: Path) -> None:
    """A folder renamed by hand: the archive gets the plans' own name."""
    copy = shutil.copytree(model, tmp_path / "my model")
    assert export_model(copy, tmp_path / "a.zip").manifest.model == "ldsegPlans__3d_fullres"
