"""What all commands share: flags, folders, logging, exit codes, progress bars. Only the standard library is imported here."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import math
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ldseg_auto import __version__
from ldseg_auto.errors import InputError, LdsegError
from ldseg_auto.progress import Progress, silent

T = TypeVar("T")
logger = logging.getLogger(__name__)
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
ROOTS = {
    "raw": "folder that holds the raw datasets (DatasetXXX_Name)",
    "preprocessed": "folder for preprocessed data and plans",
    "results": "folder for trained models",
}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
DEVICES = ("auto", "cpu", "cuda", "mps")
LINE_SECONDS = 30  # between lines of progress in a log file


def parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A command's parser with the flags that all commands have.

    Args:
        prog: the command's name.
        description: what it does, in a sentence or two.
        epilog: examples and exit codes, shown as written.
    """
    text, shape = textwrap.fill(description, 100), argparse.RawDescriptionHelpFormatter
    out = argparse.ArgumentParser(prog=prog, description=text, epilog=epilog, allow_abbrev=False, formatter_class=shape)
    group = out.add_argument_group("messages")
    level = group.add_mutually_exclusive_group()
    level.add_argument("--quiet", action="store_true", help="show errors only: no progress bar, no messages")
    level.add_argument("--verbose", action="store_true", help="show more messages, with their time")
    level.add_argument("--debug", action="store_true", help="as --verbose, and an error shows its traceback (send it with a bug report)")
    group.add_argument("--version", action="version", version=f"ldseg_auto {__version__}")
    return out


def add_roots(to: argparse.ArgumentParser, *which: str) -> None:
    """Adds `--raw`, `--preprocessed`, `--results`, those named in `which`."""
    group = to.add_argument_group("folders", "Without a flag the environment variable is used; without either, ./ldseg_data.")
    for name in which:
        default = f"default: $ldseg_{name}, else ./ldseg_data/{name}"
        group.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"{ROOTS[name]} ({default})")


def root(args: argparse.Namespace, name: str) -> Path:
    """The folder "raw", "preprocessed" or "results": the flag, else the environment variable, else ./ldseg_data/NAME."""
    flag = getattr(args, name)
    return Path(flag or os.environ.get(f"ldseg_{name}") or Path("ldseg_data") / name)


def find_folder(args: argparse.Namespace, name: str, number: int) -> Path:
    """The folder of dataset `number` below the root `name`.

    Raises:
        InputError: the root is not there, or it holds no such dataset, or several.
    """
    from ldseg_auto.data.dataset import find_dataset

    folder = root(args, name)
    if not folder.is_dir():
        advice = "Name another" if name == "raw" else "Run ldseg_plan_and_preprocess first, or name another"
        raise InputError(f"{folder}, the {ROOTS[name]}, does not exist. {advice} with --{name} or ldseg_{name}.")
    return find_dataset(folder, number)


def duration(text: str) -> float:
    """Seconds of '90s', '20m', '1.5h' or a plain number of seconds; an argparse type."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(match[1]) * SECONDS[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a duration above zero; write for instance 90s, 20m or 1.5h")
    return seconds


def dataset_id(text: str) -> int:
    """A dataset's number, 1 or more; an argparse type."""
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a dataset ID; write its number, for instance 4 for Dataset004_Hippocampus")
    return int(text)


def fold(text: str) -> int | str:
    """A fold's number, 0 or more, or 'all'; an argparse type."""
    if text == "all":
        return text
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a fold; write 0, 1, 2, 3, 4 or all")
    return int(text)


def positive_int(text: str) -> int:
    """A whole number of 1 or more; an argparse type."""
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return int(text)


def natural_int(text: str) -> int:
    """A whole number of 0 or more; an argparse type."""
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 0 or more")
    return int(text)


def part(text: str) -> tuple[int, int]:
    """k/n, the k-th of n parts; an argparse type."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"'{text}' is not a part k/n with k from 1 to n; write for instance 1/4")
    return int(match[1]), int(match[2])


def positive_float(text: str) -> float:
    """A finite number above zero; an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above zero")
    return value


def share(text: str) -> float:
    """A number from 0 to 1; an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to 1")
    return value


def run(command: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None = None) -> int:
    """Parses, runs `work` and turns what it raises into a message on stderr and an exit code.

    Args:
        argv: arguments without the command's name; None takes the command line.

    Returns:
        What `work` returned (None: 0), 2 for bad input, 1 for a failure, 130 when interrupted.
    """
    args = command.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    _set_up_logging(args)
    try:
        return work(args) or DONE
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except Exception as cause:
        if args.debug:
            logging.getLogger("ldseg_auto").exception("traceback, as asked for by --debug:")
        message, code = explain(cause)
        complain(message)
        return code


def explain(cause: Exception) -> tuple[str, int]:
    """The message and the exit code of an error."""
    if isinstance(cause, InputError):
        return f"error: {cause}", BAD_INPUT
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({cause.filename})" if cause.filename else ""
        return f"failed: the disk is full{where}. Finished files are kept: make room and run the command again.", FAILED
    hint = "" if isinstance(cause, LdsegError) else f"{type(cause).__name__}: "
    return f"failed: {hint}{cause} (use --debug for the traceback)", FAILED


def complain(message: str) -> None:
    """A line on stderr, with --quiet too."""
    print(message, file=sys.stderr)


def say(args: argparse.Namespace, message: str) -> None:
    """A result on stdout; nothing with --quiet."""
    if not args.quiet:
        print(message)


def _set_up_logging(args: argparse.Namespace) -> None:
    """The library's messages go to stderr; what other packages log is left as it is."""
    logger = logging.getLogger("ldseg_auto")
    for old in [h for h in logger.handlers if isinstance(h, _BarSafeHandler)]:
        logger.removeHandler(old)
    detail = "%(asctime)s %(levelname)s %(name)s: " if args.debug or args.verbose else ""
    handler = _BarSafeHandler()
    handler.setFormatter(logging.Formatter(detail + "%(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if args.quiet else logging.DEBUG if args.debug or args.verbose else logging.INFO)


class _BarSafeHandler(logging.StreamHandler):
    """Writes a message above the progress bar, if there is one, instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        tqdm = sys.modules.get("tqdm")
        if tqdm is None:
            super().emit(record)
        else:
            tqdm.tqdm.write(self.format(record), file=sys.stderr)


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next tensor instead of giving every large one back to the system.

    Training on a CPU frees and takes the same large arrays in each iteration; page faults then cost up to a third of the time
    (documentation/benchmarks.md). Does nothing where the C library is another.
    """
    import ctypes

    mmap_threshold, trim_threshold, largest = -3, -1, 2**31 - 1  # malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, largest)
        mallopt(trim_threshold, largest)


def progress_bar(args: argparse.Namespace) -> Progress:
    """A bar in a terminal; elsewhere (a log file, a batch system) a line every half minute; silent with --quiet."""
    if args.quiet:
        return silent
    return _bar if sys.stderr.isatty() else _lines


def _bar(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    from tqdm import tqdm

    yield from tqdm(items, description, total, leave=False, dynamic_ncols=True)


def _lines(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            logger.info("%s: %d of %s", description, done, "?" if total is None else total)
        yield item
