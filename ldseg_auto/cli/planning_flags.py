"""The flags that `ldseg_plan` and `ldseg_plan_and_preprocess` share: the name of the plans, and what a person may choose."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ldseg_auto.cli import common
from ldseg_auto.errors import InputError
from ldseg_auto.executors import LOCAL, check_executor

if TYPE_CHECKING:
    from ldseg_auto.planners.choices import Choices

DEFAULT_NAME = "ldsegPlans"


def add(parser: argparse.ArgumentParser) -> None:
    """Adds `-p`, `--gpu-memory`, `--target-spacing` and `--set`."""
    group = parser.add_argument_group("plans")
    name = "name of the plans: the file NAME.json, and models NAME__CONFIGURATION (default: ldsegPlans)"
    group.add_argument("-p", "--plans-name", metavar="NAME", help=name)
    memory = "memory of the graphics card to plan for, in GiB (default: 8)"
    group.add_argument("--gpu-memory", type=common.positive_float, metavar="GB", help=memory)
    spacing = "voxel size to resample to, in place of the planner's: z y x, or y x to leave z alone (PNG and the like: in pixels)"
    group.add_argument("--target-spacing", type=common.positive_float, nargs="+", default=[], metavar="MM", help=spacing)
    change = "change a value: of every configuration, or NAME.PATH=VALUE of one; may be repeated"
    group.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help=change)


def add_workers(parser: argparse.ArgumentParser, workers: str) -> None:
    """Adds `-np` and `--executor`.

    Args:
        workers: help on -np, its default included.
    """
    parser.add_argument("-np", "--workers", type=common.positive_int, metavar="N", help=workers)
    where = "what works on the cases: local, the processes of -np; in-process, for debugging; dask://HOST:PORT, a Dask cluster"
    parser.add_argument("--executor", type=_executor, default=LOCAL, metavar="WHERE", help=f"{where} (documentation/clusters.md)")


def _executor(text: str) -> str:
    """An argparse type."""
    try:
        return check_executor(text)
    except InputError as cause:
        raise argparse.ArgumentTypeError(str(cause)) from None


def workers(args: argparse.Namespace, default: int) -> int:
    """Processes of the local executor; raises InputError where another was given as well."""
    if args.workers is not None and args.executor != LOCAL:
        raise InputError(f"-np {args.workers}: {args.executor} has its own number of workers. Leave -np out.")
    return default if args.workers is None else args.workers


def given(args: argparse.Namespace) -> bool:
    """Whether any choice was made."""
    return args.gpu_memory is not None or bool(args.target_spacing) or bool(args.settings)


def choices(args: argparse.Namespace) -> Choices:
    """The choices, those not made as the rules have them."""
    from ldseg_auto.planners.choices import DEFAULT_GPU_MEMORY, Choices

    memory = DEFAULT_GPU_MEMORY if args.gpu_memory is None else args.gpu_memory
    return Choices(memory, tuple(args.target_spacing), tuple(args.settings))
