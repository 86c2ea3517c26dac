"""The choice: the simplest that is as good as any, by cross-validation.

- Of single models the one with the highest mean; of equal ones the first by name.
- Two models averaged only where they are better than that one: lower bound of the paired interval above 0. Of several the highest mean.
- More samples by the same rule: only where they are better than fewer.

What is chosen by a figure is a little worse than the figure says, the more there was to choose from: the chosen one's own score is no
unbiased estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldseg_auto.errors import InputError
from ldseg_auto.selection.candidates import Candidate
from ldseg_auto.selection.crossval import Table
from ldseg_auto.selection.scores import METRICS, Interval, Sample, array_of, difference, interval


@dataclass(frozen=True, eq=False)
class Scored:
    """A candidate with its scores."""

    candidate: Candidate
    table: dict[str, Table]  # case -> rater -> class -> metric
    arrays: dict[str, np.ndarray]  # metric -> (cases, classes)
    means: dict[str, Interval]  # metric -> mean, low, high

    @classmethod
    def of(cls, candidate: Candidate, table: dict[str, Table], sample: Sample) -> Scored:
        """With its means."""
        names = candidate.models[0].folder.description.labels.foreground_names
        arrays = {metric: array_of(table, metric, names, sample) for metric in METRICS}
        return cls(candidate, table, arrays, {metric: interval(a, sample) for metric, a in arrays.items()})

    def against(self, other: Scored, metric: str, sample: Sample) -> Interval:
        """Mean of this less the other's, with its interval."""
        return difference(self.arrays[metric], other.arrays[metric], sample)


def best_single(scored: Sequence[Scored], metric: str) -> Scored:
    """The single model with the highest mean.

    Raises:
        InputError: no model has a score.
    """
    known = [s for s in scored if len(s.candidate.models) == 1 and not math.isnan(s.means[metric][0])]
    if not known:
        raise InputError("no case has a class that a reference or a prediction holds: there is nothing to compare.")
    return max(sorted(known, key=lambda s: s.candidate.name), key=lambda s: s.means[metric][0])


def better(challengers: Sequence[Scored], champion: Scored, metric: str, sample: Sample) -> Scored:
    """The champion, or of those that are better with their interval above 0 the one with the highest mean."""
    good = [s for s in challengers if s.against(champion, metric, sample)[1] > 0]
    return max(good, key=lambda s: s.means[metric][0], default=champion)
