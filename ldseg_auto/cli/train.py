"""ldseg_train: trains one fold of a preprocessed dataset."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from ldseg_auto.cli import common
from ldseg_auto.errors import LdsegError

logger = logging.getLogger(__name__)

EPILOG = """examples:
  ldseg_train 4 0                             fold 0 of dataset 4, as planned
  ldseg_train 4 all --time-budget 2h          all cases, at most two hours
  ldseg_train 4 0 -c 2d --epochs 50           another configuration, shorter
  ldseg_train 4 0 --set training.learning_rate=0.0003 --set batch_size=4
  ldseg_train 4 0 --continue                  go on after an interruption

--set changes any value of the plans' configuration for this training; the plans saved with the model hold the change.
exit code: 0 done, 1 failed, 2 bad input, 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser(
        "ldseg_train",
        "Train one fold of a dataset that ldseg_plan_and_preprocess has prepared, and validate it on the cases that the fold leaves out.",
        EPILOG,
    )
    parser.add_argument("dataset", type=common.dataset_id, metavar="DATASET", help="its number, such as 4 for Dataset004_Hippocampus")
    folds = "0 to 4: validate on this fifth of the cases, train on the others; all: train on all cases"
    parser.add_argument("fold", type=common.fold, metavar="FOLD", help=folds)
    parser.add_argument("-c", "--configuration", metavar="NAME", help="2d, 3d_fullres, 3d_lowres or your own (default: the plans' choice)")
    plans = "plans to train with, by their file's name without .json (default: ldsegPlans)"
    parser.add_argument("-p", "--plans-name", default="ldsegPlans", metavar="NAME", help=plans)
    length = parser.add_argument_group("length of training", "Default: the number of epochs in the plans.")
    exclusive = length.add_mutually_exclusive_group()
    exclusive.add_argument("--epochs", type=common.positive_int, metavar="N", help="train for N epochs")
    exclusive.add_argument("--iterations", type=common.positive_int, metavar="N", help="train for N iterations (batches)")
    budget = "train for at most this long, for instance 90s, 20m or 1.5h; the final validation comes on top"
    length.add_argument("--time-budget", type=common.duration, metavar="TIME", help=budget)
    length.add_argument("--continue", dest="resume", action="store_true", help="continue from the last checkpoint")
    change = "change a value of the plans for this training; may be repeated"
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help=change)
    parser.add_argument("--device", choices=common.DEVICES, default="auto", help="where to compute (default: auto, a GPU if there is one)")
    parser.add_argument("--seed", type=common.natural_int, default=0, metavar="N", help="of weights, patches and noise (default: 0)")
    common.add_roots(parser, "preprocessed", "results")
    return parser


def work(args: argparse.Namespace) -> None:
    """Trains and prints where the model is and its validation Dice."""
    from ldseg_auto.files import read_json
    from ldseg_auto.training.options import Options
    from ldseg_auto.training.run import train_fold

    common.keep_freed_memory()
    preprocessed = common.find_folder(args, "preprocessed", args.dataset)
    results = common.root(args, "results")
    options = Options(
        args.configuration, args.settings, args.epochs, args.iterations, args.time_budget, resume=args.resume, device=args.device,
        seed=args.seed, plans_name=args.plans_name,
    )  # fmt: skip
    folder = train_fold(preprocessed, results, args.fold, options, progress=common.progress_bar(args))
    _update_report(preprocessed, results, args.plans_name)
    common.say(args, f"Model: {folder}")
    common.say(args, _validation(read_json(folder / "validation" / "summary.json")))


def _update_report(preprocessed: Path, results: Path, plans_name: str) -> None:
    """The dataset's report gets what this training made of the latent; where it cannot be written, the model is there all the same."""
    try:
        from ldseg_auto.planners.fingerprint import Fingerprint
        from ldseg_auto.planners.plans import Plans
        from ldseg_auto.report.write import write_report

        plans = Plans.load(preprocessed / f"{plans_name}.json")
        write_report(preprocessed, Fingerprint.load(preprocessed / "dataset_fingerprint.json"), plans, results=results)
    except (LdsegError, OSError, ImportError) as cause:  # a bare GPU machine lacks what pictures need
        logger.warning("the dataset's report was not brought up to date: %s", cause)


def _validation(summary: dict[str, Any]) -> str:
    """One line: the mean Dice and each class's."""
    classes = ", ".join(f"{name} {_figure(dice)}" for name, dice in summary["per_class"].items())
    return f"Validation Dice: {_figure(summary['mean'])} ({classes}; {len(summary['cases'])} cases)"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
