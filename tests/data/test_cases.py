"""Cases to predict: a folder of them, or one file of any name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldseg_auto.data.cases import evenly, find_input_cases
from ldseg_auto.data.description import Description
from ldseg_auto.errors import InputError


def description(channels: int = 1, ending: str = ".nii.gz") -> Description:
    content = {"channel_names": {str(c): f"c{c}" for c in range(channels)}, "labels": {"background": 0, "a": 1}, "numTraining": 1}
    return Description.from_dict({**content, "file_ending": ending}, "dataset.json")


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def test_folder_with_two_channels(tmp_path):
    files(tmp_path, "b_0000.nii.gz", "b_0001.nii.gz", "a_0001.nii.gz", "a_0000.nii.gz", "notes.txt")
    cases = find_input_cases(tmp_path, description(2))
    assert [(c.identifier, [p.name for p in c.images], c.labels) for c in cases] == [
        ("a", ["a_0000.nii.gz", "a_0001.nii.gz"], ()), ("b", ["b_0000.nii.gz", "b_0001.nii.gz"], ()),
    ]  # fmt: skip


@pytest.mark.parametrize(("names", "channels", "message"), [
    (["a_0000.nii.gz"], 2, r"case a: 1 channel\(s\) found, dataset.json declares 2 \(c0, c1\); missing channel: expected .*/a_0001.nii.gz"),
    (["a_0001.nii.gz"], 2, "case a: channel 0 is missing; expected .*/a_0000.nii.gz"),
    (["a_0000.nii.gz", "a_0001.nii.gz"], 1, r"case a: 2 channel\(s\) found, dataset.json declares 1 \(c0\)"),
    (["a.nii.gz"], 1, "a.nii.gz: images are named CASE_0000.nii.gz"),
    (["a_0000.nii", "b.png"], 1, "holds no .nii.gz file.*found: 1 x .nii, 1 x .png"),
    ([], 1, "found: no files at all"),
])  # fmt: skip
def test_bad_folders(tmp_path, names, channels, message):
    with pytest.raises(InputError, match=message):
        find_input_cases(files(tmp_path, *names), description(channels))


def test_input_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist; name a folder"):
        find_input_cases(tmp_path / "nowhere", description())


@pytest.mark.parametrize(("name", "identifier"), [
    ("scan.nii.gz", "scan"), ("scan_0000.nii.gz", "scan"), ("scan_0007.nii.gz", "scan_0007"),
    ("scan.v2.NII.GZ", "scan.v2"), ("scan.mha", "scan"),
])  # fmt: skip
def test_single_file_of_any_name(tmp_path, name, identifier):
    cases = find_input_cases(files(tmp_path, name, "other.nii.gz") / name, description())
    assert [(c.identifier, c.images) for c in cases] == [(identifier, (tmp_path / name,))]


def test_single_file_of_another_ending_is_announced(tmp_path, caplog):
    caplog.set_level("INFO")
    find_input_cases(files(tmp_path, "scan.mha") / "scan.mha", description())
    assert "scan.mha: read as .mha; the model was trained with .nii.gz files, and the prediction is written as such" in caplog.text


@pytest.mark.parametrize(("name", "trained", "message"), [
    ("scan.png", ".nii.gz", "is a .png file, but the model was trained with .nii.gz files: one has a geometry"),
    ("scan.nrrd", ".png", "is a .nrrd file, but the model was trained with .png files"),
    ("scan.dcm", ".nii.gz", "scan.dcm has no ending that can be read; readable: .nii.gz"),
])  # fmt: skip
def test_single_file_that_does_not_fit(tmp_path, name, trained, message):
    with pytest.raises(InputError, match=message):
        find_input_cases(files(tmp_path, name) / name, description(ending=trained))


def test_single_file_of_a_model_with_two_channels(tmp_path):
    with pytest.raises(InputError, match=r"case scan: 1 channel\(s\) found, dataset.json declares 2 .*expected scan_0001.nii.gz"):
        find_input_cases(files(tmp_path, "scan.nii.gz") / "scan.nii.gz", description(2))


def test_single_colour_image(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "eye.jpg")
    assert find_input_cases(tmp_path / "eye.jpg", description(3, ".png"))[0].identifier == "eye"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 10, 50])
def test_evenly_spaced(count: int) -> None:
    names = [f"{i:02}" for i in range(10)]
    found = evenly(names, count)
    assert len(found) == len(set(found)) == min(count, 10) and found == sorted(found) and found[:1] == names[: min(count, 1)]
    assert count < 2 or found[-1] == "09"
    gaps = np.diff([int(n) for n in found])
    assert count < 2 or gaps.max() - gaps.min() <= 1
    assert evenly([], count) == []
