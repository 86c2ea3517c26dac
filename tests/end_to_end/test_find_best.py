"""ldseg_find_best on two configurations and two folds, and ldseg_predict following what it wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldseg_auto.data.image_io import read_label
from ldseg_auto.evaluation.evaluate import evaluate_case
from ldseg_auto.inference.model_folder import read_model_folder
from ldseg_auto.inference.postprocess import Rule, clean
from ldseg_auto.inference.predictor import Predictor
from ldseg_auto.selection import crossval
from ldseg_auto.selection.candidates import pairs, single
from ldseg_auto.selection.trained import find_trained
from ldseg_auto.training import checkpoint

D = 1
CASES = [f"toy_{i:03d}" for i in range(4)]
HALVES = [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[:2], "val": CASES[2:]}]
NAMES = ["ldsegPlans__2d", "ldsegPlans__3d_fullres"]


@pytest.fixture(scope="module")
def prepared(workbench: Callable, make_dataset: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Fold 0 of both configurations is trained for two iterations; fold 1 is a copy, halves exchanged. All get other weights then."""
    bench = workbench(tmp_path_factory.mktemp("best"))
    make_dataset(bench.raw, n_cases=4, shape=(6, 20, 16), dataset_id=D)
    assert bench.run("plan", "-d", D) == 0
    (bench.preprocessed(D) / "splits_final.json").write_text(json.dumps(HALVES))
    for configuration in ("2d", "3d_fullres"):
        assert bench.train(D, 0, configuration=configuration) == 0
        model = bench.model(D, configuration)
        shutil.copytree(model / "fold_0", model / "fold_1")
        for fold in (0, 1):
            change(model / f"fold_{fold}", fold)
        path = model / "fold_1" / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "train": HALVES[1]["train"], "validation": HALVES[1]["val"]}))
    return bench


@pytest.fixture
def bench(prepared: Any, workbench: Callable, tmp_path: Path) -> Any:
    shutil.copytree(prepared.root, tmp_path / "bench")
    return workbench(tmp_path / "bench")


@pytest.fixture(scope="module")
def found(prepared: Any, workbench: Callable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """After ldseg_find_best with all defaults."""
    root = tmp_path_factory.mktemp("found") / "bench"
    shutil.copytree(prepared.root, root)
    bench = workbench(root)
    assert bench.run("find_best", D) == 0
    return bench


def change(fold: Path, seed: int) -> None:
    """Other weights, whose masks have structure."""
    content = checkpoint.load(fold / "checkpoint_final.pth")
    head = content["ema"]["decoder.head.weight"]
    content["ema"]["decoder.head.weight"] = 2 * torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
    content["ema"]["decoder.head.bias"].zero_()  # a training begins with a mask of background
    checkpoint.save(fold / "checkpoint_final.pth", content)


def report(bench: Any) -> dict[str, Any]:
    return json.loads((bench.model(D, "2d").parent / "find_best.json").read_text())


def recipe(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "inference.json").read_text())


def reference(bench: Any, case: str) -> Any:
    return read_label(bench.dataset(D) / "labelsTr" / f"{case}.nii.gz")


def test_scores_are_those_of_the_raw_images_predicted_by_the_fold_that_has_not_seen_them(found: Any) -> None:
    """Singles and the pair: raw images by the Predictor, compared with the label files, case by case."""
    content = report(found)
    labels = read_model_folder(found.model(D, "2d")).description.labels
    assert [c["models"] for c in content["candidates"][:3]] == [[NAMES[0]], [NAMES[1]], NAMES]
    for candidate in content["candidates"][:3]:
        dice = []
        for fold, half in enumerate(HALVES):
            loaded = [Predictor.from_folder(found.model(D, name.split("__")[1]), [str(fold)], "cpu") for name in candidate["models"]]
            members = [m for p in loaded for m in p.members]
            assert [m.steps for m in members] == candidate["steps"]
            predictor = Predictor(members, loaded[0].device, 1, 0)
            for case in half["val"]:
                prediction = predictor.predict(found.dataset(D) / "imagesTr" / f"{case}_0000.nii.gz")
                true = reference(found, case)
                metrics = evaluate_case(labels.encode(true.array), labels.encode(prediction.label), labels, true.spacing)
                dice.append([metrics[name]["dice"] for name in labels.foreground_names])
        assert candidate["dice"][0] == pytest.approx(float(np.nanmean(np.nanmean(dice, 0))))
        for name, value in zip(labels.foreground_names, np.nanmean(dice, 0).tolist(), strict=True):
            assert candidate["per_class"]["dice"][name] == pytest.approx(value)


