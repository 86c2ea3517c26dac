"""The gates that the method has to pass, from the numbers of one arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

STEPS = ("1", "2", "3", "5", "10")
SIGMAS = ("0.25", "0.5", "1")
ROUNDING = 1e-9  # a difference of exactly the threshold passes
Gate = dict[str, Any]  # gate, threshold, measured (text), met (None: not measured)


def arm_gates(dataset: str, own: Mapping[str, Any], base: Mapping[str, Any] | None, paired: Mapping[str, float]) -> list[Gate]:
    """All gates of an arm.

    Args:
        dataset: its short name; lidc has a gate of its own.
        own, base: numbers of the arm and of direct, as `method_report.arm_numbers` gives them; None without a direct arm.
        paired: mask -> mean Dice less that of direct; empty without a direct arm.
    """
    out = [reconstruction_gate(own["reconstruction"])]
    out += energy_gates(dataset, own, base) if "ged" in own else [swap_gate(own)]
    drop = largest_drop([own["steps"][s][0] for s in STEPS])
    out.append(gate("G2", "flat or rising over steps 1, 2, 3, 5, 10: largest drop <= 0.002", f"{drop:.4f}", at_most(drop, 0.002)))
    ours, better = own["augrc"]["agreement"][0], own["augrc"]["better"]
    theirs = own["augrc"][better][0]
    met = None if math.isnan(ours + theirs) else ours < theirs
    out.append(gate("G3", "AUGRC of pairwise Dice < of the better softmax response", f"{ours:.4f} against {theirs:.4f} ({better})", met))
    for mask, least in (("1 step", -0.002), ("5 x planned", 0.003), ("5 x 1", 0.003)):
        value = paired.get(mask, math.nan)
        out.append(gate("G4", f"Dice, {mask} - direct >= {least:+.3f}", text(value, "+.4f"), at_most(-value, -least)))
    for kind, mask in (("one", "1 step"), ("ensemble", "5 x planned")):
        out.append(noise_gate(own["noise"][kind], base["noise"][kind] if base else None, mask))
    return out


def gate(name: str, threshold: str, measured: str, met: bool | None) -> Gate:
    """One row."""
    return {"gate": name, "threshold": threshold, "measured": measured, "met": met}


def at_most(value: float, limit: float) -> bool | None:
    """Whether value <= limit; None for NaN."""
    return None if math.isnan(value) else value <= limit + ROUNDING


def text(value: float, form: str = ".4f") -> str:
    """A number, `-` for NaN."""
    return "-" if math.isnan(value) else format(value, form)


def largest_drop(dice: list[float]) -> float:
    """The most that a number of steps lies below any earlier one; 0 for a curve that never falls."""
    return max(max(dice[: i + 1]) - d for i, d in enumerate(dice))


def reconstruction_gate(dice: Mapping[str, float]) -> Gate:
    """G0: labels coded and decoded without the image; a class that no patch holds has no value."""
    known = [d for d in dice.values() if not math.isnan(d)]
    shown = ", ".join(f"{name} {text(d)}" for name, d in dice.items())
    return gate("G0", "reconstruction Dice without the image, every class >= 0.97", shown, min(known) >= 0.97 if known else None)


def energy_gates(dataset: str, own: Mapping[str, Any], base: Mapping[str, Any] | None) -> list[Gate]:
    """G1 where several raters drew, and LIDC's own."""
    name, planned, one = f"GED{own['samples']}", own["ged"]["planned"][0], own["ged"]["1"][0]
    half = base["ged"]["planned"][0] / 2 if base else math.nan
    halved = at_most(planned, half) if base else None
    out = [
        gate("G1", f"{name} at planned steps <= at one step", f"{planned:.4f} against {one:.4f}", at_most(planned, one)),
        gate("G1", f"{name} at planned steps <= half of direct's", f"{planned:.4f} against {text(half)}", halved),
    ]
    if dataset == "lidc":
        out.append(gate("LIDC", f"{name} at planned steps <= 0.30", f"{planned:.4f}", at_most(planned, 0.30)))
    return out


def swap_gate(own: Mapping[str, Any]) -> Gate:
    """G1 where one rater drew: another noise alone gives another mask, of the image in the same view."""
    value = 1 - own["swap"][0]
    return gate("G1", "swap of the noise alone: 1 - Dice > 0.001", f"{value:.4f}", value > 0.001)


def noise_gate(own: Mapping[str, tuple[float, ...]], base: Mapping[str, tuple[float, ...]] | None, mask: str) -> Gate:
    """G6: Dice lost at each sigma, at most half of what direct loses."""
    lost = [own["0"][0] - own[s][0] for s in SIGMAS]
    limits = [(base["0"][0] - base[s][0]) / 2 for s in SIGMAS] if base else [math.nan] * len(SIGMAS)
    shown = "; ".join(f"{s}: {loss:.4f} against {text(limit)}" for s, loss, limit in zip(SIGMAS, lost, limits, strict=True))
    met = all(at_most(loss, limit) for loss, limit in zip(lost, limits, strict=True)) if base else None
    return gate("G6", f"Dice lost at each sigma, {mask} <= half of direct's", shown, met)
