"""A case predicted anew: the picture shows what the window predicts, and calibration is that of its probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.calibration import near_foreground, reliability
from ldseg_auto.inference.examine import Examiner
from ldseg_auto.inference.model_folder import load_network, read_model_folder
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.preprocessing.store import Properties, load_case, save_case

CPU = torch.device("cpu")
SHAPE = (6, 20, 18)
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
IGNORE = {"background": 0, "class1": 1, "class2": 2, "ignore": 3}


def write(folder: Path, highest: int, raters: int = 1) -> np.ndarray:
    """A stored case with labels 0 ... highest in blocks; returns its labels (raters, z, y, x)."""
    rng = np.random.default_rng(0)
    label = np.zeros((raters, *SHAPE), np.int16)
    for value in range(1, highest + 1):
        label[:, 1:5, 4 * value : 4 * value + 4, 5:12] = value
    label[1:, 1:5, 4:6] = 0
    box = tuple((0, n) for n in SHAPE)
    image = (label[:1] + rng.normal(size=(1, *SHAPE))).astype(np.float32)
    save_case(folder, "case", image, label, Properties((1.0,) * 3, SHAPE, box, SHAPE, SHAPE))
    return label


@pytest.fixture
def model(tmp_path: Path, make_dataset: Callable[..., Path], make_model: Callable[..., Path]) -> Callable[..., Path]:
    """An untrained model folder for a dataset with this content of dataset.json."""

    def make(**content: object) -> Path:
        return make_model(tmp_path / "results", make_dataset(tmp_path / "raw", n_cases=1, shape=SHAPE, content=content))

    return make


def probabilities(folder: Path, cases: Path) -> np.ndarray:
    """Of the whole volume, by the window's other way."""
    read, examiner = read_model_folder(folder), Examiner(read_model_folder(folder), cases, CPU)
    image = load_case(cases, "case").image[:]
    regions = read.description.labels.has_regions
    return examiner.window.probabilities([load_network(read, "0", CPU)], image, "case", 3, examiner.steps, 1, regions)


@pytest.mark.parametrize("ignore", [None, 3])
def test_classes(tmp_path: Path, model: Callable[..., Path], ignore: int | None) -> None:
    folder = model()
    if ignore:
        content = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**content, "labels": IGNORE}))
    labels = write(tmp_path / "cases", ignore or 2, raters=2)
    found = Examiner(read_model_folder(folder), tmp_path / "cases", CPU)("0", "case", seed=3)
    p = probabilities(folder, tmp_path / "cases")
    predicted, truth = p.argmax(0), labels[0]
    valid = truth != ignore
    mask = near_foreground(predicted * valid, truth * valid, 2) & valid
    expected = reliability(p, np.where(valid, truth, 0), mask=mask)
    assert found.reliability.ece == pytest.approx(expected.ece) and found.reliability.count.tolist() == expected.count.tolist()
    assert (found.case, found.fold) == ("case", "0") and len(found.cut.masks) == 3  # two raters, and the prediction
    assert found.cut.axis == 0 and np.array_equal(found.cut.masks[-1], predicted[found.cut.index])


def test_regions_count_one_by_one(tmp_path: Path, model: Callable[..., Path]) -> None:
    folder = model(**REGIONS)
    truth = write(tmp_path / "cases", 2)[0]
    found = Examiner(read_model_folder(folder), tmp_path / "cases", CPU)("0", "case", seed=3)
    p = probabilities(folder, tmp_path / "cases").astype(np.float16).astype(np.float32)
    painted = np.where(p[1] > 0.5, 2, np.where(p[0] > 0.5, 1, 0))
    mask = near_foreground(painted, truth, 2)
    each = [reliability(np.stack([1 - q, q]), t.astype(int), mask=mask) for q, t in zip(p, (truth > 0, truth == 2), strict=True)]
    assert found.reliability.ece == pytest.approx((each[0] + each[1]).ece, abs=1e-4)
    assert found.reliability.count.sum() == 2 * mask.sum()


def test_transposed_axes_are_turned_back(tmp_path: Path, model: Callable[..., Path]) -> None:
    folder = model()
    plans = json.loads((folder / "plans.json").read_text())
    (folder / "plans.json").write_text(json.dumps({**plans, "transpose_forward": [1, 0, 2]}))
    write(tmp_path / "cases", 2)
    found = Examiner(read_model_folder(folder), tmp_path / "cases", CPU)("0", "case").cut
    sides = {0: (20, 6, 18), 1: (6, 20, 18), 2: (18, 20, 6)}[found.axis]
    assert found.count == sides[0] and set(found.image.shape[1:]) == set(sides[1:])
    assert found.axis == 0 and found.image.shape == (1, 6, 18)  # canonical: 20 x 6 x 18, equal spacing: the first axis


def test_a_case_that_is_not_there(tmp_path: Path, model: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="other.json does not exist"):
        Examiner(read_model_folder(model()), tmp_path / "cases", CPU)("0", "other")


def test_2d_slices_keep_their_distance(
    tmp_path: Path, make_dataset: Callable[..., Path], make_model: Callable[..., Path], make_configuration: Callable[..., Configuration]
) -> None:
    """A 2D configuration has no spacing across slices: the case's own says that its slices are thick."""
    raw = make_dataset(tmp_path / "raw", n_cases=1, shape=SHAPE)
    folder = make_model(tmp_path / "results", raw, "2d", make_configuration(patch=(16, 16)))
    label = write(tmp_path / "cases", 2)
    box = tuple((0, n) for n in SHAPE)
    image = load_case(tmp_path / "cases", "case").image[:]
    save_case(tmp_path / "cases", "case", image, label, Properties((5.0, 1.0, 1.0), SHAPE, box, SHAPE, SHAPE))
    found = Examiner(read_model_folder(folder), tmp_path / "cases", CPU)("0", "case")
    assert found.cut.axis == 0 and found.cut.count == 6 and found.cut.extent == (20.0, 18.0)
    assert found.reliability.count.sum() > 0
