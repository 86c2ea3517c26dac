"""Sizes of a case for a person: which axes it has, and what a voxel is worth."""

from __future__ import annotations

from math import prod

from ldseg_auto.data.geometry import NATURAL_Z
from ldseg_auto.planners.fingerprint import CaseFingerprint, Fingerprint

AXES = ("z", "y", "x")


def is_flat(case: CaseFingerprint) -> bool:
    """Whether it is a 2D image: one voxel along an axis whose spacing stands for nothing (see NATURAL_Z)."""
    _, second, largest = sorted(case.spacing)
    return 1 in case.shape and largest >= 0.99 * NATURAL_Z * second


def axes_of(fingerprint: Fingerprint) -> tuple[int, ...]:
    """The axes (0 z, 1 y, 2 x) along which any case has more than one voxel."""
    return tuple(a for a in range(3) if any(c.shape[a] > 1 for c in fingerprint.cases))


def has_millimetres(fingerprint: Fingerprint) -> bool:
    """False where no file says how large a pixel is."""
    return not all(is_flat(c) and sorted(c.spacing)[:2] == [1.0, 1.0] for c in fingerprint.cases)


def length_unit(fingerprint: Fingerprint) -> str:
    """mm, or pixels."""
    return "mm" if has_millimetres(fingerprint) else "pixels"


def volume_unit(fingerprint: Fingerprint) -> str:
    """Of CaseFingerprint.volumes: ml, mm2 or pixels."""
    if not all(is_flat(c) for c in fingerprint.cases):
        return "ml"
    return "mm\u00b2" if has_millimetres(fingerprint) else "pixels"


def volume_word(fingerprint: Fingerprint) -> str:
    """What CaseFingerprint.volumes are: volume, or area."""
    return "volume" if volume_unit(fingerprint) == "ml" else "area"


def voxel_volume(case: CaseFingerprint) -> float:
    """Of one voxel, in the unit of CaseFingerprint.volumes."""
    return prod(case.spacing) / (max(case.spacing) if is_flat(case) else 1000)


def short(value: float) -> str:
    """Three digits; thousands in full."""
    size = abs(value)
    return f"{value:.0f}" if 1000 <= size < 1e9 else f"{value:.3g}"


def brief(value: float) -> str:
    """For the ticks of an axis: thousands as k, millions as M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1e9 and (unit > 1e3 or abs(value) >= 1e4):
            return f"{value / unit:.3g}{name}"
    return short(value)


def times(values: tuple[float, ...] | tuple[int, ...] | list[int]) -> str:
    """For instance `40 x 56 x 40`, with a multiplication sign."""
    return " \u00d7 ".join(short(v) for v in values)
