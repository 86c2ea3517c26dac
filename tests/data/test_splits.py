"""Folds: scikit-learn's without groups, never a split group with them."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldseg_auto.data.splits import case_groups, fold_cases, make_splits
from ldseg_auto.errors import DatasetError, InputError

SPLITS = [{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]


def test_known_folds():
    """Written down from sklearn.model_selection.KFold(5, shuffle=True, random_state=12345) on ten cases."""
    splits = make_splits([f"c{i}" for i in range(10)])
    assert [s["val"] for s in splits] == [["c0", "c7"], ["c3", "c9"], ["c4", "c6"], ["c1", "c8"], ["c2", "c5"]]
    assert splits[0]["train"] == ["c1", "c2", "c3", "c4", "c5", "c6", "c8", "c9"]


@pytest.mark.parametrize("n", [5, 6, 7, 11, 200, 263])
def test_folds_are_those_of_scikit_learn(n):
    model_selection = pytest.importorskip("sklearn.model_selection", reason="scikit-learn is not installed")
    cases = sorted(f"case{i}" for i in range(n))
    expected = model_selection.KFold(n_splits=5, shuffle=True, random_state=12345).split(cases)
    wanted = [{"train": [cases[i] for i in train], "val": [cases[i] for i in val]} for train, val in expected]
    assert make_splits(cases[::-1]) == wanted


@pytest.mark.parametrize("n", [2, 3, 4])
def test_fewer_cases_give_fewer_folds(n):
    splits = make_splits([f"c{i}" for i in range(n)])
    assert len(splits) == n
    assert sorted(c for s in splits for c in s["val"]) == [f"c{i}" for i in range(n)]


@pytest.mark.parametrize(("cases", "groups"), [(["a"], None), (["a", "b"], {"a": "p", "b": "p"})])
def test_one_group_trains_and_validates_on_the_same(cases, groups, caplog):
    assert make_splits(cases, groups) == [{"train": cases, "val": cases}]
    assert "training and validation both" in caplog.text


def test_no_cases_is_an_error():
    with pytest.raises(DatasetError, match="no cases"):
        make_splits([])


@settings(max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=40))
def test_groups_stay_whole_and_folds_balanced(sizes):
    groups = {f"{g:02d}_{i}": f"patient{g}" for g, size in enumerate(sizes) for i in range(size)}
    splits = make_splits(list(groups), groups)
    assert len(splits) == min(5, len(sizes))
    for split in splits:
        assert not {groups[c] for c in split["train"]} & {groups[c] for c in split["val"]}
        assert sorted(split["train"] + split["val"]) == sorted(groups)
    assert Counter(c for s in splits for c in s["val"]) == Counter(list(groups))
    counts = [len(s["val"]) for s in splits]
    assert max(counts) - min(counts) <= max(sizes)  # the last group put into the fullest fold was put there when it was the emptiest


def test_groups_of_one_case_are_shuffled():
    cases = [f"c{i:02d}" for i in range(20)]
    splits = make_splits(cases, {c: c for c in cases})
    assert splits[0]["val"] != cases[0::5]


@pytest.mark.parametrize(("pattern", "group"), [(r"^(\d+)_", "012"), (r"^\d+", "012"), (r"_\d(HC)$", "HC"), (r"(?:_)\dHC", "_2HC")])
def test_group_by_regular_expression(pattern, group):
    assert case_groups(["012_2HC"], pattern) == {"012_2HC": group}


@pytest.mark.parametrize(("groups", "message"), [
    ({"a": "p"}, "names no group for 1 cases \\(first: b\\)"),
    ("a", "'a' does not match 1 cases \\(first: b\\)"),
    ("a|(x)?b", "does not match 2 cases \\(first: a\\)"),
])  # fmt: skip
def test_a_case_without_group_is_an_error(groups, message):
    with pytest.raises(DatasetError, match=message):
        make_splits(["a", "b"], groups)


@pytest.mark.parametrize("fold", [1, "1"])
def test_fold_by_number_or_text(fold):
    assert fold_cases(SPLITS, fold) == {"train": ["a"], "val": ["b"]}


def test_all_is_everything_in_both():
    assert fold_cases(SPLITS, "all") == {"train": ["a", "b"], "val": ["a", "b"]}


@pytest.mark.parametrize("fold", [2, -1, "2", "x", "", "1.0", 1.0, True, None, "ALL"])
def test_fold_out_of_range(fold):
    with pytest.raises(InputError, match="does not exist; allowed: 0, 1, all"):
        fold_cases(SPLITS, fold)


@pytest.mark.parametrize("content", [
    {}, [], None, "text", [1], [{"train": ["a"]}], [{"train": ["a"], "val": "b"}], [{"train": ["a"], "val": []}],
    [{"train": [1], "val": ["b"]}],
])  # fmt: skip
def test_malformed_splits(content):
    with pytest.raises(InputError, match="splits_final.json.*expected a list of"):
        fold_cases(content, 0)


def test_splits_survive_json():
    splits = make_splits([f"c{i}" for i in range(7)])
    assert fold_cases(json.loads(json.dumps(splits)), 0) == splits[0]
