"""ldseg_predict: images in, masks out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ldseg_auto.cli import common, jobs, predict_jobs
from ldseg_auto.cli.interrupt import Stop, stopping
from ldseg_auto.cli.models import find_model
from ldseg_auto.errors import InputError

if TYPE_CHECKING:
    from ldseg_auto.data.description import Description
    from ldseg_auto.inference.predictor import Predictor

logger = logging.getLogger(__name__)
PRECISIONS = ("auto", "float32", "bf16", "float16")

EPILOG = """examples:
  ldseg_predict -i scans -o masks                   with the one model that is trained
  ldseg_predict -i scans -o masks -d 4              as ldseg_find_best 4 chose (its inference.json)
  ldseg_predict -i scans -o masks -d 4 -f 0         with fold 0 of dataset 4
  ldseg_predict -i knee.nii.gz -o masks             a single file, of a model with one channel
  ldseg_predict -i scans -o masks -m /models/Dataset004_Hippocampus/ldsegPlans__3d_fullres
  ldseg_predict -i scans -o masks -m MODEL_2D MODEL_3D      the mean of two configurations
  ldseg_predict -i scans -o masks --part 1/4                every fourth case: four machines share the folders
  ldseg_predict -i scans -o masks --executor dask://node7:8786   every worker of a Dask cluster takes its share of the cases
  ldseg_predict -i scans -o masks --continue                the cases that an interrupted run did not finish

