"""Volume intervals, checked: how often the reference's volume lay within that of the samples, on held-out validation cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ldseg_auto.planners.serialise import require

ROUNDING = 1e-9  # relative: volumes are whole voxels times a voxel's size
Spans = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]  # case -> class -> low, high and reference for each rater, in one unit


@dataclass(frozen=True)
class Coverage:
    """Of the intervals of one training's validation cases."""

    held: int
    """volumes of references that lay in the interval, its ends included: one per case, rater and class."""
    total: int
    """all of them, but for those of a class that neither the reference nor the interval has."""
    cases: int
    samples: int
    """per case: more samples make wider intervals."""

    def __post_init__(self) -> None:
        require(0 <= self.held <= self.total, "held", self.held, "0 to total")
        require(self.total > 0, "total", self.total, "1 or more")
        require(self.cases > 0, "cases", self.cases, "1 or more")
        require(self.samples > 1, "samples", self.samples, "2 or more: one sample has no interval")

    @property
    def sentence(self) -> str:
        """What may be said of an interval."""
        share = f"{self.held} of {self.total} volumes of the references ({self.held / self.total:.0%})"
        return f"low to high of {self.samples} samples held {share} on {self.cases} held-out validation cases"


def coverage(spans: Spans, samples: int) -> Coverage | None:
    """Counts them; None where there is no volume at all."""
    known = {case: [s for of_class in found.values() for s in of_class if any(s)] for case, found in spans.items()}
    every = [s for found in known.values() for s in found]
    held = sum(low * (1 - ROUNDING) <= volume <= high * (1 + ROUNDING) for low, high, volume in every)
    return Coverage(held, len(every), sum(bool(found) for found in known.values()), samples) if every else None
