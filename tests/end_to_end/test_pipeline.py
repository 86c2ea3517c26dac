"""Plan, train, predict, evaluate: the real commands on small datasets of every kind."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from ldseg_auto.training import checkpoint
from ldseg_auto.training.loop import Trainer

TOY = 1


@pytest.fixture(scope="module")
def trained(workbench: Callable, make_dataset: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A 3D anisotropic dataset, planned, and trained for four iterations; its cases are larger than half a patch and need several tiles."""
    bench = workbench(tmp_path_factory.mktemp("trained"))
    make_dataset(bench.raw, n_cases=5, shape=(6, 20, 16), dataset_id=TOY)
    assert bench.run("plan", "-d", TOY) == 0
    small = ("patch_size=[4,16,16]", "training.iterations_per_epoch=2")
    plans = bench.plans(TOY)["configurations"]["3d_fullres"]
    assert plans["patch_size"] == [6, 20, 16], plans["patch_size"]
    strides = np.prod(plans["network"]["strides"], axis=0)
    assert all(p % s == 0 for p, s in zip((4, 16, 16), strides, strict=True)), strides
    code = bench.run(
        "train", TOY, 0, "--iterations", 4, "--set", f"network.features_per_stage={[4] + [8] * (len(plans['network']['strides']) - 1)}",
        "--set", "training.workers=0", "--set", "training.validation_patches=1", "--set", small[0], "--set", "batch_size=1",
    )  # fmt: skip
    assert code == 0
    return bench


def write_oblique(path: Path, seed: int, like: Path) -> sitk.Image:
    """The image `like` under a rotated, mirrored, shifted geometry, with axes in another order; returns it as read from the file."""
    image = sitk.ReadImage(str(like))
    image = sitk.PermuteAxes(image, [2, 0, 1])
    direction = Rotation.from_euler("zxy", [100, 8, -5], degrees=True).as_matrix() @ np.diag([1, -1, 1])
    image.SetDirection(direction.ravel())
    image.SetOrigin((-71.3 + seed, 12.7, 1 / 3))
    sitk.WriteImage(image, str(path))
    return sitk.ReadImage(str(path))


def grid(path: Path) -> tuple[object, ...]:
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_the_report_shows_what_training_made_of_the_latent(trained: Any) -> None:
    """Measured reconstruction of each class beside the ceiling that was planned."""
    page = (trained.preprocessed(TOY) / "report.html").read_text(encoding="utf-8")
    measured = json.loads(next(trained.results.glob("*/*/fold_0/latent.json")).read_text())
    section = page[page.index('id="trained"') :]
    for name, dice in measured["reconstruction"].items():
        assert f"{measured['ceilings'][name]:.3f}" in section and (dice is None or f"{dice:.3f}" in section), name


@pytest.fixture(scope="module")
def inputs(trained: Any) -> Path:
    """Two images as they are and an oblique one."""
    folder = trained.root / "inputs"
    folder.mkdir()
    source = trained.dataset(TOY) / "imagesTr"
    for name in ("toy_000", "toy_001"):
        shutil.copy(source / f"{name}_0000.nii.gz", folder)
    write_oblique(folder / "oblique_0000.nii.gz", 1, source / "toy_002_0000.nii.gz")
    return folder


@pytest.fixture(scope="module")
def predicted(trained: Any, inputs: Path) -> Path:
    output = trained.root / "predicted"
    assert trained.run("predict", "-i", inputs, "-o", output) == 0
    return output


def test_model_folder_is_complete(trained):
    model = trained.model(TOY, "3d_fullres")
    assert {p.name for p in model.iterdir()} == {"plans.json", "dataset.json", "dataset_fingerprint.json", "report.html", "fold_0"}
    files = {str(p.relative_to(model / "fold_0")) for p in (model / "fold_0").rglob("*") if p.is_file()}
    kinds = {f"checkpoint_{k}.pth" for k in ("final", "best", "latest")}
    drawn = {name for name in files if name.startswith("overlays/")}  # more of them where drawing is cheap beside training
    assert {"overlays/epoch_0001.png", "overlays/epoch_0004.png"} <= drawn
    events = {name for name in files if name.startswith("tensorboard/events.out.tfevents.")}
    assert len(events) == 1
    assert files - drawn - events == kinds | {
        "plans.json", "training_log.csv", "curves.png", "latent.json", "steps.json", "manifest.json", "predicted_dice.json",
        "validation/summary.json",
    }  # fmt: skip
    rows = list(csv.DictReader((model / "fold_0" / "training_log.csv").open()))
    assert [int(r["iteration"]) for r in rows] == [1, 2, 3, 4]
    saved = json.loads((model / "plans.json").read_text())["configurations"]["3d_fullres"]
    assert (saved["patch_size"], saved["batch_size"], saved["training"]["workers"]) == ([4, 16, 16], 1, 0)
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    split = json.loads((trained.preprocessed(TOY) / "splits_final.json").read_text())[0]
    assert sorted(summary["cases"]) == split["val"] and 0 <= summary["mean"] <= 1


