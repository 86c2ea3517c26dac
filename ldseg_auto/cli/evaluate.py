"""ldseg_evaluate: compares masks with reference masks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ldseg_auto.cli import common
from ldseg_auto.errors import InputError

if TYPE_CHECKING:
    from ldseg_auto.data.dataset import Description

EPILOG = """examples:
  ldseg_evaluate ldseg_data/raw/Dataset900_Demo/labelsTs masks -d 900
  ldseg_evaluate references masks --dataset-json dataset.json --tolerance 2
  ldseg_evaluate references masks -d 900 --images imagesTs --picture compare.png

For each case and class: Dice, IoU, HD95 (95th percentile of surface distances), NSD (share of the surface
within the tolerance) and volumes.
A class that both masks lack has no score there and counts in no mean.
exit code: 0 done, 1 failed, 2 bad input, 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser("ldseg_evaluate", "Compare predicted masks with reference masks of the same names.", EPILOG)
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="folder of reference masks")
    parser.add_argument("prediction", type=Path, metavar="PREDICTION", help="folder of predicted masks")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("-d", "--dataset", type=common.dataset_id, metavar="ID", help="dataset whose dataset.json names the classes")
    which.add_argument("--dataset-json", type=Path, metavar="FILE", help="the dataset.json itself; the one beside a model will do")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: PREDICTION/summary.json; a .csv is written beside it")
    parser.add_argument("--tolerance", type=common.positive_float, default=1.0, metavar="MM", help="of NSD, in mm (default: 1)")
    parser.add_argument("--allow-missing", action="store_true", help="leave out cases without a prediction instead of refusing")
    parser.add_argument("-np", "--workers", type=common.positive_int, default=2, metavar="N", help="worker processes (default: 2)")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also draw up to four cases, from the worst to the best")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="folder of the images (CASE_0000.EXT), for --picture")
    common.add_roots(parser, "raw", "preprocessed")
    return parser


def work(args: argparse.Namespace) -> None:
    """Evaluates, writes the summary and prints its table."""
    if (args.picture is None) != (args.images is None):
        raise InputError("--picture and --images go together: give both or neither.")
    output = args.output or args.prediction / "summary.json"
    if output.suffix != ".json":
        raise InputError(f"-o {output}: expected a file name that ends in .json.")
    from ldseg_auto.evaluation.folders import evaluate_folder
    from ldseg_auto.evaluation.report import to_table, write_summary

    description = _description(args)
    summary = evaluate_folder(
        args.reference, args.prediction, description, tolerance=args.tolerance, allow_missing=args.allow_missing,
        workers=args.workers, progress=common.progress_bar(args),
    )  # fmt: skip
    written = list(write_summary(output, summary))
    if args.picture is not None:
        from ldseg_auto.evaluation.examples import draw_examples

        draw_examples(args.picture, summary, args.images, description)
        written.append(args.picture)
    common.say(args, to_table(summary))
    common.say(args, "Written: " + ", ".join(str(path) for path in written))


def _description(args: argparse.Namespace) -> Description:
    """From --dataset-json, or the dataset below --raw, or below --preprocessed."""
    from ldseg_auto.data.dataset import Description
    from ldseg_auto.errors import DatasetError
    from ldseg_auto.files import read_json

    path = args.dataset_json
    if path is None:
        try:
            path = common.find_folder(args, "raw", args.dataset) / "dataset.json"
        except InputError as cause:
            try:
                path = common.find_folder(args, "preprocessed", args.dataset) / "dataset.json"
            except InputError:
                raise cause from None
    return Description.from_dict(read_json(path, DatasetError), str(path))


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
