"""Predicted Dice: isotonic regression by its minimax formula, fits that recover what made the data, and held-out errors by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldseg_auto.errors import ModelError
from ldseg_auto.evaluation import predicted_dice
from ldseg_auto.evaluation.predicted_dice import Curve, Evidence, Pair, PredictedDice, fit, fit_file, isotonic, make_curve, predict

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=9)


def pairs_of(dice: np.ndarray, softmax: np.ndarray, agreement: np.ndarray | None = None, size: np.ndarray | None = None) -> list[Pair]:
    out = []
    for i, (d, s) in enumerate(zip(dice, softmax, strict=True)):
        a, v = None if agreement is None else float(agreement[i]), 1.0 if size is None else float(size[i])
        out.append(Pair(f"case_{i:03d}", Evidence(float(s), v, a), float(np.clip(d, 0, 1))))
    return out


def noisy(count: int, seed: int = 0, several: bool = False) -> list[Pair]:
    """Dice rises with the softmax response, with noise of 0.02."""
    rng = np.random.default_rng(seed)
    softmax = rng.uniform(0.7, 1, count)
    dice = 0.5 + 1.5 * (softmax - 0.7) + 0.02 * rng.standard_normal(count)
    return pairs_of(dice, softmax, rng.uniform(0.5, 1, count) if several else None)


@settings(max_examples=150, deadline=None)
@given(POINTS)
def test_isotonic_equals_the_minimax_formula(points: list[tuple[int, int]]) -> None:
    """f(x_i) = max over a <= i of min over b >= i of the mean of y from a to b (Barlow et al. 1972)."""
    at, values = (np.array(v, float) for v in zip(*points, strict=True))
    places = np.unique(at)
    groups = [values[at == p] for p in places]
    knots = isotonic(at, values / 8)
    for i, place in enumerate(places):
        expected = max(min(np.concatenate(groups[a : b + 1]).mean() for b in range(i, len(places))) for a in range(i + 1)) / 8
        assert np.interp(place, *zip(*knots, strict=True)) == pytest.approx(expected, abs=1e-12)
    Curve("isotonic", ("softmax",), knots=knots)  # rising: accepted as a curve


def test_a_line_is_found_and_its_error_is_that_of_the_noise() -> None:
    pairs = noisy(60)
    found = fit(pairs)
    assert found.curve.kind in ("linear", "isotonic")
    assert found.error == pytest.approx(0.02 * math.sqrt(2 / math.pi), rel=0.3)  # the mean absolute value of normal noise
    assert found.baseline > 3 * found.error
    assert found.curve(Evidence(0.85, 1.0)) == pytest.approx(0.725, abs=0.02)
    assert found.sentence.startswith(f"predicted Dice was off by {found.error:.3f} on average on 60 held-out validation cases")


def test_a_step_is_found_by_the_isotonic_curve() -> None:
    softmax = np.linspace(0.6, 1, 40)
    found = fit(pairs_of(np.where(softmax < 0.8, 0.2, 0.9), softmax))
    assert found.curve.kind == "isotonic"
    assert (found.curve(Evidence(0.0, 1.0)), found.curve(Evidence(1.0, 1.0))) == (pytest.approx(0.2), pytest.approx(0.9))


def test_size_and_agreement_are_used_where_they_matter() -> None:
    rng = np.random.default_rng(0)
    size, softmax, agreement = np.exp(rng.uniform(0, 3, 40)), rng.uniform(0.7, 1, 40), rng.uniform(0.5, 1, 40)
    by_size = fit(pairs_of(0.3 + 0.1 * np.log(size) + 0.3 * softmax, softmax, size=size))
    assert by_size.curve.features == ("softmax", "log_foreground")
    assert by_size.curve.weights == pytest.approx((0.3, 0.1))
    assert by_size.curve(Evidence(0.9, 1e9)) == pytest.approx(by_size.curve(Evidence(0.9, float(size.max()))))  # no larger than seen
    by_agreement = fit(pairs_of(agreement * 0.9, softmax, agreement))
    assert "agreement" in by_agreement.curve.features and by_agreement.error < 1e-6


def test_soft_dice_is_used_where_it_is_there() -> None:
    rng = np.random.default_rng(3)
    soft = rng.uniform(0.6, 1, 40)
    pairs = pairs_of(soft - 0.05, rng.uniform(0.7, 1, 40))
    assert "soft_dice" not in fit(pairs).curve.features
    found = fit([replace(p, evidence=replace(p.evidence, soft_dice=float(s))) for p, s in zip(pairs, soft, strict=True)])
    assert found.curve.features == ("soft_dice",) and found.error < 1e-6
    assert found.curve(Evidence(0.9, 1.0, soft_dice=0.8)) == pytest.approx(0.75)
    assert math.isnan(found.curve(Evidence(0.9, 1.0)))  # of a file without it


def test_confidence_that_says_nothing_is_not_believed() -> None:
    rng = np.random.default_rng(1)
    found = fit(pairs_of(rng.uniform(0.4, 0.9, 80), rng.uniform(0.7, 1, 80)))
    assert found.error == pytest.approx(found.baseline, rel=0.1)


@pytest.mark.parametrize("features", [("softmax",), ("softmax", "log_foreground")])
def test_more_confidence_never_means_less_dice(features: tuple[str, ...]) -> None:
    softmax = np.linspace(0.7, 1, 20)
    pairs = pairs_of(1 - softmax / 2, softmax, size=np.exp(np.arange(20) % 5))
    assert make_curve("linear", features, pairs).weights[0] == 0
    curve = make_curve("isotonic", ("softmax",), pairs)
    assert curve(Evidence(0.7, 1.0)) == pytest.approx(curve(Evidence(1.0, 1.0)))


def test_linear_equals_least_squares_where_no_weight_is_negative() -> None:
    rng = np.random.default_rng(2)
    softmax, size = rng.uniform(0.7, 1, 30), np.exp(rng.uniform(0, 3, 30))
    dice = 0.1 + 0.6 * softmax - 0.05 * np.log(size) + 0.05 * rng.standard_normal(30)
    curve = make_curve("linear", ("softmax", "log_foreground"), pairs_of(dice, softmax, size=size))
    table = np.stack([np.ones(30), softmax, np.log(size)], 1)
    assert (curve.intercept, *curve.weights) == pytest.approx(tuple(np.linalg.lstsq(table, dice, rcond=None)[0]))


def test_errors_are_of_cases_that_the_fit_has_not_seen() -> None:
    """Eight cases, all of the same confidence: every held-out prediction is the mean of the other seven."""
    dice = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    found = fit(pairs_of(dice, np.full(8, 0.9)))
    others = (dice.sum() - dice) / 7
    np.testing.assert_allclose(found.held_out, others)
    assert found.error == found.baseline == pytest.approx(np.abs(others - dice).mean())
    assert found.curve.kind == "constant"


def test_one_case_does_not_influence_its_own_held_out_prediction() -> None:
    pairs = noisy(25)
    changed = [*pairs[:3], replace(pairs[3], dice=0.0), *pairs[4:]]
    assert fit(pairs).held_out[3] == fit(changed).held_out[3]
    assert fit(pairs).held_out[4] != fit(changed).held_out[4]


def test_the_order_of_pairs_does_not_matter() -> None:
    pairs = noisy(23, several=True)
    assert fit(pairs) == fit(pairs[::-1])


def test_few_cases_have_no_fit_and_the_file_says_so(tmp_path: Path) -> None:
    found = fit_file(noisy(7), [])
    assert found.single is None and found.several is None
    first = "one sample: a fit needs 8 validation cases with a predicted foreground and a Dice, there are 7."
    assert found.note == found.words(1) == f"{first} {first.replace('one sample', 'several samples').replace('7', '0')}"
    found.save(tmp_path / "predicted_dice.json")
    assert PredictedDice.load(tmp_path / "predicted_dice.json") == found
    assert predict([found], Evidence(0.9, 1.0), 1) is None


def test_equal_samples_share_one_fit() -> None:
    found = fit_file(noisy(20), None)
    assert found.of(1) is found.of(8) is found.single and found.note == "" and found.words(8).startswith("predicted Dice was off by")
    assert predict([found], Evidence(0.9, 1.0, 1.0), 8) == predict([found], Evidence(0.9, 1.0), 1)


def test_cases_with_nothing_predicted_are_left_out() -> None:
    empty = [Pair(f"empty_{i}", Evidence(1.0, 0.0), 0.0) for i in range(5)]
    found = fit_file([*noisy(12), *empty], [])
    assert found.single is not None and len(found.single.pairs) == 12
    assert predict([found], Evidence(1.0, 0.0), 1) is None


def test_the_file_comes_back_as_it_was(tmp_path: Path) -> None:
    found = fit_file(noisy(30), noisy(30, several=True))
    found.save(tmp_path / "predicted_dice.json")
    assert PredictedDice.load(tmp_path / "predicted_dice.json") == found
    assert found.note == ""


def test_several_models_are_averaged() -> None:
    one, other = fit_file(noisy(30), noisy(30, several=True)), fit_file(noisy(30, seed=5), [])
    evidence = Evidence(0.8, 1.0)
    assert one.single and other.single
    expected = (one.single.curve(evidence) + other.single.curve(evidence)) / 2
    assert predict([one, other], evidence, 1) == (pytest.approx(expected), pytest.approx((one.single.error + other.single.error) / 2))
    seen = replace(evidence, agreement=0.7)
    assert one.several and predict([one, other], seen, 4) == (one.several.curve(seen), one.several.error)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], 2, "version = 2 is not possible"),
        (["single", "error"], -0.1, "single.error = -0.1"),
        (["single", "curve", "kind"], "spline", "expected one of constant, isotonic, linear"),
        (["single", "curve", "features"], ["smile"], "names among softmax"),
        (["single", "pairs"], [], "pairs = 0 is not possible: expected 8 or more"),
        (["single", "curve", "colour"], 1, "unknown key 'single.curve.colour'"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, path: list[str], value: object, message: str) -> None:
    file = tmp_path / "predicted_dice.json"
    fit_file(noisy(20), []).save(file)
    content = json.loads(file.read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message) as caught:
        PredictedDice.load(file)
    assert "ldseg_train --continue" in str(caught.value)


def test_falling_knots_are_refused() -> None:
    with pytest.raises(predicted_dice.PlansError, match="rising"):
        Curve("isotonic", ("softmax",), knots=((0.1, 0.9), (0.2, 0.8)))
