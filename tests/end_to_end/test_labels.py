"""Labels that are not plain, through the real commands: regions, ignored voxels, several raters, classes that are missing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldseg_auto.data.image_io import read_label, write_image

SHAPE = (8, 24, 24)
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]}
IGNORED = 3
LEARNING = (
    "training.learning_rate=0.01", "training.ema_decay=0.9", "training.augmentation=false", "training.workers=0", "training.epochs=1",
    "training.validation_patches=2", "batch_size=2", "sampling.steps=2",
)  # fmt: skip


def ball(rng: np.random.Generator, shape: Sequence[int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Image and label `shape`: value 2 within 1, brighter, on noise."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    away = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, rng.uniform(-0.2, 0.2, 3), strict=True)))
    label = (away < 0.75).astype(np.uint8) + (away < 0.45)
    return (50 + 40 * label + rng.normal(0, 8, shape)).astype(np.float32), label.astype(np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, array, (1.0, 1.0, 1.0))


def describe(folder: Path, number: int, **content: Any) -> None:
    known = {"channel_names": {"0": "MRI"}, "numTraining": number, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(known | content))


def train(bench: Any, configuration: str, *settings: str, fold: int = 0, iterations: int = 60, flags: Sequence[str] = ()) -> int:
    """A network of 8 to 16 channels."""
    stages = len(bench.plans(1)["configurations"][configuration]["network"]["features_per_stage"])
    features = f"network.features_per_stage={json.dumps([8] + [16] * (stages - 1))}"
    every = (features, *LEARNING, f"training.iterations_per_epoch={iterations}", *settings)
    return bench.run("train", 1, fold, "-c", configuration, *flags, *(word for setting in every for word in ("--set", setting)))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def strict(path: Path) -> Any:
    """JSON without NaN and infinity."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{path} holds {text}")

    return json.loads(path.read_text(), parse_constant=refuse)


def logged(model: Path, fold: int = 0) -> list[dict[str, str]]:
    with (model / f"fold_{fold}" / "training_log.csv").open() as file:
        return list(csv.DictReader(file))


# Regions and ignored voxels together -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_annotated(workbench: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[np.ndarray]]:
    """Eight balls of which one half, always the same, is annotated; and the whole truth."""
    bench, rng, truths = workbench(tmp_path_factory.mktemp("half")), np.random.default_rng(0), []
    for i in range(8):
        image, truth = ball(rng)
        label = truth.copy()
        label[..., :12] = IGNORED
        save(bench.dataset(1) / "imagesTr" / f"c{i}_0000.nii.gz", image)
        save(bench.dataset(1) / "labelsTr" / f"c{i}.nii.gz", label)
        truths.append(truth)
    describe(bench.dataset(1), 8, **REGIONS)
    assert bench.run("plan", "-d", 1) == 0
    return bench, truths


