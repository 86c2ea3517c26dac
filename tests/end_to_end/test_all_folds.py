"""ldseg_train ID all-folds: on this machine and on a Dask cluster whose worker is killed, the models of folds trained one by one."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldseg_auto.files import read_json


@pytest.fixture(scope="session")
def one_by_one(pristine: Any, workbench: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder after folds 1 and 2 were trained by themselves; fold 0 was before."""
    bench = workbench(tmp_path_factory.mktemp("folds") / "bench")
    shutil.copytree(pristine.root, bench.root)
    assert [bench.train(1, fold, length=("--epochs", 2)) for fold in (1, 2)] == [0, 0]
    return bench.model(1, "3d_fullres")


def same_folds(model: Path, expected: Path, folds: tuple[int, ...] = (0, 1, 2)) -> None:
    """The same weights, bit for bit, and the same validation."""
    for fold in folds:
        found, wanted = (torch.load(m / f"fold_{fold}/checkpoint_final.pth", weights_only=True) for m in (model, expected))
        assert all(torch.equal(found["ema"][k], v) for k, v in wanted["ema"].items())
        assert found["ema"].keys() == wanted["ema"].keys()
        summaries = [read_json(m / f"fold_{fold}/validation/summary.json") for m in (model, expected)]
        assert summaries[0] == summaries[1]


def alive(bench: Any) -> str:
    """Processes that work on this bench."""
    found = subprocess.run(["ps", "-eww", "-o", "pid,args"], capture_output=True, text=True, check=True).stdout
    return "\n".join(line for line in found.splitlines() if "ldseg_auto.cli.jobs" in line and str(bench.root) in line)


def test_folds_as_jobs_on_this_machine(bench: Any, one_by_one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fold that fails is named and the others go on; the next time those that are finished are left alone."""
    model = bench.model(1, "3d_fullres")
    bad = model / "fold_1/checkpoint_latest.pth"
    bad.parent.mkdir()
    bad.write_bytes(b"no checkpoint")
    assert bench.train(1, "all-folds", length=("--epochs", 2, "--jobs", 2)) == 1
    out, err = capsys.readouterr()
    assert re.search(r"^failed: fold 1: .*checkpoint_latest\.pth", err, re.MULTILINE) and "Traceback" not in err
    assert "fold 0: finished earlier" in out and "fold 1: not finished, see" in out and "fold 2: done, validation Dice" in out
    same_folds(model, one_by_one, (0, 2))
    bad.unlink()
    stamps = {p: p.stat().st_mtime_ns for p in model.rglob("*.pth")}
    assert bench.train(1, "all-folds", length=("--epochs", 2)) == 0
    assert {p: p.stat().st_mtime_ns for p in model.rglob("*.pth")}.items() >= stamps.items()
    same_folds(model, one_by_one)
    out = capsys.readouterr().out
    means = [read_json(model / f"fold_{k}/validation/summary.json")["mean"] for k in range(3)]
    assert out.count("finished earlier") == 2 and f"fold 1: done, validation Dice {means[1]:.4f}" in out
    rows = re.findall(r"^(\d|mean) +(\d\.\d{4})", out, re.MULTILINE)
    assert rows == [*((str(k), f"{m:.4f}") for k, m in enumerate(means)), ("mean", f"{sum(means) / 3:.4f}")]
    log = (model / "fold_1/job.log").read_text()
    assert "ldseg_train 1 1 -c 3d_fullres" in log and "Validation Dice" in log


def test_a_worker_killed_within_a_fold(bench: Any, one_by_one: Path, dask_cluster: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    """Its training ends with it, and the other worker goes on with the fold."""
    model, cluster = bench.model(1, "3d_fullres"), dask_cluster(2)
    at_work: list[str] = []

    def kill() -> None:
        while not all((model / f"fold_{k}/lock").exists() for k in (1, 2)):
            time.sleep(0.01)
        at_work.append(alive(bench))
        cluster.workers[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    assert bench.train(1, "all-folds", length=("--epochs", 2, "--executor", cluster.address)) == 0
    assert len(at_work[0].splitlines()) == 2
    same_folds(model, one_by_one)
    logs = "".join((model / f"fold_{k}/job.log").read_text() for k in (1, 2))
    assert logs.count(": ldseg_train 1 ") == 3  # one fold was begun twice
    assert capsys.readouterr().out.count(": done, validation Dice") == 2


@pytest.mark.parametrize(("name", "remote"), [("SIGINT", False), ("SIGKILL", True)])
def test_an_end_ends_all_jobs(bench: Any, dask_cluster: Callable, name: str, remote: bool) -> None:
    """Ctrl-C, and kill -9 of the command itself: nothing goes on behind its back."""
    model = bench.model(1, "3d_fullres")
    where = ["--executor", dask_cluster(1).address] if remote else []
    settings = ["--set", "training.iterations_per_epoch=2", "--set", "training.workers=0", "--set", "batch_size=1"]
    roots = ["--preprocessed", bench.root / "preprocessed", "--results", bench.results, "--device", "cpu"]
    command = [sys.executable, "-m", "ldseg_auto.cli.train", "1", "all-folds", "-c", "3d_fullres", *where, *roots, *settings]
    widths = read_json(model / "plans.json")["configurations"]["3d_fullres"]["network"]["features_per_stage"]
    command += ["--set", f"network.features_per_stage={widths}", "--set", "latent.channels=2", "--epochs", "5000"]
    with subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True) as process:
        try:
            while not (model / "fold_1/checkpoint_latest.pth").exists():
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.05)
            assert alive(bench)
            process.send_signal(getattr(signal, name))
            assert process.wait(60) == (130 if name == "SIGINT" else -signal.SIGKILL)
        finally:
            process.kill()
        until = time.monotonic() + 60
        while alive(bench) and time.monotonic() < until:
            time.sleep(0.1)
        assert not alive(bench)
        if name == "SIGINT":
            assert "go on from their last checkpoints with the same command" in process.communicate()[1]
