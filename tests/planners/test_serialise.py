"""Dataclasses to JSON and back, strictly."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldseg_auto.errors import PlansError
from ldseg_auto.planners.serialise import RuleBroken, from_dict, require, to_dict


@dataclass(frozen=True)
class Part:
    """One of many."""

    size: int
    share: float = 0.5

    def __post_init__(self) -> None:
        require(self.size > 0, "size", self.size, "above 0")


@dataclass(frozen=True)
class Whole:
    """Every kind of field there is."""

    name: str
    flag: bool
    pair: tuple[int, int]
    rows: tuple[tuple[float, ...], ...]
    parts: tuple[Part, ...]
    table: dict[str, Part]
    maybe: int | None = None
    notes: dict[str, str] = field(default_factory=dict)


CONTENT: dict[str, Any] = {
    "name": "x", "flag": True, "pair": [1, 2], "rows": [[1, 2.5], []], "parts": [{"size": 3}], "table": {"a": {"size": 1, "share": 1}},
}  # fmt: skip


def test_reading() -> None:
    whole = from_dict(Whole, CONTENT, "file")
    assert whole == Whole("x", True, (1, 2), ((1.0, 2.5), ()), (Part(3),), {"a": Part(1, 1.0)})
    assert type(whole.rows[0][0]) is float
    assert from_dict(Whole, {**CONTENT, "maybe": 4}, "file").maybe == 4


@given(
    name=st.text(), pair=st.tuples(st.integers(), st.integers()), maybe=st.none() | st.integers(),
    rows=st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple)).map(tuple),
    table=st.dictionaries(st.text(), st.builds(Part, st.integers(1), st.floats(0, 1))),
)  # fmt: skip
def test_round_trip_through_json(name: str, pair: tuple[int, int], maybe: int | None, rows: tuple, table: dict[str, Part]) -> None:
    whole = Whole(name, False, pair, rows, tuple(table.values()), table, maybe, {"a": name})
    assert from_dict(Whole, json.loads(json.dumps(to_dict(whole))), "file") == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": "y"}, r"file: unknown key 'nmae'. Known here: name, flag, pair"),
        ({"parts": [{"size": 1}, {"size": 1, "sise": 2}]}, r"file: unknown key 'parts\[1\].sise'"),
        ({"table": {"a": {"share": 0.1}}}, r"file: key 'table.a.size' is missing"),
        ({"table": {"a": {"size": 0}}}, r"file: table.a.size = 0 is not possible: expected above 0"),
        ({"parts": [{"size": -1}]}, r"file: parts\[0\].size = -1 is not possible"),
        ({"table": {"a": 1}}, r"file: table.a = 1 should be an object"),
        ({"table": [1]}, r"file: table = \[1\] should be an object"),
        ({"name": 1}, r"file: name = 1 should be of type str"),
        ({"name": None}, r"file: name = None should be of type str"),
        ({"flag": 1}, r"file: flag = 1 should be of type bool"),
        ({"pair": [1, True]}, r"file: pair\[1\] = True should be of type int"),
        ({"pair": [1, 2.0]}, r"file: pair\[1\] = 2.0 should be of type int"),
        ({"pair": [1, 2, 3]}, r"file: pair = \[1, 2, 3\] should have 2 entries"),
        ({"pair": "12"}, r"file: pair = '12' should be a list"),
        ({"rows": [["a"]]}, r"file: rows\[0\]\[0\] = 'a' should be of type float"),
        ({"rows": [[float("nan")]]}, r"file: rows\[0\]\[0\] = nan should be a finite number"),
        ({"rows": [[float("-inf")]]}, r"file: rows\[0\]\[0\] = -inf should be a finite number"),
        ({"maybe": "1"}, r"file: maybe = '1' should be of type int"),
        ({"notes": {"a": 1}}, r"file: notes.a = 1 should be of type str"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlansError, match=message):
        from_dict(Whole, {**CONTENT, **change}, "file")


@pytest.mark.parametrize("content", [[], 3, None, "x"])
def test_not_an_object(content: Any) -> None:
    with pytest.raises(PlansError, match=r"file: the whole = .* should be an object"):
        from_dict(Whole, content, "file")


def test_missing_key() -> None:
    with pytest.raises(PlansError, match="file: key 'flag' is missing"):
        from_dict(Whole, {k: v for k, v in CONTENT.items() if k != "flag"}, "file")


def test_require() -> None:
    require(True, "a", 1, "anything")
    with pytest.raises(RuleBroken, match="a = 1 is not possible: expected 2"):
        require(False, "a", 1, "2")
