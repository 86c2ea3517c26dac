"""Folds in which every class occurs: iterative stratification of whole groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TRIES = 20  # orders of the groups, of which the best one counts
FACTOR = 2.0  # a fold may have so many times as few, or as many, cases of a class as its even share
SEED = 12345


@dataclass(frozen=True)
class Table:
    """What each group holds.

    Args:
        groups: names, sorted.
        members: cases of each.
        classes: names of those that are to be in every fold; the last column of `counts` is of all cases, whatever they hold.
        counts: `(groups, classes + 1)` cases of a group that hold a class.
    """

    groups: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def of(cls, by_case: Mapping[str, str], holds: Mapping[str, Collection[str]], folds: int) -> Table:
        """Of the classes that `folds` groups or more have: no other can be in every fold.

        Args:
            by_case: case -> group.
            holds: case -> classes.
        """
        members: dict[str, list[str]] = {}
        for case in sorted(by_case):
            members.setdefault(by_case[case], []).append(case)
        groups = tuple(sorted(members))
        names = sorted({c for case in by_case for c in holds.get(case, ())})
        counts = np.array([[sum(n in holds.get(c, ()) for c in members[g]) for n in names] + [len(members[g])] for g in groups])
        wanted = [i for i in range(len(names)) if np.count_nonzero(counts[:, i]) >= folds]
        return cls(groups, tuple(tuple(members[g]) for g in groups), tuple(names[i] for i in wanted), counts[:, [*wanted, len(names)]])

    def per_fold(self, folds: Sequence[Collection[str]]) -> np.ndarray:
        """`(folds, classes + 1)` cases of a fold that hold a class; `folds` are cases."""
        return np.array([self.counts[[m[0] in fold for m in self.members]].sum(0) for fold in folds])


def uneven(per_fold: np.ndarray) -> np.ndarray:
    """How far each column's worst fold is from its even share, as a factor of 1 or more; infinite where a fold has none.

    Args:
        per_fold: `(folds, classes)` cases.
    """
    share = per_fold.mean(0)
    with np.errstate(divide="ignore"):
        return np.maximum(per_fold.max(0) / share, share / per_fold.min(0))


def lacking(table: Table, folds: Sequence[Collection[str]]) -> tuple[str, ...]:
    """The classes that are too unevenly spread: none in a fold, or less than half or more than twice the even share."""
    factors = uneven(table.per_fold(folds))
    return tuple(name for name, factor in zip(table.classes, factors, strict=False) if factor > FACTOR)


def stratified(table: Table, number: int) -> list[set[str]]:
    """Validation cases of each fold: of some orders of the groups the one whose folds lack the fewest classes and are the most even."""
    rng = np.random.RandomState(SEED)
    best, lowest = [], (np.inf, np.inf)
    for _ in range(TRIES):
        where = _deal(table.counts, number, rng.permutation(len(table.groups)))
        folds = [{c for g in np.flatnonzero(where == f) for c in table.members[g]} for f in range(number)]
        cost = spread(table, folds)
        if cost < lowest:
            best, lowest = folds, cost
    return best


def spread(table: Table, folds: Sequence[Collection[str]]) -> tuple[float, float]:
    """To compare folds, lower is better: how many times a fold lacks a class (or has no case), then the squared distance to even shares."""
    per_fold = table.per_fold(folds)
    return float((per_fold == 0).sum()), float(np.square(per_fold / per_fold.mean(0) - 1).sum())


def _deal(counts: np.ndarray, number: int, order: np.ndarray) -> np.ndarray:
    """The fold of each group: iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, algorithm 1), groups in place of examples.

    The class that the fewest groups left have comes first, the large groups of it before small ones; each goes to the fold that still
    wants most of that class, of equal ones to the fold that wants most cases.

    Args:
        counts: `(groups, classes)`; the last column counts all cases.
        order: of groups that are otherwise alike.
    """
    wanted = np.repeat(counts.sum(0, keepdims=True) / number, number, axis=0)
    fold = np.full(len(counts), -1)
    while (fold < 0).any():
        having = (counts[fold < 0] > 0).sum(0)
        column = int(np.where(having > 0, having, len(counts) + 1).argmin())
        left = [g for g in order if fold[g] < 0 and counts[g, column] > 0]
        for g in sorted(left, key=lambda g: -counts[g, -1]):
            fold[g] = max(range(number), key=lambda f: (round(wanted[f, column], 9), round(wanted[f, -1], 9)))
            wanted[fold[g]] -= counts[g]
    return fold
