"""ldseg_plan: plans a measured dataset again, in seconds, without reading its images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ldseg_auto.cli import common, planning_flags
from ldseg_auto.errors import InputError

WORKERS = 2
EPILOG = """examples:
  ldseg_plan -d 4                                            the rules' own plans
  ldseg_plan -d 4 -p large --gpu-memory 40                   other plans beside them: large.json
  ldseg_plan -d 4 --set training.epochs=100                  for every configuration
  ldseg_plan -d 4 --set 3d_fullres.batch_size=4              for one
  ldseg_plan -d 4 --set small.inherits_from=3d_fullres --set small.batch_size=2    a configuration of your own
  ldseg_plan -d 18 --from-dataset 4                          the plans of dataset 4, to fine-tune its model on dataset 18

Then: ldseg_plan_and_preprocess -d 4 -p large, and ldseg_train 4 0 -p large. Plans of the same name are kept as NAME.previous_1.json.
Images are read only where the dataset was never measured; labels only where another patch or spacing needs a label code.
exit code: 0 done, 1 failed, 2 bad input, 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser(
        "ldseg_plan",
        "Plan a dataset again from its stored fingerprint, with other choices or under another name, and say why. "
        "Takes seconds: nothing is preprocessed.",
        EPILOG,
    )
    number = "number of the dataset, for instance 4 for Dataset004_Hippocampus"
    parser.add_argument("-d", "--dataset", type=common.dataset_id, required=True, metavar="ID", help=number)
    planning_flags.add(parser)
    copying = parser.add_argument_group("plans of another dataset", "For fine-tuning: its normalisation, spacing and network are kept.")
    copy = copying.add_mutually_exclusive_group()
    copy.add_argument("--from-dataset", type=common.dataset_id, metavar="ID", help="copy the ldsegPlans of this preprocessed dataset")
    copy.add_argument("--from-plans", type=Path, metavar="FILE", help="copy this plans file; a trained model's plans.json too")
    planning_flags.add_workers(parser, f"processes, where something has to be measured (default: {WORKERS})")
    common.add_roots(parser, "raw", "preprocessed", "results")
    return parser


def work(args: argparse.Namespace) -> None:
    """Plans, and prints the plans with their reasons."""
    from ldseg_auto.planners.planner import describe
    from ldseg_auto.planning import Request, make_and_store
    from ldseg_auto.report.write import report_path

    source = _source(args)
    if source is not None and (args.gpu_memory is not None or args.target_spacing):
        flag = "--gpu-memory" if args.gpu_memory is not None else "--target-spacing"
        copy = "--from-plans" if args.from_plans else "--from-dataset"
        raise InputError(f"{flag} and {copy} contradict each other: copied plans keep their patch and spacing. Leave one out.")
    workers, results = planning_flags.workers(args, WORKERS), common.root(args, "results")
    request = Request(args.plans_name or "", planning_flags.choices(args), source, workers, results, args.executor)
    path, plans = make_and_store(
        common.root(args, "raw"), common.root(args, "preprocessed"), args.dataset, request, common.progress_bar(args)
    )
    common.say(args, describe(plans))
    name = "" if plans.plans_name == "ldsegPlans" else f" -p {plans.plans_name}"
    common.say(args, f"\n{path}\n{report_path(path.parent, plans.plans_name)}\nNext: ldseg_plan_and_preprocess -d {args.dataset}{name}")


def _source(args: argparse.Namespace) -> Path | None:
    """The plans file to copy, if one is asked for."""
    if args.from_dataset is None:
        return args.from_plans
    if args.from_dataset == args.dataset:
        raise InputError(f"--from-dataset {args.dataset} is the dataset itself. Name another one.")
    return common.find_folder(args, "preprocessed", args.from_dataset) / f"{planning_flags.DEFAULT_NAME}.json"


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
