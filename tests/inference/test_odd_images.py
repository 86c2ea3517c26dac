"""Images that are unlike any training image: a mask on their grid, or an error that names the case and the voxels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.data.image_io import read_label, write_image
from ldseg_auto.inference.predictor import Predictor

RNG = np.random.default_rng(0)
ODD = {
    "smaller_than_the_patch": (RNG.normal(size=(2, 5, 7)), (3.0, 1.0, 1.0)),
    "one_voxel": (RNG.normal(size=(1, 1, 1)), (3.0, 1.0, 1.0)),
    "one_slice": (RNG.normal(size=(1, 24, 20)), (3.0, 1.0, 1.0)),
    "one_row": (RNG.normal(size=(6, 1, 20)), (3.0, 1.0, 1.0)),
    "thick": (RNG.normal(size=(3, 24, 20)), (90.0, 0.5, 0.5)),
    "thin": (RNG.normal(size=(40, 10, 8)), (0.05, 2.0, 2.0)),
    "all_zero": (np.zeros((6, 24, 20)), (3.0, 1.0, 1.0)),
    "constant": (np.full((6, 24, 20), 1e30), (3.0, 1.0, 1.0)),
    "one_bright_voxel": (np.eye(24)[None, :, :20] * 1e6, (3.0, 1.0, 1.0)),
}


def test_masks_lie_on_the_images_grid_and_bad_values_fail_by_name(model: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "odd", tmp_path / "out"
    images.mkdir()
    for name, (array, spacing) in ODD.items():
        write_image(images / f"{name}_0000.nii.gz", array.astype(np.float32), spacing)
    for name, value in (("nan", np.nan), ("inf", -np.inf)):
        array = RNG.normal(size=(6, 24, 20)).astype(np.float32)
        array[2, 3, 4:7] = value
        write_image(images / f"{name}_0000.nii.gz", array, (3.0, 1.0, 1.0))
    statuses = {s.identifier: s for s in Predictor.from_folder(model, device="cpu").predict_folder(images, out)}
    assert {n for n, s in statuses.items() if s.status == "failed"} == {"nan", "inf"}
    for name in ("nan", "inf"):
        assert f"{name}_0000.nii.gz: 3 of 2880 values are NaN or infinite. Replace them by finite ones." in statuses[name].message
        assert not (out / f"{name}.nii.gz").exists()
    for name, (array, _) in ODD.items():
        mask = read_label(out / f"{name}.nii.gz").array
        assert mask.shape == array.shape and set(np.unique(mask)) <= {0, 1, 2}, name
    assert json.loads((out / "predictions.json").read_text())["cases"].keys() == ODD.keys()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_values_in_arrays(model: Path, value: float) -> None:
    array = np.zeros((6, 24, 20))
    array[0, 0, :2] = value
    with pytest.raises(ValueError, match="case scan7: 2 of 2880 values are NaN or infinite"):
        Predictor.from_folder(model, device="cpu").predict(array, (3.0, 1.0, 1.0), "scan7")
