"""`--set path=value`."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ldseg_auto.errors import PlansError
from ldseg_auto.planners.inherit import at, shown
from ldseg_auto.planners.overrides import FIXED, RECORDS, SETTABLE, field_paths, new_names, override, override_plans
from ldseg_auto.planners.plans import Configuration, Intensities, Latent, Network, Plans, Sampling
from ldseg_auto.planners.serialise import to_dict

CONFIGURATION = Configuration(
    data_identifier="data", spacing=(1.0, 1.0), patch_size=(32, 32), batch_size=2, median_shape=(1.0, 64.0, 64.0),
    normalisation=("zscore",), use_mask_for_norm=(False,), network=Network("auto", (8, 16), ((1, 1), (2, 2)), ((3, 3), (3, 3))),
    latent=Latent((2, 2), 4),
    sampling=Sampling(4),
)  # fmt: skip


def test_no_settings_change_nothing() -> None:
    assert override(CONFIGURATION, []) == CONFIGURATION


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("training.epochs=50", "training.epochs", 50),
        ("training.learning_rate = 3e-4", "training.learning_rate", 3e-4),
        ("training.weight_decay=0", "training.weight_decay", 0.0),
        ("training.augmentation=false", "training.augmentation", False),
        ("network.variant=paper", "network.variant", "paper"),
        ('network.variant="direct"', "network.variant", "direct"),
        ("patch_size=[64, 48]", "patch_size", (64, 48)),
        ("data_identifier=a-b", "data_identifier", "a-b"),
        ("sampling.steps=2", "sampling.steps", 2),
    ],
)
def test_a_value_by_its_path(setting: str, path: str, value: object) -> None:
    changed = override(CONFIGURATION, [setting])
    found = changed
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)
    *parents, last = path.split(".")
    inner = getattr(CONFIGURATION, parents[0]) if parents else CONFIGURATION
    expected = dataclasses.replace(inner, **{last: value})
    assert changed == (dataclasses.replace(CONFIGURATION, **{parents[0]: expected}) if parents else expected)


def test_values_that_are_possible_only_together() -> None:
    stages = ["network.features_per_stage=[8,16,32]", "network.strides=[[1,1],[2,2],[2,2]]", "network.kernel_sizes=[[3,3],[3,3],[3,3]]"]
    changed = override(CONFIGURATION, ["patch_size=[16,16]", *stages, "latent.factor=[4,4]"])
    assert changed.latent_stage == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.epochs"], "--set training.epochs: expected path=value, for instance training.epochs=50"),
        (["=5"], "--set =5: expected path=value"),
        (["training.epoch=5"], "--set training.epoch: there is no such field. Known here: epochs, iterations_per_epoch"),
        (["epochs=5"], "--set epochs: there is no such field. Known here: data_identifier"),
        (["batch_size.x=5"], "--set batch_size.x: there is no such field"),
        (["training.x.y=5"], "--set training.x.y: there is no such field"),
        (["training.epochs=many"], "--set: training.epochs = 'many' should be of type int"),
        (["training.epochs=1.5"], "--set: training.epochs = 1.5 should be of type int"),
        (["training.epochs=0"], "--set: training.epochs = 0 is not possible: expected at least 1"),
        (["training=5"], r"--set: training = 5 should be an object"),
        (["patch_size=[31,32]"], r"--set: patch_size = \(31, 32\) is not possible"),
        (["batch_size=2", " batch_size =3"], "--set batch_size is given twice, as 2 and as 3: keep one"),
    ],
)
def test_refused(settings: list[str], message: str) -> None:
    with pytest.raises(PlansError, match=message):
        override(CONFIGURATION, settings)


def test_the_same_value_twice_is_no_contradiction() -> None:
    assert override(CONFIGURATION, ["batch_size=3", "batch_size=3"]).batch_size == 3


INTENSITIES = Intensities(1.0, 1.0, 1.0, 0.0, 2.0, 0.1, 1.9)
OTHER = dataclasses.replace(CONFIGURATION, data_identifier="other", batch_size=5)
PLANS = Plans("Dataset001_Toy", "ldsegPlans", "abc", ".png", (0, 1, 2), (INTENSITIES,), {"one": CONFIGURATION, "two": OTHER}, "one")
CONTENT = PLANS.to_dict()
# Another possible value of each field; those that are only possible together with others come with them.
STAGES = ("network.strides=[[1,1],[2,2],[2,2]]", "network.features_per_stage=[8,16,32]", "network.kernel_sizes=[[1,1],[3,3],[3,3]]")
VALUES: dict[str, Any] = {
    "data_identifier": "cases", "spacing": [2.0, 0.5], "patch_size": [48, 64], "batch_size": 3, "normalisation": ["ct"],
    "use_mask_for_norm": [True], "network.variant": "paper", "network.features_per_stage": [4, 8], "network.strides": [[1, 1], [1, 2]],
    "network.kernel_sizes": [[1, 1], [5, 3]], "network.blocks_per_stage": 2, "network.denoiser_levels": 1,
    "network.attention_positions": 64, "latent.factor": [4, 4], "latent.channels": 7,
    "sampling.steps": 9, "sampling.sampler": "ddpm", "sampling.schedule": "linear", "sampling.samples": 3, "sampling.centre": False,
    "method.prediction": "eps", "method.label_input": "integer", "method.skips": False, "method.denoiser": "attention",
    "method.signal_gate": False, "method.block_code": False, "method.average_steps": False, "method.mirror_samples": False,
    "method.standardisation": "sample", "method.stop_gradient": False,
    "resampling.order_image": 1, "resampling.order_label": 0, "resampling.separate_axis_threshold": 2.5, "training.schedule": "cosine",
    "training.batch_dice": False, "training.augmentation": False, "training.precision": "bf16", "inference.step": 0.25,
    "training.learning_rate": 0.25, "training.weight_decay": 0.25, "training.gradient_clip": 0.25, "training.mirror_axes": [1],
    "training.class_weights": [2.0], "training.class_sampling": [2.0], "training.augment_on": "cpu", "training.compile": True,
    "training.graphs": "off",
}  # fmt: skip
NEEDS = {
    "network.strides": ["latent.factor=[1,2]"], "latent.factor": list(STAGES), "method.prediction": ["method.recycling=0"],
    "method.recycling": ["method.pure_noise=0.5"],
}  # fmt: skip
LEAVES = {path: hint for path, hint in field_paths().items() if not dataclasses.is_dataclass(hint)}
FREE = [path for path in LEAVES if path not in RECORDS]


def value_of(path: str) -> Any:
    """From the table, else by the type: 11 of whole numbers, 0.5 of others."""
    return VALUES.get(path, 11 if LEAVES[path] is int else 0.5)


@pytest.mark.parametrize("path", FREE)
def test_every_field_can_be_set_in_all_and_in_one_and_is_kept(path: str, tmp_path: Path) -> None:
    value = value_of(path)
    assert at(CONTENT["configurations"]["one"], path) != value, "the table holds the value that is there"
    for prefix, changed in (("", ("one", "two")), ("two.", ("two",))):
        if path == "data_identifier" and not prefix:
            continue  # two configurations with other voxels: below
        settings = [f"{prefix}{path}={shown(value)}", *(prefix + s for s in NEEDS.get(path, ()))]
        plans = override_plans(CONTENT, settings)
        plans.save(tmp_path / "plans.json")
        again = Plans.load(tmp_path / "plans.json")
        assert again == plans
        for name in ("one", "two"):
            wanted = value if name in changed else at(CONTENT["configurations"][name], path)
            assert at(to_dict(again.configurations[name]), path) == wanted
            assert (path in again.configurations[name].reasons) == (name in changed)
        start = PLANS.configurations[changed[-1]]
        assert dataclasses.replace(again.configurations[changed[-1]], reasons={}) == override(
            start, [s.removeprefix("two.") for s in settings]
        )


@pytest.mark.parametrize("path", FREE)
def test_nonsense_is_refused_in_every_field_with_path_and_value(path: str) -> None:
    hint, now = LEAVES[path], at(CONTENT["configurations"]["one"], path)
    nonsense: list[Any] = [{"x": 1}, [["y"]], -1]
    nonsense += [float("nan"), float("inf"), 1e400, "many", True] if hint in (int, float) else []
    nonsense += [1.5] if hint is int else []
    nonsense += ["maybe", 1, None] if hint is bool else []
    nonsense += ["no such thing", "", 3] if hint is str else []
    nonsense += [[], "x", None, [-1] * 2, [1.0] * 4] if isinstance(now, list) else []
    for value in nonsense:
        for name in ("one.", ""):
            shown_value = json.dumps(value)
            with pytest.raises(PlansError, match=rf"^--set.*{re.escape(path.split('.')[0])}") as refused:
                override_plans(CONTENT, [f"{name}{path}={shown_value}"])
            assert len(str(refused.value)) < 600
        with pytest.raises(PlansError, match="^--set"):
            override(CONFIGURATION, [f"{path}={json.dumps(value)}"])


@pytest.mark.parametrize("path", [p for p in LEAVES if p in RECORDS])
def test_records_cannot_be_set(path: str) -> None:
    for name in ("", "one."):
        with pytest.raises(PlansError, match=f"--set {name}{path}: it records how the plans came about.*Leave it out"):
            override_plans(CONTENT, [f"{name}{path}=1"])


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Plans)])
def test_every_field_beside_the_configurations(name: str) -> None:
    if name in SETTABLE:
        assert override_plans(CONTENT, [f"{name}=two"]).default_configuration == "two"
        with pytest.raises(PlansError, match=r"--set: default_configuration = '3d' is not possible: expected one of \('one', 'two'\)"):
            override_plans(CONTENT, [f"{name}=3d"])
    else:
        with pytest.raises(PlansError, match=rf"--set {name}: {re.escape(FIXED[name])}\. Leave it out"):
            override_plans(CONTENT, [f"{name}=1"])


def test_one_configuration_comes_before_all_in_any_order() -> None:
    settings = ["training.epochs=5", "two.training.epochs=6"]
    for order in (settings, settings[::-1]):
        found = override_plans(CONTENT, order).configurations
        assert (found["one"].training.epochs, found["two"].training.epochs) == (5, 6)
        assert found["two"].reasons == {"training.epochs": "set to 6 by hand, in place of 500"}
    assert PLANS.to_dict() == CONTENT


def test_the_rules_reason_is_kept_beside_the_change() -> None:
    content = dataclasses.replace(CONFIGURATION, reasons={"batch_size": "two fit"})
    plans = dataclasses.replace(PLANS, configurations={"one": content})
    changed = override_plans(plans.to_dict(), ["batch_size=4"]).configurations["one"]
    assert changed.reasons == {"batch_size": "set to 4 by hand, in place of 2 (two fit)"}


def test_a_configuration_of_ones_own() -> None:
    settings = ["small.batch_size=1", "small.inherits_from=one", "training.epochs=9", "default_configuration=small"]
    plans = override_plans(CONTENT, settings)
    small = plans.configuration()
    assert (small.batch_size, small.training.epochs, small.inherits_from, small.data_identifier) == (1, 9, "one", "data")
    assert Plans.from_dict(plans.to_dict()) == plans
    assert set(small.reasons) == {"batch_size", "training.epochs"}
    assert new_names(settings) == ["small"]


def test_children_of_a_file_follow_their_parent_but_for_what_they_say_themselves() -> None:
    content = copy.deepcopy(CONTENT)
    content["configurations"]["small"] = {"inherits_from": "one", "batch_size": 1}
    found = override_plans(content, ["one.training.epochs=4", "one.batch_size=8"]).configurations
    assert (found["small"].training.epochs, found["small"].batch_size) == (4, 1)
    found = override_plans(content, ["batch_size=8"]).configurations
    assert [c.batch_size for c in found.values()] == [8, 8, 8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["epochs=5"], "--set epochs: there is no such field.*Did you mean training.epochs?"),
        (["schedule=linear"], r"Did you mean sampling.schedule or training.schedule\?"),
        (["training.epoch=5"], r"--set training.epoch: .* Known here: epochs, iterations_per_epoch.*Did you mean training.epochs\?"),
        (["on.batch_size=5"], r"--set on.batch_size: .*Did you mean one.batch_size\?"),
        (["one.batchsize=5"], r"--set one.batchsize: .*Did you mean one.batch_size\?"),
        (["default_config=one"], r"Did you mean default_configuration\?"),
        (["small.inherits_from=none"], "configurations.small.inherits_from = 'none': there is no such configuration; there are one, two"),
        (["a.inherits_from=b", "b.inherits_from=a"], "closes a circle: a -> b -> a"),
        (["one.inherits_from=two"], "--set one.inherits_from: it records"),
        (["training.epochs=5", "training.epochs=6"], "--set training.epochs is given twice, as 5 and as 6: keep one"),
        (['training={"epochs":5}', "training.epochs=6"], "--set training.epochs is given twice, as 5 and as 6: keep one"),
        (["data_identifier=cases", "two.spacing=[2,2]"], "two.data_identifier = 'cases' .* whose spacing differs"),
        (
            ["one.patch_size=[30,30]", "one.network.strides=[[1,1],[2,2],[2,2]]", *("one." + s for s in STAGES[1:])],
            r"one.patch_size = \(30, 30\) .* multiples of the total stride \(4, 4\).*were one.patch_size=\[30,30\], one.network.str",
        ),
        (["latent.factor=[4,4]"], r"configurations.one.latent.factor = \(4, 4\) .*cumulative strides.*NAME.PATH=VALUE in one"),
        (["method.diversity=0.5", "method.prediction=eps"], r"method.prediction = 'eps' .*diversity.*settings were method.diversity=0.5"),
    ],
)
def test_contradictions_and_misspelt_paths(settings: list[str], message: str) -> None:
    with pytest.raises(PlansError, match=message):
        override_plans(CONTENT, settings)


def test_an_object_changes_the_fields_that_it_names() -> None:
    changed = override(CONFIGURATION, ['training={"epochs":5,"schedule":"cosine"}', "training.warmup=0.5"])
    expected = dataclasses.replace(CONFIGURATION.training, epochs=5, schedule="cosine", warmup=0.5)
    assert changed == dataclasses.replace(CONFIGURATION, training=expected)


def test_training_takes_the_name_of_its_configuration_too() -> None:
    assert override(CONFIGURATION, ["2d.batch_size=9"], "2d").batch_size == 9
    with pytest.raises(PlansError, match="--set 3d.batch_size: there is no such field"):
        override(CONFIGURATION, ["3d.batch_size=9"], "2d")
