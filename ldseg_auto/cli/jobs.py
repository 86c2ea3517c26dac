"""Commands as jobs: each a process of its own, several at once on this machine or one per worker of a Dask cluster.

`python -m ldseg_auto.cli.jobs MODULE ARGUMENTS` is what a job runs: that command, which ends when the process that started it has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import queue
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ldseg_auto.cli import common
from ldseg_auto.cli.interrupt import Stop
from ldseg_auto.errors import InputError
from ldseg_auto.executors import LOCAL, check_executor, is_remote, open_executor

logger = logging.getLogger(__name__)
GRACE = 12.0  # seconds that a command has to stop by itself,
STOP_GRACE = 20.0  # and all of them together
LOOK = 0.2  # seconds between two looks at a process
DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Job:
    """A command line of ldseg_auto, which may be run again after its worker has died."""

    name: str  # in messages
    module: str  # of ldseg_auto.cli
    first: tuple[str, ...]  # arguments where nothing has been done yet,
    again: tuple[str, ...]  # and where something has
    trace: Path  # what something done has left; the name may hold * and ?
    folder: Path  # working directory, where relative paths begin
    log: Path  # what the command writes on stdout and stderr is added to it

    @property
    def begun(self) -> bool:
        """Whether an earlier run has left its trace."""
        return any(self.trace.parent.glob(self.trace.name))


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: int  # negative for a signal
    cause: str  # of a failure, in its own words


def job_type(text: str) -> str:
    """An executor that runs commands, local or dask://HOST:PORT; an argparse type."""
    try:
        if check_executor(text) == LOCAL or is_remote(text):
            return text
    except InputError as cause:
        raise argparse.ArgumentTypeError(str(cause)) from None
    raise argparse.ArgumentTypeError(f"'{text}' runs no jobs; expected local or dask://HOST:PORT")


def add_flags(to: argparse._ActionsContainer, what: str) -> None:
    """Adds --executor and --jobs; `what` says what a job is."""
    where = f"run {what} as jobs: local, processes on this machine with a GPU each, or dask://HOST:PORT, the workers of a Dask scheduler"
    to.add_argument("--executor", type=job_type, metavar="WHERE", help=f"{where} (documentation/clusters.md)")
    number = "jobs at once with --executor local (default: as many as there are GPUs, without any 1)"
    to.add_argument("--jobs", type=common.positive_int, metavar="N", help=number)


def without_flags(argv: Sequence[str], *, switches: Sequence[str] = (), values: Sequence[str] = ()) -> list[str]:
    """A command line without the named flags, `values` being those that take one value."""
    out: list[str] = []
    skip = False
    for word in argv:
        if not skip and word not in (*switches, *values) and not word.startswith(tuple(f"{v}=" for v in values)):
            out.append(word)
        skip = not skip and word in values
    return out


def run_jobs(
    jobs: Sequence[Job], where: str, shared: Path, slots: Sequence[Mapping[str, str]], stop: Stop, done: Callable[[Job, Ended], None]
) -> None:  # fmt: skip
    """Runs all jobs; one failing stops no other.

    Args:
        where: local or dask://HOST:PORT.
        shared: folder for the results, which a cluster's workers must see as it is here.
        slots: of `local`, for each job that may run at once the variables that it is given (which GPU it sees).
        stop: once its event is set, what runs is asked to stop, and the rest is left.
        done: called for each job as it ends.

    Raises:
        InputError, ClusterError: see open_executor.
    """
    with _pool(where, shared, slots, stop) as (pool, function):
        pending = {pool.submit(function, job): job for job in jobs}
        while pending:
            finished, _ = wait(pending, LOOK, FIRST_COMPLETED)
            for future in finished:
                done(pending.pop(future), future.result())
            if stop.event.is_set() and is_remote(where):
                return  # the workers see that their work is cancelled


