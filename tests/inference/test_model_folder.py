"""Model folders: found, read, and refused when something does not fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldseg_auto.errors import ModelError, PlansError
from ldseg_auto.inference.model_folder import find_models, load_network, measured_steps, read_model_folder, trained_folds
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration, Intensities, Latent, Plans
from ldseg_auto.training import checkpoint

Make = Callable[..., Configuration]
CPU = torch.device("cpu")
DATASET = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1}, "numTraining": 2, "file_ending": ".nii.gz"}


def write_model(results: Path, configuration: Configuration, number: int = 1, name: str = "2d", folds: tuple[str, ...] = ("0",)) -> Path:
    """A model folder with freshly initialised networks."""
    dataset = f"Dataset{number:03d}_Toy"
    folder = results / dataset / f"ldsegPlans__{name}"
    intensities = Intensities(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    Plans(dataset, "ldsegPlans", "abc", ".nii.gz", (0, 1, 2), (intensities,), {name: configuration}, name).save(folder / "plans.json")
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    for fold in folds:
        torch.manual_seed(0)
        content = {"ema": LDSeg(configuration, 2).state_dict(), "dataset_name": dataset, "fingerprint_hash": "abc"}
        checkpoint.save(folder / f"fold_{fold}" / "checkpoint_final.pth", content)
    return folder


def test_reading(tmp_path: Path, make_configuration: Make) -> None:
    configuration = make_configuration()
    path = write_model(tmp_path, configuration, folds=("0", "3", "all"))
    folder = read_model_folder(path)
    assert folder.configuration == configuration and list(folder.folds) == ["0", "3", "all"]
    model = load_network(folder, "3", CPU)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model.state_dict(), checkpoint.load(folder.folds["3"])["ema"])
    assert list(read_model_folder(path, ["all"]).folds) == ["all"]


def test_a_renamed_folder_still_works(tmp_path: Path, make_configuration: Make) -> None:
    path = write_model(tmp_path, make_configuration()).rename(tmp_path / "my model")
    assert read_model_folder(path).configuration == make_configuration()


def test_finding(tmp_path: Path, make_configuration: Make) -> None:
    one = write_model(tmp_path, make_configuration(), 1, "2d")
    two = write_model(tmp_path, make_configuration(), 1, "3d")
    other = write_model(tmp_path, make_configuration(), 12, "2d")
    write_model(tmp_path, make_configuration(), 5, "2d", folds=())
    assert find_models(tmp_path) == [one, two, other]
    assert find_models(tmp_path, 1) == [one, two]
    assert find_models(tmp_path, None, "2d") == [one, other]
    assert find_models(tmp_path, plans_name=one.name.split("__")[0]) == [
        m for m in (one, two, other) if m.name.startswith(one.name.split("__")[0])
    ]
    assert find_models(tmp_path, plans_name="ldseg") == []
    assert find_models(tmp_path, 2) == [] == find_models(tmp_path / "none")


def test_final_comes_before_best_before_latest(tmp_path: Path) -> None:
    for name in ("latest", "best", "final"):
        path = tmp_path / "fold_0" / f"checkpoint_{name}.pth"
        checkpoint.save(path, {})
        assert trained_folds(tmp_path) == {"0": path}


def test_steps_that_validation_chose(tmp_path: Path, make_configuration: Make) -> None:
    path = write_model(tmp_path, make_configuration(), folds=("0", "1"))
    assert measured_steps(read_model_folder(path)) is None
    for fold, steps in (("0", 2), ("1", 4)):
        (path / f"fold_{fold}" / "steps.json").write_text(json.dumps({"chosen": steps}))
    assert measured_steps(read_model_folder(path)) == 4
    assert measured_steps(read_model_folder(path, ["0"])) == 2


def test_measured_steps_for_samples(tmp_path: Path, make_configuration: Make) -> None:
    """By a key that only datasets of several raters have; folds without it do not count."""
    path = write_model(tmp_path, make_configuration(), folds=("0", "1", "2"))
    measured = ({"chosen": 16}, {"chosen": 1, "chosen_for_samples": 4}, {"chosen": 1, "chosen_for_samples": 8})
    for fold, content in enumerate(measured):
        (path / f"fold_{fold}" / "steps.json").write_text(json.dumps(content))
    assert measured_steps(read_model_folder(path), "chosen_for_samples") == 8
    assert measured_steps(read_model_folder(path, ["0", "1"]), "chosen_for_samples") == 4
    assert measured_steps(read_model_folder(path, ["0"]), "chosen_for_samples") is None
    assert measured_steps(read_model_folder(path)) == 16


def test_no_model_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model folder: it has no plans.json"):
        read_model_folder(tmp_path)


@pytest.mark.parametrize(
    ("folds", "asked", "match"), [(("0",), ["0", "4"], "fold 4 is not trained in .*; trained: 0"), ((), None, "fold any is not trained")]
)
def test_untrained_folds(tmp_path: Path, make_configuration: Make, folds: tuple, asked: list[str] | None, match: str) -> None:
    path = write_model(tmp_path, make_configuration(), folds=folds)
    with pytest.raises(ModelError, match=match):
        read_model_folder(path, asked)


def test_damaged_plans(tmp_path: Path, make_configuration: Make) -> None:
    path = write_model(tmp_path, make_configuration())
    (path / "plans.json").write_text("{")
    with pytest.raises(PlansError, match="plans.json is not valid JSON"):
        read_model_folder(path)


def test_a_checkpoint_of_another_dataset(tmp_path: Path, make_configuration: Make) -> None:
    one, two = (write_model(tmp_path, make_configuration(), number) for number in (1, 2))
    (one / "fold_0" / "checkpoint_final.pth").replace(two / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="was trained on Dataset001_Toy .* the plans are of Dataset002_Toy"):
        load_network(read_model_folder(two), "0", CPU)


def test_plans_edited_after_training(tmp_path: Path, make_configuration: Make) -> None:
    path = write_model(tmp_path, make_configuration())
    plans = Plans.load(path / "plans.json")
    latent = Latent(plans.configurations["2d"].latent.factor, 7)
    changed = dataclasses.replace(plans.configurations["2d"], latent=latent)
    dataclasses.replace(plans, configurations={"2d": changed}).save(path / "plans.json")
    with pytest.raises(ModelError, match="does not fit .*plans.json.* were the plans edited after training"):
        load_network(read_model_folder(path), "0", CPU)
