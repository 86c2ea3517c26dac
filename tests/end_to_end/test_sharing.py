"""The real commands: fine-tuning on another dataset, and a model that goes through an archive."""

from __future__ import annotations

import csv
import json
import re
import shutil

import pytest

COPIED = ("-p", "ldsegPlans_from001")
FEW = ("--set", "training.validation_patches=1", "--set", "training.workers=0", "--set", "training.augmentation=false")


@pytest.fixture(scope="module")
def tuned(workbench, make_dataset, tmp_path_factory):
    """Dataset 1 trained for a while, dataset 2 with other classes and dataset 1's plans."""
    bench = workbench(tmp_path_factory.mktemp("tuned"))
    make_dataset(bench.raw, n_cases=3, shape=(4, 20, 16))
    make_dataset(bench.raw, n_cases=3, shape=(4, 20, 16), seed=3, dataset_id=2)
    assert bench.run("plan", "-d", 1) == 0
    settings = (
        "network.features_per_stage=[4,8,8]", "latent.channels=2", "batch_size=1", "sampling.steps=2", "training.learning_rate=0.005",
        "training.iterations_per_epoch=30",
    )  # fmt: skip
    assert bench.run("train", 1, 0, "--epochs", 2, *FEW, *(word for setting in settings for word in ("--set", setting))) == 0
    model = bench.model(1, "3d_fullres")
    assert bench.run("plan_only", "-d", 2, "--from-plans", model / "plans.json") == 0
    assert bench.run("plan", "-d", 2, *COPIED, "-c", "3d_fullres") == 0
    return bench


def first_loss(fold):
    with open(fold / "training_log.csv", newline="") as stream:
        return float(next(csv.DictReader(stream))["loss"])


def test_fine_tuning(tuned, capsys):
    """The walk-through of documentation/sharing.md: the first two iterations are better than those from random weights."""
    fold = tuned.results / "Dataset002_Toy" / "ldsegPlans_from001__3d_fullres" / "fold_0"
    length = ("--epochs", 1, "--set", "training.iterations_per_epoch=2")
    assert tuned.run("train", 2, 0, *COPIED, *length, *FEW) == 0
    scratch = first_loss(fold)
    assert "pretrained" not in json.loads((fold / "manifest.json").read_text())
    shutil.rmtree(fold)
    capsys.readouterr()
    source = tuned.model(1, "3d_fullres") / "fold_0"
    assert tuned.run("train", 2, 0, *COPIED, *length, *FEW, "--pretrained", source) == 0
    log = capsys.readouterr().err
    assert re.search(r"pretrained weights of .*fold_0/checkpoint_final\.pth \(trained on Dataset001_Toy\): \d+ layers transferred", log)
    assert "left out" not in log and "other " not in log
    assert first_loss(fold) < 0.8 * scratch
    record = json.loads((fold / "manifest.json").read_text())["pretrained"]
    assert (record["dataset"], record["left_out"], record["differences"]) == ("Dataset001_Toy", {}, {})
    assert tuned.run("train", 2, 0, *COPIED, "--continue", "--epochs", 2) == 0  # and the record stays
    assert json.loads((fold / "manifest.json").read_text())["pretrained"] == record


def test_fine_tuning_to_other_classes(tuned, capsys, make_dataset):
    make_dataset(tuned.raw, n_cases=3, shape=(4, 20, 16), seed=4, dataset_id=3, classes=3)
    plans = tuned.model(1, "3d_fullres") / "plans.json"
    assert tuned.run("plan_only", "-d", 3, "--from-plans", plans) == 0
    assert tuned.run("plan", "-d", 3, *COPIED, "-c", "3d_fullres") == 0
    capsys.readouterr()
    length = ("--epochs", 1, "--set", "training.iterations_per_epoch=1")
    assert tuned.run("train", 3, 0, *COPIED, *length, *FEW, "--pretrained", plans.parent) == 0
    log = capsys.readouterr().err
    assert re.search(r"left out, other shape: 3 x 4 x 1 x 1 x 1 there, 4 x 4 x 1 x 1 x 1 here: decoder\.head", log)
    assert "other classes: class1, class2 -> class1, class2, class3" in log


