"""The parts of the method: presets, what a value replaces, and what is refused."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import pytest

from ldseg_auto.planners.method import AUTO, DIRECT, OF_DIRECT, PUBLISHED, SHARES, VARIANTS, Method, Parts, check_method, preset
from ldseg_auto.planners.rules.aim import aim
from ldseg_auto.planners.serialise import RuleBroken

NAMES = [f.name for f in fields(Method)]


@pytest.mark.parametrize("raters", [1, 2, 4])
def test_every_variant_decides_every_part(raters: int) -> None:
    assert [f.name for f in fields(Parts)] == NAMES
    for variant in VARIANTS:
        values = preset(variant, raters)
        assert sorted(values) == sorted(NAMES)
        Method(**values)  # each is one that may be set
        assert asdict(Method().resolved(variant, raters)) == values
        check_method(Method(), variant, raters)


def test_only_auto_aims_at_the_raters() -> None:
    assert preset("auto", 1) == AUTO and preset("auto", 4) == AUTO | aim(4) != AUTO
    assert all(preset("paper", n) == PUBLISHED and preset("direct", n) == DIRECT for n in (1, 4))
    own = Method(diversity=0.3, recycling=0.4).resolved("auto", 4)
    assert (own.diversity, own.recycling) == (0.3, 0.4)


@pytest.mark.parametrize("variant", ["auto", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_own_values_come_first_and_the_others_stay(variant: str, name: str) -> None:
    other = preset("paper" if variant == "auto" else "auto", 1)
    value = {**other, "regression_weight": 0.5, "input_scale": 0.5, "diversity": 0.5}[name]
    assert preset(variant, 1)[name] != value
    # A first step that draws must read the noise; eps says nothing at t = 1.
    ruled_out = {
        "diversity": {"signal_gate": False, "average_steps": False, "mirror_samples": False},
        "prediction": {"pure_noise": 0.0} if value == "eps" else {},
        "label_input": {"block_code": False} if value == "integer" else {},
    }.get(name, {})
    assert asdict(Method(**{name: value}).resolved(variant, 1)) == {**preset(variant, 1), name: value, **ruled_out}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_diversity_is_what_one_rater_gets(variant: str) -> None:
    """Whoever wants one mask of data that several raters drew sets one value; their own values still come first."""
    assert Method(diversity=0.0).resolved(variant, 4) == Method().resolved(variant, 1)
    assert Method(diversity=0.0, recycling=0.3).resolved("auto", 4) == Method(recycling=0.3).resolved("auto", 1)
    assert Method(diversity=0.0).fixed("auto", 4).resolved("auto", 4) == Method().resolved("auto", 1)


def test_falsy_values_are_values() -> None:
    parts = Method(skips=False, stop_gradient=False, pure_noise=0.0, recycling=0, diversity=0.0).resolved("auto", 4)
    assert not any((parts.skips, parts.stop_gradient, parts.pure_noise, parts.recycling, parts.diversity))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("raters", [1, 4])
def test_a_fixed_method_is_the_same_whatever_the_variant_and_stays(variant: str, raters: int) -> None:
    fixed = Method(dice_weight=3.0).fixed(variant, raters)
    assert asdict(fixed) == {**preset(variant, raters), "dice_weight": 3.0}
    assert fixed.fixed(variant, raters) == fixed
    assert all(fixed.resolved(v, n) == fixed.resolved(variant, raters) for v in VARIANTS for n in (1, 4))


def test_paper_is_what_was_published() -> None:
    """LDSeg, arXiv 2407.12952: eps, CE + 2 Dice + MSE, one integer channel, attention, no skips, labels' latents only."""
    paper = Method().resolved("paper", 1)
    assert (paper.prediction, paper.label_input, paper.denoiser, paper.standardisation) == ("eps", "integer", "attention", "sample")
    assert (paper.dice_weight, paper.regression_weight, paper.input_scale) == (2, 1, 1)
    assert not any((paper.skips, paper.stop_gradient, paper.pure_noise, paper.recycling, paper.diversity))
    assert not any((paper.reconstruction_weight, paper.later_steps))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prediction": "v"}, r"prediction = 'v' is not possible: expected one of \('z0', 'eps'\)"),
        ({"label_input": "both"}, r"label_input = 'both' .* one of"),
        ({"denoiser": "dit"}, r"denoiser = 'dit' .* one of"),
        ({"standardisation": "batch"}, r"standardisation = 'batch' .* one of"),
        *(({name: value}, f"{name} = {value} .* 0 to 1") for name in SHARES for value in (-0.1, 1.1)),
        *(({name: -1.0}, f"{name} = -1.0 .* 0 or more") for name in (
            "reconstruction_weight", "regression_weight", "dice_weight")),
        *(({"input_scale": value}, f"input_scale = {value} .* above 0, at most 1") for value in (0.0, -1.0, 1.5)),
    ],
)  # fmt: skip
def test_impossible_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RuleBroken, match=f"^{message}"):
        Method(**values)


