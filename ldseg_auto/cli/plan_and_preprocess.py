"""ldseg_plan_and_preprocess: measures a dataset, plans, and preprocesses it."""

from __future__ import annotations

import argparse
import os
import sys

from ldseg_auto.cli import common

EPILOG = """examples:
  ldseg_plan_and_preprocess -d 4                     dataset 4, all configurations
  ldseg_plan_and_preprocess -d 4 18 -c 2d --verify   two datasets, 2d only, every file checked first
  ldseg_plan_and_preprocess -d 4 --gpu-memory 24     larger patches and batches for a larger graphics card
  ldseg_plan_and_preprocess -d 18 --target-spacing 2 2   half the resolution: four times fewer pixels
  ldseg_plan_and_preprocess -d 18 --groups '^(\\d+)_'  cases 003_HC and 003_2HC are one patient: folds keep them together

What is up to date is kept: after an interruption, or when cases were added, run the same command again.
exit code: 0 done, 1 failed (cases that failed are named), 2 bad input, 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser(
        "ldseg_plan_and_preprocess",
        "Read a dataset in nnU-Net's raw format, decide how to segment it (patch, latent dimension, sampling steps, ...), say why, "
        "and preprocess its cases.",
        EPILOG,
    )
    number = "one or more, for instance 4 for Dataset004_Hippocampus"
    parser.add_argument("-d", "--datasets", type=common.dataset_id, nargs="+", required=True, metavar="ID", help=number)
    which = "configurations to preprocess: 2d, 3d_fullres, 3d_lowres (default: all that the dataset allows)"
    parser.add_argument("-c", "--configurations", nargs="+", default=[], metavar="NAME", help=which)
    workers = min(8, os.cpu_count() or 1)
    parser.add_argument("-np", "--workers", type=common.positive_int, default=workers, metavar="N", help=f"processes (default: {workers})")
    parser.add_argument("--verify", action="store_true", help="read and check every file first, and name all problems at once")
    parser.add_argument("--clean", action="store_true", help="measure and preprocess again, even what is up to date")
    memory = "memory of the graphics card to plan for, in GiB (default: 8)"
    parser.add_argument("--gpu-memory", type=common.positive_float, default=8.0, metavar="GB", help=memory)
    spacing = "voxel size to resample to, in place of the planner's: z y x, or y x to leave z alone (PNG and the like: in pixels)"
    parser.add_argument("--target-spacing", type=common.positive_float, nargs="+", default=[], metavar="MM", help=spacing)
    groups = "regular expression on the case name; cases that share its first group (a patient) are never split between folds"
    parser.add_argument("--groups", metavar="REGEX", help=f"{groups} (default: the key groups of dataset.json)")
    common.add_roots(parser, "raw", "preprocessed")
    return parser


def work(args: argparse.Namespace) -> int:
    """Prepares each dataset and prints its plan; 1 when cases failed."""
    from ldseg_auto.planners.planner import describe
    from ldseg_auto.preparation import Options, plan_and_preprocess

    options = Options(
        tuple(args.configurations), args.workers, args.verify, args.clean, args.gpu_memory, tuple(args.target_spacing), args.groups
    )
    failed = False
    for number in args.datasets:  # before hours of work on the first of them
        common.find_folder(args, "raw", number)
    for number in args.datasets:
        done = plan_and_preprocess(common.root(args, "raw"), common.root(args, "preprocessed"), number, options, common.progress_bar(args))
        common.say(args, describe(done.plans))
        common.say(args, f"\n{done.folder}: {done.written} cases preprocessed, {done.kept} were up to date.")
        for identifier, cause in done.failures.items():
            common.complain(f"case {identifier} failed: {cause}")
        failed = failed or bool(done.failures)
    return common.FAILED if failed else common.DONE


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
