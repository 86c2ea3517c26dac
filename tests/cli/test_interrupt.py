"""Ctrl-C and SIGTERM: work that listens ends by itself, work that does not is ended; both with the signal's exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from ldseg_auto.cli.interrupt import stopping

SCRIPT = """
import sys, time
from ldseg_auto.cli.interrupt import stopping
with stopping() as stop:
    stop.grace = float(sys.argv[1])
    stop.tidy = lambda: print("tidied", flush=True)
    print("ready", flush=True)
    if sys.argv[2] == "listens":
        stop.event.wait(30)
    else:
        time.sleep(30)
sys.exit(stop.code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("grace", "way", "signals", "said"), [(20, "listens", 1, ""), (0.2, "deaf", 1, "tidied"), (20, "deaf", 2, "tidied")]
)
def test_exit_codes(number: signal.Signals, code: int, grace: float, way: str, signals: int, said: str) -> None:
    """Deaf work is ended after the time of grace, or at once by a second signal."""
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(grace), way], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        begin = time.monotonic()
        for _ in range(signals):
            child.send_signal(number)
            time.sleep(0.3)
        assert child.wait(15) == code
        assert time.monotonic() - begin < 10
        assert child.stdout.read().strip() == said


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with stopping() as stop:
        assert signal.getsignal(signal.SIGTERM) == stop.handle
        assert (stop.code, stop.event.is_set()) == (0, False)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
