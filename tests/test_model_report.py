"""Which cases are predicted anew."""

from __future__ import annotations

import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.model_report import Look, choose
from ldseg_auto.report.model_files import Score


def scores(count: int) -> list[Score]:
    return [Score(f"case{i}", "0", {"a": i / 100}, None) for i in range(count)]


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 12, 90])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 12, 100])
def test_the_worst_three_the_best_and_others_evenly(total: int, count: int) -> None:
    found = [int(s.case.removeprefix("case")) for s in choose(scores(total), count)]
    assert len(found) == len(set(found)) == min(total, count)
    assert found[: min(3, total, count)] == list(range(min(3, total, count)))
    if total > 3 and count > 3:
        assert found[3] == total - 1
    rest = found[4:]
    assert rest == sorted(rest)
    if total == 90 and count == 12:
        assert max(b - a for a, b in zip(rest, rest[1:], strict=False)) - min(b - a for a, b in zip(rest, rest[1:], strict=False)) <= 1


def test_impossible_number() -> None:
    with pytest.raises(InputError, match="--cases -1"):
        Look(-1)
