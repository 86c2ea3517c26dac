"""ldseg_import: an archive of ldseg_export as a model folder."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ldseg_auto.cli import common

EPILOG = """examples:
  ldseg_import hippocampus.zip
  ldseg_import hippocampus.zip --results /models --sha256 HEX

Everything is verified before the model folder appears: the hash of each file, that there is no other file, and that prediction can read it.
Nothing in an archive is ever unpickled. Only --sha256 (ldseg_export prints it) tells a forged archive with a manifest of its own.
exit code: 0 done, 1 failed, 2 bad input, 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser("ldseg_import", "Verify an archive of ldseg_export and put its model in place.", EPILOG)
    parser.add_argument("archive", type=Path, metavar="FILE", help="the archive, FILE.zip")
    told = "SHA-256 of the archive, as the one who exported it says; another archive is refused"
    parser.add_argument("--sha256", type=sha256, metavar="HEX", help=told)
    parser.add_argument("--overwrite", action="store_true", help="replace the model folder of the same name, with all its folds")
    common.add_roots(parser, "results")
    return parser


def sha256(text: str) -> str:
    """64 hexadecimal digits; an argparse type."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no SHA-256; expected 64 hexadecimal digits, as ldseg_export prints them")
    return text.lower()


def work(args: argparse.Namespace) -> None:
    """Imports and prints where the model is."""
    from ldseg_auto.sharing.install import import_model

    done = import_model(args.archive, common.root(args, "results"), args.overwrite, args.sha256, common.progress_bar(args))
    manifest = done.manifest
    common.say(args, f"Model: {done.folder} ({manifest.dataset}, {manifest.configuration}, folds {' '.join(manifest.folds)})")
    common.say(args, f"licence of the weights: {manifest.licence or 'not stated'}")
    common.say(args, f"Predict with: ldseg_predict -i IMAGES -o MASKS -m {done.folder}")


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
