"""How a training is asked to stop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ldseg_auto.errors import Stopped
from ldseg_auto.progress import silent
from ldseg_auto.training.stop import Interruptible, check, interruptible, never


def after(number: int) -> Callable[[], bool]:
    """False so many times, then true."""
    left = iter(range(number))
    return lambda: next(left, None) is None


def test_nobody_asks() -> None:
    check(never)
    assert list(Interruptible("abc", never)) == list("abc") and len(Interruptible("abc", never)) == 3
    assert list(interruptible(silent, never)("abc", "letters")) == list("abc")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_items_before_the_stop_are_given(number: int) -> None:
    for items in (Interruptible("abc", after(number)), interruptible(silent, after(number))("abc", "letters", total=3)):
        seen = []
        with pytest.raises(Stopped, match="go on with --continue"):
            for item in items:
                seen.append(item)
        assert seen == list("abc")[:number]
