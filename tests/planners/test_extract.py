"""What the fingerprint says of each case beyond its size: border, handedness, tilt, intensities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.data.dataset import open_dataset
from ldseg_auto.data.geometry import oriented
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.agreement import pairwise_dice
from ldseg_auto.parallel import executor
from ldseg_auto.planners.extract import extract_fingerprint, measure_agreement, measure_classes, measure_direction

LABELS = LabelSpec.from_dict({"background": 0, "a": 1, "b": 2})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_a_mask_at_any_face_reaches_the_border(axis: int, end: int) -> None:
    label = np.zeros((7, 8, 9), np.int16)
    label[2:4, 2:4, 2:4] = 1
    where = [3, 3, 3]
    where[axis] = end
    label[tuple(where)] = 2
    inside = np.where(label == 1, 1, 0).astype(np.int16)
    assert measure_classes([label], LABELS)[2] == ("b",)
    assert measure_classes([inside], LABELS)[2] == ()
    assert measure_classes([inside, label], LABELS)[2] == ("b",)  # any rater
    assert measure_classes([label], REGIONS)[2] == ("whole", "core")


def test_the_only_slice_of_a_2d_image_is_no_border() -> None:
    label = np.zeros((1, 8, 9), np.int16)
    label[0, 2:5, 2:5] = 1
    assert measure_classes([label], LABELS)[2] == ()
    label[0, 0, 2] = 1
    assert measure_classes([label], LABELS)[2] == ("a",)


@pytest.mark.parametrize("degrees", [0.0, 7.0, 30.0])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (-1, -1, -1)])
def test_handedness_and_tilt_of_a_turned_grid(degrees: float, signs: tuple[int, int, int]) -> None:
    """An odd number of reversed axes makes a grid left-handed; a rotation tilts it by its angle."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(signs)
    geometry = oriented((4, 5, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(matrix.ravel()), 3, None)
    assert measure_direction(geometry) == (signs.count(-1) % 2 == 1, degrees)


def test_the_fingerprint_holds_them_for_any_order_of_the_cases(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    dataset = open_dataset(make_dataset(tmp_path, n_cases=4, shape=(6, 20, 16), channels=2))
    with executor(1) as pool:
        found = extract_fingerprint(dataset, pool)
        assert extract_fingerprint(replace(dataset, cases=dataset.cases[::-1]), pool) == found
    assert set(found.histograms) == {"0", "1"}
    for case in found.cases:
        assert len(case.image_intensities) == len(case.foreground_intensities) == 2 and not case.mirrored
        assert case.foreground_intensities[0].median > case.image_intensities[0].median  # classes are brighter than their surroundings


@pytest.mark.parametrize("spec", [LABELS, REGIONS])
@pytest.mark.parametrize("raters", [2, 3])
def test_agreement_is_the_pairwise_dice_between_raters(spec: LabelSpec, raters: int) -> None:
    """As the evaluation computes it from masks; classes that nobody drew do not count."""
    rng = np.random.default_rng(raters)
    for present in (3, 2):
        labels = rng.integers(0, present, (raters, 3, 8, 9)).astype(np.int16)
        masks = np.stack([[spec.table[label, head] > 0 for head in range(spec.num_heads)] for label in labels])
        expected = pairwise_dice(masks[:, spec.num_heads - len(spec.foreground_names) :])
        assert measure_agreement(list(labels), spec) == pytest.approx(expected, abs=1e-4)


def test_agreement_without_anything_to_agree_on() -> None:
    empty, drawn = np.zeros((1, 4, 4), np.int16), np.ones((1, 4, 4), np.int16)
    assert measure_agreement([drawn], LABELS) is None and measure_agreement([empty, empty], LABELS) is None
    assert measure_agreement([empty, drawn], LABELS) == 0 and measure_agreement([drawn, drawn, empty], LABELS) == 0.3333


def test_ignored_voxels_are_no_disagreement() -> None:
    spec = LabelSpec.from_dict({"background": 0, "a": 1, "ignore": 2})
    one = np.array([[[1, 1, 0, spec.ignore_index]]], np.int16)
    other = np.array([[[1, spec.ignore_index, 0, 1]]], np.int16)
    assert measure_agreement([one, other], spec) == 1.0
