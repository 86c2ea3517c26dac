"""Metrics per class: classes, regions, the ignore label, and the means over cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.evaluate import evaluate_case, summarise

CLASSES = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 5})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2])
IGNORE = LabelSpec.from_dict({"background": 0, "organ": 1, "ignore": 2})
SPACING = (2.0, 1.0, 1.0)


def random_maps(highest: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, highest + 1, (2, 6, 7, 8)).astype(np.int16)
    return a, b


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_each_class_is_measured_by_itself() -> None:
    a, b = random_maps(2)
    found = evaluate_case(a, b, CLASSES, SPACING)
    assert list(found) == ["organ", "lesion"]
    for index, name in ((1, "organ"), (2, "lesion")):
        assert found[name]["dice"] == pytest.approx(dice(a == index, b == index))
        assert found[name]["tp"] == ((a == index) & (b == index)).sum()
        assert found[name]["volume_reference_ml"] == pytest.approx((a == index).sum() * 2 / 1000)


def test_regions_are_measured_as_unions() -> None:
    a, b = random_maps(2)
    found = evaluate_case(a, b, REGIONS, SPACING)
    assert found["whole"]["dice"] == pytest.approx(dice(a > 0, b > 0))
    assert found["core"]["dice"] == pytest.approx(dice(a == 2, b == 2))


def test_ignored_voxels_count_for_nothing() -> None:
    a, b = random_maps(1)
    expected = evaluate_case(a[:, :4], b[:, :4], IGNORE, SPACING, surface=False)
    a[:, 4:] = IGNORE.ignore_index
    assert evaluate_case(a, b, IGNORE, SPACING, surface=False) == expected
    assert expected["organ"]["n_predicted"] == b[:, :4].sum()


def test_surface_is_optional_and_the_tolerance_is_used() -> None:
    a = np.zeros((6, 12, 12), np.int16)
    a[1:4, 2:8, 2:8] = 1
    b = np.roll(a, 2, axis=2)
    assert "hd95" not in evaluate_case(a, b, CLASSES, SPACING, surface=False)["organ"]
    found = evaluate_case(a, b, CLASSES, SPACING)["organ"]
    assert found["hd95"] == 2.0
    assert found["nsd"] < 1 == evaluate_case(a, b, CLASSES, SPACING, tolerance=2.0)["organ"]["nsd"]


def test_a_mask_of_one_slice_keeps_its_third_dimension() -> None:
    a = np.zeros((5, 12, 12), np.int16)
    a[2, 2:10, 2:10] = 1
    b = a.copy()
    b[2, 5:7, 5:7] = 0  # a hole; within the plane its rim is new surface, in the volume all was surface before
    found = evaluate_case(a, b, CLASSES, SPACING)["organ"]
    assert found["nsd"] == 1.0  # each voxel of the hole has a neighbour at 1 mm


def test_absent_classes() -> None:
    empty, organ = np.zeros((4, 5, 6), np.int16), np.zeros((4, 5, 6), np.int16)
    organ[1:3, 1:3, 1:3] = 1
    found = evaluate_case(empty, organ, CLASSES, SPACING)
    assert (found["organ"]["dice"], found["organ"]["hd95"], found["organ"]["fp"]) == (0.0, math.inf, 8)
    assert all(math.isnan(found["lesion"][m]) for m in ("dice", "iou", "hd95", "nsd"))
    assert math.isnan(evaluate_case(empty, empty, CLASSES, SPACING)["organ"]["dice"])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(3, 4, 5\) and the reference \(3, 4, 6\)"):
        evaluate_case(np.zeros((3, 4, 6), np.int16), np.zeros((3, 4, 5), np.int16), CLASSES, SPACING)


def test_means_leave_out_what_has_no_value() -> None:
    def case(dice: float, hd95: float) -> dict[str, float]:
        return {"dice": dice, "iou": dice, "nsd": dice, "hd95": hd95}

    nothing = case(math.nan, math.nan)
    cases = {"a": {"organ": case(0.8, 2.0), "lesion": nothing}, "b": {"organ": case(0.6, 4.0), "lesion": nothing},
             "c": {"organ": case(0.0, math.inf), "lesion": case(0.5, 1.0)}}  # fmt: skip
    found = summarise(cases, ["organ", "lesion"])
    assert found["per_class"]["organ"]["dice"] == {"mean": pytest.approx(1.4 / 3), "n": 3}
    assert found["per_class"]["organ"]["hd95"] == {"mean": 3.0, "n": 2, "n_infinite": 1}
    assert found["per_class"]["lesion"]["dice"] == {"mean": 0.5, "n": 1}
    assert found["foreground_mean"]["dice"] == pytest.approx((1.4 / 3 + 0.5) / 2)
    assert math.isnan(summarise({"a": {"organ": nothing}}, ["organ"])["foreground_mean"]["dice"])
