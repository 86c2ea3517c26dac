"""inference.json: what is followed, what wins over it, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ldseg_auto.data.image_io import read_label
from ldseg_auto.errors import ModelError
from ldseg_auto.files import hash_file
from ldseg_auto.inference.model_folder import read_model_folder
from ldseg_auto.inference.postprocess import LARGEST, SMALLEST, Rule, clean
from ldseg_auto.inference.predictor import Predictor, Wanted
from ldseg_auto.inference.recipe import NAME, Overrides, Part, Recipe, checkpoints, follow
from ldseg_auto.training import checkpoint

RULES = (Rule(LARGEST, "class1"), Rule(SMALLEST, "class2", 0.02))


@pytest.fixture
def models(make_dataset: Callable[..., Path], make_model: Callable[..., Path], make_configuration: Callable, tmp_path: Path) -> list[Path]:
    """A 3D model of two folds and a 2D one."""
    raw = make_dataset(tmp_path / "raw", n_cases=2, shape=(6, 24, 20))
    flat = make_configuration(patch=(16, 16))
    return [make_model(tmp_path / "results", raw, "3d", seeds=(0, 1)), make_model(tmp_path / "results", raw, "2d", flat, seeds=(5,))]


def part(model: Path, steps: int, folds: list[str] | None = None, folder: str | None = None) -> Part:
    return Part(folder or model.name, dict(checkpoints(read_model_folder(model, folds))), steps)


def write(path: Path, *parts: Part, samples: int = 1, rules: tuple[Rule, ...] = ()) -> Path:
    Recipe("Dataset001_Toy", "0.1.0", parts, samples, "ml", rules, measured={"dice": [0.5, None]}).save(path)
    return path


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    parts = (Part("ldsegPlans__2d", {"0": "aa", "1": "bb"}, 2), Part("otherPlans__3d_fullres", {"0": "cc"}, 1))
    recipe = Recipe("Dataset001_Toy", "0.1.0", parts, 4, "mm2", RULES, measured={"any": [1, None, {"x": "y"}]})
    recipe.save(tmp_path / NAME)
    again = Recipe.load(tmp_path / NAME)
    assert again == recipe and again.measured == recipe.measured
    assert recipe.words() == (
        "ldsegPlans__2d + otherPlans__3d_fullres, folds 0 1, steps 1 2, samples 4, post-processing: "
        "largest component of class1; components of class2 from 0.02 mm2 on"
    )


def test_both_models_with_their_steps_and_the_rules(models: list[Path], tmp_path: Path) -> None:
    """Against the two predictors loaded by hand, averaged, and cleaned."""
    path = write(models[0].parent / NAME, part(models[0], 2, ["1"]), part(models[1], 1), samples=2, rules=RULES)
    image, wanted = np.random.default_rng(0).normal(size=(6, 24, 20)).astype(np.float32), Wanted(probabilities=True)
    found = follow(path, "cpu", seed=3).predict(image, (3.0, 1.0, 1.0), "x", wanted)
    one = Predictor.from_folder(models[0], ["1"], "cpu", steps=2, samples=2, seed=3).predict(image, (3.0, 1.0, 1.0), "x", wanted)
    two = Predictor.from_folder(models[1], None, "cpu", steps=1, samples=2, seed=3).predict(image, (3.0, 1.0, 1.0), "x", wanted)
    np.testing.assert_allclose(found.probabilities, (one.probabilities + two.probabilities) / 2, atol=2e-3)
    labels = read_model_folder(models[0]).description.labels
    mean = found.probabilities.astype(np.float32).argmax(0).astype(np.int16)  # probabilities are not post-processed
    expected = clean(mean, labels, (3.0, 1.0, 1.0), RULES)
    assert (expected != mean).any(), "nothing to clean: the test says nothing"
    assert (found.label != expected).mean() < 0.002  # float16 ties
    counts = {name: int((found.label == value).sum()) for value, name in ((1, "class1"), (2, "class2"))}
    assert {n: v.mask for n, v in found.score.volumes.items()} == pytest.approx({n: c * 0.003 for n, c in counts.items()})
    assert found.score.foreground == pytest.approx(sum(counts.values()) * 0.003)


def test_what_a_caller_gives_wins(models: list[Path]) -> None:
    path = write(models[0] / NAME, part(models[0], 2, ["0"], "."), samples=2)
    plain = follow(path, "cpu")
    assert ([*plain.folder.folds], plain.samples, plain.steps) == (["0"], 2, 2)
    other = follow(path, "cpu", overrides=Overrides(["1"], 3, 1))
    assert ([*other.folder.folds], other.samples, other.steps) == (["1"], 1, 3)
    (models[0] / "fold_0" / "steps.json").write_text(json.dumps({"chosen": 7, "chosen_for_samples": 5}))
    assert follow(path, "cpu", overrides=Overrides(samples=1)).steps == 7  # the recipe's steps were measured for its samples
    assert follow(path, "cpu", overrides=Overrides(samples=3)).steps == 5


def test_manifest_and_files_say_what_was_followed(models: list[Path], tmp_path: Path) -> None:
    path = write(models[0] / NAME, part(models[0], 1, ["0"], "."), rules=(Rule(LARGEST),))
    images = tmp_path / "raw" / "Dataset001_Toy" / "imagesTr"
    with follow(path, "cpu") as predictor:
        predictor.predict_folder(images, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["recipe"] == hash_file(path)
    assert manifest["postprocessing"] == [{"kind": LARGEST, "of": None, "size": 0.0}]
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]["toy_000"]
    mask = read_label(tmp_path / "out" / "toy_000.nii.gz").array
    assert record["foreground"] == pytest.approx((mask > 0).sum() * 0.003)
    with Predictor.from_folder(models[0], ["0"], "cpu") as plain:
        assert not {"recipe", "postprocessing"} & set(plain.settings())


def test_a_checkpoint_that_changed_is_refused(models: list[Path]) -> None:
    path = write(models[0].parent / NAME, part(models[0], 1))
    file = models[0] / "fold_1" / "checkpoint_final.pth"
    content = checkpoint.load(file)
    content["ema"] = {k: v + 1 if v.dtype == torch.float32 else v for k, v in content["ema"].items()}
    checkpoint.save(file, content)
    with pytest.raises(
        ModelError, match=rf"was written before {re.escape(str(file))} was trained further or replaced. Run ldseg_find_best"
    ):
        follow(path, "cpu")
    assert [*follow(path, "cpu", overrides=Overrides(["0"])).folder.folds] == ["0"]  # that one is as it was
    file.unlink()
    with pytest.raises(ModelError, match="names fold 1 of .*, which is not there. Run ldseg_find_best again, or .*--no-recipe"):
        follow(path, "cpu")


def _set(*keys: object, value: object) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for key in keys[:-1]:
            content = content[key]  # type: ignore[index]
        content[keys[-1]] = value  # type: ignore[index]

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_set("models", 0, "folder", value="../../elsewhere"), r"models\[0\].folder = '../../elsewhere' is not possible"),
        (_set("models", 0, "steps", value=0), r"models\[0\].steps = 0 is not possible: expected 1 or more"),
        (_set("models", value=[]), "models = .* expected one or more"),
        (_set("samples", value=0), "samples = 0 is not possible"),
        (_set("version", value=9), "version = 9 is not possible: expected 1"),
        (_set("postprocessing", value=[{"kind": "erode"}]), r"postprocessing\[0\].kind = 'erode' is not possible: expected largest_"),
        (_set("postprocessing", value=[{"kind": LARGEST, "of": "liver"}]), "postprocessing names liver, which is no class of"),
        (_set("sampels", value=1), "unknown key 'sampels'"),
    ],
)
def test_damaged(models: list[Path], change: Callable[[dict], None], match: str) -> None:
    path = write(models[0].parent / NAME, part(models[0], 1))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=match):
        follow(path, "cpu")
