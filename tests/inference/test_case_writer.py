"""All files of a folder prediction: which ones, what they agree on, and the table that the calibration fills."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.data.cases import Case
from ldseg_auto.data.image_io import read_image, read_label
from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.coverage import Coverage
from ldseg_auto.evaluation.intervals import Intervals
from ldseg_auto.evaluation.predicted_dice import Curve, Evidence, Fit, Pair, PredictedDice
from ldseg_auto.inference.case_score import CaseScore
from ldseg_auto.inference.case_writer import CaseWriter
from ldseg_auto.inference.outputs import Extras
from ldseg_auto.inference.predictor import Predictor, Wanted

ALL = Extras("npz", uncertainty=True, samples=True, preview=True)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def fit_of(dice: float, several: bool) -> Fit:
    agreement = 0.9 if several else None
    pairs = tuple(Pair(f"v{i}", Evidence(0.9, 1.0, agreement), dice) for i in range(8))
    return Fit(Curve("constant", intercept=dice), 0.04, 0.05, (dice,) * 8, pairs)


def test_every_file_and_what_they_agree_on(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Predictor.from_folder(model, device="cpu", samples=3) as predictor:
        statuses = predictor.predict_folder(images, out, extras=ALL)
        again = predictor.predict(images / "toy_001_0000.nii.gz", wanted=Wanted(True, True, True))
    assert {s.status for s in statuses} == {"done"}
    per_case = [
        "CASE.npz",
        "CASE.nii.gz",
        "previews/CASE.png",
        "uncertainty/CASE_entropy.nii.gz",
        "uncertainty/CASE_mutual_information.nii.gz",
    ]
    per_case += [f"samples/CASE_sample_{i:03d}.nii.gz" for i in range(3)]
    expected = {p.replace("CASE", f"toy_{i:03d}") for p in per_case for i in range(3)}
    expected |= {"manifest.json", "predictions.csv", "predictions.json"}
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == expected

    with np.load(out / "toy_001.npz", allow_pickle=False) as content:
        probabilities = again.geometry.to_canonical(content["probabilities"]).astype(np.float32)  # type: ignore[union-attr]
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=2e-3)
    mask = read_label(out / "toy_001.nii.gz").array
    np.testing.assert_array_equal(mask, again.label)
    assert (probabilities.argmax(0) == mask).mean() > 0.999  # values are indices here; float16 may tie
    entropy = read_image([out / "uncertainty" / "toy_001_entropy.nii.gz"]).array[0]
    information = read_image([out / "uncertainty" / "toy_001_mutual_information.nii.gz"]).array[0]
    expected_entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-9))).sum(0)
    np.testing.assert_allclose(entropy, expected_entropy, atol=5e-3)
    assert (information <= entropy + 1e-6).all() and information.max() > 0
    samples = np.stack([read_label(out / "samples" / f"toy_001_sample_{i:03d}.nii.gz").array for i in range(3)])
    assert agreement_by_hand(samples) == pytest.approx(again.score.agreement)
    assert again.score.softmax == pytest.approx(probabilities.max(0)[mask > 0].mean(), abs=1e-3)
    row = rows_of(out)[1]
    assert (row["case"], row["draws"], row["unit"]) == ("toy_001", "3", "ml")
    voxel = math.prod(again.spacing) / 1000
    for value, name in ((1, "class1"), (2, "class2")):
        assert float(row[f"volume_{name}"]) == pytest.approx((mask == value).sum() * voxel)
        sizes = [(s == value).sum() * voxel for s in samples]
        assert float(row[f"volume_{name}_low"]) == pytest.approx(np.percentile(sizes, 5))
        assert float(row[f"volume_{name}_high"]) == pytest.approx(np.percentile(sizes, 95))


def agreement_by_hand(samples: np.ndarray) -> float:
    found = []
    for i in range(len(samples)):
        for j in range(i):
            for value in (1, 2):
                a, b = samples[i] == value, samples[j] == value
                found += [2 * (a & b).sum() / (a.sum() + b.sum())] if a.any() or b.any() else []
    return float(np.mean(found))


def test_predicted_dice_comes_from_the_folds_file(model: Path, images: Path, tmp_path: Path) -> None:
    measured, one = Coverage(5, 8, 8, 4), Intervals({"class1": 1.25}, 9, 10, 10)
    several = Intervals({"class1": 2.0, "class2": 1.5}, 18, 20, 10)
    fits = PredictedDice(fit_of(0.7, False), fit_of(0.8, True), coverage=measured, single_volumes=one, several_volumes=several)
    fits.save(model / "fold_0" / "predicted_dice.json")
    for samples, dice in ((1, 0.7), (2, 0.8)):
        out = tmp_path / f"out{samples}"
        Predictor.from_folder(model, device="cpu", samples=samples).predict_folder(images, out, flag_below=0.75)
        rows = rows_of(out)
        assert [float(r["predicted_dice"]) for r in rows] == [dice] * 3 and {r["predicted_dice_error"] for r in rows} == {"0.04"}
        assert {r["flag"] for r in rows} == {"low" if dice < 0.75 else ""}
        content = json.loads((out / "predictions.json").read_text())
        words = (
            "predicted Dice was off by 0.040 on average on 8 held-out validation cases (their mean Dice as the prediction for all: 0.050)"
        )
        assert content["predicted_dice"] == {"ldsegPlans__3d_fullres/fold_0": words} and content["flag_below"] == 0.75
        words = f"{measured.sentence}; {several.sentence}" if samples > 1 else one.sentence
        assert content["volume_intervals"] == {"ldsegPlans__3d_fullres/fold_0": words}
        likely = several if samples > 1 else one
        for row in rows:
            for name in ("class1", "class2"):
                low, high, likely_low, likely_high = (row[f"volume_{name}_{e}"] for e in ("low", "high", "likely_low", "likely_high"))
                if name in likely.factors and float(high) > 0:
                    assert float(likely_low) == pytest.approx(float(low) / likely.factors[name])
                    assert float(likely_high) == pytest.approx(float(high) * likely.factors[name])
                else:
                    assert likely_low == likely_high == ""
        assert any(float(r["volume_class1_high"]) > 0 for r in rows)


def test_a_model_without_the_file_says_so(model: Path, images: Path, tmp_path: Path) -> None:
    Predictor.from_folder(model, device="cpu").predict_folder(images, tmp_path / "out", flag_below=0.5)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert "trained without validation" in content["predicted_dice"]["ldsegPlans__3d_fullres/fold_0"]
    assert {c["flag"] for c in content["cases"].values()} == {"unknown"}


def test_the_table_is_the_same_for_any_order_and_can_be_kept(model: Path, images: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_folder(model, device="cpu")
    cases = [Case(f"toy_{i:03d}", (images / f"toy_{i:03d}_0000.nii.gz",), ()) for i in range(3)]
    found = [predictor.predict(c.images[0]) for c in cases]
    tables = []
    for name, order in (("a", (0, 1, 2)), ("b", (2, 0, 1))):
        for i in order:  # each case by a writer of its own, as after an interruption
            CaseWriter(tmp_path / name, predictor.description, Extras(), None, {}, keep=True).write(cases[i], found[i])
        tables.append([(tmp_path / name / f"predictions.{e}").read_bytes() for e in ("csv", "json")])
    assert tables[0] == tables[1]
    CaseWriter(tmp_path / "a", predictor.description, Extras(), None, {}).write(cases[0], found[0])
    assert [r["case"] for r in rows_of(tmp_path / "a")] == ["toy_000"]


def test_a_threshold_that_is_no_dice(model: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="flag-below 80.0: expected a Dice from 0 to 1"):
        Predictor.from_folder(model, device="cpu").predict_folder(images, tmp_path / "out", flag_below=80.0)
    assert not (tmp_path / "out").exists()


def test_images_without_spacing_are_measured_in_pixels() -> None:
    from ldseg_auto.data.geometry import Geometry

    bare, real = (Geometry((4, 4, 1), (1.0, 1.0, 999.0), dimension=2, has_spacing=h) for h in (False, True))
    score = CaseScore(1, None, 0.9, 0.85, {}, 3.0, "mm2")
    assert score.completed([], 1, bare).unit == "pixels" and score.completed([], 1, real).unit == "mm2"
    assert score.completed([], 1, None).unit == "mm2"
