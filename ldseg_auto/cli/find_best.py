"""ldseg_find_best: compares the trained models of a dataset by cross-validation and writes inference.json."""

from __future__ import annotations

import argparse
import sys

from ldseg_auto.cli import common

EPILOG = """examples:
  ldseg_find_best 4                            all that is trained, and pairs of two, on all folds
  ldseg_find_best 4 -c 2d 3d_fullres -f 0 1    these configurations, on folds 0 and 1
  ldseg_find_best 4 -c 3d_fullres --samples 1  its post-processing and steps alone
  ldseg_find_best 4 --metric nsd --tolerance 2 decided by surfaces

Each case is predicted by the fold that has not seen it. What is finished is kept: run the command again after an interruption, or
after training another configuration. inference.json beside the models says what was chosen, and ldseg_predict -d follows it; the one in
each model folder is for that model alone (ldseg_predict -m). find_best.md has the table.
exit code: 0 done, 1 failed, 2 bad input (what has to be trained first is named, with the commands), 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser(
        "ldseg_find_best",
        "Find the best of a dataset's trained models, or of two averaged, by cross-validation, with its sampling steps, samples and "
        "post-processing.",
        EPILOG,
    )
    parser.add_argument("dataset", type=common.dataset_id, metavar="DATASET", help="its number, such as 4 for Dataset004_Hippocampus")
    parser.add_argument("-c", "--configurations", nargs="+", default=[], metavar="NAME", help="to compare (default: all that are trained)")
    parser.add_argument("-p", "--plans-names", nargs="+", default=[], metavar="NAME", help="to compare (default: all that are trained)")
    folds = "to compare on (default: all); each must be trained for each configuration"
    parser.add_argument("-f", "--folds", nargs="+", type=common.fold, default=[], metavar="FOLD", help=folds)
    parser.add_argument("--metric", choices=("dice", "nsd"), default="dice", help="what decides (default: dice)")
    tolerance = "of NSD, in mm (default: the finest voxel edge of the compared configurations)"
    parser.add_argument("--tolerance", type=common.positive_float, metavar="MM", help=tolerance)
    parser.add_argument("--no-ensembles", action="store_true", help="compare single models only")
    samples = "samples per case: the fewest for all models, the others for the best (default: 1 4)"
    parser.add_argument("--samples", nargs="+", type=common.positive_int, default=[1, 4], metavar="N", help=samples)
    parser.add_argument("--steps", type=common.positive_int, metavar="N", help="sampling steps (default: as validation chose)")
    parser.add_argument("--device", choices=common.DEVICES, default="auto", help="where to compute (default: auto, a GPU if there is one)")
    common.add_roots(parser, "preprocessed", "results")
    return parser


def work(args: argparse.Namespace) -> None:
    """Compares, and prints the table, the choice and the command that predicts with it."""
    from ldseg_auto.errors import InputError
    from ldseg_auto.selection.find_best import REPORT, Question, find_best
    from ldseg_auto.selection.report import as_markdown

    common.keep_freed_memory()
    preprocessed = common.find_folder(args, "preprocessed", args.dataset)
    results = common.root(args, "results") / preprocessed.name
    if not results.is_dir():
        raise InputError(f"no model of dataset {args.dataset} in {results.parent}. Start with ldseg_train {args.dataset} 0.")
    question = Question(
        args.configurations, args.plans_names, [str(f) for f in args.folds], args.metric, args.tolerance, not args.no_ensembles,
        args.samples, args.steps, args.device,
    )  # fmt: skip
    found = find_best(preprocessed, results, question, common.progress_bar(args))
    common.say(args, as_markdown(found))
    common.say(args, f"Written: {results / 'inference.json'}, {results / f'{REPORT}.md'}, {results / f'{REPORT}.json'}")


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
