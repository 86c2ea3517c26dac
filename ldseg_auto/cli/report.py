"""ldseg_report: one HTML page on a trained model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ldseg_auto.cli import common
from ldseg_auto.errors import InputError

EPILOG = """examples:
  ldseg_report                                the only trained model
  ldseg_report 4 -c 3d_fullres                a model of dataset 4
  ldseg_report -m models/ldsegPlans__2d -o /tmp/model.html
  ldseg_report 4 --cases 40 --time-budget 1h  calibration from more cases
  ldseg_report 4 --cases 0                    without pictures and calibration: seconds, no GPU

The page opens offline in any browser. It shows images of the training data: keep it where the data may be.
Parts that are missing are named on it, with the command that makes them.
exit code: 0 done, 1 failed, 2 bad input, 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser(
        "ldseg_report",
        "Write one HTML page on a trained model: every validation case with pictures of the worst and the best, training curves, "
        "calibration, predicted Dice, steps, latent, dataset, plan, and how it was trained.",
        EPILOG,
    )
    number = "number of the dataset that the model was trained on (default: the only one with a model)"
    parser.add_argument("dataset", nargs="?", type=common.dataset_id, metavar="DATASET", help=number)
    parser.add_argument("-c", "--configuration", metavar="NAME", help="configuration of the model (default: the only one)")
    parser.add_argument("-p", "--plans-name", metavar="NAME", help="plans that it was trained with (default: the only ones)")
    parser.add_argument("-m", "--model", type=Path, metavar="FOLDER", help="the model folder itself, instead of DATASET, -c and -p")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: report.html in the model folder")
    anew = parser.add_argument_group("cases predicted anew", "For pictures and calibration; needs the preprocessed cases.")
    cases = "how many: the worst three, the best, others evenly (default: 12; 0: none)"
    anew.add_argument("--cases", type=common.natural_int, default=12, metavar="N", help=cases)
    budget = "begin no further case after this time, for instance 90s, 20m or 1.5h (default: 10m)"
    anew.add_argument("--time-budget", type=common.duration, default=600.0, metavar="TIME", help=budget)
    anew.add_argument("--device", choices=common.DEVICES, default="auto", help="where to compute (default: auto, a GPU if there is one)")
    common.add_roots(parser, "preprocessed", "results")
    return parser


def work(args: argparse.Namespace) -> None:
    """Writes the page and prints its path."""
    if args.model is not None and not (args.dataset is args.configuration is args.plans_name is None):
        raise InputError("-m names the model already: leave out DATASET, -c and -p.")
    if args.output is not None and args.output.suffix != ".html":
        raise InputError(f"-o {args.output}: expected a file name that ends in .html.")
    from ldseg_auto.cli.models import find_model
    from ldseg_auto.files import read_json
    from ldseg_auto.model_report import Look, write_model_report

    common.keep_freed_memory()
    model = args.model or find_model(common.root(args, "results"), args.dataset, args.configuration, args.plans_name, "")
    if not (model / "plans.json").exists():
        raise InputError(f"{model} is no model folder: it has no plans.json. Expected results/DatasetXXX_Name/PLANS__CONFIG.")
    name = str(read_json(model / "plans.json").get("dataset_name", model.parent.name))
    preprocessed = common.root(args, "preprocessed") / name
    look = Look(args.cases, args.time_budget, args.device)
    path = write_model_report(model, args.output, preprocessed if preprocessed.is_dir() else None, look, common.progress_bar(args))
    common.say(args, f"Report: {path}")


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
