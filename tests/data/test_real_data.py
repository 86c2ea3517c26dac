"""The real datasets that lie beside the repository, where they do."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ldseg_auto.data.dataset import find_dataset, open_dataset
from ldseg_auto.data.image_io import read_image, write_label
from ldseg_auto.data.splits import case_groups, make_splits
from ldseg_auto.data.training_case import load_training_case


@pytest.mark.parametrize(("number", "cases", "channels", "raters", "orientation"), [
    (4, 200, 1, 1, "RAS"), (18, 250, 1, 1, "LPS"), (28, 20, 3, 2, "LPS"), (101, 3000, 1, 4, "LPS"),
])  # fmt: skip
def test_read_and_write_back(shared_data, tmp_path, number, cases, channels, raters, orientation):
    dataset = open_dataset(find_dataset(shared_data, number))
    labels = dataset.description.labels
    assert len(dataset.cases) == cases
    for case in dataset.cases[:3]:
        image, indices = load_training_case(case, dataset.description)
        assert len(image.array) == channels and len(indices) == raters
        assert image.geometry.orientation == orientation
        target = tmp_path / case.labels[0].name
        write_label(target, labels.decode(indices[0]), image.geometry)
        written, before = sitk.ReadImage(str(target)), sitk.ReadImage(str(case.labels[0]))
        assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(before))
        assert _grid(written) == _grid(sitk.ReadImage(str(case.images[0])))


def _grid(image: sitk.Image) -> tuple:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize(("number", "pattern", "groups"), [
    (18, r"^(\d+)_", None), (101, r"^LIDCIDRI(\d+)_", None), (28, r"^(Image_\d+)[LR]", 10),
])  # fmt: skip
def test_patients_stay_together(shared_data, number, pattern, groups):
    names = [c.identifier for c in open_dataset(find_dataset(shared_data, number)).cases]
    patient = case_groups(names, pattern)
    assert groups is None or len(set(patient.values())) == groups
    assert len(set(patient.values())) < len(names)
    for split in make_splits(names, pattern):
        assert not {patient[c] for c in split["train"]} & {patient[c] for c in split["val"]}
        assert abs(len(split["val"]) - len(names) / 5) <= 2


def test_canonical_hippocampus_is_what_itk_makes_of_it(shared_data):
    case = open_dataset(find_dataset(shared_data, 4)).cases[0]
    expected = sitk.DICOMOrient(sitk.ReadImage(str(case.images[0])), "LPS")
    assert np.array_equal(read_image(case.images).array[0], sitk.GetArrayFromImage(expected).astype(np.float32))
