"""`--set path=value`."""

from __future__ import annotations

import dataclasses

import pytest

from ldseg_auto.errors import PlansError
from ldseg_auto.planners.overrides import override
from ldseg_auto.planners.plans import Configuration, Latent, Network, Sampling

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
        ("data_identifier=a=b", "data_identifier", "a=b"),
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
