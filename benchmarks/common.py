"""What the benchmarks share: nnU-Net's own virtual environment, measuring a command, reports. Linux only (memory is read in /proc)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
OURS = Path(sys.executable).parent  # where this project's commands are: run the benchmarks with its environment's Python
SAMPLE_SECONDS = 0.1
# nnU-Net's requirements, less its network library's timm: timm needs torchvision, which has no build beside the CPU build of torch 2.13
# (with another torch, several GB). Only nnU-Net's transformer networks import it; planning and preprocessing run as they are published.
NNUNET = ("nnunetv2==2.8.1", "dynamic-network-architectures==0.4.4")
NNUNET_NEEDS = (
    "torch==2.13.0", "acvl-utils>=0.2.6,<0.3", "tqdm", "scipy", "batchgenerators>=0.25.1", "numpy>=1.24", "scikit-learn", "yacs",
    "scikit-image>=0.19.3", "SimpleITK>=2.2.1", "pandas", "graphviz", "tifffile", "requests", "nibabel", "matplotlib", "seaborn",
    "imagecodecs", "batchgeneratorsv2>=0.3.2", "einops", "blosc2>=3.3.2",
)  # fmt: skip


@dataclass(frozen=True)
class Measurement:
    """One run of a command."""

    tool: str
    seconds: float
    peak_mib: float  # largest sum over the command's processes of their proportional set sizes (shared pages counted once)
    cpu_seconds: float = 0.0  # of all its processes, user and system: what a busy machine changes least


def nnunet_environment(folder: Path = ROOT / ".venv-nnunet") -> Path:
    """The folder of nnU-Net's commands; its virtual environment is made at the first call (about a minute)."""
    python = folder / "bin" / "python"
    with _locked(folder.parent):  # two benchmarks that start at once would both install
        if not (folder / "bin" / "nnUNetv2_plan_and_preprocess").exists():
            print(f"Installing {NNUNET[0]} into {folder}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
            subprocess.run([*pip, *NNUNET_NEEDS], check=True)
            subprocess.run([*pip, "--no-deps", *NNUNET], check=True)
    return folder / "bin"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `variables`; compiled Python files may be kept, as they are on a user's machine."""
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}, **variables}


def measure(tool: str, command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> Measurement:
    """Runs a command and measures wall clock and peak memory of all its processes.

    Args:
        log: file for what the command writes.
        variables: of the environment, added to this process's.

    Raises:
        RuntimeError: the command failed; the message ends with the log's last lines.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as stream:
        start, before = time.perf_counter(), _children_cpu()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment(variables or {}),
        )  # fmt: skip
        peak = _Peak(process.pid)
        status = process.wait()
        seconds = time.perf_counter() - start
        peak.stop()
    if status:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-20:])
        raise RuntimeError(f"{' '.join(command)} ended with {status}; {log} ends with:\n{tail}")
    return Measurement(tool, round(seconds, 2), round(peak.mib, 1), round(_children_cpu() - before, 2))


def _children_cpu() -> float:
    """CPU seconds of all processes that this one, or a process it waited for, has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Peak(threading.Thread):
    """Samples the memory of all processes of a session until stopped."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session, self.mib, self._done = session, 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.mib = max(self.mib, sum(map(_memory_kib, session_members(self.session))) / 1024)

    def stop(self) -> None:
        """Ends the sampling."""
        self._done.set()
        self.join()


def session_members(session: int) -> list[int]:
    """Process ids of a session (field 6 of /proc/PID/stat): children stay in it when their parent ends."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after_name[3]) == session:
            members.append(int(path.parent.name))
    return members


def _memory_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages as another environment's Python has them; those that are absent are left out."""
    code = "import importlib.metadata as m, json; print(json.dumps([[d.metadata['Name'], d.version] for d in m.distributions()]))"
    done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True)
    there = {name.lower().replace("_", "-"): version for name, version in json.loads(done.stdout)}
    return {name: there[name.lower()] for name in packages if name.lower() in there}


def machine() -> dict[str, Any]:
    """Processor, cores and system, for the report."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), platform.machine())
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "system": platform.platform(), "python": platform.python_version()}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_report(folder: Path, name: str, text: str, content: Mapping[str, Any]) -> None:
    """Writes NAME.md and NAME.json into `folder`, and prints the text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    plain = json.dumps(content, indent=2, default=lambda value: asdict(value) if isinstance(value, Measurement) else str(value))
    (folder / f"{name}.json").write_text(plain + "\n", encoding="utf-8")
    print(text)
    print(f"\nWritten: {folder / name}.md and .json")