def test_the_choice_is_written_and_explained(found: Any, capsys: pytest.CaptureFixture[str]) -> None:
    content, chosen = report(found), recipe(found.model(D, "2d").parent)
    singles = {c["models"][0]: c["dice"][0] for c in content["candidates"] if len(c["models"]) == 1 and c["samples"] == 1}
    assert content["best_single"] == max(singles, key=lambda name: singles[name])
    assert [m["folder"] for m in chosen["models"]] == content["chosen"]["models"]
    assert all(sorted(m["checkpoints"]) == ["0", "1"] for m in chosen["models"])
    assert chosen["samples"] == content["chosen"]["samples"] and chosen["postprocessing"] == content["chosen"]["postprocessing"]
    assert [c["samples"] for c in content["candidates"]] == [1, 1, 1, 4]
    for name in NAMES:
        own = recipe(found.results / "Dataset001_Toy" / name)
        assert [m["folder"] for m in own["models"]] == ["."]
    text = (found.model(D, "2d").parent / "find_best.md").read_text()
    assert "Predict with: `ldseg_predict -d 1 -i INPUT -o OUTPUT`" in text and "There are only 4" in text


def test_prediction_follows_it(found: Any, tmp_path: Path) -> None:
    """The masks are those of the same models without it, cleaned by its rules."""
    images, folder = found.dataset(D) / "imagesTr", found.model(D, "2d").parent
    content = recipe(folder)
    content["postprocessing"] = [{"kind": "largest_component", "of": None}]  # whatever was chosen: something to see
    (folder / "inference.json").write_text(json.dumps(content))
    assert found.run("predict", "-i", images, "-o", tmp_path / "followed", "-d", D) == 0
    models = [folder / m["folder"] for m in content["models"]]
    plain = ["--samples", content["samples"], "--no-recipe", "-m", *models]
    assert found.run("predict", "-i", images, "-o", tmp_path / "plain", *plain) == 0
    labels, changed = read_model_folder(models[0]).description.labels, 0
    for case in CASES:
        raw, followed = (read_label(tmp_path / kind / f"{case}.nii.gz") for kind in ("plain", "followed"))
        expected = clean(labels.encode(raw.array), labels, raw.spacing, [Rule("largest_component")])
        np.testing.assert_array_equal(labels.encode(followed.array), expected)
        changed += int((raw.array != followed.array).sum())
    assert changed, "nothing was cleaned: the test says nothing"
    manifests = [json.loads((tmp_path / kind / "manifest.json").read_text()) for kind in ("followed", "plain")]
    assert "recipe" in manifests[0] and "recipe" not in manifests[1]
    assert [*manifests[0]["model"]] == ["0", "1"]
    assert found.run("predict", "-i", images, "-o", tmp_path / "followed", "-d", D, "--continue") == 0


