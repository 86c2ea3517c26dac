"""The real commands: other plans, configurations of one's own, and plans that do not fit what is preprocessed."""

from __future__ import annotations

import json

import pytest

PIXELS = ("-i", "raw/Dataset001_Toy/imagesTr", "-o")


def test_a_configuration_of_ones_own_from_plan_to_mask(bench, capsys):
    """It is planned beside the others, shares their cases, and has a model folder of its name."""
    settings = ("--set", "small.inherits_from=3d_fullres", "--set", "small.latent.channels=1", "--set", "batch_size=1")
    assert bench.run("plan_only", "-d", 1, "-p", "mine", *settings) == 0
    assert "mine.json" in (out := capsys.readouterr().out) and "small" in out and "set to 1 by hand" in out
    assert bench.run("plan", "-d", 1, "-p", "mine", "-c", "small") == 0
    assert "3 cases preprocessed, 0 were up to date" in capsys.readouterr().out
    tiny = [
        w for s in ("network.features_per_stage=[4,8,8]", "training.iterations_per_epoch=1", "training.workers=0") for w in ("--set", s)
    ]
    stages = json.loads((bench.preprocessed(1) / "mine.json").read_text())["configurations"]["small"]["network"]["strides"]
    tiny[1] = f"network.features_per_stage={json.dumps([4, *[8] * (len(stages) - 1)])}"
    assert bench.run("train", 1, 0, "-p", "mine", "-c", "small", "--epochs", 1, "--set", "small.training.validation_patches=1", *tiny) == 0
    model = bench.results / "Dataset001_Toy" / "mine__small"
    saved = json.loads((model / "plans.json").read_text())
    assert saved["default_configuration"] == "small" and saved["configurations"]["small"]["inherits_from"] == "3d_fullres"
    assert saved["configurations"]["small"]["latent"]["channels"] == 1 and saved["configurations"]["small"]["training"]["epochs"] == 1
    capsys.readouterr()
    assert bench.run("predict", *PIXELS, "out", "-d", 1) == 2  # there is the other model too
    assert "-c small" in capsys.readouterr().err
    assert bench.run("predict", *PIXELS, "out", "-c", "small") == 0
    assert bench.run("predict", *PIXELS, "out2", "-p", "mine") == 0
    for name in ("toy_000", "toy_001", "toy_002"):
        assert (bench.root / "out" / f"{name}.nii.gz").read_bytes() == (bench.root / "out2" / f"{name}.nii.gz").read_bytes()


def test_plans_that_were_never_preprocessed_are_not_trained(bench, refused):
    """The folder has the same name, and cases of another spacing."""
    assert bench.run("plan_only", "-d", 1, "--set", "3d_fullres.resampling.order_image=1") == 0
    refused(
        bench,
        r"2 cases of fold 1 are not preprocessed for 3d_fullres .*Run ldseg_plan_and_preprocess -c 3d_fullres\.|cases of fold 1",
        "train",
        1,
        1,
    )
    assert bench.run("plan_only", "-d", 1, "-p", "new") == 0
    refused(bench, r"not preprocessed for 3d_fullres .*-c 3d_fullres -p new\.", "train", 1, 1, "-p", "new")


def test_plans_of_other_data_are_not_trained(bench, refused):
    path = bench.preprocessed(1) / "ldsegPlans.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint_hash": "0" * 64}))
    refused(bench, r"ldsegPlans.json is of other data \(fingerprint 000000000000\) than .*dataset_fingerprint.json", "train", 1, 1)


def test_a_model_on_copied_plans(bench, make_dataset, capsys):
    make_dataset(bench.raw, n_cases=3, shape=(4, 20, 16), seed=3, classes=1, dataset_id=2)
    assert bench.run("plan_only", "-d", 2, "--from-plans", bench.model(1, "3d_fullres") / "plans.json") == 0
    assert "no fingerprint is stored" in (read := capsys.readouterr()).err and "-d 2 -p ldsegPlans_from001" in read.out
    assert bench.run("plan", "-d", 2, "-p", "ldsegPlans_from001", "-c", "3d_fullres") == 0
    assert bench.run("train", 2, 0, "-p", "ldsegPlans_from001", "--epochs", 1) == 0
    saved = json.loads((bench.results / "Dataset002_Toy" / "ldsegPlans_from001__3d_fullres" / "plans.json").read_text())
    assert saved["foreground_intensities"] == bench.plans(1)["foreground_intensities"]
    assert saved["configurations"]["3d_fullres"]["network"]["features_per_stage"][0] == 4  # as the model of dataset 1 was trained


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--set", "training.epocs=3"), r"--set training\.epocs: there is no such field\. .*Did you mean training\.epochs\?"),
        (("--set", "3d_fullres.batch_size=0"), r"--set: configurations\.3d_fullres\.batch_size = 0 is not possible: expected at least 1"),
        (("--set", "a.inherits_from=b", "--set", "b.inherits_from=a"), "closes a circle: a -> b -> a"),
        (("--target-spacing", 2, 2, "--set", "2d.spacing=[1,1]"), "--target-spacing 2 2 and --set 2d.spacing both set the spacing"),
        (("--gpu-memory", 0.01), "--gpu-memory 0.01: the smallest patch"),
        (("-p", "dataset"), "--plans-name dataset: expected"),
        (("--from-plans", "nowhere.json"), "nowhere.json does not exist"),
        (("--from-plans", "raw/Dataset001_Toy/dataset.json"), r"dataset.json: unknown key|key 'dataset_name' is missing"),
    ],
)
def test_bad_choices(bench, refused, flags, match):
    refused(bench, match, "plan_only", "-d", 1, *flags)


def test_length_of_training_given_twice(bench, refused):
    match = r"--epochs 3 and --set training\.epochs=4 both set the length of training: give one of them"
    refused(bench, match, "train", 1, 1, "--epochs", 3, "--set", "training.epochs=4")
