"""Weights and sampling of classes: what is drawn, what is refused, what is warned of."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import InputError, PlansError
from ldseg_auto.planners.plans import Training
from ldseg_auto.planners.serialise import from_dict, to_dict
from ldseg_auto.training.classes import Centres, centres, check_classes, warn_of_absent

CLASSES = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 7, "ignore": 9})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "middle": [3]}, [1, 2, 3])


def test_members_are_the_indices_of_each_class_or_region() -> None:
    chosen = (centres(Training(class_sampling=(1, 2)), CLASSES), centres(Training(class_sampling=(1, 2, 3)), REGIONS))
    assert [c.members for c in chosen if c] == [((1,), (2,)), ((1, 2, 3), (2, 3), (3,))]
    assert centres(Training(), CLASSES) is None


def test_shares_are_those_of_the_classes_that_are_there() -> None:
    rng, chosen = np.random.default_rng(0), Centres(((1,), (2,), (3,)), (1.0, 3.0, 4.0))
    drawn = np.bincount([chosen.draw(rng, {1, 2}) or 0 for _ in range(4000)], minlength=4)
    assert drawn[0] == drawn[3] == 0 and drawn[2] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_region_is_centred_on_any_of_its_indices() -> None:
    rng, chosen = np.random.default_rng(0), Centres(((1, 2, 3), (2, 3)), (0.0, 1.0))
    drawn = np.bincount([chosen.draw(rng, [1, 2, 3]) or 0 for _ in range(2000)], minlength=4)
    assert drawn[1] == 0 and drawn[2] / 2000 == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("present", [(), (1,)])
def test_nothing_to_centre_on(present: tuple[int, ...]) -> None:
    assert Centres(((1,), (2,)), (0.0, 1.0)).draw(np.random.default_rng(0), present) is None


@pytest.mark.parametrize("key", ["class_weights", "class_sampling"])
def test_one_number_per_class(key: str) -> None:
    check_classes(Training(**{key: (1.0, 4.0)}), CLASSES)
    rule = "expected one for each of the 2 classes, in this order: organ, lesion"
    with pytest.raises(InputError, match=rf"training\.{key} has 3 number\(s\), \[1\.0, 2\.0, 3\.0\]; {rule}"):
        check_classes(Training(**{key: (1.0, 2.0, 3.0)}), CLASSES)


@pytest.mark.parametrize(("key", "value"), [("class_weights", [1, 0]), ("class_weights", []), ("class_sampling", [0, 0]),
                                            ("class_sampling", [1, -1]), ("class_sampling", []), ("class_weights", [-1])])  # fmt: skip
def test_impossible_weights(key: str, value: list[float]) -> None:
    with pytest.raises(PlansError, match=f"training.{key} = .* is not possible: expected a number"):
        from_dict(Training, {key: value}, "plans", "training")


def test_weights_survive_json() -> None:
    training = Training(class_weights=(1.0, 10.0), class_sampling=(0.0, 1.0))
    assert from_dict(Training, to_dict(training), "plans") == training


def test_classes_absent_from_a_fold_are_named(caplog: pytest.LogCaptureFixture) -> None:
    volumes = {"a": {"organ": 3.0, "lesion": 0.0}, "b": {"organ": 1.0, "lesion": 0.0}, "c": {"organ": 0.0, "lesion": 2.0}}
    with caplog.at_level(logging.WARNING):
        warn_of_absent(volumes, ["a", "b"], ["c"])
    assert [r.message.partition(":")[0] for r in caplog.records] == ["class lesion", "class organ"]
    assert "none of the 2 training cases has it" in caplog.text and "none of the 1 validation cases has it" in caplog.text


@pytest.mark.parametrize(("train", "val"), [(["a", "c"], ["a", "c"]), (["x"], ["y", "a"])])
def test_no_warning_where_all_are_there_or_nothing_is_known(train: list[str], val: list[str], caplog: pytest.LogCaptureFixture) -> None:
    warn_of_absent({"a": {"organ": 3.0, "lesion": 0.0}, "c": {"organ": 0.0, "lesion": 2.0}}, train, val)
    assert not caplog.records
