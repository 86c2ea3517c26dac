"""ldseg_train: trains one fold of a preprocessed dataset."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldseg_auto.cli import all_folds, common, jobs, ranks
from ldseg_auto.cli.interrupt import stopping
from ldseg_auto.errors import InputError, LdsegError, Stopped

if TYPE_CHECKING:
    from ldseg_auto.training.options import Options

logger = logging.getLogger(__name__)
LOGGERS = ("tensorboard", "wandb", "mlflow", "none")  # training/watch.py

EPILOG = """examples:
  ldseg_train 4 0                             fold 0 of dataset 4, as planned
  ldseg_train 4 all --time-budget 2h          all cases, at most two hours
  ldseg_train 4 all-folds                     every fold, one after another or one per GPU; again: those that are not finished
  ldseg_train 4 all-folds --executor dask://node7:8786     one fold per worker of a Dask cluster
  ldseg_train 4 0 -c 2d --epochs 50           another configuration, shorter
  ldseg_train 4 0 --set training.learning_rate=0.0003 --set batch_size=4
  ldseg_train 4 0 --continue                  go on after an interruption
  ldseg_train 5 0 -p ldsegPlans_from004 --pretrained results/Dataset004_Hippocampus/ldsegPlans__3d_fullres/fold_0
  ldseg_train 4 0 --devices 4                 four GPUs share each batch
  ldseg_train 4 0 --early-stopping 50         end where 50 epochs bring nothing
  ldseg_train 4 0 --log-to tensorboard mlflow figures of every epoch to MLflow too

