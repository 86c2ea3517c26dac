"""ldseg_plan_and_preprocess: measures a dataset, plans, and preprocesses it."""

from __future__ import annotations

import argparse
import os
import sys

from ldseg_auto.cli import common, planning_flags

SHOWN = 8  # cases that stand out, in the terminal; the report has all
EPILOG = """examples:
  ldseg_plan_and_preprocess -d 4                     dataset 4, all configurations
  ldseg_plan_and_preprocess -d 4 18 -c 2d --verify   two datasets, 2d only, every file checked first
  ldseg_plan_and_preprocess -d 4 --gpu-memory 24     larger patches and batches for a larger graphics card
  ldseg_plan_and_preprocess -d 18 --target-spacing 2 2   half the resolution: four times fewer pixels
  ldseg_plan_and_preprocess -d 4 --executor dask://node7:8786   on the workers of a Dask cluster
  ldseg_plan_and_preprocess -d 4 -p large            with the plans that ldseg_plan -p large has made
  ldseg_plan_and_preprocess -d 18 --groups '^(\\d+)_'  cases 003_HC and 003_2HC are one patient: folds keep them together

What is up to date is kept: after an interruption, or when cases were added, run the same command again.
Plans that are there are used as they are, edited or made by ldseg_plan; --gpu-memory, --target-spacing or --set make them anew.
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
    which = "configurations to preprocess: 2d, 3d_fullres, 3d_lowres or your own (default: all of the plans)"
    parser.add_argument("-c", "--configurations", nargs="+", default=[], metavar="NAME", help=which)
    planning_flags.add_workers(parser, f"processes (default: {_workers()})")
    parser.add_argument("--verify", action="store_true", help="read and check every file first, and name all problems at once")
    parser.add_argument("--clean", action="store_true", help="measure and preprocess again, even what is up to date")
    groups = "regular expression on the case name; cases that share its first group (a patient) are never split between folds"
    parser.add_argument("--groups", metavar="REGEX", help=f"{groups} (default: the key groups of dataset.json)")
    planning_flags.add(parser)
    common.add_roots(parser, "raw", "preprocessed", "results")
    return parser


def _workers() -> int:
    """As many as CPUs, but no more than a disk serves."""
    return min(8, os.cpu_count() or 1)


def work(args: argparse.Namespace) -> int:
    """Prepares each dataset and prints its plan; 1 when cases failed."""
    from ldseg_auto.planners.planner import describe
    from ldseg_auto.preparation import Options, plan_and_preprocess

    choices = planning_flags.choices(args) if planning_flags.given(args) else None
    name = args.plans_name or planning_flags.DEFAULT_NAME
    results = common.root(args, "results")
    workers = planning_flags.workers(args, _workers())
    options = Options(tuple(args.configurations), workers, args.verify, args.clean, name, choices, args.groups, results, args.executor)
    failed = False
    for number in args.datasets:  # before hours of work on the first of them
        common.find_folder(args, "raw", number)
    for number in args.datasets:
        done = plan_and_preprocess(common.root(args, "raw"), common.root(args, "preprocessed"), number, options, common.progress_bar(args))
        common.say(args, describe(done.plans))
        common.say(args, f"\n{done.folder}: {done.written} cases preprocessed, {done.kept} were up to date.")
        common.say(args, "\n".join(done.report.findings.summary(SHOWN)))
        common.say(args, f"Report on the dataset and its plan, for a browser: {done.report.path}")
        for identifier, cause in done.failures.items():
            common.complain(f"case {identifier} failed: {cause}")
        failed = failed or bool(done.failures)
    return common.FAILED if failed else common.DONE


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