def test_limits_are_possible() -> None:
    for name in (*SHARES, "input_scale"):
        assert getattr(Method(**{name: 1.0}), name) == 1
    assert all(getattr(Method(**{name: 0.0}), name) == 0 for name in SHARES)


PURE = {"pure_noise": 1.0, "later_steps": 0.0}


@pytest.mark.parametrize(
    ("variant", "raters", "values", "message"),
    [
        ("auto", 4, {"prediction": "eps"}, "method.prediction = 'eps' .* z0 with method.diversity above 0"),
        ("auto", 1, {"prediction": "eps", "diversity": 0.5}, "method.prediction = 'eps' .* z0 with method.diversity above 0"),
        ("paper", 1, {"diversity": 1.0, "pure_noise": 0.5}, "method.prediction = 'eps' .* z0 with method.diversity above 0"),
        ("auto", 4, {"pure_noise": 0.0}, "method.pure_noise = 0.0 .* above 0 with method.diversity"),
        ("auto", 1, {"pure_noise": 0.0, "diversity": 0.5}, "method.pure_noise = 0.0 .* above 0 with method.diversity"),
        ("paper", 1, {"prediction": "z0", "diversity": 1.0}, "method.pure_noise = 0.0 .* above 0 with method.diversity"),
        ("auto", 1, {**PURE, "recycling": 0.5}, "method.recycling = 0.5 .* no sample has t < 1"),
        ("auto", 4, {**PURE, "recycling": 0.5}, "method.recycling = 0.5 .* no sample has t < 1"),
        ("paper", 1, {"pure_noise": 1.0, "recycling": 0.5}, "method.recycling = 0.5 .* no sample has t < 1"),
        ("auto", 1, {"label_input": "integer", "block_code": True}, "method.block_code = True .* false with method.label_input = integer"),
        ("paper", 1, {"block_code": True}, "method.block_code = True .* false with method.label_input = integer"),
    ],
)
def test_contradictions_are_found_among_the_resolved_parts(variant: str, raters: int, values: dict[str, Any], message: str) -> None:
    """Whichever side of one is the variant's own; also among parts that are all decided."""
    for method in (Method(**values), Method(**values).fixed(variant, raters)):
        with pytest.raises(RuleBroken, match=f"^{message}"):
            check_method(method, variant, raters)


@pytest.mark.parametrize(
    ("variant", "raters", "values"),
    [
        ("auto", 1, {"prediction": "eps", "diversity": 0.0}),
        ("auto", 4, {"prediction": "eps", "diversity": 0.0}),
        ("auto", 1, {"pure_noise": 0.0, "diversity": 0.0}),
        ("auto", 1, {**PURE, "recycling": 0.0}),
        ("auto", 1, {**PURE, "later_steps": 0.1, "recycling": 0.5}),
        ("auto", 1, {**PURE, "pure_noise": 0.9, "recycling": 0.5}),
        ("paper", 1, {"prediction": "z0", "diversity": 1.0, "pure_noise": 0.1}),
    ],
)
def test_what_stops_short_of_a_contradiction_is_possible(variant: str, raters: int, values: dict[str, Any]) -> None:
    check_method(Method(**values), variant, raters)
    check_method(Method(**values).fixed(variant, raters), variant, raters)


@pytest.mark.parametrize("name", OF_DIRECT)
def test_direct_takes_the_parts_that_it_has(name: str) -> None:
    check_method(Method(**{name: 0.123}), "direct", 1)
    assert getattr(Method(**{name: 0.123}).resolved("direct", 1), name) == 0.123


def test_what_direct_may_not_be_given_others_may() -> None:
    values = {**AUTO, **{n: v for n, v in PUBLISHED.items() if v != DIRECT[n]}, "regression_weight": 0.5, "diversity": 0.5}
    values |= {"input_scale": 0.5, "recycling": 0.5, "later_steps": 0.5, "reconstruction_weight": 0.5, "reconstruction_share": 0.5}
    for name in set(NAMES) - set(OF_DIRECT):
        method = Method(**{name: values[name]})
        check_method(method, "auto", 1)
        with pytest.raises(RuleBroken, match=f"^method.{name} = .* null with network.variant = direct"):
            check_method(method, "direct", 1)
    check_method(Method().fixed("direct", 4), "direct", 4)  # what is saved with a model