def test_predictions_lie_on_their_images_own_grid_to_the_bit(inputs, predicted):
    for name in ("toy_000", "toy_001", "oblique"):
        assert grid(predicted / f"{name}.nii.gz") == grid(inputs / f"{name}_0000.nii.gz")
        mask = sitk.ReadImage(str(predicted / f"{name}.nii.gz"))
        assert mask.GetPixelID() == sitk.sitkUInt8 and set(np.unique(sitk.GetArrayFromImage(mask))) <= {0, 1, 2}


def test_manifest_tells_what_became_of_each_case(predicted):
    content = manifest(predicted)
    assert {name: case["status"] for name, case in content["cases"].items()} == dict.fromkeys(("oblique", "toy_000", "toy_001"), "done")
    assert content["dataset"] == "Dataset001_Toy" and content["expected"] == 3 and content["device"] == "cpu"


@pytest.mark.parametrize("flags", [("--tile-batch", 3), ("--tile-batch", 1)])
def test_company_order_and_batch_change_no_byte(trained, inputs, predicted, tmp_path, flags):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(inputs / "toy_001_0000.nii.gz", alone)
    shutil.copy(inputs / "toy_000_0000.nii.gz", alone / "a_first_0000.nii.gz")
    shutil.copy(inputs / "oblique_0000.nii.gz", alone / "zz_last_0000.nii.gz")
    assert trained.run("predict", "-i", alone, "-o", tmp_path / "out", *flags) == 0
    assert (tmp_path / "out" / "toy_001.nii.gz").read_bytes() == (predicted / "toy_001.nii.gz").read_bytes()


def test_the_same_seed_gives_the_same_file(trained, inputs, tmp_path):
    single = inputs / "toy_000_0000.nii.gz"
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        flags = ("--steps", 2, "--samples", 2, "--seed", seed)
        assert trained.run("predict", "-i", single, "-o", tmp_path / name, *flags) == 0
        found[name] = (tmp_path / name / "toy_000.nii.gz").read_bytes()
    assert found["a"] == found["b"] and manifest(tmp_path / "c")["seed"] == 2 and manifest(tmp_path / "c")["samples"] == 2


def test_one_failing_case_does_not_stop_the_others(trained, inputs, predicted, tmp_path, capsys):
    folder = tmp_path / "in"
    shutil.copytree(inputs, folder)
    (folder / "toy_000_0000.nii.gz").write_bytes((inputs / "toy_000_0000.nii.gz").read_bytes()[:500])
    assert trained.run("predict", "-i", folder, "-o", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert "2 of 3 cases predicted" in out and "failed: toy_000: image" in err and "truncated or damaged" in err and "Traceback" not in err
    assert not (tmp_path / "out" / "toy_000.nii.gz").exists()
    assert manifest(tmp_path / "out")["cases"]["toy_000"]["status"] == "failed"
    assert (tmp_path / "out" / "toy_001.nii.gz").read_bytes() == (predicted / "toy_001.nii.gz").read_bytes()


def test_evaluation_of_predictions_and_of_the_references_themselves(trained, tmp_path):
    labels = trained.dataset(TOY) / "labelsTr"
    assert trained.run("predict", "-i", trained.dataset(TOY) / "imagesTr", "-o", tmp_path / "out") == 0
    assert trained.run("evaluate", labels, tmp_path / "out", "-d", TOY) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["cases"]) == 5 and set(summary["per_class"]) == {"class1", "class2"}
    assert trained.run("evaluate", labels, labels, "-d", TOY, "-o", tmp_path / "self.json") == 0
    assert json.loads((tmp_path / "self.json").read_text())["foreground_mean"] == {"dice": 1.0, "iou": 1.0, "hd95": 0.0, "nsd": 1.0}


def test_two_folds_are_averaged(trained, inputs, tmp_path):
    """A second fold of the same plans joins the model folder."""
    model = tmp_path / "Dataset001_Toy" / "ldsegPlans__3d_fullres"
    shutil.copytree(trained.model(TOY, "3d_fullres"), model)
    shutil.copytree(model / "fold_0", model / "fold_1")
    assert trained.run("predict", "-i", inputs / "toy_000_0000.nii.gz", "-o", tmp_path / "both", "-m", model) == 0
    assert set(manifest(tmp_path / "both")["model"]) == {"0", "1"}
    # the mean of twice the same probabilities
    assert trained.run("predict", "-i", inputs / "toy_000_0000.nii.gz", "-o", tmp_path / "one", "-m", model, "-f", 1) == 0
    assert (tmp_path / "both" / "toy_000.nii.gz").read_bytes() == (tmp_path / "one" / "toy_000.nii.gz").read_bytes()


