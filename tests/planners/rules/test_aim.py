"""What training aims at, by the number of raters (documentation/method.md, losses)."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from ldseg_auto.planners.method import AUTO, Method
from ldseg_auto.planners.rules.aim import aim, aims_at_mask, why


@pytest.mark.parametrize(
    ("raters", "diversity", "gate", "recycling", "pure_noise", "later_steps", "rebuilt", "reason"),
    [
        (1, 0.0, True, 1.0, 1.0, 0.25, 0.0625, "one rater: the best mask (no energy score)"),
        (
            2,
            1.0,
            False,
            0.0,
            0.5,
            0.0,
            0.125,
            "2 raters, whose agreement is not known: samples follow their distribution (energy score, no recycling)",
        ),
        (
            4,
            1.0,
            False,
            0.0,
            0.5,
            0.0,
            0.125,
            "4 raters, whose agreement is not known: samples follow their distribution (energy score, no recycling)",
        ),
        (
            40,
            1.0,
            False,
            0.0,
            0.5,
            0.0,
            0.125,
            "40 raters, whose agreement is not known: samples follow their distribution (energy score, no recycling)",
        ),
    ],
)
def test_table(
    raters: int, diversity: float, gate: bool, recycling: float, pure_noise: float, later_steps: float, rebuilt: float, reason: str
) -> None:  # fmt: skip
    """Several raters: draws at t = 1 that the energy score compares, noise that they read, and no distrust of them."""
    parts = Method().resolved("auto", raters)
    found = (parts.diversity, parts.signal_gate, parts.recycling, parts.pure_noise, parts.later_steps, parts.reconstruction_share)
    assert found == (diversity, gate, recycling, pure_noise, later_steps, rebuilt)
    assert parts.average_steps == (raters == 1)  # a mean of predictions is no draw
    assert parts.mirror_samples == (raters == 1)
    assert why(raters) == reason


@pytest.mark.parametrize("raters", [1, 2, 4])
def test_all_else_is_the_same_for_any_number_of_raters(raters: int) -> None:
    sampling = {"signal_gate", "recycling", "average_steps", "mirror_samples"}
    decided = {"diversity", "pure_noise", "later_steps", "reconstruction_share"} | sampling
    parts = asdict(Method().resolved("auto", raters))
    assert {n: v for n, v in parts.items() if n not in decided} == {n: v for n, v in AUTO.items() if n not in decided}
    assert set(aim(raters)) == (decided if raters > 1 else set())


@pytest.mark.parametrize("variant", ["paper", "direct"])
def test_other_variants_do_not_aim(variant: str) -> None:
    assert Method().resolved(variant, 1) == Method().resolved(variant, 4)


@pytest.mark.parametrize(
    ("raters", "agreement", "mask", "said"),
    [
        (1, None, True, "one rater: the best mask"),
        (2, None, False, "not known: samples follow"),
        (2, 0.69, False, "2 raters agree to a Dice of 0.69, less than 0.7: samples follow"),
        (2, 0.7, True, "2 raters agree to a Dice of 0.70, 0.7 or more: the best mask, as with one (--set method.diversity=1"),
        (4, 0.3353, False, "4 raters agree to a Dice of 0.34, less than 0.7: samples follow"),
    ],
)
def test_raters_who_agree_are_one(raters: int, agreement: float | None, mask: bool, said: str) -> None:
    assert aims_at_mask(raters, agreement) == mask
    assert said in why(raters, agreement)
