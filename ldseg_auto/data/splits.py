"""Cross-validation folds: nnU-Net's own when there are no groups, and folds that never split a patient when there are."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldseg_auto.errors import DatasetError, InputError

logger = logging.getLogger(__name__)

FOLDS = 5
SEED = 12345  # nnU-Net's
Split = dict[str, list[str]]


def make_splits(identifiers: Sequence[str], groups: Mapping[str, str] | str | None = None) -> list[Split]:
    """Folds as `[{"train": [...], "val": [...]}, ...]`: 5, or as many as there are cases (groups) if those are fewer.

    Without groups the folds are scikit-learn's `KFold(5, shuffle=True, random_state=12345)` of the sorted identifiers, which is what
    nnU-Net makes. With groups, whole groups are dealt out, large ones first, each to the fold that has the fewest cases.

    Args:
        groups: case -> group, or a regular expression on the case name (see `case_groups`).

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
    folds = _kfold(cases) if groups is None else _group_folds(by_case)
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
