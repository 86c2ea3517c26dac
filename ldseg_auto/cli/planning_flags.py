"""The flags that `ldseg_plan` and `ldseg_plan_and_preprocess` share: the name of the plans, and what a person may choose."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ldseg_auto.cli import common

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


def given(args: argparse.Namespace) -> bool:
    """Whether any choice was made."""
    return args.gpu_memory is not None or bool(args.target_spacing) or bool(args.settings)


def choices(args: argparse.Namespace) -> Choices:
    """The choices, those not made as the rules have them."""
    from ldseg_auto.planners.choices import DEFAULT_GPU_MEMORY, Choices

    memory = DEFAULT_GPU_MEMORY if args.gpu_memory is None else args.gpu_memory
    return Choices(memory, tuple(args.target_spacing), tuple(args.settings))
