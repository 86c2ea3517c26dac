"""Flags, folders, exit codes, messages and progress of all commands."""

from __future__ import annotations

import argparse
import errno
import logging
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ldseg_auto import __version__
from ldseg_auto.cli import common
from ldseg_auto.errors import DatasetError, LdsegError

COMMANDS = ("plan", "plan_and_preprocess", "train", "predict", "evaluate", "make_demo", "export", "import_model")
HEAVY = ("torch", "numpy", "SimpleITK", "scipy", "matplotlib", "tqdm", "blosc2", "lightning_fabric")


def command() -> argparse.ArgumentParser:
    parser = common.parser("ldseg_test", "Test.", "examples:")
    common.add_roots(parser, "raw", "results")
    return parser


def raising(error: BaseException) -> Callable[[argparse.Namespace], int | None]:
    def work(args: argparse.Namespace) -> int | None:
        raise error

    return work


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_heavy_is_imported_before_arguments_are_parsed(name: str) -> None:
    code = (
        f"import sys, ldseg_auto.cli.{name} as c\nparser = c.build()\nparser.format_help()\nprint([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_run_as_modules(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"ldseg_auto.cli.{name}", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"ldseg_auto {__version__}")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DatasetError("dataset 4 is not there."), 2, "error: dataset 4 is not there."),
        (LdsegError("the loss is not finite"), 1, "failed: the loss is not finite (use --debug for the traceback)"),
        (KeyError("x"), 1, "failed: KeyError: 'x' (use --debug for the traceback)"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/out/a.json"),
            1,
            "failed: the disk is full (/out/a.json). Finished files are kept",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), 1, "failed: PermissionError: [Errno 13] Permission denied: '/out'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_messages_and_exit_codes(error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert common.run(command(), raising(error), []) == code
    out, err = capsys.readouterr()
    assert err.startswith(message) and "Traceback" not in err and not out


def test_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    assert common.run(command(), raising(DatasetError("no")), ["--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err and err.endswith("error: no\n")


def test_exit_code_of_the_work_is_passed_on() -> None:
    assert common.run(command(), lambda args: None, []) == 0
    assert common.run(command(), lambda args: 1, []) == 1


def test_wrong_flags_end_with_2_and_no_abbreviations(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--no-such-flag"], ["--quie"], ["--quiet", "--debug"]):
        with pytest.raises(SystemExit) as stop:
            common.run(command(), lambda args: None, wrong)
        assert stop.value.code == 2
    assert "unrecognized arguments: --quie" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "shown"), [(["--quiet"], "E"), ([], "EWI"), (["--verbose"], "EWID"), (["--debug"], "EWID")])
def test_levels_of_messages(flags: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work(args: argparse.Namespace) -> None:
        logger = logging.getLogger("ldseg_auto.somewhere")
        for level, letter in ((logging.ERROR, "E"), (logging.WARNING, "W"), (logging.INFO, "I"), (logging.DEBUG, "D")):
            logger.log(level, "message %s", letter)
        common.say(args, "result")

    common.run(command(), work, flags)
    common.run(command(), lambda args: None, flags)  # a second run must not add a second handler
    out, err = capsys.readouterr()
    assert [line[-1] for line in err.splitlines()] == list(shown)
    assert out == ("" if flags == ["--quiet"] else "result\n")


def test_roots_come_from_flag_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ldseg_raw", raising=False)
    args = command().parse_args([])
    assert common.root(args, "raw") == Path("ldseg_data/raw")
    monkeypatch.setenv("ldseg_raw", "/data/raw")
    assert common.root(args, "raw") == Path("/data/raw")
    assert common.root(command().parse_args(["--raw", "/other"]), "raw") == Path("/other")
    monkeypatch.setenv("ldseg_raw", "")
    assert common.root(args, "raw") == Path("ldseg_data/raw")


def test_dataset_folder_is_found_or_explained(tmp_path: Path) -> None:
    args = command().parse_args(["--raw", str(tmp_path / "raw"), "--results", str(tmp_path)])
    with pytest.raises(
        DatasetError.__mro__[1], match=r"raw, the folder that holds the raw datasets .* does not exist. Name another with --raw"
    ):
        common.find_folder(args, "raw", 4)
    (tmp_path / "raw" / "Dataset004_Test").mkdir(parents=True)
    assert common.find_folder(args, "raw", 4) == tmp_path / "raw" / "Dataset004_Test"
    with pytest.raises(DatasetError, match="there is no dataset 5 .*there: Dataset004_Test"):
        common.find_folder(args, "raw", 5)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), ("45", 45), ("0.5", 0.5)])
def test_durations(text: str, seconds: float) -> None:
    assert common.duration(text) == seconds


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [(common.duration, t, "not a duration") for t in ("", "0m", "-5m", "20 min", "1d", "nan", "1e3")]
    + [(common.dataset_id, t, "not a dataset ID") for t in ("0", "-1", "Dataset004", "1.0")]
    + [(common.fold, t, "not a fold") for t in ("-1", "ALL", "1.5", "")]
    + [(common.positive_int, t, "not a whole number of 1 or more") for t in ("0", "-1", "x")]
    + [(common.natural_int, t, "not a whole number of 0 or more") for t in ("-1", "x")]
    + [(common.positive_float, t, "not a number above zero") for t in ("0", "-1", "inf", "nan", "x")],
)
def test_values_that_cannot_be(read: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' is {message}"):
        read(text)


def test_values_that_can_be() -> None:
    assert (common.dataset_id("004"), common.fold("3"), common.fold("all")) == (4, 3, "all")
    assert (common.positive_int("7"), common.natural_int("0"), common.positive_float("0.5")) == (7, 0, 0.5)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("flags", [[], ["--quiet"]])
def test_progress_passes_items_through(
    flags: list[str], terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    progress = common.progress_bar(command().parse_args(flags))
    assert list(progress(iter("abc"), "reading", total=3)) == ["a", "b", "c"]
    assert ("reading" in capsys.readouterr().err) == (terminal and not flags)


def test_progress_in_a_log_file_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter(range(0, 1000, 20))
    monkeypatch.setattr(common.time, "monotonic", lambda: next(seconds))

    def work(args: argparse.Namespace) -> None:
        assert list(common.progress_bar(args)(range(4), "reading", total=4)) == [0, 1, 2, 3]

    assert common.run(command(), work, []) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("reading: ") and line.endswith(" of 4") for line in lines)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes glibc's allocator; this machine has another C library")
def test_freed_memory_is_kept() -> None:
    """Page faults of twenty blocks of 64 MiB taken and freed one after the other: each its own pages, or the same ones again."""
    code = (
        "import resource, sys\n"
        "from ldseg_auto.cli.common import keep_freed_memory\n"
        "if sys.argv[1] == 'kept': keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before, size = faults(), int('67108864')\n"  # not folded into a constant
        "for _ in range(20): block = b'x' * size; del block\n"
        "print(faults() - before)"
    )
    faults = {}
    for mode in ("kept", "given_back"):
        done = subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, timeout=60, check=True)
        faults[mode] = int(done.stdout)
    assert faults["kept"] * 5 < faults["given_back"]  # one block against twenty
