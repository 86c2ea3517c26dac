"""The predictor: files in, files out, with a status for every case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.data.image_io import read_image, read_label
from ldseg_auto.errors import InputError
from ldseg_auto.files import hash_file
from ldseg_auto.inference.predictor import Predictor


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_masks_lie_on_the_inputs_grid_and_the_manifest_says_how(model: Path, images: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_folder(model, device="cpu", seed=3)
    statuses = predictor.predict_folder(images, tmp_path / "out")
    assert [(s.identifier, s.status) for s in statuses] == [(f"toy_{i:03d}", "done") for i in range(3)]
    mask, image = read_label(tmp_path / "out" / "toy_001.nii.gz"), read_image([images / "toy_001_0000.nii.gz"])
    assert mask.array.shape == image.array.shape[1:] and mask.geometry == image.geometry
    assert len(np.unique(mask.array)) > 1
    manifest = manifest_of(tmp_path / "out")
    assert (manifest["seed"], manifest["steps"], manifest["samples"], manifest["expected"]) == (3, 2, 1, 3)
    assert manifest["model"] == {"0": hash_file(model / "fold_0" / "checkpoint_final.pth")}
    assert manifest["cases"]["toy_000"]["inputs"] == {"toy_000_0000.nii.gz": hash_file(images / "toy_000_0000.nii.gz")}


def test_files_do_not_depend_on_batch_size_or_company(model: Path, images: Path, tmp_path: Path) -> None:
    Predictor.from_folder(model, device="cpu").predict_folder(images, tmp_path / "all")
    (images / "toy_000_0000.nii.gz").unlink()
    Predictor.from_folder(model, device="cpu", tile_batch=4).predict_folder(images, tmp_path / "fewer")
    for name in ("toy_001.nii.gz", "toy_002.nii.gz"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "fewer" / name).read_bytes()


def test_one_failing_case_does_not_stop_the_others(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "toy_001_0000.nii.gz").write_bytes(b"no image")
    statuses = Predictor.from_folder(model, device="cpu").predict_folder(images, tmp_path / "out")
    assert [s.status for s in statuses] == ["done", "failed", "done"]
    assert "toy_001_0000.nii.gz" in statuses[1].message
    tables = ["manifest.json", "predictions.csv", "predictions.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [*tables, "toy_000.nii.gz", "toy_002.nii.gz"]
    assert manifest_of(tmp_path / "out")["cases"]["toy_001"]["status"] == "failed"


def test_a_folder_that_is_not_empty_is_kept(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    predictor = Predictor.from_folder(model, device="cpu")
    with pytest.raises(InputError, match="out is not empty; nothing was changed. Choose another, or --overwrite"):
        predictor.predict_folder(images, out)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    predictor.predict_folder(images, out, overwrite=True)
    assert (out / "mine.txt").read_text() == "keep me" and (out / "toy_000.nii.gz").exists()


def test_outputs_that_would_replace_inputs(model: Path, images: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_folder(model, device="cpu")
    before = sorted(images.iterdir())
    with pytest.raises(InputError, match="imagesTr holds the input images"):
        predictor.predict_folder(images, images, overwrite=True)
    with pytest.raises(InputError, match="manifest is a file; name a folder"):
        (tmp_path / "manifest").write_text("")
        predictor.predict_folder(images, tmp_path / "manifest")
    assert sorted(images.iterdir()) == before


def test_wrong_number_of_channels(model: Path) -> None:
    predictor = Predictor.from_folder(model, device="cpu")
    with pytest.raises(InputError, match="case x: the image has 2 channels, the model was trained with 1"):
        predictor.predict_array(np.zeros((2, 6, 24, 20), np.float32), (3.0, 1.0, 1.0), "x")


@pytest.mark.parametrize("name", ["steps", "samples", "tile_batch"])
def test_numbers_below_one(model: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} = 0: expected 1 or more"):
        Predictor.from_folder(model, device="cpu", **{name: 0})  # type: ignore[arg-type]


def test_steps_come_from_validation_by_dice_for_one_sample_and_by_distance_for_several(model: Path) -> None:
    assert Predictor.from_folder(model, device="cpu").steps == 2
    (model / "fold_0" / "steps.json").write_text(json.dumps({"chosen": 1}))
    assert Predictor.from_folder(model, device="cpu").steps == 1
    assert Predictor.from_folder(model, device="cpu", samples=3).steps == 2  # one rater: nothing measured, so the plan's
    (model / "fold_0" / "steps.json").write_text(json.dumps({"chosen": 1, "chosen_for_samples": 5}))
    assert Predictor.from_folder(model, device="cpu", samples=3).steps == 5
    assert Predictor.from_folder(model, device="cpu", samples=1).steps == 1
    assert Predictor.from_folder(model, device="cpu", steps=7).steps == 7
