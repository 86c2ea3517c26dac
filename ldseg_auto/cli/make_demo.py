"""ldseg_make_demo: a small synthetic dataset to try everything on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ldseg_auto.cli import common

EPILOG = """examples:
  ldseg_make_demo                        write ./ldseg_data/raw/Dataset900_Demo
  ldseg_make_demo /data/raw -d 901       write /data/raw/Dataset901_Demo
  ldseg_plan_and_preprocess -d 900       what comes next

exit code: 0 done, 1 failed, 2 bad input, 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser(
        "ldseg_make_demo",
        "Write a small synthetic dataset: 3D MR-like volumes with two organs and a lesion, for a first try and for tests. "
        "Its test cases lie in imagesTs, their masks in labelsTs.",
        EPILOG,
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="folder that holds the raw datasets (default: as --raw)")
    parser.add_argument("-d", "--dataset", type=common.dataset_id, default=900, metavar="ID", help="number of the dataset (default: 900)")
    parser.add_argument("--cases", type=common.positive_int, default=20, metavar="N", help="training cases, 5 or more (default: 20)")
    parser.add_argument("--held-out", type=common.natural_int, default=4, metavar="N", help="test cases (default: 4)")
    parser.add_argument("--seed", type=common.natural_int, default=0, metavar="N", help="the same seed gives the same files (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo of the same number")
    common.add_roots(parser, "raw")
    return parser


def work(args: argparse.Namespace) -> None:
    """Writes the dataset and says where."""
    from ldseg_auto.data.demo import write_demo

    folder = (args.folder or common.root(args, "raw")) / f"Dataset{args.dataset:03d}_Demo"
    write_demo(folder, args.cases, args.held_out, args.seed, args.overwrite, common.progress_bar(args))
    common.say(args, f"{folder}: {args.cases} training cases and {args.held_out} test cases.")
    common.say(args, f"Next: ldseg_plan_and_preprocess -d {args.dataset}")


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
