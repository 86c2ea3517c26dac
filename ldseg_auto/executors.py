"""Where work on many cases runs: a process pool, this process, or a Dask cluster, all as `concurrent.futures.Executor` (design.md 7)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ldseg_auto
from ldseg_auto.errors import InputError
from ldseg_auto.parallel import ClusterError, InProcess, executor

if TYPE_CHECKING:
    from distributed import Client

LOCAL, IN_PROCESS, SCHEME = "local", "in-process", "dask://"
FORMS = f"{LOCAL}, {IN_PROCESS} or {SCHEME}HOST:PORT"
REACH = 8.0  # seconds to wait for a scheduler,
JOIN = 8.0  # and then for its first worker
WORKER = "dask worker {address} --nworkers N --nthreads 1"


def check_executor(text: str) -> str:
    """Returns `text` where it names an executor: local, in-process or dask://HOST:PORT.

    Raises:
        InputError: it does not.
    """
    if text in (LOCAL, IN_PROCESS):
        return text
    match = re.fullmatch(rf"{SCHEME}([^\s/:\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{{1,5}})", text)
    if not match or not 0 < int(match[2]) < 65536:
        raise InputError(f"executor '{text}': expected {FORMS}, for instance {SCHEME}node7:8786.")
    return text


def is_remote(where: str) -> bool:
    """Whether an executor's workers may be other machines, to which relative paths mean nothing."""
    return where.startswith(SCHEME)


@contextmanager
def open_executor(where: str = LOCAL, workers: int = 2, reads: Sequence[Path] = (), shared: Path | None = None) -> Iterator[Executor]:
    """The executor that `where` names; closed at the end, and what has not begun is then cancelled.

    On a cluster a call whose worker dies is made again by another one, up to three times; so calls must be idempotent. A call that
    raises is not made again: the same file fails the same way.

    Args:
        where: local (a process pool), in-process, or dask://HOST:PORT of a Dask scheduler.
        workers: processes of `local`; 1 works in this process. The others know their own number.
        reads: folders that every worker of a cluster must see.
        shared: a folder of which every worker of a cluster must see the same content; made where it is not there.

    Raises:
        InputError: another form of `where`, distributed is not installed, no scheduler or no worker answers, or a worker has several
            threads, another version of this package, or does not see the folders.
    """
    check_executor(where)
    if where == LOCAL:
        with executor(workers) as pool:
            yield pool
    elif where == IN_PROCESS:
        yield InProcess()
    else:
        with _connected(where) as client:
            _check_workers(client, where, reads, shared)
            with _cancelling(_DaskPool(client)) as pool:
                yield pool


@contextmanager
def _cancelling(pool: Executor) -> Iterator[Executor]:
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def cluster_size(where: str) -> int:
    """Workers that a cluster has now.

    Raises:
        InputError: see open_executor.
    """
    with _connected(where) as client:
        return len(client.nthreads())


@contextmanager
def _connected(where: str) -> Iterator[Client]:
    """A client of the scheduler, which has at least one worker."""
    try:
        from distributed import Client
    except ImportError:
        raise InputError(f"--executor {where} needs Dask: pip install 'ldseg-auto[dask]', here and on the workers.") from None
    address = "tcp://" + where.removeprefix(SCHEME)
    _knock(where)
    try:
        client = Client(address, timeout=REACH, set_as_default=False)
    except (OSError, asyncio.TimeoutError, ValueError) as cause:
        raise InputError(f"what listens at {where} is no Dask scheduler of a version that fits ({str(cause)[:200]}).") from None
    try:
        _await_worker(client, where, address)
        yield client
    finally:
        with contextlib.suppress(Exception):  # a scheduler that has gone is an error of its own
            client.close(timeout=REACH)


def _await_worker(client: Client, where: str, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=JOIN)
    except asyncio.TimeoutError:
        raise InputError(f"the scheduler at {where} has no workers. Start some: {WORKER.format(address=address)}") from None


def _knock(where: str) -> None:
    """Raises InputError where no Dask scheduler listens: it greets whoever connects, and Client waits forever for one that does not."""
    host, _, port = where.removeprefix(SCHEME).rpartition(":")
    advice = "Start one with 'dask scheduler', or correct host and port."
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH) as connection:
            greeting = connection.recv(1)
    except TimeoutError:
        raise InputError(f"no Dask scheduler answers at {where} within {REACH:g} s. {advice}") from None
    except OSError as cause:
        raise InputError(f"no Dask scheduler answers at {where} ({cause}). {advice}") from None
    if not greeting:
        raise InputError(f"what listens at {where} is no Dask scheduler. {advice}")


def _check_workers(client: Client, where: str, reads: Sequence[Path], shared: Path | None) -> None:
    """Raises InputError where a worker could not do the work, or would do it differently."""
    several = {name: threads for name, threads in client.nthreads().items() if threads != 1}
    if several:
        name, threads = min(several.items())
        start = WORKER.format(address="tcp://" + where.removeprefix(SCHEME))
        raise InputError(f"worker {name} of {where} has {threads} threads; expected one, for jobs of one process each. Start: {start}")
    with _token(shared) as token:
        found = client.run(_look, [str(p) for p in (*reads, *token)], on_error="return")
    for name, seen in sorted(found.items()):
        if isinstance(seen, Exception):
            raise InputError(f"worker {name} cannot import ldseg_auto {ldseg_auto.__version__}: {seen}. Install it there.")
        version, missing = seen
        if version != ldseg_auto.__version__:
            raise InputError(f"worker {name} has ldseg_auto {version}, this machine {ldseg_auto.__version__}. Install the same version.")
        if missing:
            folder = shared if Path(missing[0]) in token else missing[0]
            rule = "workers need a file system shared with this machine, under the same paths"
            raise InputError(f"worker {name} does not see {folder} as it is here: {rule} (documentation/clusters.md).")


@contextmanager
def _token(folder: Path | None) -> Iterator[tuple[Path, ...]]:
    """A file in `folder` for as long as workers look for it."""
    if folder is None:
        yield ()
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".ldseg_shared_{uuid.uuid4().hex}"
    path.touch()
    try:
        yield (path,)
    finally:
        path.unlink(missing_ok=True)


def _look(paths: Sequence[str]) -> tuple[str, list[str]]:
    """On a worker: its version of this package, and which paths it does not see."""
    return ldseg_auto.__version__, [p for p in paths if not os.path.exists(p)]


class _DaskPool(Executor):
    """Dask's own executor, whose failures are told apart from those of the work."""

    def __init__(self, client: Client) -> None:
        self._inner = client.get_executor(pure=False)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """See concurrent.futures.Executor."""
        out: Future = Future()
        inner = self._inner.submit(fn, *args, **kwargs)
        inner.add_done_callback(lambda done: _hand_over(done, out))
        return out

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See concurrent.futures.Executor; with `cancel_futures` calls that run are cancelled too, as far as they look for that."""
        self._inner.shutdown(wait=wait and not cancel_futures)


def _hand_over(done: Future, out: Future) -> None:
    """The outcome of one future to another."""
    from distributed import KilledWorker

    try:
        error = done.exception()
    except CancelledError:
        error = ClusterError("the connection to the Dask scheduler was lost. Finished files are kept: run the command again.")
    if isinstance(error, KilledWorker):
        error = ClusterError(f"one Dask worker after the other died at the same work; most often memory ran out ({error}).")
    if error is None:
        out.set_result(done.result())
    else:
        out.set_exception(error)


def absolute(where: str, path: Path) -> Path:
    """`path` as the workers of `where` need it: absolute for other machines."""
    return path.absolute() if is_remote(where) else path
