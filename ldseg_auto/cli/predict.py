"""ldseg_predict: images in, masks out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ldseg_auto.cli import common
from ldseg_auto.errors import InputError

EPILOG = """examples:
  ldseg_predict -i scans -o masks                   with the one model that is trained
  ldseg_predict -i scans -o masks -d 4 -f 0         with fold 0 of dataset 4
  ldseg_predict -i knee.nii.gz -o masks             a single file, of a model with one channel
  ldseg_predict -i scans -o masks -m /models/Dataset004_Hippocampus/ldsegPlans__3d_fullres

Name the files in the input folder CASE_0000.EXT (channel 0), CASE_0001.EXT (channel 1), ... with the ending of the training images.
Each mask lies on its image's own grid; manifest.json in the output folder says what became of each case.
exit code: 0 all cases done, 1 failed (a case too: the others are predicted), 2 bad input, 130 interrupted"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser("ldseg_predict", "Segment images with a trained model.", EPILOG)
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="IN", help="folder of images, or a single image file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the masks")
    parser.add_argument("--overwrite", action="store_true", help="accept an output folder that is not empty; replace masks there")
    model = parser.add_argument_group("model", "Needed only where several models are trained.")
    model.add_argument("-d", "--dataset", type=common.dataset_id, metavar="ID", help="number of the dataset that the model was trained on")
    model.add_argument("-c", "--configuration", metavar="NAME", help="2d, 3d_fullres or 3d_lowres")
    model.add_argument("-f", "--folds", nargs="+", type=common.fold, metavar="FOLD", help="folds to average (default: all trained)")
    model.add_argument("-m", "--model", type=Path, metavar="FOLDER", help="the model folder itself, without -d and -c")
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--steps", type=common.positive_int, metavar="N", help="diffusion steps (default: as validation chose)")
    sampling.add_argument("--samples", type=common.positive_int, metavar="N", help="samples per case, averaged (default: as planned)")
    sampling.add_argument("--seed", type=common.natural_int, default=0, metavar="N", help="the same seed gives the same files (default: 0)")
    parser.add_argument("--device", choices=common.DEVICES, default="auto", help="where to compute (default: auto, a GPU if there is one)")
    parser.add_argument("--tile-batch", type=common.positive_int, metavar="N", help="patches at a time on a GPU (default: as planned)")
    common.add_roots(parser, "results")
    return parser


def work(args: argparse.Namespace) -> int:
    """Predicts; names the cases that failed."""
    if args.model and (args.dataset is not None or args.configuration is not None):
        raise InputError("-m names the model already: leave out -d and -c.")
    if not args.input.exists():
        raise InputError(f"-i {args.input} does not exist.")
    from ldseg_auto.inference.predictor import Predictor

    common.keep_freed_memory()
    folder = args.model or _find_model(common.root(args, "results"), args.dataset, args.configuration)
    folds = None if args.folds is None else [str(f) for f in args.folds]
    predictor = Predictor.from_folder(folder, folds, args.device, args.steps, args.samples, args.seed, args.tile_batch)
    statuses = predictor.predict_folder(args.input, args.output, overwrite=args.overwrite, progress=common.progress_bar(args))
    failed = [s for s in statuses if s.status == "failed"]
    common.say(args, f"{len(statuses) - len(failed)} of {len(statuses)} cases predicted: {args.output}")
    for status in failed:
        common.complain(f"failed: {status.identifier}: {status.message}")
    return common.FAILED if failed else common.DONE


def _find_model(results: Path, dataset: int | None, configuration: str | None) -> Path:
    """The one model folder that fits, else an InputError that lists them."""
    from ldseg_auto.inference.model_folder import find_models

    models = find_models(results, dataset, configuration)
    if len(models) == 1:
        return models[0]
    fitting = f" of dataset {dataset}" if dataset is not None else ""
    fitting += f" of configuration {configuration}" if configuration else ""
    if models:
        raise InputError(f"{len(models)} models{fitting} are trained in {results}; choose one:\n{_choices(models)}")
    there = find_models(results)
    if there:
        raise InputError(f"no model{fitting} is trained in {results}. There are:\n{_choices(there)}")
    raise InputError(f"no trained model in {results}. Train one with ldseg_train, or name its folder with --results or -m.")


def _choices(models: list[Path]) -> str:
    """A line for each model: the flags that choose it."""
    lines = []
    for model in models:
        number = model.parent.name.removeprefix("Dataset").split("_")[0]
        flags = f"-d {int(number)} -c {model.name.split('__')[-1]}"
        twin = [m for m in models if m.parent == model.parent and m.name.split("__")[-1] == model.name.split("__")[-1]]
        lines.append(f"  {flags if len(twin) == 1 else f'-m {model}'}   ({model.parent.name})")
    return "\n".join(lines)


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
