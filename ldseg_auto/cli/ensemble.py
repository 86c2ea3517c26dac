"""ldseg_ensemble: the mean of saved probabilities."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ldseg_auto.cli import common
from ldseg_auto.errors import DatasetError, InputError

EPILOG = """examples:
  ldseg_predict -i scans -o masks_a -m MODEL_A --save-probabilities npz
  ldseg_predict -i scans -o masks_b -m MODEL_B --save-probabilities npz
  ldseg_ensemble -i masks_a masks_b -o masks -m MODEL_A

Models of one dataset that share their axes are averaged by ldseg_predict -m MODEL_A MODEL_B at once, without files in between.
Folders that nnUNetv2_predict --save_probabilities wrote are taken too; their dataset.json makes -m superfluous.
exit code: 0 done, 1 failed, 2 bad input, 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser("ldseg_ensemble", "Average saved probabilities of several predictions, and write the label maps.", EPILOG)
    parser.add_argument("-i", "--inputs", type=Path, nargs="+", required=True, metavar="FOLDER", help="folders with CASE.npz, two or more")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the masks")
    parser.add_argument(
        "-m", "--model", type=Path, metavar="FOLDER", help="model folder, for its dataset.json (default: dataset.json in the first folder)"
    )
    parser.add_argument("--save-probabilities", action="store_true", help="write the mean probabilities too (CASE.npz)")
    parser.add_argument("--overwrite", action="store_true", help="accept an output folder that is not empty; replace masks there")
    return parser


def work(args: argparse.Namespace) -> int:
    """Averages case by case."""
    from ldseg_auto.data.description import Description
    from ldseg_auto.files import read_json
    from ldseg_auto.inference.ensemble import ensemble_case, shared_cases

    for folder in args.inputs:
        if not folder.is_dir():
            raise InputError(f"-i {folder} is no folder.")
        if folder.resolve() == args.output.resolve():
            raise InputError(f"-o {args.output} is one of the inputs, whose files would be replaced. Choose another.")
    if args.output.exists() and (not args.output.is_dir() or (any(args.output.iterdir()) and not args.overwrite)):
        raise InputError(
            f"output {args.output} is a file or a folder that is not empty; nothing was changed. Choose another, or --overwrite."
        )
    source = (args.model or args.inputs[0]) / "dataset.json"
    description = Description.from_dict(read_json(source, DatasetError), str(source))
    cases = shared_cases(args.inputs)
    for case in common.progress_bar(args)(cases, "averaging", total=len(cases)):
        ensemble_case(case, args.inputs, args.output, description, args.save_probabilities)
    common.say(args, f"{len(cases)} cases averaged over {len(args.inputs)} predictions: {args.output}")
    return common.DONE


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