Name the files in the input folder CASE_0000.EXT (channel 0), CASE_0001.EXT (channel 1), ... with the ending of the training images.
inference.json, where ldseg_find_best wrote one, is followed: models, folds, steps, samples, post-processing. Flags given win over it.
Each mask lies on its image's own grid; manifest.json in the output folder says what became of each case.
exit code: 0 all cases done, 1 failed (a case too: the others are predicted), 2 bad input,
130 interrupted, 143 terminated (what is finished stays: go on with --continue)"""


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser("ldseg_predict", "Segment images with a trained model.", EPILOG)
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="IN", help="folder of images, or a single image file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the masks")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="accept an output folder that is not empty; replace masks there")
    existing.add_argument(
        "--continue", dest="resume", action="store_true", help="go on in the output folder: predict what is not finished, or has changed"
    )
    model = parser.add_argument_group("model", "Needed only where several models are trained.")
    model.add_argument("-d", "--dataset", type=common.dataset_id, metavar="ID", help="number of the dataset that the model was trained on")
    model.add_argument("-c", "--configuration", metavar="NAME", help="2d, 3d_fullres, 3d_lowres or your own")
    model.add_argument("-p", "--plans-name", metavar="NAME", help="name of the plans that the model was trained with")
    model.add_argument("-f", "--folds", nargs="+", type=common.fold, metavar="FOLD", help="folds to average (default: all trained)")
    model.add_argument(
        "-m", "--model", type=Path, nargs="+", metavar="FOLDER", help="the model folder itself, without -d, -c and -p; several are averaged"
    )
    model.add_argument(
        "--no-recipe", action="store_true", help="do not follow inference.json: all folds, no post-processing, steps and samples as planned"
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--steps", type=common.positive_int, metavar="N", help="diffusion steps (default: as validation chose)")
    sampling.add_argument("--samples", type=common.positive_int, metavar="N", help="samples per case, averaged (default: as planned)")
    sampling.add_argument("--seed", type=common.natural_int, default=0, metavar="N", help="the same seed gives the same files (default: 0)")
    sampling.add_argument(
        "--tta",
        choices=("samples", "mirror", "none"),
        default="samples",
        help="on the axes that training mirrored. samples: with --samples, each sample sees another mirroring, unless the model learnt "
        "from several raters; mirror: average every sample over all mirrorings (up to 8 times the time); none (default: samples)",
    )
    parser.add_argument(
        "--part", type=common.part, default=(1, 1), metavar="k/n", help="only every n-th case, from the k-th on (default: 1/1, all)"
    )
    jobs.add_flags(parser, "parts of the cases")
    parser.add_argument("--device", choices=common.DEVICES, default="auto", help="where to compute (default: auto, a GPU if there is one)")
    parser.add_argument("--tile-batch", type=common.positive_int, metavar="N", help="patches at a time on a GPU (default: as planned)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="what networks compute in (default: auto, float16 on a CUDA GPU and float32 elsewhere)",
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks with torch.compile first")
    parser.add_argument("--deterministic", action="store_true", help="the same bits in each run on a GPU too (a CPU's always are); slower")
    doubt = parser.add_argument_group(
        "doubt", "predictions.csv and predictions.json hold volumes, agreement and predicted Dice in any case."
    )
    doubt.add_argument("--save-probabilities", choices=("nifti", "npz"), help="per class a file in the image's geometry, or CASE.npz")
    doubt.add_argument("--save-uncertainty", action="store_true", help="maps of predictive entropy and mutual information")
    doubt.add_argument("--save-samples", action="store_true", help="the label map of every sample and model")
    doubt.add_argument("--preview", action="store_true", help="a PNG per case: three planes, contours, uncertainty, score")
    doubt.add_argument("--flag-below", type=common.share, metavar="DICE", help="flag cases whose predicted Dice is lower, or not known")
    common.add_roots(parser, "results")
    return parser


def work(args: argparse.Namespace) -> int:
    """Predicts; names the cases that failed."""
    if args.model and not (args.dataset is args.configuration is args.plans_name is None):
        raise InputError("-m names the model already: leave out -d, -c and -p.")
    if not args.input.exists():
        raise InputError(f"-i {args.input} does not exist.")
    predict_jobs.check_flags(args)
    if args.executor or args.jobs:
        with _load(argparse.Namespace(**{**vars(args), "device": "cpu"})) as predictor:  # errors are said once, before any job
            description = predictor.description
        return predict_jobs.work(args, description)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
        from ldseg_auto.inference.device import make_deterministic

        make_deterministic()
    common.keep_freed_memory()
    with stopping() as stop:
        return _predict(args, stop)


def _predict(args: argparse.Namespace, stop: Stop) -> int:
    from ldseg_auto.inference.outputs import Extras

    extras = Extras(args.save_probabilities, args.save_uncertainty, args.save_samples, args.preview)
    with _load(args) as predictor:
        stop.tidy = lambda: _tidy(args, predictor.description)
        statuses = predictor.predict_folder(
            args.input, args.output, overwrite=args.overwrite, part=args.part, extras=extras, flag_below=args.flag_below,
            progress=common.progress_bar(args), resume=args.resume, stop=stop.event,
        )  # fmt: skip
    if stop.code:
        common.complain(f"interrupted: {len(statuses)} cases are dealt with, see the manifest in {args.output}. Go on with --continue.")
        return stop.code
    kept = sum(s.status == "kept" for s in statuses)
    failed = [s for s in statuses if s.status == "failed"]
    earlier = f", {kept} of them earlier" if kept else ""
    common.say(args, f"{len(statuses) - len(failed)} of {len(statuses)} cases predicted{earlier}: {args.output}")
    _say_flags(args)
    for status in failed:
        common.complain(f"failed: {status.identifier}: {status.message}")
    return common.FAILED if failed else common.DONE


def _load(args: argparse.Namespace) -> Predictor:
    """The models that the flags or inference.json name; the log says which of the two."""
    from ldseg_auto.inference.predictor import Options, Predictor

    folds = None if args.folds is None else [str(f) for f in args.folds]
    options = Options(args.tta == "mirror", args.tta == "samples", args.precision, args.compile)
    recipe = None if args.no_recipe else _recipe(args)
    if recipe is None:
        folder = args.model or find_model(common.root(args, "results"), args.dataset, args.configuration, args.plans_name)
        return Predictor.from_folder(folder, folds, args.device, args.steps, args.samples, args.seed, args.tile_batch, options)
    from ldseg_auto.inference.recipe import Overrides, Recipe, follow

    given = [f for f, value in (("-f", folds), ("--steps", args.steps), ("--samples", args.samples)) if value is not None]
    but = f", but for {', '.join(given)}" if given else ""
    logger.info("following %s%s (--no-recipe does not): %s", recipe, but, Recipe.load(recipe).words())
    return follow(recipe, args.device, args.seed, args.tile_batch, options, Overrides(folds, args.steps, args.samples))


def _recipe(args: argparse.Namespace) -> Path | None:
    """The inference.json to follow: of the one model folder, else of the one dataset; none for several of -m."""
    from ldseg_auto.inference.model_folder import find_models
    from ldseg_auto.inference.recipe import NAME

    folders = list(args.model or find_models(common.root(args, "results"), args.dataset, args.configuration, args.plans_name))
    datasets = {folder.parent for folder in folders}
    whole = args.model is args.configuration is args.plans_name is None
    if whole and len(datasets) == 1 and (datasets.copy().pop() / NAME).exists():
        return datasets.pop() / NAME
    return folders[0] / NAME if len(folders) == 1 and (folders[0] / NAME).exists() else None


def _tidy(args: argparse.Namespace, description: Description) -> None:
    """Removes half-written files; each has a temporary name."""
    from ldseg_auto.data.dataset import find_input_cases
    from ldseg_auto.inference.folder import FolderTask, remove_temporary

    remove_temporary(FolderTask(args.input, args.output, part=args.part), find_input_cases(args.input, description))


def _say_flags(args: argparse.Namespace) -> None:
    """How many cases are flagged, and why."""
    if args.flag_below is None:
        return
    from ldseg_auto.inference.manifest import part_suffix
    from ldseg_auto.inference.outputs import LOW, UNKNOWN, read_predictions

    flags = [case["flag"] for case in read_predictions(args.output, part_suffix(args.part)).values()]
    low, unknown = flags.count(LOW), flags.count(UNKNOWN)
    common.say(
        args, f"flagged in predictions.csv: {low} with a predicted Dice below {args.flag_below:g}, {unknown} without a predicted Dice"
    )


def main() -> None:
    """Entry point."""
    sys.exit(common.run(build(), work))


if __name__ == "__main__":
    main()
