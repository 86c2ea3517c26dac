"""Planning and preprocessing give the same files with every executor, whoever is killed meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from ldseg_auto.cli import common, plan, plan_and_preprocess
from ldseg_auto.planning import Request, make_and_store
from ldseg_auto.preparation import Options
from ldseg_auto.preparation import plan_and_preprocess as prepare

SMALL = {"n_cases": 8, "shape": (4, 20, 16)}


class Killer:
    """A progress that kills a process after the second case of one stage."""

    def __init__(self, stage: str, victim: subprocess.Popen) -> None:
        self.stage, self.victim = stage, victim

    def __call__(self, items: Iterable, description: str, total: int | None = None) -> Iterator:
        for number, item in enumerate(items):
            yield item
            if description == self.stage and number == 1:
                self.victim.kill()


def test_the_same_files_though_a_worker_is_killed(
    make_dataset: Callable, dask_cluster: Callable, tree: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roots may be relative: workers have another working directory."""
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "raw", **SMALL)
    here = prepare(Path("raw"), Path("here"), 1, Options(executor="in-process", verify=True))
    cluster = dask_cluster(2)
    options = Options(executor=cluster.address, verify=True)
    there = prepare(Path("raw"), Path("there"), 1, options, Killer("preprocessing", cluster.workers[0]))
    assert cluster.workers[0].wait(5) == -9
    assert (there.written, there.kept, there.failures) == (here.written, 0, {}) and here.written == 8
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
    again = prepare(Path("raw"), Path("there"), 1, options)
    assert (again.written, again.kept) == (0, 8)


def test_measuring_on_a_cluster_and_a_worker_s_error(
    make_dataset: Callable, dask_cluster: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ldseg_plan measures there too; what a worker cannot read is named as on this machine."""
    folder, address = make_dataset(tmp_path / "raw", **SMALL), dask_cluster(1).address
    roots = [word for name in ("raw", "preprocessed", "results") for word in (f"--{name}", str(tmp_path / name))]
    request = Request(executor=address)
    path, _ = make_and_store(tmp_path / "raw", tmp_path / "preprocessed", 1, request)
    other, _ = make_and_store(tmp_path / "raw", tmp_path / "other", 1, Request(workers=1))
    assert path.read_bytes() == other.read_bytes()
    (folder / "imagesTr/toy_003_0000.nii.gz").write_bytes(b"no image")
    flags = ["-d", "1", "--executor", address, *roots]
    assert common.run(plan_and_preprocess.build(), plan_and_preprocess.work, flags) == 2
    assert "toy_003" in capsys.readouterr().err


@pytest.mark.parametrize("command", [plan, plan_and_preprocess])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--executor", "dask://127.0.0.1:1", "-np", "2"), "-np 2: dask://127.0.0.1:1 has its own number of workers. Leave -np out"),
        (("--executor", "in-process", "-np", "2"), "-np 2: in-process has its own number of workers"),
        (("--executor", "dask://127.0.0.1:1"), "no Dask scheduler answers at dask://127.0.0.1:1"),
    ],
)
def test_bad_input(command, flags: tuple, message: str, make_dataset: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_dataset(tmp_path / "raw", **SMALL)
    roots = [word for name in ("raw", "preprocessed", "results") for word in (f"--{name}", str(tmp_path / name))]
    assert common.run(command.build(), command.work, ["-d", "1", *flags, *roots]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "preprocessed").exists()


def test_an_executor_of_another_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        plan_and_preprocess.build().parse_args(["-d", "1", "--executor", "dask:8786"])
    assert stop.value.code == 2
    assert "executor 'dask:8786': expected local, in-process or dask://HOST:PORT" in capsys.readouterr().err