def test_a_single_model_follows_its_own(found: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = found.dataset(D) / "imagesTr"
    caplog.set_level("INFO", "ldseg_auto")
    assert found.run("predict", "-i", images, "-o", tmp_path / "out", "-d", D, "-c", "3d_fullres", "-f", 1, "--steps", 1) == 0
    path = found.model(D, "3d_fullres") / "inference.json"
    assert f"following {path}, but for -f, --steps (--no-recipe does not)" in caplog.text
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [*manifest["model"]] == ["1"] and manifest["steps"] == 1


def test_finished_predictions_are_kept(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted at the third case, then run again, then with one more configuration: no case is predicted twice."""
    seen: list[tuple[str, int]] = []
    real = crossval.predict_together

    def counting(members: Any, cases: Any, name: str, groups: Any, samples: int, seed: int) -> Any:
        if len(seen) == 2 and not interrupted:
            interrupted.append(name)
            raise KeyboardInterrupt
        seen.append((name, len(groups)))
        return real(members, cases, name, groups, samples, seed)

    interrupted: list[str] = []
    monkeypatch.setattr(crossval, "predict_together", counting)
    assert bench.run("find_best", D, "-c", "2d", "--samples", 1) == 130
    assert not (bench.model(D, "2d").parent / "inference.json").exists()
    assert bench.run("find_best", D, "-c", "2d", "--samples", 1) == 0
    assert seen == [(case, 1) for case in CASES] and interrupted == [CASES[2]]
    first = {p: p.read_bytes() for p in (bench.model(D, "2d").parent / "cross_validation").rglob("toy_*")}
    assert bench.run("find_best", D, "--samples", 1) == 0
    assert seen[4:] == [(case, 2) for case in CASES]  # the other one, and the pair
    assert all(p.read_bytes() == content for p, content in first.items()) and len(first) == 8
    assert bench.run("find_best", D, "--samples", 1) == 0 and len(seen) == 8
    change(bench.model(D, "2d") / "fold_1", 7)
    assert bench.run("find_best", D, "--samples", 1, "--no-ensembles") == 0
    assert seen[8:] == [(case, 1) for case in CASES[2:]]


def test_what_is_missing_is_named_with_its_command(bench: Any, refused: Callable) -> None:
    fold = bench.model(D, "3d_fullres") / "fold_1"
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    shutil.rmtree(bench.model(D, "2d") / "fold_0")
    lines = "2 folds are not trained to their end.*\n  ldseg_train 1 0 -c 2d\n  ldseg_train 1 1 -c 3d_fullres --continue"
    refused(bench, lines, "find_best", D)
    refused(bench, r"\n  ldseg_train 1 0 -c 3d_lowres\n", "find_best", D, "-c", "3d_lowres", "3d_fullres")
    refused(bench, r"\n  ldseg_train 1 0 -c 2d -p large\n", "find_best", D, "-c", "2d", "-p", "large")
    refused(bench, "-f all: fold all has seen every case", "find_best", D, "-f", "all")
    refused(bench, "-f 7: there is no such fold; compare folds among 0 1", "find_best", D, "-f", "7")
    (bench.preprocessed(D) / "ldsegPlans_3d_fullres" / "toy_001.json").unlink()
    command = "1 cases are not preprocessed for ldsegPlans__3d_fullres .first: toy_001.. Run ldseg_plan_and_preprocess -d 1 -c 3d_fullres"
    refused(bench, command, "find_best", D, "-c", "3d_fullres", "-f", "0")


def test_nothing_that_can_be_measured(bench: Any, refused: Callable) -> None:
    for configuration in ("2d", "3d_fullres"):
        (bench.model(D, configuration) / "fold_0").rename(bench.model(D, configuration) / "fold_all")
        shutil.rmtree(bench.model(D, configuration) / "fold_1")
    refused(bench, "only fold all is trained .*nothing can be measured: train folds, such as ldseg_train 1 0 -c 2d", "find_best", D)
    shutil.rmtree(bench.results / "Dataset001_Toy")
    refused(bench, "no model of dataset 1 in .*Start with ldseg_train 1 0", "find_best", D)


def _manifest(fold: Path, **changes: list[str]) -> None:
    path = fold / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_folds_that_share_cases(bench: Any, refused: Callable) -> None:
    model = bench.model(D, "2d")
    _manifest(model / "fold_1", train=CASES)
    refused(bench, "fold_1 was trained on 2 of the cases that it is to be measured on .first: toy_002", "find_best", D)
    _manifest(model / "fold_1", train=CASES[:1], validation=CASES[1:])
    refused(bench, "folds 0 and 1 share 1 validation cases .first: toy_001., which would count twice", "find_best", D)
    _manifest(model / "fold_1", validation=CASES[2:3])
    refused(bench, "fold 1 of ldsegPlans__3d_fullres and of ldsegPlans__2d leave out other cases", "find_best", D)


def test_a_stale_recipe_stops_prediction(bench: Any, refused: Callable, tmp_path: Path) -> None:
    assert bench.run("find_best", D, "-c", "2d", "--samples", 1) == 0
    change(bench.model(D, "2d") / "fold_1", 7)
    images = bench.dataset(D) / "imagesTr"
    for which in (["-d", D], ["-m", bench.model(D, "2d")]):
        message = (
            "inference.json was written before .*fold_1/checkpoint_final.pth was trained further or replaced. Run ldseg_find_best again"
        )
        refused(bench, message, "predict", "-i", images, "-o", tmp_path / "out", *which)
    assert bench.run("predict", "-i", images, "-o", tmp_path / "out", "-d", D, "-c", "2d", "--no-recipe") == 0


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_models_that_are_not_to_be_compared(bench: Any, refused: Callable, caplog: pytest.LogCaptureFixture) -> None:
    model, results = bench.model(D, "2d"), bench.results / "Dataset001_Toy"
    _edit(model / "dataset.json", groups=r"^(toy)_")
    (trained,) = find_trained(bench.preprocessed(D), results, ["2d"])
    assert "1 groups (first: toy) are split between folds" in caplog.text
    assert trained.cases == {"0": tuple(CASES[:2]), "1": tuple(CASES[2:])}
    _edit(model / "dataset.json", labels={"background": 0, "class1": 1, "other": 2})
    refused(bench, "ldsegPlans__3d_fullres and ldsegPlans__2d were trained with other labels .* compare them apart", "find_best", D)
    _edit(bench.preprocessed(D) / "dataset_fingerprint.json", data_hash="other")
    refused(bench, "ldsegPlans__2d was trained on other data than .* holds now", "find_best", D, "-c", "2d")


def test_a_pair_that_cannot_be_averaged_is_left_out_with_its_reason(bench: Any) -> None:
    """Their axes differ: both are compared, one after the other."""
    path = bench.model(D, "2d") / "plans.json"
    _edit(path, transpose_forward=[0, 2, 1])
    for case in CASES:  # made with the other axes, which is not looked at here
        _edit(bench.preprocessed(D) / "ldsegPlans_3d_fullres" / f"{case}.json", settings_hash="")
    singles = [single(m, 1) for m in find_trained(bench.preprocessed(D), bench.results / "Dataset001_Toy")]
    both, reasons = pairs(singles)
    assert both == [] and len(reasons) == 1 and "their transpose_forward differ" in reasons[0]
    assert [len(group) for group in crossval._together(singles)] == [1, 1]
