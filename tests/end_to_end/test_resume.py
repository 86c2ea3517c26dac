"""Trainings that are killed, stopped or disturbed, and continued: the same weights, bit for bit, and the same log as undisturbed ones."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ldseg_auto.training import checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and POSIX signals")
FOLD = 1
CLOCK = {"seconds", "waiting", "elapsed"}  # what depends on the clock
# Forks a training per line of stdin from a process that has the packages loaded; `die` is [module, function, call, how]: the process kills
# itself at that call of that function, before it, after it, or (of torch.save) with half the file written.
SERVER = """
import importlib, json, os, signal, sys
from ldseg_auto.cli import common, train
import ldseg_auto.training.run
sys.modules["matplotlib"] = None  # to draw the curves takes most of the time

def dying(real, call, how):
    count = [0]
    def wrapped(*args, **kwargs):
        count[0] += 1
        if count[0] == call and how == "half":
            args[1].write(b"PK half a checkpoint")
            args[1].flush()
        if count[0] == call and how != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        out = real(*args, **kwargs)
        if count[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return out
    return wrapped

print(os.getpid(), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setpgrp()
        error = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(error, 2)
        os.dup2(error, 1)
        if job["die"]:
            module, name, call, how = job["die"]
            module = importlib.import_module(module)
            setattr(module, name, dying(getattr(module, name), call, how))
        os._exit(common.run(train.build(), train.work, job["flags"]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Server:
    """Starts trainings of one Workbench's fold 1 in processes of their own."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._number() == self.process.pid  # the packages are loaded

    def start(self, bench: Any, *more: str, die: list | None = None, epochs: int = 4) -> int:
        """Its process id; it continues where there is something to continue."""
        there = any((bench.model(1, "3d_fullres") / f"fold_{FOLD}" / n).exists() for n in checkpoint.CONTINUABLE)
        flags = [*command(bench, epochs), *(["--continue"] if there else []), *more]
        assert self.process.stdin is not None
        self.log.unlink(missing_ok=True)
        self.process.stdin.write(json.dumps({"flags": flags, "die": die, "log": str(self.log)}) + "\n")
        self.process.stdin.flush()
        return self._number()

    def end(self) -> int:
        """Waits; the exit code of the training, negative for a signal."""
        return self._number()

    def run(self, bench: Any, *more: str, die: list | None = None) -> int:
        """Start and end."""
        self.start(bench, *more, die=die)
        return self.end()

    def _number(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "log")
    yield server
    server.process.stdin.close()  # type: ignore[union-attr]
    server.process.wait(60)


@pytest.fixture(scope="module")
def undisturbed(pristine: Any, server: Server, workbench: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The fold of a training from begin to end, and its seconds."""
    root = tmp_path_factory.mktemp("undisturbed") / "bench"
    shutil.copytree(pristine.root, root)
    begin = time.monotonic()
    assert server.run(workbench(root)) == 0, server.log.read_text()
    return workbench(root).model(1, "3d_fullres") / f"fold_{FOLD}", time.monotonic() - begin


def command(bench: Any, epochs: int) -> list[str]:
    """ldseg_train with augmentation and a worker process on a network of a few channels."""
    stages = len(bench.plans(1)["configurations"]["3d_fullres"]["network"]["features_per_stage"])
    settings = (
        f"network.features_per_stage={json.dumps([4, *[8] * (stages - 1)])}", "training.iterations_per_epoch=3", "training.workers=1",
        "training.validation_patches=1", "batch_size=1", "sampling.steps=2", "latent.channels=2",
    )  # fmt: skip
    flags = [word for setting in settings for word in ("--set", setting)]
    roots = ["--preprocessed", str(bench.root / "preprocessed"), "--results", str(bench.results)]
    return ["1", str(FOLD), "-c", "3d_fullres", "--epochs", str(epochs), "--device", "cpu", "--log-to", "none", *flags, *roots]


def without_clock(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: without_clock(v) for k, v in content.items() if k not in CLOCK}
    return [without_clock(v) for v in content] if isinstance(content, list) else content


def same(one: Any, two: Any, where: str = "") -> None:
    """Equal to the bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert list(one) == list(two), where
        for key in one:
            same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            same(a, b, f"{where}[{i}]")
    else:
        assert one == two, where


def same_training(fold: Path, expected: Path) -> None:
    """All checkpoints, the log, and what was measured at the end; no leftovers."""
    for name in ("final", "latest", "best"):
        one, two = (without_clock(checkpoint.load(f / f"checkpoint_{name}.pth")) for f in (fold, expected))
        same(one, two, name)
    one, two = (list(csv.DictReader((f / "training_log.csv").read_text().splitlines())) for f in (fold, expected))
    assert len(one) > 0 and without_clock(one) == without_clock(two)
    for name in ("steps.json", "latent.json", "validation/summary.json", "predicted_dice.json"):
        assert (fold / name).read_bytes() == (expected / name).read_bytes(), name
    assert {p.name for p in fold.iterdir()} == {p.name for p in expected.iterdir()}
    assert not [p for p in fold.rglob("*") if p.name.startswith(".tmp_") or p.name in ("lock", "checkpoint_previous.pth")]


POINTS = [
    ["ldseg_auto.training.loop", "write_log", 1, "after"],  # before the first checkpoint
    ["torch", "save", 1, "half"],
    ["torch", "save", 2, "half"],  # `best` is there, `latest` is not
    ["ldseg_auto.training.checkpoint", "save", 2, "after"],
    ["ldseg_auto.training.checkpoint", "_keep", 1, "after"],  # the second latest: previous is linked, latest not yet replaced
    ["ldseg_auto.training.checkpoint", "save", 2, "after"],
    ["ldseg_auto.training.supply", "_moved", 2, "before"],  # in the middle of an epoch
    ["ldseg_auto.training.loop", "patch_dice", 1, "after"],
    ["ldseg_auto.training.loop", "calibrate_latent", 1, "before"],
    ["ldseg_auto.training.checkpoint", "save", 1, "before"],  # the final one
    ["ldseg_auto.training.finish", "step_curve", 1, "before"],
    ["ldseg_auto.training.finish", "validate_cases", 1, "before"],
    ["ldseg_auto.training.finish", "fit_predicted_dice", 1, "before"],
]


def test_killed_at_every_kind_of_moment(bench: Any, server: Server, undisturbed: tuple[Path, float]) -> None:
    """kill -9, one after the other in one training."""
    fold = bench.model(1, "3d_fullres") / f"fold_{FOLD}"
    for point in POINTS:
        assert server.run(bench, die=point) == -signal.SIGKILL, (point, server.log.read_text())
    assert server.run(bench) == 0, server.log.read_text()
    same_training(fold, undisturbed[0])


def test_killed_at_random_moments(bench: Any, server: Server, undisturbed: tuple[Path, float]) -> None:
    seed = random.randrange(10**6)
    moment = random.Random(seed)
    for _ in range(5):
        child = server.start(bench)
        time.sleep(moment.uniform(0, undisturbed[1]))
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(child, signal.SIGKILL)
        code = server.end()
        assert code in (0, -signal.SIGKILL), (seed, server.log.read_text())
        if code == 0:
            break
    assert server.run(bench) == 0, (seed, server.log.read_text())
    same_training(bench.model(1, "3d_fullres") / f"fold_{FOLD}", undisturbed[0])


def test_stopped_and_continued(bench: Any, server: Server, undisturbed: tuple[Path, float]) -> None:
    """At random moments after the first epoch: one process, and (as a terminal or a batch system does it) its workers too."""
    fold = bench.model(1, "3d_fullres") / f"fold_{FOLD}"
    signals: list[tuple[Callable, int, int]] = [
        (os.kill, signal.SIGTERM, 0), (os.killpg, signal.SIGTERM, 0), (os.killpg, signal.SIGINT, 130),
    ]  # fmt: skip
    for send, number, code in signals:
        rows, child = logged(fold), server.start(bench)
        while logged(fold) == rows:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.1 * undisturbed[1]))
        send(child, number)
        begin = time.monotonic()
        assert server.end() == code, server.log.read_text()
        assert time.monotonic() - begin < 10
        said = server.log.read_text()
        assert "go on with --continue." in said and "Traceback" not in said
        assert not list(fold.glob(".tmp_*")) and not (fold / "lock").exists()
    assert server.run(bench) == 0, server.log.read_text()
    same_training(fold, undisturbed[0])


def logged(fold: Path) -> int:
    """Rows of the log."""
    log = fold / "training_log.csv"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_damaged_latest_checkpoint(bench: Any, server: Server, undisturbed: tuple[Path, float]) -> None:
    """Cut off while the disk lost power, say: the one before takes its place, the log says so, and the end is the same."""
    fold = bench.model(1, "3d_fullres") / f"fold_{FOLD}"
    assert server.run(bench, die=["ldseg_auto.training.loop", "write_log", 4, "before"]) == -signal.SIGKILL
    latest = fold / "checkpoint_latest.pth"
    latest.write_bytes(latest.read_bytes()[:-1000])
    assert server.run(bench) == 0
    said = server.log.read_text()
    assert "checkpoint_latest.pth cannot be read (BadZipFile); it is damaged" in said
    assert "Going on from checkpoint_previous.pth, iteration 6; what came after is trained again." in said
    assert "training_log.csv goes to iteration 9: 7 to 9 are done again." in said
    latest.with_name("checkpoint_latest.pth.damaged").unlink()
    same_training(fold, undisturbed[0])


def test_a_fold_in_use(bench: Any, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """By a living process, which is named; once it is killed, training goes on at once, though its workers may live a little longer."""
    fold = bench.model(1, "3d_fullres") / f"fold_{FOLD}"
    child = server.start(bench)
    while not (fold / "checkpoint_latest.pth").exists():
        time.sleep(0.005)
    os.kill(child, signal.SIGSTOP)
    assert bench.train(1, FOLD, length=("--continue",)) == 2
    match = rf"fold_{FOLD} is in use by process {child} on .*, since .*\. Wait until it has ended, or stop it\."
    assert re.search(match, capsys.readouterr().err)
    os.kill(child, signal.SIGKILL)
    assert server.end() == -signal.SIGKILL
    assert server.run(bench) == 0, server.log.read_text()


def test_continue_needs_no_settings_and_keeps_the_length(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plans, seed and length are those that the training began with."""
    length = ("--epochs", 2, "--time-budget", "1h", "--seed", 7, "--log-to", "none")
    assert bench.train(1, FOLD, "training.learning_rate=0.002", length=length) == 0
    fold = bench.model(1, "3d_fullres") / f"fold_{FOLD}"
    plans, before = (fold / "plans.json").read_bytes(), checkpoint.load(fold / "checkpoint_final.pth")
    (fold / "checkpoint_final.pth").unlink()
    assert bench.run("train", 1, FOLD, "--continue", "--log-to", "none") == 0
    assert (fold / "plans.json").read_bytes() == plans
    same(without_clock(checkpoint.load(fold / "checkpoint_final.pth")), without_clock(before))
    assert (before["iteration"], before["seed"], before["limits"]) == (4, 7, {"iterations": 4, "seconds": 3600.0})
    assert bench.run("train", 1, FOLD, "--continue", "--epochs", 3, "--set", "training.learning_rate=0.001", "--log-to", "none") == 0
    assert "continuing with training.learning_rate = 0.001, until now 0.002" in capsys.readouterr().err
    longer = checkpoint.load(fold / "checkpoint_final.pth")
    assert (longer["iteration"], longer["limits"]) == (6, {"iterations": 6, "seconds": None})
    assert json.loads((fold / "plans.json").read_text())["configurations"]["3d_fullres"]["training"]["learning_rate"] == 0.001


@pytest.mark.parametrize(
    ("setting", "there"),
    [
        ("batch_size=2", "batch_size = 2, there 1"),
        ("latent.channels=4", "latent.channels = 4, there 2"),
        ("training.oversample_foreground=0.9", "training.oversample_foreground = 0.9, there 0.33"),
        ("method.dice_weight=2.0", "method.dice_weight = 2.0, there 1.0"),
    ],
)
def test_other_settings_than_it_began_with(bench: Any, refused: Callable, setting: str, there: str) -> None:
    match = rf"error: --continue: .*checkpoint_final\.pth was trained with other settings \({there}\)"
    refused(bench, match, "train", 1, 0, "--continue", "--set", setting)


def test_a_checkpoint_of_another_configuration(bench: Any, refused: Callable) -> None:
    assert bench.train(1, 0, configuration="2d", length=("--epochs", 1, "--log-to", "none")) == 0
    source, target = (bench.model(1, name) / "fold_0" / "checkpoint_final.pth" for name in ("2d", "3d_fullres"))
    for path in target.parent.glob("checkpoint_*"):
        path.unlink()
    shutil.copy(source, target)
    match = r"error: checkpoint .*checkpoint_final\.pth is of configuration 2d, not 3d_fullres\. Use the model folder that it came from"
    refused(bench, match, "train", 1, 0, "-c", "3d_fullres", "--continue", "--epochs", 9)
    refused(bench, match, "predict", "-i", bench.dataset(1) / "imagesTr", "-o", bench.root / "out", "-c", "3d_fullres")


def test_all_checkpoints_damaged(bench: Any, refused: Callable) -> None:
    fold = bench.model(1, "3d_fullres") / "fold_0"
    for name in ("final", "latest"):
        (fold / f"checkpoint_{name}.pth").write_bytes(b"PK no checkpoint")
    match = r"error: .*fold_0 holds no checkpoint that can be read: .*final.*latest.*Move the folder away"
    refused(bench, match, "train", 1, 0, "--continue")


@pytest.mark.parametrize("which", ["preprocessed", "fold"])
def test_plans_of_another_version(bench: Any, refused: Callable, which: str) -> None:
    own = bench.model(1, "3d_fullres") / "fold_0" / "plans.json"
    path = own if which == "fold" else bench.preprocessed(1) / "ldsegPlans.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    match = rf"error: .*{path.name}: version = 2 is not possible: expected 3; plan again with ldseg_plan"
    refused(bench, match, "train", 1, 0, "--continue")
