"""Files beside the label map, read back by other readers: SimpleITK, numpy, Pillow, csv."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as pillow

from ldseg_auto.data.geometry import Geometry, oriented
from ldseg_auto.data.image_io import read_image, read_label, write_image
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import InputError
from ldseg_auto.inference.case_score import CaseScore, Volume
from ldseg_auto.inference.outputs import (
    Extras,
    PredictionTable,
    case_record,
    csv_header,
    head_names,
    read_predictions,
    write_extras,
    write_npz,
)  # fmt: skip
from ldseg_auto.inference.prediction import Prediction, Wanted

LABELS = LabelSpec.from_dict({"background": 0, "left / upper": 1, "tumour": 7})
VOLUMES = {"left / upper": Volume(1.0, 0.5, 1.5, 1.1, 0.4, 1.7), "tumour": Volume(0.0, 0.0, 0.0, 0.0)}
SCORE = CaseScore(2, 0.75, 0.9, 0.85, VOLUMES, 1.1, "ml", 0.8, 0.05)
TURNED = (0.0, -1.0, 0.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0)  # a permutation with two mirrorings


def grid(flat: bool = False) -> Geometry:
    if flat:
        return Geometry((5, 4, 1), (1.0, 1.0, 999.0), dimension=2, has_spacing=False)
    return oriented((5, 4, 3), (0.5, 0.75, 2.0), (10.0, -20.0, 30.0), TURNED, 3, None)


def prediction(geometry: Geometry | None, shape: tuple[int, ...] = (2, 3, 4)) -> Prediction:
    shape = geometry.shape if geometry else shape
    rng = np.random.default_rng(0)
    p = rng.random((3, *shape))
    return Prediction(
        "case_1", rng.choice([0, 1, 7], shape).astype(np.int16), geometry, geometry.canonical_spacing if geometry else (1.0, 1.0, 1.0),
        (p / p.sum(0)).astype(np.float16), rng.random(shape).astype(np.float32), rng.random(shape).astype(np.float32) / 9,
        rng.choice([0, 1, 7], (2, *shape)).astype(np.int16), SCORE, 1.5,
    )  # fmt: skip


@pytest.mark.parametrize("extras", [Extras(), Extras("nifti"), Extras("npz", uncertainty=True), Extras(samples=True), Extras(preview=True)])
def test_wanted_is_what_the_files_need(extras: Extras) -> None:
    assert extras.wanted == Wanted(extras.probabilities is not None, extras.uncertainty or extras.preview, extras.samples)


def test_names_of_the_heads() -> None:
    assert head_names(LABELS) == ("background", "left / upper", "tumour")
    assert head_names(LabelSpec.from_dict({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])) == ("whole", "core")


def test_nifti_probabilities_lie_on_the_images_grid(tmp_path: Path) -> None:
    found = prediction(grid())
    write_image(tmp_path / "image.nii.gz", np.zeros(found.label.shape, np.float32), geometry=grid())
    image = sitk.ReadImage(str(tmp_path / "image.nii.gz"))
    files = write_extras(found, tmp_path, LABELS, ".nii.gz", Extras("nifti"))
    assert [p.name for p in files] == ["case_1_00_background.nii.gz", "case_1_01_left-upper.nii.gz", "case_1_02_tumour.nii.gz"]
    assert {p.parent for p in files} == {tmp_path / "probabilities"}
    assert found.probabilities is not None
    for path, head in zip(files, found.probabilities, strict=True):
        there = sitk.ReadImage(str(path))  # applies scl_slope
        assert (there.GetSize(), there.GetSpacing(), there.GetOrigin()) == (image.GetSize(), image.GetSpacing(), image.GetOrigin())
        assert there.GetDirection() == image.GetDirection()
        expected = grid().from_canonical(head.astype(float))
        np.testing.assert_allclose(sitk.GetArrayFromImage(there), expected, atol=0.5 / 32767 + 1e-7)
        assert path.stat().st_size < 2000  # 60 voxels of 16 bits and a header


def test_npz_has_the_axes_of_the_file_and_needs_no_pickle(tmp_path: Path) -> None:
    found = prediction(grid())
    (path,) = write_extras(found, tmp_path, LABELS, ".nii.gz", Extras("npz"))
    assert path == tmp_path / "case_1.npz"
    with np.load(path, allow_pickle=False) as content:
        assert content.files == ["probabilities"]
        array = content["probabilities"]
    assert array.dtype == np.float16 and array.shape == (3, 3, 4, 5)  # (heads, z, y, x) of the file, whose size is 5 x 4 x 3
    np.testing.assert_array_equal(grid().to_canonical(array), found.probabilities)


def test_the_same_prediction_gives_the_same_bytes(tmp_path: Path) -> None:
    extras = [Extras("npz", True, True), Extras("nifti")]
    first, second = (
        {
            p.relative_to(tmp_path / n): p.read_bytes()
            for e in extras
            for p in write_extras(prediction(grid()), tmp_path / n, LABELS, ".nii.gz", e)
        }
        for n in "ab"
    )
    assert first == second and len(first) == 8
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".tmp")]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl"])
def test_uncertainty_and_samples_come_back_in_every_volume_format(tmp_path: Path, ending: str) -> None:
    geometry = grid() if ending != ".gipl" else Geometry((5, 4, 3), (0.5, 0.75, 2.0))  # GIPL holds no direction
    found = prediction(geometry)
    files = write_extras(found, tmp_path, LABELS, ending, Extras(uncertainty=True, samples=True))
    assert [str(p.relative_to(tmp_path)) for p in files] == [
        f"uncertainty/case_1_entropy{ending}", f"uncertainty/case_1_mutual_information{ending}",
        f"samples/case_1_sample_000{ending}", f"samples/case_1_sample_001{ending}",
    ]  # fmt: skip
    np.testing.assert_array_equal(read_image(files[:1]).array[0], found.entropy)
    np.testing.assert_array_equal(read_image(files[1:2]).array[0], found.mutual_information)
    assert read_image(files[:1]).spacing == pytest.approx(geometry.canonical_spacing)
    assert found.samples is not None
    np.testing.assert_array_equal(read_label(files[3]).array, found.samples[1])


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp"])
def test_natural_images_get_png_and_tiff(tmp_path: Path, ending: str) -> None:
    found = prediction(grid(flat=True))
    assert found.probabilities is not None and found.entropy is not None
    files = write_extras(found, tmp_path, LABELS, ending, Extras("nifti", uncertainty=True, samples=True))
    with pillow.open(files[2]) as picture:
        assert picture.mode == "I;16"
        np.testing.assert_allclose(np.asarray(picture) / 65535, found.probabilities[2, 0], atol=0.5 / 65535 + 1e-7)
    with pillow.open(files[3]) as picture:
        assert files[3].name == "case_1_entropy.tif"
        np.testing.assert_array_equal(np.asarray(picture), found.entropy[0])
    assert files[-1].name == f"case_1_sample_001{'.png' if ending == '.jpg' else ending}"


def test_tiff_stacks_get_a_page_per_slice(tmp_path: Path) -> None:
    found = prediction(Geometry((5, 4, 3), (0.5, 0.5, 2.0)))
    files = write_extras(found, tmp_path, LABELS, ".tif", Extras("nifti", uncertainty=True))
    np.testing.assert_array_equal(read_image(files[3:4]).array[0], found.entropy)
    assert files[0].suffix == ".tif" and read_image(files[:1]).array.shape == (1, 3, 4, 5)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without a geometry"):
        write_extras(prediction(None), tmp_path, LABELS, ".nii.gz", Extras("npz"))
    found = prediction(grid())
    object.__setattr__(found, "entropy", None)
    with pytest.raises(InputError, match="predicted without entropy"):
        write_extras(found, tmp_path, LABELS, ".nii.gz", Extras(uncertainty=True))
    with pytest.raises(InputError, match="expected one of nifti, npz"):
        Extras("pickle")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="no space"):
        write_npz(tmp_path / "case.npz", np.zeros((2, 3, 4, 5), np.float16), Geometry((5, 4, 3), (1.0, 1.0, 1.0)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dice", "below", "flag"),
    [(0.8, None, ""), (None, None, ""), (0.8, 0.7, ""), (0.8, 0.9, "low"), (0.8, 0.8, ""), (None, 0.5, "unknown")],
)
def test_flags(dice: float | None, below: float | None, flag: str) -> None:
    assert case_record(CaseScore(1, None, 0.9, 0.85, {}, predicted_dice=dice), below)["flag"] == flag


def test_the_table_is_by_name_and_has_stable_columns(tmp_path: Path) -> None:
    single = CaseScore(1, None, 0.95, 0.85, {n: Volume(2.0, 2.0, 2.0, 2.0) for n in LABELS.foreground_names}, 4.0)
    cases = {"b": case_record(SCORE, 0.9), "a": case_record(single, 0.9)}
    PredictionTable(tmp_path, {"flag_below": 0.9}).write(cases)
    with open(tmp_path / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = ["case", "predicted_dice", "predicted_dice_error", "flag", "agreement", "softmax", "soft_dice", "draws", "unit", "foreground"]
    names = [f"volume_{n}{e}" for n in ("left / upper", "tumour") for e in ("", "_low", "_high", "_likely_low", "_likely_high")]
    assert list(rows[0]) == columns + names
    assert [r["case"] for r in rows] == ["a", "b"]
    assert (rows[0]["agreement"], rows[0]["predicted_dice"], rows[0]["flag"]) == ("", "", "unknown")
    assert (rows[1]["softmax"], rows[1]["soft_dice"]) == ("0.9", "0.85")
    assert (rows[1]["flag"], rows[1]["volume_left / upper"], rows[1]["volume_left / upper_high"]) == ("low", "1.1", "1.5")
    assert [(r["volume_left / upper_likely_low"], r["volume_left / upper_likely_high"]) for r in rows] == [("", ""), ("0.4", "1.7")]
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert content["flag_below"] == 0.9 and list(content["cases"]) == ["a", "b"]
    expected = {"mean": 1.0, "low": 0.5, "high": 1.5, "mask": 1.1, "likely_low": 0.4, "likely_high": 1.7}
    assert content["cases"]["b"]["volumes"]["left / upper"] == expected
    assert read_predictions(tmp_path) == {"a": cases["a"], "b": cases["b"]}


def test_no_cases_and_damage(tmp_path: Path) -> None:
    assert read_predictions(tmp_path) == {}
    assert csv_header({}).startswith("case,predicted_dice,")
    (tmp_path / "predictions.json").write_text('{"cases": 3}')
    with pytest.raises(InputError, match="cases = 3: expected an object"):
        read_predictions(tmp_path)
