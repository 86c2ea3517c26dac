"""One fold from the preprocessed folder to the model folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldseg_auto.errors import InputError, LdsegError, ModelError
from ldseg_auto.evaluation.intervals import fit_intervals
from ldseg_auto.evaluation.predicted_dice import Evidence, PredictedDice
from ldseg_auto.inference import device
from ldseg_auto.inference.model_folder import load_network, read_model_folder
from ldseg_auto.inference.window import NotFinite, SlidingWindow
from ldseg_auto.planners.method import Method
from ldseg_auto.planners.plans import Configuration, Intensities, Plans
from ldseg_auto.preprocessing.store import load_case, save_reference
from ldseg_auto.training import checkpoint
from ldseg_auto.training.finish import planned_ceilings
from ldseg_auto.training.loop import Trainer
from ldseg_auto.training.options import Options
from ldseg_auto.training.prepare import prepare, statistics_patches, validation_patches
from ldseg_auto.training.run import train_fold

DATASET = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1, "lesion": 2}, "numTraining": 3, "file_ending": ".nii.gz"}
FAST = ["training.iterations_per_epoch=2", "training.epochs=1", "training.validation_patches=1"]


@pytest.fixture
def preprocessed(
    tmp_path: Path, store: Callable[..., list[str]], make_configuration: Callable[..., Configuration], request: pytest.FixtureRequest
) -> Path:
    """preprocessed/Dataset001_Toy with three cases, two folds and two configurations, of one rater or as many as the parameter says."""
    folder, raters = tmp_path / "preprocessed" / "Dataset001_Toy", getattr(request, "param", 1)
    names = store(folder / "data", (4, 12, 12), number=3, raters=raters)
    for name in names:
        save_reference(folder / "gt_segmentations", name, load_case(folder / "data", name).labels[:], (1.0, 1.0, 1.0))
    known = {"3d": make_configuration(patch=(4, 8, 8)), "2d": make_configuration(patch=(8, 8))}
    known = {name: replace(c, raters=raters) for name, c in known.items()}
    intensities = Intensities(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    Plans("Dataset001_Toy", "ldsegPlans", "abc", ".nii.gz", (0, 1, 2), (intensities,), known, "3d").save(folder / "ldsegPlans.json")
    folders = {"raters": [f"labelsTr_rater{r}" for r in range(raters)]} if raters > 1 else {}
    (folder / "dataset.json").write_text(json.dumps(DATASET | folders))
    folds = [{"train": names[1:], "val": names[:1]}, {"train": names[:2], "val": names[2:]}]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The results root."""
    return tmp_path / "results"


def test_a_complete_model_folder(preprocessed: Path, results: Path) -> None:
    fold = train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu", seed=5))
    assert fold == results / "Dataset001_Toy" / "ldsegPlans__3d" / "fold_0"
    assert {"checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth", "training_log.csv", "manifest.json", "steps.json"} <= {
        p.name for p in fold.iterdir()
    }
    manifest = json.loads((fold / "manifest.json").read_text())
    assert (manifest["seed"], manifest["train"], manifest["validation"]) == (5, ["case1", "case2"], ["case0"])
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert set(summary["per_class"]) == {"organ", "lesion"} and set(summary["cases"]) == {"case0"}
    model = read_model_folder(fold.parent)
    assert model.configuration.training.epochs == 1  # the plans saved hold the settings
    assert Plans.load(fold / "plans.json") == model.plans
    ema = checkpoint.load(fold / "checkpoint_final.pth")["ema"]
    torch.testing.assert_close(load_network(model, "0", torch.device("cpu")).state_dict(), ema)


