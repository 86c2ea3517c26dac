"""Folds by class: nnU-Net's where they serve, else every class in every fold as evenly as may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldseg_auto.data.splits import doubts, make_splits, shared_cases, split_groups


def counts(splits: Sequence[Mapping[str, list[str]]], holds: Mapping[str, Sequence[str]], name: str) -> list[int]:
    """Validation cases with the class, per fold."""
    return [sum(name in holds[c] for c in split["val"]) for split in splits]


def cases(number: int) -> list[str]:
    return [f"case{i:03d}" for i in range(number)]


@pytest.mark.parametrize("n", [5, 9, 20, 263])
def test_kfold_is_kept_where_every_case_has_every_class(n: int) -> None:
    assert make_splits(cases(n), None, {c: ["a", "b"] for c in cases(n)}) == make_splits(cases(n))


def test_kfold_is_kept_for_common_classes() -> None:
    """Half of 200 cases: no fold of scikit-learn's lies outside half to twice the share of 20."""
    holds = {c: ["a"] if i % 2 else [] for i, c in enumerate(cases(200))}
    assert make_splits(cases(200), None, holds) == make_splits(cases(200))
    assert all(10 <= n <= 40 for n in counts(make_splits(cases(200)), holds, "a"))


@pytest.mark.parametrize("fewer", [1, 2, 4])
def test_a_class_of_fewer_cases_than_folds_changes_nothing(fewer: int) -> None:
    holds = {c: ["rare"] if i < fewer else [] for i, c in enumerate(cases(50))}
    assert make_splits(cases(50), None, holds) == make_splits(cases(50))


def test_the_rule_of_half_and_twice_the_share() -> None:
    """Cases with the class are placed by hand into scikit-learn's folds of 50 cases: kept up to (1, 1, 2, 2, 4), and no further."""
    plain = make_splits(cases(50))
    for placed, kept in (((2, 2, 2, 2, 2), True), ((1, 1, 2, 2, 4), True), ((0, 2, 2, 3, 3), False), ((1, 1, 1, 2, 5), False)):
        having = {c for split, n in zip(plain, placed, strict=True) for c in split["val"][:n]}
        holds = {c: ["a"] if c in having else [] for c in cases(50)}
        splits = make_splits(cases(50), None, holds)
        assert (splits == plain) == kept
        if not kept:
            assert counts(splits, holds, "a") == [2] * 5
            assert [len(s["val"]) for s in splits] == [10] * 5


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_two_classes_reach_every_fold(data: st.DataObject) -> None:
    """Two classes can always: any number of cases from five on has either, or both."""
    n = data.draw(st.integers(10, 60))
    a, b = (data.draw(st.sets(st.integers(0, n - 1), min_size=5, max_size=n)) for _ in range(2))
    holds = {c: [*(["a"] if i in a else []), *(["b"] if i in b else [])] for i, c in enumerate(cases(n))}
    splits = make_splits(cases(n), None, holds)
    assert Counter(c for s in splits for c in s["val"]) == Counter(cases(n))
    assert min(counts(splits, holds, "a")) >= 1 and min(counts(splits, holds, "b")) >= 1
    for split in splits:
        assert sorted(split["train"] + split["val"]) == cases(n)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=10, max_size=30), st.integers(5, 10), st.integers(0, 1000))
def test_groups_stay_whole_and_a_class_of_five_reaches_every_fold(sizes: list[int], having: int, seed: int) -> None:
    groups = {f"g{g:02d}_{i}": f"patient{g}" for g, size in enumerate(sizes) for i in range(size)}
    chosen = {f"patient{g}" for g in np.random.default_rng(seed).permutation(len(sizes))[:having]}
    holds = {c: ["rare"] if g in chosen and c.endswith("_0") else [] for c, g in groups.items()}
    splits = make_splits(list(groups), groups, holds)
    assert not [g for split in splits for g in split_groups(split, groups)]
    assert Counter(c for s in splits for c in s["val"]) == Counter(list(groups))
    assert min(counts(splits, holds, "rare")) >= 1


def test_groups_that_are_spread_well_are_dealt_as_before() -> None:
    groups = {f"{g:02d}_{i}": f"{g:02d}" for g in range(20) for i in range(2)}
    assert make_splits(list(groups), groups, {c: ["a"] for c in groups}) == make_splits(list(groups), groups)


def test_many_rare_classes() -> None:
    """Eight classes with 5 to 12 of 60 cases each: plain folds lack several, stratified ones hardly any, at equal sizes."""
    rng = np.random.default_rng(3)
    having = {f"class{k}": set(rng.permutation(60)[: 5 + k]) for k in range(8)}
    holds = {c: [name for name, who in having.items() if i in who] for i, c in enumerate(cases(60))}
    plain, splits = make_splits(cases(60)), make_splits(cases(60), None, holds)
    missing = [sum(counts(s, holds, name).count(0) for name in having) for s in (plain, splits)]
    assert missing[0] >= 5 and missing[1] == 0
    assert {len(s["val"]) for s in splits} <= {11, 12, 13}


def test_the_same_for_any_order_of_cases() -> None:
    holds = {c: ["rare"] if i < 6 else [] for i, c in enumerate(cases(40))}
    assert make_splits(cases(40)[::-1], None, dict(reversed(holds.items()))) == make_splits(cases(40), None, holds)


def test_doubtful_splits_are_told() -> None:
    groups = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c"}
    good = {"train": ["a1", "a2", "c1"], "val": ["b1", "b2"]}
    assert doubts({0: good}, groups) == []
    found = doubts({0: good, 3: {"train": ["a1", "b1", "c1"], "val": ["a2", "b2", "c1"]}}, groups)
    assert found == [
        "fold 3: 1 case(s) are trained and validated on (first: c1): their Dice says nothing of other cases.",
        "fold 3: group a, b has cases in both train and val: its validation Dice is better than that of new patients.",
    ]


def test_cases_on_both_sides_split_no_group() -> None:
    same = {"train": ["a1", "a2"], "val": ["a1", "a2"]}
    assert shared_cases(same) == ["a1", "a2"] and split_groups(same, {"a1": "a", "a2": "a"}) == []
