"""`inherits_from`."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ldseg_auto.errors import PlansError
from ldseg_auto.planners.inherit import merge, resolve
from ldseg_auto.planners.plans import Plans

FULL = {
    "data_identifier": "ldsegPlans_full", "spacing": [1.0, 1.0], "patch_size": [32, 32], "batch_size": 8, "median_shape": [1.0, 64.0, 64.0],
    "normalisation": ["zscore"], "use_mask_for_norm": [False],
    "network": {"variant": "auto", "features_per_stage": [8, 16], "strides": [[1, 1], [2, 2]], "kernel_sizes": [[3, 3], [3, 3]]},
    "latent": {"factor": [2, 2], "channels": 4}, "sampling": {"steps": 4}, "training": {"epochs": 7, "learning_rate": 0.01},
    "memory_gib": 5.0, "reasons": {"batch_size": "fits"},
}  # fmt: skip
INTENSITIES = {"mean": 1.0, "median": 1.0, "std": 1.0, "min": 0.0, "max": 2.0, "percentile_00_5": 0.1, "percentile_99_5": 1.9}


def plans(**configurations: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset_name": "Dataset001_Toy", "plans_name": "mine", "fingerprint_hash": "abc", "file_ending": ".png",
        "transpose_forward": [0, 1, 2], "foreground_intensities": [INTENSITIES], "default_configuration": "full",
        "configurations": {"full": FULL, **configurations},
    }  # fmt: skip


def test_what_is_left_out_comes_from_the_parent_section_by_section() -> None:
    content = plans(small={"inherits_from": "full", "batch_size": 2, "training": {"epochs": 3}})
    before = copy.deepcopy(content)
    found = Plans.from_dict(content)
    small, full = found.configuration("small"), found.configuration("full")
    assert content == before
    assert (small.batch_size, small.training.epochs, small.training.learning_rate) == (2, 3, 0.01)
    assert (small.network, small.latent, small.data_identifier) == (full.network, full.latent, "ldsegPlans_full")
    assert small.inherits_from == "full" and full.inherits_from is None
    assert small.reasons == {
        "batch_size": "set to 2 by hand, where full has 8", "training.epochs": "set to 3 by hand, where full has 7",
    }  # fmt: skip
    assert (small.memory_gib, full.memory_gib) == (0.0, 5.0)  # the estimate was of another batch


@pytest.mark.parametrize("own", [{"batch_size": 2}, {"spacing": [2, 2]}, {"training": {"epochs": 1}, "memory_gib": 3.0}, {}])
def test_what_is_saved_is_read_as_the_same(own: dict[str, Any], tmp_path) -> None:
    found = Plans.from_dict(plans(small={"inherits_from": "full", **own}, tiny={"inherits_from": "small", "sampling": {"steps": 1}}))
    found.save(tmp_path / "plans.json")
    assert Plans.load(tmp_path / "plans.json") == found


def test_over_several_generations_in_any_order_of_the_file() -> None:
    own = {"a": {"inherits_from": "b", "sampling": {"steps": 9}}, "b": {"inherits_from": "full", "batch_size": 3}}
    for names in ("ab", "ba"):
        found = Plans.from_dict(plans(**{name: own[name] for name in names})).configuration("a")
        assert (found.batch_size, found.sampling.steps, found.training.epochs) == (3, 9, 7)


@pytest.mark.parametrize(
    ("own", "folder"),
    [
        ({"spacing": [2.0, 2.0]}, "mine_small"),
        ({"resampling": {"order_image": 1}}, "mine_small"),
        ({"normalisation": ["ct"]}, "mine_small"),
        ({"spacing": [2.0, 2.0], "data_identifier": "coarse"}, "coarse"),
        ({"spacing": [1, 1], "batch_size": 2}, "ldsegPlans_full"),
    ],
)
def test_other_voxels_mean_another_folder(own: dict[str, Any], folder: str) -> None:
    assert Plans.from_dict(plans(small={"inherits_from": "full", **own})).configuration("small").data_identifier == folder


def test_other_voxels_in_one_folder_are_refused() -> None:
    own = {"inherits_from": "full", "spacing": [2.0, 2.0], "data_identifier": "ldsegPlans_full"}
    rule = "configurations.small.data_identifier = 'ldsegPlans_full' is not possible: .* that of full, whose spacing differs"
    with pytest.raises(PlansError, match=rule):
        Plans.from_dict(plans(small=own))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"a": "b", "b": "a"}, r"configurations.b.inherits_from = 'a' closes a circle: a -> b -> a\. Take inherits_from out"),
        ({"a": "a"}, "closes a circle: a -> a"),
        ({"c": "a", "a": "b", "b": "a"}, "closes a circle: c -> a -> b -> a"),
        ({"a": "nobody"}, r"file: configurations.a.inherits_from = 'nobody': there is no such configuration; there are full, a"),
        ({"a": ["full"]}, r"inherits_from = \['full'\]: there is no such configuration"),
    ],
)
def test_parents_that_cannot_be(own: dict[str, Any], message: str) -> None:
    with pytest.raises(PlansError, match=message):
        Plans.from_dict(plans(**{name: {"inherits_from": parent} for name, parent in own.items()}), "file")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"batchsize": 2}, "unknown key 'configurations.small.batchsize'"),
        ({"patch_size": [31, 32]}, r"configurations.small.patch_size = \(31, 32\) is not possible: expected positive multiples"),
        ({"training": 5}, "configurations.small.training = 5 should be an object"),
    ],
)
def test_what_a_child_says_is_checked(own: dict[str, Any], message: str) -> None:
    with pytest.raises(PlansError, match=message):
        Plans.from_dict(plans(small={"inherits_from": "full", **own}))


@pytest.mark.parametrize("name", ["a__b", "../a", "a.b", "latent", "", "-a"])
def test_names_of_configurations(name: str) -> None:
    with pytest.raises(PlansError, match="configurations = .* is not possible: expected another name"):
        Plans.from_dict(plans(**{name: {"inherits_from": "full"}}))


def test_damaged_files_are_left_to_the_reader() -> None:
    for content in ({}, {"configurations": 3}, {"configurations": {"a": 3}}):
        assert resolve(content, "file") == content


def test_merging() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": [1, 2]}, {"a": {"y": 3}, "b": [4], "c": 5}) == {"a": {"x": 1, "y": 3}, "b": [4], "c": 5}
