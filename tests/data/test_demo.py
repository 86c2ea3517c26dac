"""The demo dataset: its format, its anatomy, its seed, and what it must not touch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ldseg_auto.data.dataset import open_dataset
from ldseg_auto.data.demo import LABELS, make_case, write_demo
from ldseg_auto.data.image_io import read_image, read_label
from ldseg_auto.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("raw") / "Dataset900_Demo", cases=6, held_out=2, seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_is_a_valid_raw_dataset(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert len(dataset.cases) == dataset.description.num_training == 6
    assert dataset.description.labels.foreground_names == ("organ_a", "organ_b", "lesion")
    for case in dataset.cases:
        image, label = read_image(case.images), read_label(case.labels[0])
        assert image.array.shape[1:] == label.array.shape
        assert image.geometry == label.geometry
        assert image.spacing[0] > 2.5 * max(image.spacing[1:])
    assert sorted(f.name for f in (folder / "labelsTs").iterdir()) == ["demo_test_000.nii.gz", "demo_test_001.nii.gz"]
    assert len(list((folder / "imagesTs").iterdir())) == 2


def test_files_have_several_orientations_and_equal_anatomy(folder: Path) -> None:
    files = sorted((folder / "labelsTr").iterdir())
    assert len({np.round(sitk.ReadImage(str(f)).GetDirection(), 3).tobytes() for f in files}) == 4
    for f in files:  # organ_a lies on the patient's right: at lower x than organ_b, once canonical
        array = read_label(f).array
        centres = ndimage.center_of_mass(np.ones_like(array), array, [LABELS["organ_a"], LABELS["organ_b"]])
        assert centres[0][2] < centres[1][2]


def test_lesion_is_in_two_cases_of_three(folder: Path) -> None:
    there = [bool((read_label(f).array == LABELS["lesion"]).any()) for f in sorted((folder / "labelsTr").iterdir())]
    assert there == [True, True, False, True, True, False]


def test_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    expected = contents(folder)
    assert contents(write_demo(tmp_path / "same", 6, 2, seed=3)) == expected
    other = contents(write_demo(tmp_path / "other", 6, 2, seed=4))
    assert other.keys() == expected.keys()
    assert not any(other[name] == expected[name] for name in expected)


@pytest.mark.parametrize("seed", range(4))
def test_tissues_can_be_told_apart(seed: int) -> None:
    image, label, spacing = make_case(np.random.default_rng(seed), lesion=True)
    assert image.dtype == np.int16 and image.min() >= 0
    medians = {name: np.median(image[label == value]) for name, value in LABELS.items() if value}
    assert medians["organ_b"] < 0.5 * medians["organ_a"] < medians["organ_a"] < 0.8 * medians["lesion"]
    lesion = label == LABELS["lesion"]
    radius = (lesion.sum() * np.prod(spacing) * 3 / (4 * np.pi)) ** (1 / 3)  # of the ball of that volume
    assert radius >= 4.5
    _, pieces = ndimage.label(ndimage.binary_closing(np.pad(label > 0, 2)))
    assert pieces == 2  # organ_a with its lesion, and organ_b


def test_earlier_demo_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "Dataset900_Demo", cases=6, held_out=1)
    before = contents(folder)
    with pytest.raises(InputError, match="is there already; nothing was changed. Use --overwrite"):
        write_demo(folder, cases=5)
    assert contents(folder) == before
    write_demo(folder, cases=5, held_out=0, overwrite=True)
    assert len(open_dataset(folder).cases) == 5
    assert not list((folder / "imagesTs").iterdir())


def test_other_data_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset900_Patients"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"reference": "hospital"}))
    with pytest.raises(InputError, match="is not a demo written by ldseg_make_demo; nothing was changed"):
        write_demo(folder, overwrite=True)
    assert contents(folder) == {"dataset.json": b'{"reference": "hospital"}'}


@pytest.mark.parametrize(("cases", "held_out"), [(4, 1), (5, -1)])
def test_too_few_cases_are_refused(tmp_path: Path, cases: int, held_out: int) -> None:
    with pytest.raises(InputError, match=f"demo of {cases} training and {held_out} test cases: expected 5 or more"):
        write_demo(tmp_path / "demo", cases, held_out)
    assert not (tmp_path / "demo").exists()
