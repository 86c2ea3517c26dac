"""ldseg_export: a trained model as one archive."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ldseg_auto.cli import common

EPILOG = """examples:
  ldseg_export results/Dataset004_Hippocampus/ldsegPlans__3d_fullres -o hippocampus.zip
  ldseg_export MODEL -o model.zip -f 0 1 2 3 4 --licence CC-BY-4.0
  ldseg_export MODEL -o model.zip --anonymous        without the names of the training cases

The archive holds what prediction needs: plans, dataset.json, weights (no optimiser), steps, predicted Dice; and the validation figures.
The names of the training cases are in it, unless --anonymous leaves them out. ldseg_import puts it in place elsewhere.
exit code: 0 done, 1 failed, 2 bad input, 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser(
        "ldseg_export", "Write a trained model to a single archive, with a manifest and the SHA-256 of each file.", EPILOG
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder: results/DatasetXXX_Name/PLANS__CONFIGURATION")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the archive, FILE.zip")
    parser.add_argument("-f", "--folds", nargs="+", type=common.fold, metavar="FOLD", help="folds to export (default: all trained)")
    kinds = (
        "weights to export (default: final). best: of the epoch with the highest pseudo-Dice, without what was measured with the final ones"
    )
    parser.add_argument("--checkpoint", choices=("final", "best"), default="final", help=kinds)
    licence = "licence of the weights, recorded in the manifest (default: what dataset.json says)"
    parser.add_argument("--licence", metavar="TEXT", help=licence)
    anonymous = "leave out the names of training cases, and the files that list them"
    parser.add_argument("--anonymous", action="store_true", help=anonymous)
    parser.add_argument("--overwrite", action="store_true", help="replace FILE.zip if it is there")
    return parser


def work(args: argparse.Namespace) -> None:
    """Exports and prints the archive's SHA-256."""
    from ldseg_auto.sharing.export import Export, export_model

    folds = None if args.folds is None else [str(fold) for fold in args.folds]
    what = Export(folds, args.checkpoint, args.licence, args.anonymous)
    done = export_model(args.model, args.output, what, args.overwrite, common.progress_bar(args))
    manifest = done.manifest
    common.say(args, f"{done.path}: {done.size / 2**20:.1f} MiB, {len(manifest.files)} files, folds {' '.join(manifest.folds)}")
    common.say(args, f"licence of the weights: {manifest.licence or 'not stated; name one with --licence'}")
    if not manifest.anonymous:
        common.say(args, "It holds the names of the training cases; --anonymous leaves them out.")
    common.say(args, f"SHA-256: {done.sha256}")


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
