"""Training cases read and checked, one by one and as a whole dataset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ldseg_auto.data.dataset import RawDataset, open_dataset
from ldseg_auto.data.image_io import write_image
from ldseg_auto.data.training_case import load_training_case
from ldseg_auto.data.verify import verify_case, verify_dataset
from ldseg_auto.errors import DatasetError


@pytest.fixture
def dataset(make_dataset, tmp_path) -> RawDataset:
    return open_dataset(make_dataset(tmp_path, n_cases=2, shape=(4, 12, 10), channels=2))


def change_label(dataset: RawDataset, **changes: object) -> None:
    """Rewrites the label of the first case by SimpleITK: `value` (0, 0, 0), `origin`, `spacing`, `direction`, `crop`."""
    path = str(dataset.cases[0].labels[0])
    image = sitk.ReadImage(path)
    if "value" in changes:
        image[0, 0, 0] = changes["value"]
    if "crop" in changes:
        image = image[:, :, 1:]
        image.SetOrigin((0.0, 0.0, 0.0))
    for key in ("Origin", "Spacing", "Direction"):
        if key.lower() in changes:
            getattr(image, f"Set{key}")(changes[key.lower()])
    sitk.WriteImage(image, path)


def test_image_and_label_indices(dataset):
    image, labels = load_training_case(dataset.cases[0], dataset.description)
    assert image.array.shape == (2, 4, 12, 10) and image.spacing == (3.0, 1.0, 1.0)
    assert [label.dtype for label in labels] == [np.int16]
    assert np.array_equal(labels[0], sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.cases[0].labels[0]))))
    assert sorted(np.unique(labels[0])) == [0, 1, 2]


def test_one_label_per_rater_and_colour(make_dataset, tmp_path):
    dataset = open_dataset(make_dataset(tmp_path, n_cases=2, channels=3, ending=".png", raters=3))
    image, labels = load_training_case(dataset.cases[0], dataset.description)
    assert image.array.shape == (3, 1, 24, 20) and len(labels) == 3
    assert verify_dataset(dataset) == []


@pytest.mark.parametrize(("changes", "message"), [
    ({"crop": True}, r"case toy_000: image .*toy_000_0000.nii.gz and label .*toy_000.nii.gz do not lie .*: size \(10, 12, 4\)"),
    ({"origin": (0.0, 5.0, 0.0)}, r"do not lie on the same grid: origin \(0, 0, 0\) and \(0, 5, 0\) mm"),
    ({"spacing": (1.0, 1.0, 3.5)}, r"do not lie on the same grid: spacing \(1, 1, 3\) and \(1, 1, 3.5\) mm"),
    ({"direction": (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)}, "do not lie on the same grid: direction"),
    ({"value": 7}, r"case toy_000: label .*toy_000.nii.gz: label value 7 is not declared; declared: 0, 1, 2"),
])  # fmt: skip
def test_label_that_does_not_fit(dataset, changes, message):
    change_label(dataset, **changes)
    with pytest.raises(DatasetError, match=message):
        load_training_case(dataset.cases[0], dataset.description)


def test_a_mirrored_header_is_found_before_it_is_turned_away(dataset):
    """The label's grid covers the same place as the image's, in another order of voxels: it is canonically equal, and refused."""
    path = str(dataset.cases[0].labels[0])
    sitk.WriteImage(sitk.Flip(sitk.ReadImage(path), [True, True, False]), path)
    with pytest.raises(DatasetError, match="origin .* direction"):
        load_training_case(dataset.cases[0], dataset.description)


def test_unreadable_files_name_the_case(dataset):
    path = dataset.cases[0].images[1]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match="case toy_000: image .*toy_000_0001.nii.gz cannot be read: it is truncated"):
        load_training_case(dataset.cases[0], dataset.description)


def test_grey_image_where_colour_is_declared(make_dataset, tmp_path):
    dataset = open_dataset(make_dataset(tmp_path, n_cases=1, channels=3, ending=".png"))
    from PIL import Image

    Image.new("L", (20, 24)).save(dataset.cases[0].images[0])
    with pytest.raises(DatasetError, match=r"case toy_000: the image files hold 1 channel\(s\), dataset.json declares 3"):
        load_training_case(dataset.cases[0], dataset.description)


def test_constant_channel(dataset):
    verify_case(dataset.cases[0], dataset.description)
    write_image(dataset.cases[0].images[1], np.full((4, 12, 10), 5, np.int16), (3, 1, 1))
    load_training_case(dataset.cases[0], dataset.description)
    with pytest.raises(DatasetError, match=r"case toy_000: channel channel1 is constant \(5 everywhere\)"):
        verify_case(dataset.cases[0], dataset.description)


@pytest.mark.parametrize("workers", [1, 2])
def test_all_problems_are_listed(make_dataset, tmp_path, workers, caplog):
    labels = {"background": 0, "class1": 1, "class2": 2, "rare": 3}
    dataset = open_dataset(make_dataset(tmp_path, n_cases=4, shape=(4, 12, 10), content={"labels": labels}))
    change_label(dataset, value=9)
    write_image(dataset.cases[2].images[0], np.zeros((4, 12, 10), np.int16), (3, 1, 1))
    seen: list[object] = []

    def progress(items, description, total=None):
        for item in items:
            seen.append(item)
            yield item

    problems = verify_dataset(dataset, workers, progress)
    assert len(seen) == 4
    assert [p[:40].split(":")[0] for p in problems[:2]] == ["case toy_000", "case toy_002"]
    assert "label value 9 is not declared" in problems[0] and "channel channel0 is constant" in problems[1]
    assert problems[2:] == []
    rule = "it cannot be learnt: remove it from labels in dataset.json or add cases that show it."
    assert [r.message for r in caplog.records] == [f"Dataset001_Toy: class rare is in none of the 3 cases read; {rule}"]


def test_absent_regions(make_dataset, tmp_path, caplog):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "rare": [3]}
    content = {"labels": labels, "regions_class_order": [1, 2, 3]}
    assert verify_dataset(open_dataset(make_dataset(tmp_path, n_cases=2, shape=(4, 12, 10), content=content))) == []
    assert [r.message.split(";")[0] for r in caplog.records] == ["Dataset001_Toy: class rare is in none of the 2 cases read"]


def test_the_toy_datasets_of_every_format_are_sound(make_dataset, tmp_path):
    for number, ending in enumerate([".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl", ".png", ".bmp", ".jpg", ".tif"]):
        folder: Path = make_dataset(tmp_path, n_cases=2, shape=(4, 12, 10), ending=ending, dataset_id=number + 1)
        assert json.loads((folder / "dataset.json").read_text())["file_ending"] == ending
        assert verify_dataset(open_dataset(folder)) == []
