"""Pictures of cases: which way up, which size, which colours."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion

from ldseg_auto.data.dataset import open_dataset
from ldseg_auto.data.image_io import read_image, write_image
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.picture import COLOURS
from ldseg_auto.report.pictures import EDGE, FILL, ODD, SIDE, SPREAD, choose, outline, overlay, thumbnail

LABELS = LabelSpec.from_dict({"background": 0, "a": 1, "b": 2})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2])


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def rgb(number: int) -> list[int]:
    return [int(COLOURS[number][i : i + 2], 16) for i in (1, 3, 5)]


def test_outline_is_the_mask_without_its_erosion() -> None:
    mask = np.random.default_rng(0).random((40, 30)) < 0.8
    assert np.array_equal(outline(mask), mask & ~binary_erosion(mask))


def test_choice_is_even_and_the_odd_ones_come_first() -> None:
    names = [f"{i:03d}" for i in range(100)]
    odd, others = choose(names, names[10:30])
    assert odd == names[10:18] and len(odd) == ODD and len(others) == SPREAD and not set(odd) & set(others)
    assert others[0] == "000" and others[-1] == "099"
    assert choose(names[:3][::-1], []) == ([], names[:3]) and choose(["a"], ["a"]) == (["a"], [])


def test_overlay_has_each_class_in_its_colour() -> None:
    mask = np.zeros((20, 30), np.int16)
    mask[5:15, 5:25] = 1
    mask[8:12, 10:16] = 2
    layer = overlay([mask], LABELS, (30, 20))
    assert layer[6, 6].tolist() == [*rgb(0), FILL] and layer[5, 5].tolist() == [*rgb(0), EDGE]
    assert layer[9, 12].tolist() == [*rgb(1), FILL] and layer[8, 10].tolist() == [*rgb(1), EDGE]
    assert not layer[0:5].any()
    assert overlay([mask], REGIONS, (30, 20))[9, 12].tolist() == [*rgb(1), FILL]  # the small region lies on the large one


def test_overlay_of_raters_is_filled_where_all_agree() -> None:
    first, second = np.zeros((2, 20, 20), np.int16)
    first[2:12, 2:18] = 1
    second[8:18, 2:18] = 1
    opacity = overlay([first, second], LABELS, (20, 20))[..., 3]
    assert opacity[9, 9] == FILL and opacity[5, 9] == 0 and opacity[15, 9] == 0
    assert opacity[2, 9] == opacity[17, 9] == opacity[11, 9] == opacity[8, 9] == EDGE


def test_picture_has_the_proportions_of_the_body_and_its_head_at_the_top(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    """Coarsest along y: the slice is coronal; the image is bright at the superior end and the mask lies there."""
    folder = make_dataset(tmp_path, n_cases=1, shape=(20, 8, 16), spacing=(2.0, 5.0, 1.0), classes=1)
    image = np.broadcast_to(np.linspace(0, 100, 20)[:, None, None], (20, 8, 16)).astype(np.float32)
    label = np.zeros((20, 8, 16), np.uint8)
    label[16:19, 3, 2:6] = 1
    write_image(folder / "imagesTr" / "toy_000_0000.nii.gz", image, (2.0, 5.0, 1.0))
    write_image(folder / "labelsTr" / "toy_000.nii.gz", label, (2.0, 5.0, 1.0))
    dataset = open_dataset(folder)
    found = thumbnail(dataset.cases[0], dataset.description)
    assert found.size == (83, SIDE) and found.note == "coronal slice 4 of 8"  # 16 mm by 40 mm
    picture, layer = decoded(found.image), decoded(found.overlay)
    assert picture.shape == (SIDE, 83) and layer.shape == (SIDE, 83, 4)
    assert picture[:20].mean() > 220 and picture[-20:].mean() < 35
    rows, columns = np.nonzero(layer[..., 3])
    assert rows.max() < SIDE / 4 and columns.max() < 83 / 2  # superior, and on the patient's right


def test_colour_photograph_and_several_channels(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    photo = open_dataset(make_dataset(tmp_path / "rgb", n_cases=1, shape=(1, 40, 60), channels=3, ending=".png"))
    found = thumbnail(photo.cases[0], photo.description)
    assert decoded(found.image).shape == (139, SIDE, 3) and found.note == ""
    scan = open_dataset(make_dataset(tmp_path / "mr", n_cases=1, channels=4, raters=2))
    assert len(read_image(scan.cases[0].images).array) == 4
    assert decoded(thumbnail(scan.cases[0], scan.description).image).ndim == 2


def test_equal_files_give_equal_bytes(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    dataset = open_dataset(make_dataset(tmp_path, n_cases=1))
    assert thumbnail(dataset.cases[0], dataset.description) == thumbnail(dataset.cases[0], dataset.description)


@pytest.mark.parametrize("value", [0, 5])
def test_a_case_without_foreground_is_drawn(make_dataset: Callable[..., Path], tmp_path: Path, value: int) -> None:
    folder = make_dataset(tmp_path, n_cases=1, shape=(6, 20, 16), content={"labels": {"background": 0, "a": 1, "b": 2, "ignore": 5}})
    write_image(folder / "labelsTr" / "toy_000.nii.gz", np.full((6, 20, 16), value, np.uint8), (3.0, 1.0, 1.0))
    dataset = open_dataset(folder)
    found = thumbnail(dataset.cases[0], dataset.description)
    assert found.note == "axial slice 4 of 6" and not decoded(found.overlay)[..., 3].any()