KINDS: Mapping[str, dict[str, Any]] = {
    "2d_rgb_png": {"shape": (1, 24, 20), "channels": 3, "ending": ".png", "classes": 1},
    "2d_grey_jpg": {"shape": (1, 24, 20), "ending": ".jpg", "classes": 1},
    "regions": {"content": {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}},
    "ignore": {"content": {"labels": {"background": 0, "class1": 1, "ignore": 2}}},
    "single_slice": {"shape": (1, 24, 20)},
    "four_channels": {"channels": 4, "content": {"channel_names": {"0": "CT", "1": "T1", "2": "noNorm", "3": "rescale_to_0_1"}}},
    "raters": {"raters": 3},
    "not_consecutive": {"content": {"labels": {"background": 0, "class2": 2, "class1": 1}}},
}
SETTINGS = {"paper": "network.variant=paper", "direct": "network.variant=direct", "ddpm": "sampling.sampler=ddpm"}


@pytest.mark.parametrize("kind", [*KINDS, *SETTINGS])
def test_every_kind_of_dataset_and_network(workbench, make_dataset, tmp_path, kind):
    bench, given = workbench(tmp_path), {"shape": (4, 20, 16), **KINDS.get(kind, {})}
    folder = make_dataset(bench.raw, n_cases=3, **given)
    assert bench.run("plan", "-d", 1) == 0
    assert bench.train(1, 0, *([SETTINGS[kind]] if kind in SETTINGS else [])) == 0
    assert bench.run("predict", "-i", folder / "imagesTr", "-o", tmp_path / "out") == 0
    names = json.loads((folder / "dataset.json").read_text()).get("raters", ["labelsTr"])
    for path in sorted((folder / names[0]).iterdir()):
        assert read(tmp_path / "out" / path.name).shape == read(path).shape
        assert path.suffix == ".png" or grid(tmp_path / "out" / path.name) == grid(path)
        assert set(np.unique(read(tmp_path / "out" / path.name))) <= {0, 1, 2}
    assert bench.run("evaluate", folder / names[-1], tmp_path / "out", "-d", 1) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["cases"]) == 3
    default = bench.plans(1)["default_configuration"]
    assert default == ("2d" if given["shape"][0] == 1 else "3d_fullres")
    fold = bench.model(1, default) / "fold_0"
    cases = json.loads((fold / "validation" / "summary.json").read_text())["cases"]
    assert all(len(raters) == len(names) for raters in cases.values())


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) if path.suffix == ".png" else sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_2d_configuration_of_a_volume_and_all_cases(workbench, make_dataset, tmp_path):
    bench = workbench(tmp_path)
    folder = make_dataset(bench.raw, n_cases=2, shape=(4, 20, 16))
    assert bench.run("plan", "-d", 1, "-c", "2d") == 0
    assert bench.train(1, "all", configuration="2d") == 0
    assert bench.run("predict", "-i", folder / "imagesTr", "-o", tmp_path / "out", "-d", 1, "-f", "all") == 0
    assert grid(tmp_path / "out" / "toy_001.nii.gz") == grid(folder / "imagesTr" / "toy_001_0000.nii.gz")


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(workbench, make_dataset, tmp_path, monkeypatch, capsys):
    bench = workbench(tmp_path)
    make_dataset(bench.raw, n_cases=3, shape=(4, 20, 16))
    assert bench.run("plan", "-d", 1) == 0
    assert bench.train(1, 0, length=("--epochs", 2)) == 0
    model = bench.model(1, "3d_fullres")
    shutil.move(model, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", interrupting(Trainer._end_epoch, done=1))
        assert bench.train(1, 0, length=("--epochs", 2)) == 130
    assert "interrupted" in capsys.readouterr().err and not (model / "fold_0" / "checkpoint_final.pth").exists()
    assert bench.train(1, 0, length=("--epochs", 2, "--continue")) == 0
    one, two = (checkpoint.load(f / "fold_0" / "checkpoint_final.pth") for f in (tmp_path / "whole", model))
    assert one["iteration"] == two["iteration"] == 4
    assert all(torch.equal(one[part][name], two[part][name]) for part in ("model", "ema") for name in one[part])


def interrupting(real: Callable, done: int) -> Callable:
    """An exception at the end of an epoch, before its checkpoint, once so many are done."""

    def end_epoch(self: Trainer, *args: Any) -> None:
        if self.state.epoch == done:
            raise KeyboardInterrupt
        real(self, *args)

    return end_epoch