def test_a_continued_training_computes_in_what_it_began_with(preprocessed: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial on a busier machine may say something else; what is set by name is taken. 2D, as the 3D patch has a grid of 2 planes."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(device, "bf16_pays", lambda: True)

    def computed_in(epochs: int, *more: str, resume: bool, root: Path = results) -> str:
        settings = [*FAST[:1], *FAST[2:], f"training.epochs={epochs}", *more]
        fold = train_fold(preprocessed, root, 0, Options("2d", settings, device="cpu", resume=resume, validate=False))
        assert checkpoint.load(fold / "checkpoint_final.pth")["precision"] == json.loads((fold / "manifest.json").read_text())["precision"]
        return str(json.loads((fold / "manifest.json").read_text())["precision"])

    assert computed_in(1, resume=False) == "bf16-mixed"
    monkeypatch.setattr(device, "bf16_pays", lambda: False)
    assert computed_in(2, resume=True) == "bf16-mixed"
    assert computed_in(3, "training.precision=float32", resume=True) == "32-true"
    assert computed_in(1, resume=False, root=results / "other") == "32-true"


def test_bf16_is_not_for_grids_of_two_planes_on_a_cpu(preprocessed: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="training.precision = bf16: the network has 3D grids of 2 planes"):
        train_fold(preprocessed, results, 0, Options(settings=[*FAST, "training.precision=bf16"], device="cpu"))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    fold = train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu", validate=False))
    assert json.loads((fold / "manifest.json").read_text())["precision"] == "32-true"


@pytest.mark.parametrize("on", [True, False])
def test_the_label_autoencoder_begins_as_a_block_code_unless_told_otherwise(preprocessed: Path, results: Path, on: bool) -> None:
    settings = [*FAST, "training.learning_rate=1e-9", *([] if on else ["method.block_code=false"])]
    fold = train_fold(preprocessed, results, 0, Options(settings=settings, device="cpu", configuration="2d", validate=False))
    assert (json.loads((fold / "latent.json").read_text())["reconstruction"]["organ"] > 0.9) is on


def test_predicted_dice_of_few_cases_and_of_cases_that_were_trained_on(preprocessed: Path, results: Path) -> None:
    fold, whole = (train_fold(preprocessed, results, f, Options(settings=FAST, device="cpu")) for f in (0, "all"))
    few, seen = (PredictedDice.load(f / "predicted_dice.json") for f in (fold, whole))
    assert few.single is few.several is seen.single is seen.several is None
    assert few.note.startswith("one sample: a fit needs 8 validation cases") and few.note.count("a fit needs 8") == 2
    assert seen.note == "the validation cases were trained on: their Dice says nothing of other cases."


@pytest.mark.parametrize("variant", ["auto", "direct"])
def test_predicted_dice_is_fitted_to_the_validation_cases(
    preprocessed: Path, results: Path, store: Callable[..., list[str]], variant: str
) -> None:
    """A whole training: what the file holds is what validation wrote, and only of cases that were not trained on."""
    names = store(preprocessed / "data", (4, 12, 12), number=12)
    for name in names:
        save_reference(preprocessed / "gt_segmentations", name, load_case(preprocessed / "data", name).labels[:], (1.0, 1.0, 1.0))
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": names[:2], "val": names[1:]}]))
    settings = ["training.iterations_per_epoch=20", "training.epochs=2", "training.validation_patches=1", f"network.variant={variant}"]
    fold = train_fold(preprocessed, results, 0, Options(settings=settings, device="cpu"))
    found, summary = PredictedDice.load(fold / "predicted_dice.json"), json.loads((fold / "validation" / "summary.json").read_text())
    assert found.single and [p.case for p in found.single.pairs] == sorted(names[2:])
    for pair in found.single.pairs:
        assert pair.evidence == Evidence(**summary["evidence"][pair.case])
        dice = [m["dice"] for m in summary["cases"][pair.case]["0"].values()]
        assert pair.dice == pytest.approx(np.mean(dice))
    unseen = {case: found for case, found in summary["volumes"].items() if case in names[2:]}
    assert len(unseen) == 10 and found.single_volumes == fit_intervals(unseen) and found.single_volumes is not None
    if variant == "direct":
        assert found.several is None and found.equal_samples and found.of(4) == found.single
    else:
        assert found.several and all(p.evidence.agreement is not None for p in found.several.pairs) and not found.note


def test_what_is_measured_with_one_rater(preprocessed: Path, results: Path) -> None:
    fold = train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu", validate=False))
    assert not (fold / "validation").exists()
    steps, latent = (json.loads((fold / f"{name}.json").read_text()) for name in ("steps", "latent"))
    assert set(steps) == {"dice", "chosen", "chosen_for_samples"} and set(steps["dice"]) == {"1", "2"} and steps["chosen"] in (1, 2)
    assert steps["chosen_for_samples"] == 2
    assert set(latent) == {"reconstruction", "ceilings", "ceiling"} and latent["ceiling"] == 1 and latent["ceilings"] == {}
    assert set(latent["reconstruction"]) == {"organ", "lesion"}
    saved = Plans.load(fold / "plans.json").configuration().method
    assert saved == Method().fixed("auto", 1) and None not in vars(saved).values()


def test_planned_ceilings_are_those_of_the_trained_latent(preprocessed: Path) -> None:
    """Found by configuration, spacing, factor and channels; a patch that was changed since does not matter."""
    prepared = prepare(preprocessed, 0, None, "ldsegPlans", [])
    c = prepared.configuration
    spacing = " x ".join(f"{s:g}" for s in c.spacing)
    other, own = {"organ": 0.5, "lesion": 0.5}, {"organ": 0.98, "lesion": 0.9}
    channels, factor = str(c.latent.channels), list(c.latent.factor)
    grids = {
        f"2d: {spacing} mm, patch 8 x 8, axes zyx": [{"factor": factor, "ceilings": {channels: other}}],
        f"{prepared.name}: 9 x {spacing} mm, patch 8 x 8, axes zyx": [{"factor": factor, "ceilings": {channels: other}}],
        f"{prepared.name}: {spacing} mm, patch 999, axes zyx": [
            {"factor": [7] * len(factor), "ceilings": {channels: other}},
            {"factor": factor, "ceilings": {"99": other, channels: own}},
        ],
    }
    assert planned_ceilings(prepared) == {}
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps({"latent": grids}))
    assert planned_ceilings(prepared) == own
    inherited = replace(c, inherits_from=prepared.name)
    plans = replace(prepared.plans, configurations={prepared.name: c, "mine": inherited})
    renamed = replace(prepared, plans=plans, name="mine")
    assert planned_ceilings(renamed) == own


