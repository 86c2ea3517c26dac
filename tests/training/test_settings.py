"""What a training that goes on may change of its configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ldseg_auto.errors import ModelError
from ldseg_auto.planners.overrides import field_paths, override
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.training.settings import MAY_CHANGE, RECORDS, check_settings, settings_of

Make = Callable[..., Configuration]


@pytest.mark.parametrize(
    "setting",
    [
        "training.epochs=9", "training.iterations_per_epoch=9", "training.learning_rate=0.5", "training.schedule=cosine",
        "training.early_stopping=3", "training.workers=1", "inference.step=0.25", "sampling.samples=4", "training.validation_patches=9",
    ],
)  # fmt: skip
def test_what_may_change_is_said(make_configuration: Make, setting: str, caplog: pytest.LogCaptureFixture) -> None:
    before = make_configuration()
    path, _, value = setting.partition("=")
    with caplog.at_level(logging.INFO):
        check_settings(settings_of(before), override(before, [setting], "2d"), Path("fold_0/x.pth"))
    assert f"continuing with {path} = {value!r}".replace("'", "") in caplog.text.replace("'", "")


@pytest.mark.parametrize(
    ("setting", "there"),
    [
        ("batch_size=3", "batch_size = 3, there 2"),
        ("patch_size=[32,32]", r"patch_size = \(32, 32\), there \(16, 16\)"),
        ("network.blocks_per_stage=2", "network.blocks_per_stage = 2, there 1"),
        ("latent.channels=2", "latent.channels = 2, there 4"),
        ("training.oversample_foreground=0.5", "training.oversample_foreground = 0.5, there 0.33"),
        ("training.augmentation=true", "training.augmentation = True, there False"),
        ("method.dice_weight=3.0", "method.dice_weight = 3.0, there None"),
        ("sampling.schedule=linear", "sampling.schedule = 'linear', there 'cosine'"),
    ],
)
def test_network_loss_and_batches_may_not(make_configuration: Make, setting: str, there: str) -> None:
    before = make_configuration()
    with pytest.raises(ModelError, match=rf"--continue: fold_0/x.pth was trained with other settings \({there}\).*move fold_0 away"):
        check_settings(settings_of(before), override(before, [setting], "2d"), Path("fold_0/x.pth"))


def test_records_and_fields_of_other_versions_do_not_matter(make_configuration: Make) -> None:
    before = make_configuration()
    content = settings_of(before) | {"training.of_another_version": 1}
    del content["training.batch_dice"]
    changed = replace(before, reasons={"patch_size": "because"}, memory_gib=3.0, training=replace(before.training, batch_dice=False))
    check_settings(content, changed, Path("x"))
    check_settings({}, replace(before, batch_size=7), Path("x"))


def test_the_fields_named_exist() -> None:
    assert [p for p in (*MAY_CHANGE, *RECORDS) if p not in field_paths()] == []
