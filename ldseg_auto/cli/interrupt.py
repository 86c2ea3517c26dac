"""Ctrl-C and SIGTERM: the work is asked to stop, and the process ends within seconds whatever it does."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GRACE = 4.0  # seconds from the signal to the end


class Stop:
    """What a signal does: `event` is set; a second signal, or `grace` seconds, end the process after `tidy`.

    Args:
        grace: seconds that the work has to stop by itself.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self.event, self.code, self.grace = threading.Event(), 0, grace
        self.tidy: Callable[[], None] = lambda: None  # removes what the work leaves half done
        self._timer: threading.Timer | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        del frame
        if self.event.is_set():
            self.end()
        self.code = 128 + number
        self.event.set()
        self._timer = threading.Timer(self.grace, self.end)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Ends the process at once."""
        with contextlib.suppress(Exception):
            self.tidy()
        os._exit(self.code)

    def finished(self) -> None:
        """The work has ended by itself."""
        if self._timer is not None:
            self._timer.cancel()


@contextlib.contextmanager
def stopping(grace: float = GRACE) -> Iterator[Stop]:
    """Listens to Ctrl-C and SIGTERM meanwhile; `Stop.code` is the exit code then, 130 or 143, else 0."""
    stop = Stop(grace)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        stop.finished()
        for number, handler in before.items():
            signal.signal(number, handler)