@pytest.mark.parametrize("preprocessed", [2], indirect=True)
def test_what_is_measured_with_two_raters(preprocessed: Path, results: Path) -> None:
    fold = train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu", validate=False))
    assert Plans.load(fold / "plans.json").configuration().method == Method().fixed("auto", 2)
    steps = json.loads((fold / "steps.json").read_text())
    assert set(steps) == {"dice", "chosen", "distance", "chosen_for_samples"} and set(steps["distance"]) == {"1", "2"}
    assert all(0 <= d <= 2 for d in steps["distance"].values()) and str(steps["chosen_for_samples"]) in steps["distance"]


def test_direct_has_one_step_and_no_latent(preprocessed: Path, results: Path) -> None:
    fold = train_fold(preprocessed, results, 0, Options(settings=[*FAST, "network.variant=direct"], device="cpu", validate=False))
    assert json.loads((fold / "steps.json").read_text())["chosen"] == 1 and not (fold / "latent.json").exists()


@pytest.mark.parametrize("preprocessed", [2], indirect=True)
def test_fixed_patches(preprocessed: Path) -> None:
    """Of the fold's validation cases whoever's labels are asked for, and of its training cases for the statistics."""
    prepared = prepare(preprocessed, 0, None, "ldsegPlans", ["training.validation_patches=6"])
    drawn, first, second = (validation_patches(prepared, rater) for rater in (None, 0, 1))
    assert len(drawn) == 3
    for (image, _), (one, _), (two, _) in zip(drawn, first, second, strict=True):
        assert torch.equal(image, one) and torch.equal(image, two)
    whole = {name: load_case(preprocessed / "data", name).image[:] for name in ("case0", "case1", "case2")}

    def sources(patches: list) -> set[str]:
        values = np.concatenate([image[image != 0].numpy().ravel() for image, _ in patches])
        return {name for name, image in whole.items() if np.isin(values, image).any()}

    assert sources(drawn) == {"case0"} and sources(statistics_patches(prepared)) <= {"case1", "case2"}