def test_a_model_through_an_archive(bench, capsys, tmp_path):
    """Exported, imported elsewhere, predicted: the same bytes, from the steps that validation chose."""
    model, archive = bench.model(1, "3d_fullres"), tmp_path / "model.zip"
    capsys.readouterr()
    assert bench.run("export", model, "-o", archive, "--licence", "CC0-1.0") == 0
    out = capsys.readouterr().out
    digest = re.search(r"SHA-256: ([0-9a-f]{64})", out)[1]
    assert "folds 0" in out and "licence of the weights: CC0-1.0" in out and "names of the training cases; --anonymous" in out
    images = bench.dataset(1) / "imagesTr"
    assert bench.run("predict", "-i", images, "-o", bench.root / "before", "-m", model, "--save-probabilities", "npz") == 0
    shutil.rmtree(bench.results)
    assert bench.run("import", archive, "--sha256", digest) == 0
    assert f"ldseg_predict -i IMAGES -o MASKS -m {model}" in capsys.readouterr().out
    assert bench.run("predict", "-i", images, "-o", bench.root / "after", "-m", model, "--save-probabilities", "npz") == 0
    masks = [p.name for p in (bench.root / "before").iterdir() if p.suffix in (".gz", ".npz", ".csv")]
    assert len(masks) == 7
    for name in masks:
        assert (bench.root / "after" / name).read_bytes() == (bench.root / "before" / name).read_bytes(), name
    assert bench.run("train", 1, 0, "--continue") == 2  # weights alone cannot be trained further,
    assert "holds weights alone, as of an imported model, which cannot be continued. Use --pretrained" in capsys.readouterr().err


def test_bad_pretrained(bench, refused):
    moved = bench.model(1, "3d_fullres").rename(bench.root / "old")
    for flags, match in (
        (("--pretrained", "nowhere"), "--pretrained nowhere holds no checkpoint: name a model folder"),
        (("--pretrained", "raw/Dataset001_Toy/dataset.json"), r"dataset\.json cannot be read .*no checkpoint"),
        (("--pretrained", moved, "--continue"), "--pretrained .* and --continue: a training that goes on has weights already"),
    ):
        refused(bench, match, "train", 1, 1, *flags)


def test_pretrained_weights_of_another_network(bench, refused):
    """The plans as they are have other widths than the small network that was trained."""
    moved = bench.model(1, "3d_fullres").rename(bench.root / "old")
    refused(bench, r"--pretrained .*: nothing of its image encoder fits this network", "train", 1, 1, "--pretrained", moved)


def test_bad_archives_and_exports(bench, refused):
    model = bench.model(1, "3d_fullres")
    refused(bench, r"-o out\.tar: expected a name that ends in \.zip", "export", model, "-o", "out.tar")
    refused(bench, "fold 3 is not trained", "export", model, "-o", "out.zip", "-f", 3)
    refused(bench, "is no model folder", "export", bench.raw, "-o", "out.zip")
    refused(bench, r"dataset\.json cannot be read .*it is no zip file", "import", bench.dataset(1) / "dataset.json")
    assert bench.run("export", model, "-o", "out.zip") == 0
    refused(bench, "exists already; nothing was changed", "import", "out.zip")
    refused(bench, "it is another file, or was changed", "import", "out.zip", "--sha256", "0" * 64)


def test_a_checkpoint_in_another_configurations_folder(bench, refused):
    """The same network for other voxels: shapes do not tell."""
    assert bench.run("plan_only", "-d", 1, "--set", "small.inherits_from=3d_fullres") == 0
    assert bench.run("plan", "-d", 1, "-c", "small") == 0
    assert bench.train(1, 0, configuration="small") == 0
    model = bench.model(1, "3d_fullres")
    shutil.copy(bench.model(1, "small") / "fold_0" / "checkpoint_final.pth", model / "fold_0" / "checkpoint_final.pth")
    match = r"checkpoint .*fold_0/checkpoint_final\.pth is of configuration small, not 3d_fullres\. Use the model folder that it came from"
    refused(bench, match, "predict", "-i", bench.dataset(1) / "imagesTr", "-o", bench.root / "out", "-m", model)
    refused(bench, match, "export", model, "-o", "out.zip")
