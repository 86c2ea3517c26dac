"""One process at a time trains in a fold's folder."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from ldseg_auto.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
NAME = "lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # by the file system
_held: set[int] = set()  # file descriptors of this process


@contextlib.contextmanager
def fold_lock(folder: Path) -> Iterator[None]:
    """Holds `folder`/lock, which names this process; makes the folder, and takes it away again where it stays empty.

    The system gives the lock up when the process ends, however it ends (flock(2)): a dead process never blocks. Where the file system
    has no locks (some network file systems), a warning is logged and nothing is held.

    Raises:
        InputError: another process holds it; the message names its id and host.
        OSError: the folder cannot be written.
    """
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    held = _acquire(path)
    _held.add(held)
    try:
        yield
    finally:
        _held.discard(held)
        path.unlink(missing_ok=True)
        os.close(held)
        with contextlib.suppress(OSError):
            for empty in made:
                empty.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Removes the half-written files that a killed process left in `folder` and below; its lock must be held."""
    for path in folder.rglob(".tmp_*"):
        path.unlink(missing_ok=True)


def _acquire(path: Path) -> int:
    """A descriptor of the locked file at `path`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)  # its last holder has removed it meanwhile
    text = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
    return descriptor


def _lock(descriptor: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
        raise InputError(f"{path.parent} is in use by {holder}. Wait until it has ended, or stop it.") from None
    except OSError as cause:
        if cause.errno not in UNSUPPORTED:
            raise
        logger.warning("%s: the file system has no locks (%s); let no other process train this fold meanwhile.", path, cause.strerror)


def _forget() -> None:
    """In a forked child (a worker that makes batches): without this it would hold the lock after its parent's death."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
