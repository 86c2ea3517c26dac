"""Commands as jobs: their command lines, which GPU each sees, how their end is told. (With real trainings: tests/end_to_end.)"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from ldseg_auto.cli import all_folds, common, jobs, train
from ldseg_auto.cli.interrupt import Stop
from ldseg_auto.errors import InputError


def job(folder: Path, name: str, *argv: str) -> jobs.Job:
    """ldseg_make_demo, which is quick."""
    again = ("--version",)
    return jobs.Job(name, "make_demo", argv, again, folder / f"trace_{name}_*", folder, folder / f"{name}.log")


def run(folder: Path, wanted: list[jobs.Job], at_once: int = 1) -> dict[str, jobs.Ended]:
    found: dict[str, jobs.Ended] = {}
    jobs.run_jobs(wanted, "local", folder, [{}] * at_once, Stop(), lambda j, ended: found.update({j.name: ended}))
    return found


def test_jobs_and_their_ends(tmp_path: Path) -> None:
    (tmp_path / "trace_again_1").touch()
    wanted = [job(tmp_path, "good", "--version"), job(tmp_path, "bad", "raw", "--cases", "1"), job(tmp_path, "again", "--nonsense")]
    found = run(tmp_path, wanted, 2)
    assert found["good"] == found["again"] == jobs.Ended(0, "")
    assert found["bad"].code == 2 and found["bad"].cause.startswith("error: ") and "1" in found["bad"].cause
    log = (tmp_path / "bad.log").read_text()
    assert ": ldseg_make_demo raw --cases 1\n" in log and found["bad"].cause in log


def test_a_job_that_is_stopped_before_it_begins_does_not_begin(tmp_path: Path) -> None:
    ended = jobs.run_job(job(tmp_path, "late", "--version"), lambda: True, {})
    assert ended.code == -signal.SIGTERM and not (tmp_path / "late.log").exists()


def test_a_job_that_is_cancelled_ends_soon(tmp_path: Path) -> None:
    begin = time.monotonic()
    wanted = job(tmp_path, "long", str(tmp_path / "raw"), "--cases", "100000")
    ended = jobs.run_job(wanted, lambda: time.monotonic() - begin > 2, {})
    assert ended.code == -signal.SIGTERM and ended.cause == f"it was ended by signal {signal.SIGTERM.value}"
    assert time.monotonic() - begin < 2 + jobs.GRACE


@pytest.mark.parametrize(
    ("text", "code", "cause"),
    [
        ("epoch 1\nerror: one\nfailed: two\nepoch 2\n", 1, "failed: two"),
        ("error: earlier run\n@nothing\n", 3, "exit code 3"),
        ("@", -9, "it was killed (signal 9); if nobody did so, memory ran out"),
        ("@", -15, "it was ended by signal 15"),
        ("@error: the cause\n", -9, "error: the cause"),
    ],
)
def test_cause_of_a_failure(tmp_path: Path, text: str, code: int, cause: str) -> None:
    """@: where this run's part of the log begins."""
    (tmp_path / "log").write_text(text.replace("@", ""))
    assert jobs._cause(tmp_path / "log", max(text.find("@"), 0), code) == cause


@pytest.mark.parametrize(
    ("gpus", "at_once", "each", "visible", "expected"),
    [
        (0, None, 1, None, [None]),
        (0, 3, 2, None, [None, None, None]),
        (2, None, 1, None, ["0", "1"]),
        (2, None, 1, "5,GPU-abc", ["5", "GPU-abc"]),
        (2, 1, 1, None, ["0"]),
        (2, 3, 1, None, ["0", "1", "0"]),
        (4, None, 2, None, ["0,1", "2,3"]),
        (5, None, 2, "1,2,3,4,7", ["1,2", "3,4"]),
    ],
)
def test_which_gpus_a_job_sees(
    monkeypatch: pytest.MonkeyPatch, gpus: int, at_once: int | None, each: int, visible: str | None, expected: list[str | None]
) -> None:
    monkeypatch.delenv(jobs.DEVICES, raising=False)
    if visible is not None:
        monkeypatch.setenv(jobs.DEVICES, visible)
    assert [slot.get(jobs.DEVICES) for slot in jobs.gpu_slots(gpus, at_once, each)] == expected


def test_more_gpus_per_job_than_there_are() -> None:
    with pytest.raises(InputError, match="--devices 4: this machine shows 2 GPU"):
        jobs.gpu_slots(2, None, 4)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["4", "all-folds", "--jobs", "2", "--executor=local", "--continue", "-c", "2d"], ["4", "all-folds", "-c", "2d"]),
        (["--executor", "dask://a:1", "4", "all-folds"], ["4", "all-folds"]),
        (["--set", "--jobs=3", "x"], ["--set", "x"]),
    ],
)
def test_a_command_line_without_flags(argv: list[str], expected: list[str]) -> None:
    assert jobs.without_flags(argv, switches=("--continue",), values=("--executor", "--jobs")) == expected


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["4", "all-folds"], ["4", "2"]),
        (["-p", "all-folds", "4", "all-folds", "--seed", "1"], ["-p", "all-folds", "4", "2", "--seed", "1"]),
        (["4", "all-folds", "-c", "all-folds"], ["4", "2", "-c", "all-folds"]),
    ],
)
def test_the_fold_takes_the_place_of_all_folds(argv: list[str], expected: list[str]) -> None:
    assert all_folds._one_fold(argv, 2, train.build()) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("0", "--executor", "local"), "--executor local: one fold is trained by this process. Give all-folds as FOLD"),
        (("all", "--jobs", "2"), "--jobs 2: one fold is trained by this process"),
        (("all-folds", "--executor", "dask://a:1", "--jobs", "2"), "--jobs 2: dask://a:1 has a job for each of its workers"),
        (("all-folds", "--num-nodes", "2"), "--num-nodes 2: with all-folds each fold is a job of one machine"),
        (("all-folds", "--epochs", "2"), "does not exist. Run ldseg_plan_and_preprocess first"),
    ],
)
def test_bad_flags_of_training(tmp_path: Path, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    roots = ["--preprocessed", str(tmp_path / "none"), "--results", str(tmp_path / "results")]
    assert common.run(train.build(), train.work, ["4", *flags, *roots]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "results").exists()