@contextlib.contextmanager
def _pool(
    where: str, shared: Path, slots: Sequence[Mapping[str, str]], stop: Stop
) -> Iterator[tuple[Executor, Callable[[Job], Ended]]]:  # fmt: skip
    """What runs jobs, and the function that it is to call."""
    if is_remote(where):
        with open_executor(where, reads=[Path.cwd()], shared=shared) as pool:
            yield pool, run_on_worker
        return
    free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)

    def run_here(job: Job) -> Ended:
        slot = free.get()
        try:
            return run_job(job, stop.event.is_set, slot)
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots), "ldseg-job") as threads:
        try:
            yield threads, run_here
        except BaseException:
            stop.event.set()
            raise


def gpus(device: str) -> int:
    """GPUs that this process may use."""
    import torch

    from ldseg_auto.inference.device import choose_device

    return torch.cuda.device_count() if choose_device(device).type == "cuda" else 0


def gpu_slots(gpus: int, jobs: int | None, each: int = 1) -> list[dict[str, str]]:
    """For each job that may run at once the variables that make it see GPUs of its own.

    Args:
        gpus: that this process sees; 0 on a CPU.
        jobs: at once; None takes as many as have GPUs of their own, on a CPU one. More than that share.
        each: GPUs per job.

    Raises:
        InputError: a job needs more GPUs than there are.
    """
    if not gpus:
        return [{} for _ in range(jobs or 1)]
    if each > gpus:
        raise InputError(f"--devices {each}: this machine shows {gpus} GPU(s), and each job needs so many.")
    visible = [name for name in os.environ.get(DEVICES, "").split(",") if name] or [str(i) for i in range(gpus)]
    groups = [",".join(visible[i : i + each]) for i in range(0, gpus - each + 1, each)]
    return [{DEVICES: groups[i % len(groups)]} for i in range(jobs or len(groups))]


def run_on_worker(job: Job) -> Ended:
    """On a worker of a Dask cluster: runs a job, and ends it when the client has gone or cancelled it."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    return run_job(job, cancelled, {})


def run_job(job: Job, cancelled: Callable[[], bool], variables: Mapping[str, str]) -> Ended:
    """Runs a job's command and waits for its end; where it is cancelled, it is asked to stop, and killed if it does not."""
    if cancelled():
        return Ended(-signal.SIGTERM, "stopped")
    arguments = job.again if job.begun else job.first
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "ab") as log:
        shown = f"ldseg_{job.module} {shlex.join(arguments)}"
        log.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} on {socket.gethostname()}: {shown}\n".encode())
        log.flush()
        begin = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "ldseg_auto.cli.jobs", job.module, *arguments], stdin=subprocess.PIPE, stdout=log, stderr=log,
            cwd=job.folder, env={**os.environ, **variables}, start_new_session=True,
        )  # fmt: skip
        code = _wait(process, cancelled)
    return Ended(code, "" if code == 0 else _cause(job.log, begin, code))


def _wait(process: subprocess.Popen[bytes], cancelled: Callable[[], bool]) -> int:
    asked = float("inf")
    with process:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(LOOK)
            now = time.monotonic()
            if cancelled() and asked > now:
                asked = now
                process.terminate()
            if now > asked + GRACE:
                process.kill()


def _cause(log: Path, begin: int, code: int) -> str:
    """Why a command ended with `code`: the last error that it wrote, or the signal."""
    with open(log, "rb") as stream:
        stream.seek(begin)
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines()]
    said = [line for line in lines if line.startswith(("error: ", "failed: ", "interrupted"))]
    if code == -signal.SIGKILL and not said:
        return f"it was killed (signal {-code}); if nobody did so, memory ran out"
    return said[-1] if said else f"it was ended by signal {-code}" if code < 0 else f"exit code {code}"


def _end_with_starter(descriptor: int) -> None:
    """Ends this process at once when the other end of a pipe is closed, however its owner ended."""
    while os.read(descriptor, 1):
        pass
    os._exit(common.FAILED)


def main() -> None:
    """Entry point of a job's process."""
    module, *argv = sys.argv[1:]
    threading.Thread(target=_end_with_starter, args=(os.dup(0),), daemon=True).start()
    command = importlib.import_module(f"ldseg_auto.cli.{module}")
    sys.exit(common.run(command.build(), command.work, argv))


if __name__ == "__main__":
    main()
