"""Several processes that train one model: started here, or by torchrun or SLURM, which say so in the environment.

A process started here finds LOCAL_RANK, NODE_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which Lightning Fabric reads. The process
that starts them only watches: whichever of them ends, and however, the others end within seconds, and the cause is named once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ldseg_auto.cli import common
from ldseg_auto.errors import InputError, LostRank

PARENT, MESSAGES = "ldseg_parent", "ldseg_messages"  # of a process started here: its starter's id, and the folder for its last words
GRACE = 5.0  # seconds for the others after one has failed,
STOP_GRACE = 20.0  # and for all after a signal; a rank ends its work in less
LOOK = 0.1  # seconds between two looks at the processes


def devices_of(args: argparse.Namespace) -> tuple[int, int]:
    """Devices per node, and nodes: the flags', else what torchrun says, else 1.

    Raises:
        InputError: torchrun has started other numbers of processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return args.devices or 1, args.num_nodes or 1
    local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    found = local, world // local
    if (args.devices or local, args.num_nodes or found[1]) != found:
        what = f"--devices {args.devices or local} --num-nodes {args.num_nodes or found[1]}"
        raise InputError(f"{what}: torchrun has started {local} processes on each of {found[1]} nodes. Leave the two flags out.")
    return found


def rank() -> int:
    """This process's number over all nodes; 0 where it is alone."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def to_start(devices: int, nodes: int) -> bool:
    """Whether the processes of this node are yet to be started: nobody has done so."""
    slurm = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    return devices * nodes > 1 and "LOCAL_RANK" not in os.environ and not slurm


@contextlib.contextmanager
def member(args: argparse.Namespace, several: bool) -> Iterator[bool]:
    """Around the work of a process that may be one of several; gives whether it is the first, which alone speaks.

    One of several that fails ends at once: a connection to a process that is gone can keep it from ending. Its error goes to the
    process that started it, which names each cause once; under torchrun or SLURM to stderr. It ends when its starter has ended.
    """
    if not several:
        yield True
        return
    number, folder = rank(), os.environ.get(MESSAGES)
    _calm_fabric()
    if number:
        _hush(args)
    if folder is not None:
        threading.Thread(target=_end_with, args=(int(os.environ[PARENT]),), daemon=True).start()
    try:
        yield number == 0
    except Exception as cause:
        if args.debug:
            logging.getLogger("ldseg_auto").exception("traceback of rank %d, as asked for by --debug:", number)
        message, code = common.explain(cause)
        if folder is None:
            common.complain(f"rank {number}: {message}")
        else:
            words = {"message": message, "code": code, "lost": isinstance(cause, LostRank)}
            Path(folder, f"{number}.json").write_text(json.dumps(words), encoding="utf-8")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _calm_fabric() -> None:
    """Of Fabric, warnings are enough, but for those about what it calls."""
    import lightning_fabric  # sets its level when it is imported

    logging.getLogger(lightning_fabric.__name__).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="torch.distributed.nn.functional")


def _hush(args: argparse.Namespace) -> None:
    """Of the messages, the first process's are enough."""
    args.quiet = True
    logging.getLogger("ldseg_auto").setLevel(logging.ERROR)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(common.FAILED)


@dataclass
class Rank:
    """A process started here."""

    number: int  # over all nodes
    process: subprocess.Popen[bytes]
    ended: float | None = None  # when it was seen to have ended by itself

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self.process.returncode


def start(module: str, argv: Sequence[str], devices: int, nodes: int) -> int:
    """Runs `python -m module argv` once per device of this node, and waits.

    SIGTERM and Ctrl-C are handed on.

    Returns:
        The exit code: rank 0's where all ended well or were stopped by a signal, else that of what went wrong.

    Raises:
        InputError: several nodes, and the environment does not say where they meet.
    """
    place = _place(devices, nodes)
    with tempfile.TemporaryDirectory(prefix="ldseg_ranks_") as folder:
        ranks: list[Rank] = []
        with _handing_on(ranks) as signals:
            try:
                ranks += _spawn(module, argv, devices, place, folder)
                _wait(ranks, signals)
            finally:
                for r in ranks:
                    r.process.kill()
                    r.process.wait()
        return _outcome(ranks, signals, Path(folder))


def _place(devices: int, nodes: int) -> dict[str, str]:
    """Where the processes meet, and which node this is."""
    names = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    missing = [name for name in names if name not in os.environ]
    if nodes > 1 and missing:
        raise InputError(
            f"--num-nodes {nodes}: {', '.join(missing)} not set. Start the command with torchrun or srun, or on every node with "
            "MASTER_ADDR and MASTER_PORT (of node 0) and NODE_RANK (0, 1, ...) in its environment: documentation/multi_device.md."
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    given = {name: os.environ[name] for name in names} if nodes > 1 else {}
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "WORLD_SIZE": str(devices * nodes)} | given


def _spawn(module: str, argv: Sequence[str], devices: int, place: Mapping[str, str], folder: str) -> list[Rank]:
    """The processes, each in a session of its own: a terminal's Ctrl-C reaches them through their starter alone."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}  # Fabric would take SLURM for their starter
    ranks = []
    for local in range(devices):
        number = int(place["NODE_RANK"]) * devices + local
        own = {"LOCAL_RANK": str(local), "RANK": str(number), PARENT: str(os.getpid()), MESSAGES: folder}
        process = subprocess.Popen(
            [sys.executable, "-m", module, *argv], env=inherited | dict(place) | own, stdin=subprocess.DEVNULL, start_new_session=True
        )
        ranks.append(Rank(number, process))
    return ranks


@contextlib.contextmanager
def _handing_on(ranks: list[Rank]) -> Iterator[list[int]]:
    """Hands SIGTERM and SIGINT on to the processes meanwhile; gives the list of those that came."""
    came: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)
        for r in ranks:
            if r.process.poll() is None:
                r.process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(ranks: Sequence[Rank], signals: Sequence[int]) -> None:
    """Returns when all have ended, or when the others have had their time after one failed, or all after a signal."""
    deadline = float("inf")
    while None in [r.process.poll() for r in ranks]:
        now = time.monotonic()
        for r in ranks:
            if r.code is not None and r.ended is None:
                r.ended = now
        if signals:
            deadline = min(deadline, now + STOP_GRACE)
        elif any(r.code for r in ranks):
            deadline = min(deadline, now + GRACE)
        if now > deadline:
            return
        time.sleep(LOOK)
    for r in ranks:
        r.ended = r.ended or time.monotonic()


def _outcome(ranks: Sequence[Rank], signals: Sequence[int], folder: Path) -> int:
    """Names what went wrong, each cause once, and returns the exit code."""
    said = {r.number: json.loads(p.read_text(encoding="utf-8")) for r in ranks if (p := folder / f"{r.number}.json").exists()}
    causes = {s["message"]: s["code"] for s in said.values() if not s["lost"]}
    if signals and not causes:
        first = ranks[0].code or common.DONE
        return first if first >= 0 else 128 + signals[0]
    killed = [r for r in ranks if r.ended is not None and (r.code or 0) != 0 and r.number not in said]
    for r in killed:
        code = r.code or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        common.complain(
            f"failed: process {r.process.pid} (rank {r.number} of this training) {how}; the others were ended. If nobody did so, memory "
            "ran out: the system's log says. Go on from the last checkpoint with --continue."
        )
    causes = causes or ({} if killed else {s["message"]: s["code"] for s in said.values()})
    for message in causes:
        common.complain(message)
    return next(iter(causes.values()), common.FAILED if any(r.code for r in ranks) else common.DONE)