@pytest.mark.parametrize("variant", ["direct", "auto"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_regions_are_learnt_from_a_half(half_annotated: Any, tmp_path: Path, configuration: str, variant: str) -> None:
    """The half that training never saw a label of is found; had it counted as background the mask would be empty there."""
    bench, truths = half_annotated
    whole = ("method.later_steps=1",) if variant == "auto" else ()  # so few iterations learn the hidden core only by all samples' latents
    seed = ("--seed", "2")  # of 20 seeds two learn too little of the core for the test, in 45 iterations (as many before draws came first)
    iterations = 90 if configuration == "2d" else 45
    assert train(bench, configuration, f"network.variant={variant}", *whole, iterations=iterations, flags=seed) == 0
    model = bench.model(1, configuration).rename(tmp_path / "model")
    summary = strict(model / "fold_0" / "validation" / "summary.json")
    assert bench.run("predict", "-i", bench.dataset(1) / "imagesTr", "-o", tmp_path / "out", "-m", model) == 0
    mask = np.stack([read_label(tmp_path / "out" / f"c{i}.nii.gz").array for i in range(8)])
    hidden = np.stack([read_label(bench.dataset(1) / "labelsTr" / f"c{i}.nii.gz").array == IGNORED for i in range(8)])
    assert mask.max() < IGNORED and set(summary["per_class"]) == {"whole", "core"}
    truth = np.stack(truths)
    for value, name in ((1, "whole"), (2, "core")):
        chance = dice(np.ones_like(truth[hidden], bool), truth[hidden] >= value)  # of saying yes everywhere
        assert dice(mask[hidden] >= value, truth[hidden] >= value) > chance + 0.15, name
        assert summary["per_class"][name] > chance + 0.3, name


# Several raters, some of whom drew a part -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raters(workbench: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ten images: rater 0 drew the even ones, rater 1 all, rater 2 all with the lower half left out."""
    bench, rng = workbench(tmp_path_factory.mktemp("raters")), np.random.default_rng(0)
    folder, names = bench.dataset(1), ["first", "second", "third"]
    for i in range(10):
        image, label = ball(rng, (1, 32, 32))
        save(folder / "imagesTr" / f"c{i}_0000.nii.gz", image)
        for number, name in enumerate(names):
            drawn = np.where(label > 0, 1, 0) if number == 1 else np.where(label > 1, 1, 0)
            drawn[:, 16:] = 2 if number == 2 else drawn[:, 16:]
            if number or i % 2 == 0:
                save(folder / name / f"c{i}.nii.gz", drawn.astype(np.uint8))
    describe(folder, 10, labels={"background": 0, "organ": 1, "ignore": 2}, raters=names)
    splits = [{"train": [f"c{i}" for i in range(7)], "val": ["c7", "c8", "c9"]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return bench


def test_raters_who_drew_a_part(raters: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert raters.run("plan", "-d", 1, "--verify") == 0
    assert "rater first has no label for 5 of 10 cases (first: c1)" in capsys.readouterr().err
    assert train(raters, "2d", iterations=80) == 0
    model = raters.model(1, "2d").rename(tmp_path / "model")
    for name in ("summary.json", "../steps.json", "../latent.json", "../predicted_dice.json"):
        strict(model / "fold_0" / "validation" / name)
    assert all(np.isfinite(float(row[key])) for row in logged(model) for key in ("loss", "loss_energy", "loss_entropy"))
    summary = strict(model / "fold_0" / "validation" / "summary.json")
    assert {case: sorted(found) for case, found in summary["cases"].items()} == {"c7": ["1", "2"], "c8": ["0", "1", "2"], "c9": ["1", "2"]}
    small, large, part = (summary["cases"]["c8"][rater]["organ"]["n_reference"] for rater in "012")
    assert 0 < part < small < large
    area = small / 32**2
    assert min(summary["per_rater"].values()) > 2 * area / (1 + area)  # what saying yes everywhere would have
    distance = strict(model / "fold_0" / "steps.json")["distance"]
    assert all(0 <= d <= 1 for d in distance.values())


def test_a_case_that_nobody_drew_is_an_error(raters: Any, capsys: pytest.CaptureFixture[str]) -> None:
    label = raters.dataset(1) / "second" / "c3.nii.gz"
    other = raters.dataset(1) / "third" / "c3.nii.gz"
    kept = [(path, path.read_bytes()) for path in (label, other)]
    for path, _ in kept:
        path.unlink()
    assert raters.run("plan", "-d", 1) == 2
    assert "1 image(s) without label" in capsys.readouterr().err
    for path, content in kept:
        path.write_bytes(content)


# Classes that are missing, weights, and shares --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rare(workbench: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Six balls; `core` is in the first alone, `never` in none. Fold 0 trains without it, fold 1 validates without it."""
    bench, rng = workbench(tmp_path_factory.mktemp("rare")), np.random.default_rng(0)
    for i in range(6):
        image, label = ball(rng)
        save(bench.dataset(1) / "imagesTr" / f"c{i}_0000.nii.gz", image)
        save(bench.dataset(1) / "labelsTr" / f"c{i}.nii.gz", label if i == 0 else np.minimum(label, 1))
    names = [f"c{i}" for i in range(6)]
    describe(bench.dataset(1), 6, labels={"background": 0, "organ": 1, "core": 2, "never": 3})
    splits = [{"train": names[2:], "val": names[:2]}, {"train": names[:4], "val": names[4:]}]
    (bench.dataset(1) / "splits_final.json").write_text(json.dumps(splits))
    return bench


@pytest.mark.parametrize("flags", [(), ("--verify",)])
def test_a_class_of_no_case_is_warned_of(rare: Any, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert rare.run("plan", "-d", 1, "--clean", *flags) == 0
    err = capsys.readouterr().err
    assert "class never is in none of the 6 cases. It cannot be learnt: remove it from labels in dataset.json, or add cases" in err
    assert ("class never is in none of the 6 cases read" in err) == bool(flags)


@pytest.mark.parametrize(("variant", "fold"), [("direct", 0), ("auto", 0), ("auto", 1)])
def test_classes_that_a_fold_lacks(rare: Any, tmp_path: Path, variant: str, fold: int, capsys: pytest.CaptureFixture[str]) -> None:
    if not (rare.preprocessed(1) / "ldsegPlans.json").exists():
        assert rare.run("plan", "-d", 1) == 0
    capsys.readouterr()
    assert train(rare, "3d_fullres", f"network.variant={variant}", fold=fold, iterations=30) == 0
    who = ("4 training", "2 validation")[fold]
    assert f"class core, never: none of the {who} cases has it" in capsys.readouterr().err
    model = rare.model(1, "3d_fullres").rename(tmp_path / "model")
    for path in model.rglob("*.json"):
        strict(path)
    per_class = strict(model / f"fold_{fold}" / "validation" / "summary.json")["per_class"]
    assert per_class["organ"] > 0.5 and per_class["never"] is None
    assert (per_class["core"] is None) == (fold == 1) and per_class["core"] in (None, 0)
    assert all(np.isfinite(float(row["loss"])) and row["dice_never"] == "" for row in logged(model, fold))
    assert rare.run("predict", "-i", rare.dataset(1) / "imagesTr", "-o", tmp_path / "out", "-m", model, "-f", fold) == 0
    mask = np.stack([read_label(tmp_path / "out" / f"c{i}.nii.gz").array for i in range(6)])
    share = np.bincount(mask.ravel(), minlength=4) / mask.size
    assert share[1] > 0.1 and share[3] < 0.002 and (fold == 1 or share[2] < 0.002)


def test_weights_and_shares_of_classes(rare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plans of the model hold them; a list of another length is refused before anything is written."""
    if not (rare.preprocessed(1) / "ldsegPlans.json").exists():
        assert rare.run("plan", "-d", 1) == 0
    capsys.readouterr()
    for key in ("class_weights", "class_sampling"):
        assert train(rare, "3d_fullres", f"training.{key}=[1,2]", fold=1) == 2
        rule = "expected one for each of the 3 classes, in this order: organ, core, never"
        assert f"training.{key} has 2 number(s), [1.0, 2.0]; {rule}" in capsys.readouterr().err
        assert train(rare, "3d_fullres", f"training.{key}=[1,-2,1]", fold=1) == 2
        assert f"training.{key} = (1.0, -2.0, 1.0) is not possible: expected a number" in capsys.readouterr().err
        assert not rare.model(1, "3d_fullres").exists()
    settings = ("network.variant=direct", "training.class_weights=[1,20,1]", "training.class_sampling=[0,1,0]")
    assert train(rare, "3d_fullres", *settings, fold=1, iterations=2) == 0
    assert "class_weights: organ 1, core 20, never 1" in capsys.readouterr().err
    model = rare.model(1, "3d_fullres").rename(tmp_path / "model")
    training = strict(model / "plans.json")["configurations"]["3d_fullres"]["training"]
    assert (training["class_weights"], training["class_sampling"]) == ([1, 20, 1], [0, 1, 0])
