"""Work on many cases: order, failures, and workers that die."""

from __future__ import annotations

import math
import os
import time

import pytest

from ldseg_auto.errors import InputError, LdsegError
from ldseg_auto.parallel import THREAD_VARIABLES, InProcess, executor, run_all


class Recorder:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def __call__(self, items, description, total=None):
        self.seen += [description, total]
        for item in items:
            self.seen.append("item")
            yield item


def slow_first(x: int) -> int:
    time.sleep(0.3 if x == 0 else 0)
    return x * x


@pytest.mark.parametrize("workers", [1, 2])
def test_outcomes_come_in_the_order_of_the_items_and_a_failure_is_of_its_item_only(workers):
    progress = Recorder()
    with executor(workers) as pool:
        good = run_all(pool, slow_first, [0, 1, 2, 3], "squaring", progress)
        mixed = run_all(pool, math.sqrt, [4.0, -1.0, 9.0], "roots")
    assert [(o.item, o.value, o.error) for o in good] == [(0, 0, None), (1, 1, None), (2, 4, None), (3, 9, None)]
    assert progress.seen == ["squaring", 4] + 4 * ["item"]
    assert [o.value for o in mixed] == [2.0, None, 3.0]
    assert isinstance(mixed[1].error, ValueError) and mixed[0].error is mixed[2].error is None


def test_one_worker_is_this_process():
    with executor(1) as pool:
        assert isinstance(pool, InProcess)
        assert run_all(pool, lambda x: os.getpid(), [0], "here")[0].value == os.getpid()


def test_no_items():
    with executor(1) as pool:
        assert run_all(pool, slow_first, [], "nothing") == []


def test_workers_use_one_thread_each_and_this_process_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with executor(2) as pool:
        found = run_all(pool, os.getenv, THREAD_VARIABLES, "threads")
    assert {o.value for o in found} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_worker_that_dies_is_an_error_that_says_what_to_do():
    match = "a worker process died while counting; most often memory ran out. Try fewer workers: -np 1"
    with pytest.raises(LdsegError, match=match), executor(2) as pool:
        run_all(pool, os._exit, [3, 3], "counting")


def test_an_interruption_in_process_stops_at_once():
    done = []

    def work(x: int) -> None:
        done.append(x)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), executor(1) as pool:
        run_all(pool, work, [1, 2, 3], "working")
    assert done == [1]


def test_an_error_outside_cancels_what_has_not_begun(tmp_path):
    with pytest.raises(RuntimeError, match="outside"), executor(2) as pool:
        for i in range(200):
            pool.submit(_touch_slowly, str(tmp_path / str(i)))
        raise RuntimeError("outside")
    assert len(list(tmp_path.iterdir())) < 50


def _touch_slowly(path: str) -> None:
    time.sleep(0.02)
    with open(path, "w"):
        pass


@pytest.mark.parametrize("workers", [0, -3])
def test_number_of_workers(workers):
    with pytest.raises(InputError, match=f"-np {workers}: expected 1 worker or more"), executor(workers):
        pass
