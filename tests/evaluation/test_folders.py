"""Folders of masks: pairing, grids, summary files."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.data.dataset import Description
from ldseg_auto.data.image_io import write_image
from ldseg_auto.errors import DatasetError, InputError
from ldseg_auto.evaluation.examples import choose
from ldseg_auto.evaluation.folders import evaluate_folder, find_pairs
from ldseg_auto.evaluation.report import to_csv, to_table, without_nan, write_summary

SPACING = (3.0, 1.0, 1.0)


def description(ending: str = ".nii.gz") -> Description:
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1, "lesion": 4}, "numTraining": 1, "file_ending": ending}
    return Description.from_dict(content, "dataset.json")


def box(shift: int = 0, lesion: bool = False) -> np.ndarray:
    mask = np.zeros((6, 20, 20), np.uint8)
    mask[1:5, 4:14, 4:14] = 1
    if lesion:
        mask[2:4, 6:9, 6:9] = 4
    return np.roll(mask, shift, axis=2)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Case a is predicted two voxels off; b exactly, but its lesion is missed; c is empty in both."""
    reference, prediction = tmp_path / "reference", tmp_path / "prediction"
    for folder, masks in ((reference, (box(), box(lesion=True), box() * 0)), (prediction, (box(2), box(), box() * 0))):
        for name, mask in zip("abc", masks, strict=True):
            write_image(folder / f"{name}.nii.gz", mask, SPACING)
    return reference, prediction


@pytest.mark.parametrize("workers", [1, 2])
def test_summary_of_a_folder(folders: tuple[Path, Path], workers: int) -> None:
    found = evaluate_folder(*folders, description(), tolerance=2.0, workers=workers)
    assert list(found["cases"]) == ["a", "b", "c"]
    assert found["cases"]["a"]["organ"]["dice"] == pytest.approx(0.8)  # 8 of 10 columns shared
    assert found["cases"]["a"]["organ"]["hd95"] == 2.0
    assert found["cases"]["a"]["organ"]["nsd"] == 1.0
    assert found["cases"]["b"]["lesion"]["hd95"] == math.inf
    assert found["per_class"]["organ"]["dice"] == {"mean": pytest.approx((0.8 + 2 * 382 / 782) / 2), "n": 2}
    assert found["per_class"]["lesion"]["hd95"]["n_infinite"] == 1
    assert (found["unit"], found["missing"]) == ("mm", [])


def test_files_are_valid_json_and_a_table(folders: tuple[Path, Path], tmp_path: Path) -> None:
    summary = evaluate_folder(*folders, description())
    json_path, csv_path = write_summary(tmp_path / "out" / "summary.json", summary)
    content = json.loads(json_path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert content["cases"]["b"]["lesion"]["hd95"] is None
    assert content["cases"]["a"]["organ"]["tp"] == 320
    rows = list(csv.DictReader(csv_path.read_text().splitlines()))
    assert [(r["case"], r["class"]) for r in rows] == [(c, n) for c in "abc" for n in ("organ", "lesion")]
    assert [r["hd95"] for r in rows[2:]] == [rows[2]["hd95"], "inf", "", ""]
    assert float(rows[0]["dice"]) == pytest.approx(0.8)


def test_missing_predictions_are_named(folders: tuple[Path, Path]) -> None:
    (folders[1] / "b.nii.gz").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of 3 cases that .*: b\. Predict them, or use --allow-missing"):
        evaluate_folder(*folders, description())
    found = evaluate_folder(*folders, description(), allow_missing=True)
    assert (found["missing"], list(found["cases"])) == (["b"], ["a", "c"])


def test_folders_without_a_common_name_are_refused_in_any_case(folders: tuple[Path, Path]) -> None:
    for name in "abc":
        (folders[1] / f"{name}.nii.gz").rename(folders[1] / f"x{name}.nii.gz")
    with pytest.raises(InputError, match="lacks 3 of 3 cases .*Are the folders those you mean"):
        find_pairs(*folders, ".nii.gz", allow_missing=True)


def test_predictions_without_reference_are_left_out(folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    (folders[0] / "a.nii.gz").unlink()
    with caplog.at_level(logging.WARNING, "ldseg_auto"):
        pairs, missing = find_pairs(*folders, ".nii.gz")
    assert [p.identifier for p in pairs] == ["b", "c"] and not missing
    assert "1 predictions have no reference and are left out (first: a)" in caplog.text


def test_folder_that_is_not_there_or_empty(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prediction folder .*nowhere does not exist"):
        find_pairs(folders[0], tmp_path / "nowhere", ".nii.gz")
    with pytest.raises(InputError, match=r"reference folder .* holds no \.nrrd file"):
        find_pairs(*folders, ".nrrd")


def test_grids_that_differ_are_refused(folders: tuple[Path, Path]) -> None:
    write_image(folders[1] / "b.nii.gz", box(), (3.0, 1.0, 1.2))
    with pytest.raises(InputError, match=r"case b: .* do not lie on one grid: spacing \(1, 1, 3\) and \(1.2, 1, 3\)"):
        evaluate_folder(*folders, description())


def test_undeclared_label_names_the_file(folders: tuple[Path, Path]) -> None:
    write_image(folders[1] / "c.nii.gz", box() * 3, SPACING)
    with pytest.raises((InputError, DatasetError), match=r"prediction/c\.nii\.gz: label value 3 is not declared"):
        evaluate_folder(*folders, description())


def test_photographs_are_measured_in_pixels(tmp_path: Path) -> None:
    from PIL import Image

    for folder, shift in (("reference", 0), ("prediction", 3)):
        (tmp_path / folder).mkdir()
        Image.fromarray(box(shift)[2]).save(tmp_path / folder / "a.png")
    found = evaluate_folder(tmp_path / "reference", tmp_path / "prediction", description(".png"))
    assert found["unit"] == "pixels"
    assert found["cases"]["a"]["organ"]["hd95"] == 3.0
    assert math.isnan(found["cases"]["a"]["organ"]["volume_reference_ml"])
    assert "HD95 (pixels)" in to_table(found)


def test_table_has_a_line_per_class(folders: tuple[Path, Path]) -> None:
    lines = to_table(evaluate_folder(*folders, description(), tolerance=2.0)).splitlines()
    assert "HD95 (mm)" in lines[0] and "NSD at 2 mm" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["organ", "lesion", "foreground"]
    assert lines[2].split() == ["lesion", "0.0000", "0.0000", "-", "0.0000", "1"]


def test_nan_becomes_null_at_any_depth() -> None:
    assert without_nan({"a": [math.nan, 1.0, {"b": math.inf}], "c": 0}) == {"a": [None, 1.0, {"b": None}], "c": 0}
    assert to_csv({}) == "case,class\n"


def test_examples_run_from_worst_to_best() -> None:
    cases = {f"case{i}": {"organ": {"dice": i / 10}, "lesion": {"dice": math.nan}} for i in (5, 2, 9, 0, 7, 3, 4)}
    assert choose(cases) == ["case0", "case3", "case5", "case9"]
    assert choose({"b": {"organ": {"dice": math.nan}}, "a": {"organ": {"dice": 0.5}}}) == ["a", "b"]
