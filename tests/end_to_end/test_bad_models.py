"""Plans, settings, checkpoints and output folders that cannot be: refused, and nothing changed."""

from __future__ import annotations

import json
import shutil

import pytest


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("patch_size",), [4, 20, 15], r"3d_fullres\.patch_size = \(4, 20, 15\) is not possible: expected positive multiples of"),
        (("spacing",), [3.0, -1.0, 1.0], r"3d_fullres\.spacing = \(3.0, -1.0, 1.0\) is not possible: expected above 0 mm"),
        (("batch_size",), 0, r"3d_fullres\.batch_size = 0 is not possible: expected at least 1"),
        (("batch_size",), "two", r"3d_fullres\.batch_size = 'two' should be of type int"),
        (("latent", "factor"), [3, 3, 3], r"3d_fullres\.latent.factor = \(3, 3, 3\) is not possible: expected one of the network's"),
        (("network", "variant"), "best", r"3d_fullres\.network\.variant = 'best' is not possible: expected one of"),
        (("training", "learning_rte"), 1, r"unknown key 'configurations\.3d_fullres\.training\.learning_rte'. Known here: .*learning_rate"),
        (("sampling", "steps"), -1, r"3d_fullres\.sampling\.steps = -1 is not possible"),
    ],
)
def test_plans_edited_to_impossible_values(bench, refused, path, value, match):
    for file, command in (
        (bench.preprocessed(1) / "ldsegPlans.json", ("train", 1, 1)),
        (bench.model(1, "3d_fullres") / "plans.json", ("predict", "-i", bench.dataset(1) / "imagesTr", "-o", bench.root / "out")),
    ):
        content = json.loads(file.read_text())
        target = content["configurations"]["3d_fullres"]
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value
        file.write_text(json.dumps(content))
        refused(bench, rf"{file.name}: .*{match}", *command)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("training.epocs=3", r"--set training\.epocs: there is no such field\. Known here: epochs, "),
        ("batch_size=0", "--set: batch_size = 0 is not possible: expected at least 1"),
        ("batch_size", "--set batch_size: expected path=value"),
        ("spacing=[1,1,1]", "--set spacing: the cases are preprocessed with .*Plan again"),
    ],
)
def test_settings(bench, refused, setting, match):
    refused(bench, match, "train", 1, 1, "--set", setting)


def test_checkpoint_of_another_dataset(bench, refused, make_dataset, workbench, tmp_path):
    """The fold of a model on other cases is put into this model's folder."""
    other = workbench(tmp_path / "other")
    make_dataset(other.raw, n_cases=3, shape=(4, 20, 16), seed=5)
    assert other.run("plan", "-d", 1) == other.train(1, 0) == 0
    model = bench.model(1, "3d_fullres")
    shutil.copytree(other.model(1, "3d_fullres") / "fold_0", model / "fold_1")
    command = ("predict", "-i", bench.dataset(1) / "imagesTr", "-o", bench.root / "out")
    match = r"checkpoint .*fold_1/checkpoint_final\.pth was trained on Dataset001_Toy \(fingerprint .*, the plans are of .*Use the"
    refused(bench, match, *command)
    shutil.rmtree(model / "fold_0")
    shutil.move(model / "fold_1", model / "fold_0")
    refused(bench, r"was trained on Dataset001_Toy|trained with other plans", "train", 1, 0, "--continue")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_damaged_checkpoint(bench, refused, content):
    path = bench.model(1, "3d_fullres") / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    command = ("predict", "-i", bench.dataset(1) / "imagesTr", "-o", bench.root / "out")
    refused(bench, r"checkpoint .*checkpoint_final\.pth cannot be read .*damaged", *command)


def test_wrong_number_of_channels(bench, refused, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for channel in range(2):
        shutil.copy(bench.dataset(1) / "imagesTr/toy_001_0000.nii.gz", folder / f"a_{channel:04d}.nii.gz")
    match = r"case a: 2 channel\(s\) found, dataset.json declares 1 \(channel0\); last one found: .*a_0001"
    refused(bench, match, "predict", "-i", folder, "-o", bench.root / "out")


def test_output_folder_that_is_not_empty(bench, refused, tree):
    output = bench.root / "out"
    output.mkdir()
    (output / "toy_000.nii.gz").write_text("mine")
    (output / "notes.txt").write_text("mine too")
    command = ("predict", "-i", bench.dataset(1) / "imagesTr", "-o", output)
    refused(bench, r"output folder .*out is not empty; nothing was changed\. Choose another, or --overwrite", *command)
    assert bench.run(*command, "--overwrite") == 0
    assert (output / "notes.txt").read_text() == "mine too"
    assert (output / "toy_000.nii.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_output_folder_that_holds_the_images(bench, refused):
    folder = bench.dataset(1) / "imagesTr"
    refused(
        bench,
        "holds the input images, which predictions could replace. Choose another",
        "predict",
        "-i",
        folder,
        "-o",
        folder,
        "--overwrite",
    )
