"""Independent work on many cases, through the `concurrent.futures.Executor` interface (design.md 7)."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ldseg_auto.errors import InputError, LdsegError
from ldseg_auto.progress import Progress, silent

logger = logging.getLogger(__name__)
In = TypeVar("In")
Out = TypeVar("Out")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "BLOSC_NTHREADS")


class ClusterError(LdsegError):
    """What runs the work failed, not the work on one item."""


class InProcess(Executor):
    """Runs each call at once, in this process: for debugging, and for one worker."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """See concurrent.futures.Executor."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as cause:
            future.set_exception(cause)
        return future


@dataclass(frozen=True)
class Outcome(Generic[In, Out]):
    """What became of one item: a value, or the error."""

    item: In
    value: Out | None
    error: Exception | None


@contextmanager
def executor(workers: int) -> Iterator[Executor]:
    """A process pool of `workers`, or this process for one; its workers use one thread each.

    Raises:
        InputError: fewer than one worker.
    """
    if workers < 1:
        raise InputError(f"-np {workers}: expected 1 worker or more.")
    if workers == 1:
        yield InProcess()
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))


def run_all(
    pool: Executor, function: Callable[[In], Out], items: Sequence[In], description: str, progress: Progress = silent
) -> list[Outcome[In, Out]]:
    """Applies `function` to every item; an exception ends its item only. Outcomes come in the order of `items`.

    Raises:
        LdsegError: a worker process died (killed, most often for want of memory), or a cluster is lost.
    """
    outcomes: list[Outcome[In, Out] | None] = [None] * len(items)
    for i, future in progress(_completed(pool, function, items), description, total=len(items)):
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            raise LdsegError(f"a worker process died while {description}; most often memory ran out. Try fewer workers: -np 1.") from error
        if error is not None and (isinstance(error, ClusterError) or not isinstance(error, Exception)):
            raise error
        outcomes[i] = Outcome(items[i], None if error else future.result(), error)
    return [o for o in outcomes if o is not None]


def _completed(pool: Executor, function: Callable[[In], Out], items: Sequence[In]) -> Iterator[tuple[int, Future]]:
    """Numbers and finished futures as they finish."""
    if isinstance(pool, InProcess):
        yield from ((i, pool.submit(function, item)) for i, item in enumerate(items))
        return
    numbers = {pool.submit(function, item): i for i, item in enumerate(items)}
    for future in as_completed(numbers):
        yield numbers[future], future