--set changes any value of the plans' configuration for this training; the plans saved with the model hold the change.
--continue takes plans, seed and length from the training that it continues; --set and the flags of length change them.
SIGTERM and Ctrl-C stop between two iterations with a checkpoint: nothing is lost.
exit code: 0 done, or stopped by SIGTERM; 1 failed, 2 bad input, 130 stopped by Ctrl-C, 143 ended by force (work since the last checkpoint
is lost)"""
GRACE = 9.0  # seconds from a signal to the end


def build() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = common.parser(
        "ldseg_train",
        "Train one fold of a dataset that ldseg_plan_and_preprocess has prepared, and validate it on the cases that the fold leaves out.",
        EPILOG,
    )
    parser.add_argument("dataset", type=common.dataset_id, metavar="DATASET", help="its number, such as 4 for Dataset004_Hippocampus")
    folds = "0 to 4: validate on this fifth of the cases, train on the others; all: train on all cases; all-folds: each fold, as jobs"
    parser.add_argument("fold", type=_fold, metavar="FOLD", help=folds)
    parser.add_argument("-c", "--configuration", metavar="NAME", help="2d, 3d_fullres, 3d_lowres or your own (default: the plans' choice)")
    plans = "plans to train with, by their file's name without .json (default: ldsegPlans)"
    parser.add_argument("-p", "--plans-name", default="ldsegPlans", metavar="NAME", help=plans)
    length = parser.add_argument_group("length of training", "Default: the number of epochs in the plans.")
    exclusive = length.add_mutually_exclusive_group()
    exclusive.add_argument("--epochs", type=common.positive_int, metavar="N", help="train for N epochs")
    exclusive.add_argument("--iterations", type=common.positive_int, metavar="N", help="train for N iterations (batches)")
    budget = "train for at most this long, for instance 90s, 20m or 1.5h; the final validation comes on top"
    length.add_argument("--time-budget", type=common.duration, metavar="TIME", help=budget)
    patience = "end training, its learning rate annealed first, when the smoothed pseudo-Dice has not risen for N epochs; 0: never"
    length.add_argument("--early-stopping", type=common.natural_int, metavar="N", help=f"{patience} (default: the plans', 0)")
    length.add_argument("--continue", dest="resume", action="store_true", help="continue from the last checkpoint")
    change = "change a value of the plans for this training; may be repeated"
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help=change)
    parser.add_argument("--compile", action="store_true", help="compile the network with torch.compile first (--set training.compile=true)")
    begin = "begin with the weights of this model folder, fold or checkpoint, as far as they fit; the log lists what does not"
    parser.add_argument("--pretrained", type=Path, metavar="MODEL", help=begin)
    parser.add_argument("--device", choices=common.DEVICES, default="auto", help="where to compute (default: auto, a GPU if there is one)")
    several = parser.add_argument_group("several devices", "They share each batch; documentation/multi_device.md.")
    number = "devices of this machine, or of each node (default: 1; with torchrun: what it was told)"
    several.add_argument("--devices", type=common.positive_int, metavar="N", help=number)
    several.add_argument("--num-nodes", type=common.positive_int, metavar="M", help="machines with as many devices each (default: 1)")
    jobs.add_flags(parser.add_argument_group("all folds", "With all-folds as FOLD."), "the folds")
    parser.add_argument("--seed", type=common.natural_int, default=0, metavar="N", help="of weights, patches and noise (default: 0)")
    log = "where the figures of every epoch go beside training_log.csv: %(choices)s; a list (default: tensorboard)"
    parser.add_argument("--log-to", nargs="+", choices=LOGGERS, default=["tensorboard"], metavar="NAME", help=log)
    common.add_roots(parser, "preprocessed", "results")
    return parser


def _fold(text: str) -> int | str:
    """A fold, or all of them; an argparse type."""
    return text if text == all_folds.ALL_FOLDS else common.fold(text)


def work(args: argparse.Namespace) -> int:
    """Trains and prints where the model is and its validation Dice."""
    all_folds.check_flags(args)
    if args.fold == all_folds.ALL_FOLDS:
        return all_folds.work(args, _options(args, args.devices or 1, 1), build())
    devices, nodes = ranks.devices_of(args)
    if ranks.to_start(devices, nodes):
        return ranks.start("ldseg_auto.cli.train", args.argv, devices, nodes)
    with ranks.member(args, devices * nodes > 1) as first:
        return _train(args, devices, nodes, first)


def _train(args: argparse.Namespace, devices: int, nodes: int, first: bool) -> int:
    """The same as one of `devices` x `nodes` processes, of which the `first` speaks."""
    from ldseg_auto.files import read_json
    from ldseg_auto.training.run import train_fold

    options = _options(args, devices, nodes)
    common.keep_freed_memory()
    preprocessed = common.find_folder(args, "preprocessed", args.dataset)
    results = common.root(args, "results")
    with stopping(GRACE) as stop:
        stop.tidy = lambda: common.complain("ended by force; go on from the last checkpoint with --continue.")
        try:
            folder = train_fold(preprocessed, results, args.fold, options, progress=common.progress_bar(args), stop=stop.event.is_set)
        except Stopped as cause:
            if first:
                common.complain(str(cause))
            return common.INTERRUPTED if stop.code == common.INTERRUPTED else common.DONE
    if not first:
        return common.DONE
    _update_report(preprocessed, results, args.plans_name)
    _report_model(folder.parent, preprocessed)
    common.say(args, f"Model: {folder}")
    common.say(args, _validation(read_json(folder / "validation" / "summary.json")))
    return common.DONE


def _options(args: argparse.Namespace, devices: int, nodes: int) -> Options:
    """What the flags ask for; raises InputError where they contradict each other."""
    from ldseg_auto.training.options import Options

    if "none" in args.log_to and len(args.log_to) > 1:
        raise InputError(f"--log-to {' '.join(args.log_to)}: none goes alone. Leave it out, or leave the others out.")
    settings = [*args.settings, *(["training.compile=true"] if args.compile else [])]
    return Options(
        args.configuration, settings, args.epochs, args.iterations, args.time_budget, resume=args.resume, device=args.device,
        seed=args.seed, plans_name=args.plans_name, pretrained=args.pretrained, log_to=[name for name in args.log_to if name != "none"],
        early_stopping=args.early_stopping, devices=devices, nodes=nodes,
    )  # fmt: skip


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


def _report_model(model: Path, preprocessed: Path) -> None:
    """The model's own page, without what would have to be predicted; where it cannot be written, the model is there all the same."""
    try:
        from ldseg_auto.model_report import write_model_report

        write_model_report(model, preprocessed=preprocessed)
    except (LdsegError, OSError, ImportError) as cause:
        logger.warning("the model's report was not written: %s", cause)


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