def test_the_model_folder_names_the_configuration_it_trained(preprocessed: Path, results: Path) -> None:
    fold = train_fold(preprocessed, results, "all", Options(configuration="2d", settings=FAST, device="cpu"))
    assert fold.parent.name == "ldsegPlans__2d"
    assert read_model_folder(fold.parent).configuration.dimensions == 2


def test_training_is_reproducible(preprocessed: Path, results: Path) -> None:
    settings = [*FAST, "training.augmentation=true"]
    one, two, other = (
        checkpoint.load(
            train_fold(preprocessed, results / name, 0, Options(settings=settings, device="cpu", seed=seed)) / "checkpoint_final.pth"
        )
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    torch.testing.assert_close(one["ema"], two["ema"], rtol=0, atol=0)
    assert not torch.equal(one["ema"]["decoder.head.weight"], other["ema"]["decoder.head.weight"])


def test_what_is_there_is_not_replaced_and_can_be_continued(preprocessed: Path, results: Path) -> None:
    with pytest.raises(InputError, match="--continue: .*fold_0 holds no checkpoint to continue from. Start without --continue"):
        train_fold(preprocessed, results, 0, Options(resume=True, device="cpu"))
    fold = train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu", seed=5))
    with pytest.raises(InputError, match="fold_0 holds a finished training. Move it away .* or use --continue"):
        train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu"))
    weights = checkpoint.load(fold / "checkpoint_final.pth")["ema"]
    shutil.rmtree(fold / "validation")
    train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu", resume=True, seed=77))
    torch.testing.assert_close(checkpoint.load(fold / "checkpoint_final.pth")["ema"], weights, rtol=0, atol=0)  # validated again, only
    assert (fold / "validation" / "summary.json").exists()
    assert json.loads((fold / "manifest.json").read_text())["seed"] == 5
    train_fold(preprocessed, results, 0, Options(settings=FAST[:1] + FAST[2:], epochs=2, device="cpu", resume=True))
    assert checkpoint.load(fold / "checkpoint_final.pth")["iteration"] == 4
    (fold / "checkpoint_final.pth").unlink()
    with pytest.raises(InputError, match="holds an unfinished training"):
        train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu"))


def test_folds_of_one_folder_share_their_plans(preprocessed: Path, results: Path) -> None:
    train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu"))
    with pytest.raises(ModelError, match="ldsegPlans__3d holds folds trained with other plans"):
        train_fold(preprocessed, results, 1, Options(settings=[*FAST, "latent.channels=2"], device="cpu"))
    train_fold(preprocessed, results, 1, Options(settings=[*FAST, "training.learning_rate=0.002"], device="cpu"))


@pytest.mark.parametrize("setting", ["method.skips=false", "method.prediction=eps", "method.input_scale=0.5"])
def test_folds_of_one_folder_share_what_the_method_makes_of_the_network(preprocessed: Path, results: Path, setting: str) -> None:
    """plans.json is one for all folds: weights of another network, or of other noise, would be read by it."""
    train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu", validate=False))
    with pytest.raises(ModelError, match="holds folds trained with other plans"):
        train_fold(preprocessed, results, 1, Options(settings=[*FAST, setting], device="cpu", validate=False))


@pytest.mark.parametrize(("iterations", "epochs", "per_epoch"), [(1, 1, 1), (30, 15, 2), (41, 14, 3), (10_000, 40, 250)])
def test_iterations_become_epochs(iterations: int, epochs: int, per_epoch: int) -> None:
    wanted = [f"training.iterations_per_epoch={per_epoch}", f"training.epochs={epochs}"]
    assert Options(settings=["batch_size=3"], iterations=iterations).all_settings() == ["batch_size=3", *wanted]
    assert epochs * per_epoch >= iterations


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fold": 5}, "fold 5 does not exist; allowed: 0, 1, all"),
        ({"configuration": "3d_lowres"}, "configuration '3d_lowres' is not in the plans"),
        ({"plans_name": "other"}, "other.json does not exist. Run ldseg_plan_and_preprocess"),
        ({"epochs": 3, "iterations": 3}, "--epochs 3 and --iterations 3 both set the length"),
        ({"iterations": 0}, "--iterations 0: expected 1 or more"),
        ({"epochs": 0}, "training.epochs = 0 is not possible"),
        ({"time_budget": 0.0}, "--time-budget 0.0: expected more than 0 seconds"),
        ({"seed": -1}, "--seed -1: expected 0 or more"),
        ({"early_stopping": -1}, "training.early_stopping = -1 is not possible: expected 0 or more"),
        ({"early_stopping": 3, "settings": ["training.early_stopping=4"]}, "--early-stopping 3 and --set training.early_stopping"),
        ({"settings": ["training.learnin_rate=0.1"]}, "there is no such field.*Did you mean training.learning_rate?"),
        ({"device": "tpu"}, "--device tpu: expected one of"),
        ({"settings": ["spacing=[2,2,2]"]}, "--set spacing: the cases are preprocessed with"),
        ({"settings": ["memory_gib=3.0"]}, "memory_gib, reasons or latent.ceiling has no effect"),
        ({"settings": ["raters=2"]}, "raters, memory_gib, reasons or latent.ceiling has no effect"),
        ({"settings": ["latent.ceiling=0.5"]}, "memory_gib, reasons or latent.ceiling has no effect"),
        ({"settings": ['normalisation=["ct"]']}, "--set normalisation: the cases are preprocessed with"),
        ({"settings": ["training.magic=1"]}, "--set training.magic: there is no such field"),
    ],
)
def test_bad_input_leaves_nothing_behind(preprocessed: Path, results: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_fold(preprocessed, results, arguments.pop("fold", 0), Options(**{"device": "cpu", **arguments}))
    assert not results.exists()


def test_what_a_trainer_is_told_is_in_the_saved_plans(preprocessed: Path, results: Path) -> None:
    """Learning rate, batch, patch, loss weights, sampling of rare classes, length, early stopping: no subclass, no constant."""
    settings = {
        "training.learning_rate": 0.002, "batch_size": 1, "patch_size": [4, 4, 4], "method.dice_weight": 0.5,
        "method.regression_weight": 2.0, "method.reconstruction_weight": 0.1, "training.oversample_foreground": 0.75,
        "training.class_weights": [1.0, 4.0], "training.class_sampling": [1.0, 3.0],
    }  # fmt: skip
    given = [*FAST[:1], *FAST[2:], *(f"{path}={json.dumps(value)}" for path, value in settings.items())]
    fold = train_fold(preprocessed, results, 0, Options(settings=given, epochs=1, early_stopping=9, device="cpu", validate=False))
    for path in (fold / "plans.json", fold.parent / "plans.json"):
        saved = json.loads(path.read_text())["configurations"]["3d"]
        for setting, value in {**settings, "training.epochs": 1, "training.early_stopping": 9}.items():
            section, _, name = setting.rpartition(".")
            assert (saved[section] if section else saved)[name] == value, setting


def test_cases_that_are_not_preprocessed(preprocessed: Path, results: Path) -> None:
    (preprocessed / "data" / "case1.json").unlink()
    with pytest.raises(InputError, match=r"1 cases of fold 0 are not preprocessed for 3d \(first: case1\). Run .* -c 3d"):
        train_fold(preprocessed, results, 0, Options(device="cpu"))


def test_what_a_fold_is_not_worth_is_warned_of(preprocessed: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cases on both sides, a group on both sides, a class that training lacks; nothing of it for a good fold, nor for `all`."""
    folds = [{"train": ["case0", "case1"], "val": ["case1", "case2"]}, {"train": ["case1", "case2"], "val": ["case0"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(folds))
    groups = {"groups": {"case0": "a", "case1": "b", "case2": "a"}}
    (preprocessed / "dataset.json").write_text(json.dumps(DATASET | groups))
    volumes = {"case0": 0.0, "case1": 0.0, "case2": 1.0}
    cases = [{"identifier": name, "volumes": {"organ": 1.0, "lesion": lesion}} for name, lesion in volumes.items()]
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps({"cases": cases}))
    prepare(preprocessed, 0, None, "ldsegPlans", [])
    assert [r.message.rpartition("splits_final.json: ")[2].partition(" (")[0] for r in caplog.records] == [
        "fold 0: 1 case(s) are trained and validated on",
        "fold 0: group a has cases in both train and val: its validation Dice is better than that of new patients.",
        "class lesion: none of the 2 training cases has it: it is trained to be absent, and the model will not find it.",
    ]  # fmt: skip
    caplog.clear()
    prepare(preprocessed, "all", None, "ldsegPlans", [])
    assert not caplog.records


def test_splits_that_cannot_be_read(preprocessed: Path, results: Path) -> None:
    (preprocessed / "splits_final.json").write_text("[")
    with pytest.raises(InputError, match="splits_final.json is not valid JSON"):
        train_fold(preprocessed, results, 0, Options(device="cpu"))
    (preprocessed / "splits_final.json").unlink()
    with pytest.raises(InputError, match="splits_final.json does not exist. Run ldseg_plan_and_preprocess"):
        train_fold(preprocessed, results, 0, Options(device="cpu"))


def test_a_bare_machine_trains_and_validates(preprocessed: Path, results: Path) -> None:
    """Without SimpleITK and scikit-image, as on a bare GPU machine."""
    code = (
        "import sys\n"
        "for name in ('SimpleITK', 'skimage', 'nibabel', 'matplotlib'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from ldseg_auto.training.options import Options\n"
        "from ldseg_auto.training.run import train_fold\n"
        f"train_fold(Path({str(preprocessed)!r}), Path({str(results)!r}), 0, Options(settings={FAST!r}, device='cpu'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(json.loads((results / "Dataset001_Toy/ldsegPlans__3d/fold_0/validation/summary.json").read_text())["mean"])


def test_too_little_memory_on_the_gpu_comes_with_advice(preprocessed: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*args: Any) -> None:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(LdsegError, match=r"batch_size 2 of patch_size \[.*does not fit the GPU's free memory .*--gpu-memory, or use --set"):
        train_fold(preprocessed, results, 0, Options(settings=FAST, device="cpu"))


def test_a_validation_case_out_of_float16_is_float32(preprocessed: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, whose windows are float16: the case is predicted once more, and the figures are those of float32."""
    expected = train_fold(preprocessed, results / "a", 0, Options(settings=FAST, device="cpu"))
    real, types = SlidingWindow.planes, []

    def planes(self: SlidingWindow, *args: Any) -> Any:
        types.append(self.type)
        if self.type == torch.float16:
            raise NotFinite("no numbers")
        yield from real(self, *args)

    monkeypatch.setattr("ldseg_auto.inference.window.inference_type", lambda *_: torch.float16)
    monkeypatch.setattr(SlidingWindow, "planes", planes)
    found = train_fold(preprocessed, results / "b", 0, Options(settings=FAST, device="cpu"))
    assert types[:2] == [torch.float16, torch.float32]
    summaries = [json.loads((fold / "validation" / "summary.json").read_text()) for fold in (expected, found)]
    assert summaries[0] == summaries[1]
