"""How a training is asked to stop: it looks between iterations, between patches and between cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ldseg_auto.errors import Stopped
from ldseg_auto.progress import Progress, T

Stop = Callable[[], bool]


def never() -> bool:
    """Nobody asks."""
    return False


def check(stop: Stop) -> None:
    """Raises Stopped where `stop` says so."""
    if stop():
        raise Stopped("stopped as asked for; go on with --continue.")


class Interruptible(Sequence):
    """`items`, each of which raises Stopped instead where `stop` says so."""

    def __init__(self, items: Sequence[Any], stop: Stop) -> None:
        self.items, self.stop = items, stop

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        check(self.stop)
        return self.items[index]


def interruptible(progress: Progress, stop: Stop) -> Progress:
    """`progress` that raises Stopped before an item where `stop` says so."""

    def watched(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        for item in progress(items, description, total):
            check(stop)
            yield item

    return watched
