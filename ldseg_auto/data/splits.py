"""Cross-validation folds: nnU-Net's own where they serve, never a split patient where there are groups, every class in every fold."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ldseg_auto.data.stratify import Table, lacking, spread, stratified
from ldseg_auto.errors import DatasetError, InputError

logger = logging.getLogger(__name__)

FOLDS = 5
SEED = 12345  # nnU-Net's
SHOWN = 5  # groups named in a warning
Split = dict[str, list[str]]


def make_splits(
    identifiers: Sequence[str], groups: Mapping[str, str] | str | None = None, holds: Mapping[str, Collection[str]] | None = None
) -> list[Split]:
    """Folds as `[{"train": [...], "val": [...]}, ...]`: 5, or as many as there are cases (groups) if those are fewer.

    Without groups the folds are scikit-learn's `KFold(5, shuffle=True, random_state=12345)` of the sorted identifiers, which is what
    nnU-Net makes. With groups, whole groups are dealt out, large ones first, each to the fold that has the fewest cases.

    Where a class that as many cases (groups) have as there are folds would then lack in a fold, or have less than half or more than
    twice its even share of cases there, the folds are stratified by class instead (see stratify.py), if that is better.

    Args:
        groups: case -> group, or a regular expression on the case name (see `case_groups`).
        holds: case -> classes (regions) in its labels; None does not look at classes.

    Raises:
        DatasetError: no cases, or a case without a group.
    """
    cases = sorted(identifiers)
    if not cases:
        raise DatasetError("there are no cases to split into folds.")
    by_case = case_groups(cases, groups)
    if len(set(by_case.values())) == 1:
        logger.warning("all %d case(s) belong to one group (%s): they are used for training and validation both.", len(cases), cases[0])
        return [{"train": cases, "val": list(cases)}]
    folds = _balanced(_kfold(cases) if groups is None else _group_folds(by_case), by_case, holds or {})
    return [{"train": [c for c in cases if c not in val], "val": [c for c in cases if c in val]} for val in folds]


def case_groups(identifiers: Sequence[str], groups: Mapping[str, str] | str | None) -> dict[str, str]:
    """The group of each case; without groups each case is its own.

    Args:
        groups: case -> group; or a regular expression searched in the case name, whose first capture group (the whole match if it has
            none) names the group.

    Raises:
        DatasetError: a case has no group.
    """
    if groups is None:
        return {c: c for c in identifiers}
    if isinstance(groups, Mapping):
        missing = [c for c in identifiers if c not in groups]
        if missing:
            raise DatasetError(f"groups in dataset.json names no group for {len(missing)} cases (first: {missing[0]}). Add them.")
        return {c: groups[c] for c in identifiers}
    found = {c: re.search(groups, c) for c in identifiers}
    result = {c: m[m.re.groups and 1] for c, m in found.items() if m}
    missing = [c for c in identifiers if result.get(c) is None]
    if missing:
        rule = f"the regular expression {groups!r} does not match {len(missing)} cases (first: {missing[0]})"
        raise DatasetError(f"groups (dataset.json, or --groups): {rule}. It must name a group for every case.")
    return result


def _kfold(cases: Sequence[str]) -> list[set[str]]:
    """The validation cases of each fold, as scikit-learn's KFold with shuffling deals them."""
    order = np.arange(len(cases))
    np.random.RandomState(SEED).shuffle(order)
    return [{cases[i] for i in part} for part in np.array_split(order, min(FOLDS, len(cases)))]


def _balanced(plain: list[set[str]], by_case: Mapping[str, str], holds: Mapping[str, Collection[str]]) -> list[set[str]]:
    """`plain`, or where they spread a class too unevenly, stratified folds."""
    table = Table.of(by_case, holds, len(plain))
    scarce = lacking(table, plain)
    if not scarce:
        return plain
    folds = stratified(table, len(plain))
    if spread(table, folds) >= spread(table, plain):
        return plain
    logger.info("folds are stratified by class: plain ones would spread %s too unevenly.", ", ".join(scarce))
    return folds


def _group_folds(by_case: Mapping[str, str]) -> list[set[str]]:
    members: dict[str, list[str]] = {}
    for case, group in by_case.items():
        members.setdefault(group, []).append(case)
    names = sorted(members)
    np.random.RandomState(SEED).shuffle(names)
    folds: list[set[str]] = [set() for _ in range(min(FOLDS, len(names)))]
    for name in sorted(names, key=lambda n: -len(members[n])):
        min(folds, key=len).update(members[name])
    return folds


def fold_cases(content: Any, fold: int | str) -> Split:
    """The cases of one fold of splits_final.json; "all" trains and validates on every case.

    Args:
        content: the file as read: a list of `{"train": [...], "val": [...]}`.
        fold: 0, 1, ... or its text, or "all".

    Raises:
        InputError: the content has another form, or there is no such fold.
    """
    splits = _checked(content)
    if fold == "all":
        cases = sorted({c for split in splits for c in (*split["train"], *split["val"])})
        return {"train": cases, "val": list(cases)}
    text = str(fold)
    if isinstance(fold, bool) or not re.fullmatch(r"[0-9]+", text) or int(text) >= len(splits):
        raise InputError(f"fold {fold!r} does not exist; allowed: {', '.join(map(str, range(len(splits))))}, all.")
    chosen = splits[int(text)]
    return {"train": list(chosen["train"]), "val": list(chosen["val"])}


def shared_cases(split: Split) -> list[str]:
    """Cases that are trained and validated on both, sorted."""
    return sorted(set(split["train"]) & set(split["val"]))


def split_groups(split: Split, by_case: Mapping[str, str]) -> list[str]:
    """Groups of which some cases are trained and others validated on, sorted; a case that is in both counts as neither.

    Args:
        by_case: case -> group.
    """
    both = set(split["train"]) & set(split["val"])
    train, val = ({by_case[c] for c in split[key] if c in by_case and c not in both} for key in ("train", "val"))
    return sorted(train & val)


def doubts(folds: Mapping[Any, Split], by_case: Mapping[str, str]) -> list[str]:
    """Why a validation Dice would say little of other patients, one sentence per fold and kind; empty for good splits.

    Args:
        folds: number -> cases.
        by_case: case -> group.
    """
    out = []
    for number, split in folds.items():
        both, divided = shared_cases(split), split_groups(split, by_case)
        if both:
            what = f"{len(both)} case(s) are trained and validated on (first: {both[0]})"
            out.append(f"fold {number}: {what}: their Dice says nothing of other cases.")
        if divided:
            what = f"group {', '.join(divided[:SHOWN])}{', ...' if len(divided) > SHOWN else ''}"
            out.append(f"fold {number}: {what} has cases in both train and val: its validation Dice is better than that of new patients.")
    return out


def _checked(content: Any) -> list[Split]:
    rule = 'expected a list of {"train": [case, ...], "val": [case, ...]}, one per fold, none empty'
    if not isinstance(content, list) or not content:
        raise InputError(f"splits_final.json holds {str(content)[:60]!r}; {rule}.")
    for number, split in enumerate(content):
        for key in ("train", "val"):
            cases = split.get(key) if isinstance(split, dict) else None
            if not isinstance(cases, list) or not cases or not all(isinstance(c, str) for c in cases):
                raise InputError(f"splits_final.json, fold {number}: {key} is {str(cases)[:60]!r}; {rule}.")
    return content
