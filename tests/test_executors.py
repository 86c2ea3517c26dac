"""A process pool, this process, and a real Dask cluster on loopback: the same outcomes, and errors that say what to do."""

from __future__ import annotations

import math
import operator
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

import ldseg_auto
from ldseg_auto import executors
from ldseg_auto.errors import InputError, LdsegError
from ldseg_auto.executors import check_executor, cluster_size, open_executor
from ldseg_auto.parallel import InProcess, run_all


class Killer:
    """A progress that does something after the second item."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def __call__(self, items: Iterator, description: str, total: int | None = None) -> Iterator:
        for number, item in enumerate(items):
            yield item
            if number == 1:
                self.act()


@pytest.mark.parametrize("text", ["local", "in-process", "dask://node7:8786", "dask://10.0.0.3:1", "dask://[::1]:8786"])
def test_names_of_executors(text):
    assert check_executor(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "dask", "dask://", "dask://node7", "dask://:8786", "dask://a:0", "dask://a:65536", "dask://a:b", "tcp://a:1", "dask://a:1/x"],
)
def test_other_names_are_refused(text):
    match = "expected local, in-process or dask://HOST:PORT, for instance dask://node7:8786"
    with pytest.raises(InputError, match=match):
        check_executor(text)
    with pytest.raises(InputError, match=match), open_executor(text):
        pass


@pytest.mark.parametrize(("where", "workers"), [("in-process", 4), ("local", 1)])
def test_this_process(where, workers):
    with open_executor(where, workers) as pool:
        assert isinstance(pool, InProcess) and run_all(pool, lambda _: os.getpid(), [0], "here")[0].value == os.getpid()


def test_outcomes_do_not_depend_on_the_executor(dask_cluster, tmp_path):
    """Order, values and errors, for items that take the longer the earlier they come."""
    address, _, workers = dask_cluster(2)
    work, items = partial(operator.truediv, 12.0), [1.0, 0.0, -3.0, 5.0, 0.0, 8.0]
    found = []
    for where, number in (("in-process", 1), ("local", 1), ("local", 3), (address, 1)):
        with open_executor(where, number, reads=(tmp_path,), shared=tmp_path / "shared") as pool:
            outcomes = run_all(pool, work, items, "dividing")
            found.append([(o.item, o.value, type(o.error), str(o.error)) for o in outcomes])
            assert run_all(pool, math.sqrt, [], "nothing") == []
    expected = [(x, 12 / x, type(None), "None") if x else (x, None, ZeroDivisionError, "float division by zero") for x in items]
    assert [[(x, v, t) for x, v, t, _ in f] for f in found] == [[(x, v, t) for x, v, t, _ in expected]] * 4
    assert found[0] == found[1] == found[2] == found[3]
    assert list((tmp_path / "shared").iterdir()) == []  # the file that workers looked for is gone
    assert cluster_size(address) == len(workers)


def test_a_killed_worker_s_work_is_done_by_the_other(dask_cluster):
    cluster = dask_cluster(2)

    def worker(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    with open_executor(cluster.address) as pool:
        assert {o.value for o in run_all(pool, worker, [0.3] * 4, "working")} == {w.pid for w in cluster.workers}
        outcomes = run_all(pool, worker, [0.2] * 8, "working", Killer(cluster.workers[0].kill))
    assert [o.error for o in outcomes] == [None] * 8
    assert [o.value for o in outcomes].count(cluster.workers[1].pid) >= 5


def test_work_that_kills_every_worker_is_an_error(dask_cluster):
    cluster = dask_cluster(5)

    def die(_: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(LdsegError, match="one Dask worker after the other died at the same work"), open_executor(cluster.address) as pool:
        run_all(pool, die, [0], "dying")


def test_a_scheduler_that_dies_is_an_error_and_no_failure_of_the_items(dask_cluster):
    cluster = dask_cluster(1)
    begin = time.monotonic()
    match = "connection to the Dask scheduler was lost. Finished files are kept"
    with pytest.raises(LdsegError, match=match), open_executor(cluster.address) as pool:
        run_all(pool, time.sleep, [0.1, 0.1, 20, 20], "sleeping", Killer(cluster.scheduler.kill))
    assert time.monotonic() - begin < 20


def test_an_error_outside_cancels_what_has_not_begun(dask_cluster, tmp_path):
    cluster = dask_cluster(1)

    def touch(number: int) -> None:
        time.sleep(0.05)
        (tmp_path / f"item{number}").touch()

    with pytest.raises(RuntimeError, match="outside"), open_executor(cluster.address) as pool:
        for number in range(40):
            pool.submit(touch, number)
        raise RuntimeError("outside")
    time.sleep(1)
    there = len(list(tmp_path.glob("item*")))
    time.sleep(0.5)
    assert len(list(tmp_path.glob("item*"))) == there < 40


def refused(where: str, match: str, **more: object) -> None:
    """Opening fails with this message within ten seconds."""
    begin = time.monotonic()
    with pytest.raises(InputError, match=match), open_executor(where, **more):
        pass
    assert time.monotonic() - begin < 10


def test_what_a_cluster_must_have(dask_cluster, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        refused(f"dask://127.0.0.1:{port}", f"no Dask scheduler answers at dask://127.0.0.1:{port} .*Start one with 'dask scheduler'")
        free.listen()
        with monkeypatch.context() as patch:
            patch.setattr(executors, "REACH", 1.0)
            refused(f"dask://127.0.0.1:{port}", f"no Dask scheduler answers at dask://127.0.0.1:{port} within 1 s")
    refused("dask://no-such-host.invalid:8786", "no Dask scheduler answers at dask://no-such-host.invalid:8786")
    empty = dask_cluster(0).address
    monkeypatch.setattr(executors, "JOIN", 0.5)
    refused(empty, f"the scheduler at {empty} has no workers. Start some: dask worker tcp://127.0.0.1:.* --nthreads 1")
    threads = dask_cluster(1, threads=2).address
    refused(threads, "has 2 threads; expected one, .*Start: dask worker tcp://")


def test_workers_must_see_the_folders_and_have_this_version(dask_cluster, tmp_path, monkeypatch):
    address = dask_cluster(1).address
    refused(address, f"does not see {tmp_path / 'absent'} as it is here: workers need a file system shared", reads=(tmp_path / "absent",))
    monkeypatch.setattr(executors, "_look", lambda paths: ("0.0.1", []))
    refused(address, f"has ldseg_auto 0.0.1, this machine {ldseg_auto.__version__}. Install the same version")
    monkeypatch.setattr(executors, "_look", lambda paths: (ldseg_auto.__version__, paths[-1:]))  # another file system
    refused(address, f"does not see {tmp_path / 'shared'} as it is here", shared=tmp_path / "shared")
    monkeypatch.setattr(executors, "_look", lambda paths: 1 / 0)
    refused(address, f"cannot import ldseg_auto {ldseg_auto.__version__}: division by zero. Install it there")


def test_without_distributed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused("dask://127.0.0.1:8786", r"--executor dask://127.0.0.1:8786 needs Dask: pip install 'ldseg-auto\[dask\]'")
