"""ldseg_train ID all-folds: every fold of the cross-validation, each a job."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldseg_auto.cli import common, jobs
from ldseg_auto.cli.interrupt import stopping
from ldseg_auto.errors import InputError
from ldseg_auto.executors import LOCAL, is_remote

if TYPE_CHECKING:
    from ldseg_auto.training.folds import Fold
    from ldseg_auto.training.options import Options

ALL_FOLDS = "all-folds"
LOG = "job.log"


def check_flags(args: argparse.Namespace) -> None:
    """Raises InputError where flags of all-folds and the fold do not go together."""
    for flag, value in (("--executor", args.executor), ("--jobs", args.jobs)):
        if value is not None and args.fold != ALL_FOLDS:
            raise InputError(f"{flag} {value}: one fold is trained by this process. Give all-folds as FOLD, or leave {flag} out.")
    if args.jobs is not None and is_remote(args.executor or LOCAL):
        raise InputError(f"--jobs {args.jobs}: {args.executor} has a job for each of its workers. Leave --jobs out.")
    if args.fold == ALL_FOLDS and (args.num_nodes or 1) > 1:
        raise InputError(f"--num-nodes {args.num_nodes}: with all-folds each fold is a job of one machine. Leave --num-nodes out.")


def work(args: argparse.Namespace, options: Options, parser: argparse.ArgumentParser) -> int:
    """Trains all folds that are not finished; names those that failed, and shows the Dice of all."""
    from ldseg_auto.training.folds import all_folds, table

    preprocessed = common.find_folder(args, "preprocessed", args.dataset).absolute()
    results = common.root(args, "results").absolute()
    folds = all_folds(preprocessed, results, options)
    todo = [f for f in folds if args.resume or not f.finished]
    for fold in folds:
        if fold not in todo:
            common.say(args, f"fold {fold.number}: finished earlier")
    failed: dict[str, jobs.Ended] = {}
    where = args.executor or LOCAL
    with stopping(jobs.STOP_GRACE) as stop:
        slots = [] if is_remote(where) else jobs.gpu_slots(jobs.gpus(args.device), args.jobs, args.devices or 1)
        wanted = [_job(args, f, parser, (preprocessed.parent, results)) for f in todo]
        if wanted:
            common.say(args, f"{len(wanted)} folds to train; their logs: {folds[0].folder.parent}/fold_*/{LOG}")
            jobs.run_jobs(wanted, where, results, slots, stop, partial(_done, args, {f"fold {f.number}": f for f in todo}, failed))
    if stop.code:
        common.complain("interrupted: the folds go on from their last checkpoints with the same command.")
        return common.INTERRUPTED if stop.code == common.INTERRUPTED else common.DONE
    common.say(args, "\n".join(["", *table(folds), "", f"Model: {folds[0].folder.parent}"]))
    for name, ended in failed.items():
        common.complain(f"failed: {name}: {ended.cause.removeprefix('failed: ').removeprefix('error: ')}")
    alike = len(failed) == len(folds) and all(ended.code == common.BAD_INPUT for ended in failed.values())
    return common.BAD_INPUT if alike else common.FAILED if failed else common.DONE


def _job(args: argparse.Namespace, fold: Fold, parser: argparse.ArgumentParser, roots: tuple[Path, Path]) -> jobs.Job:
    """The same command for one fold; roots are named, for a worker's environment may have others."""
    own = ["--preprocessed", str(roots[0]), "--results", str(roots[1])]
    argv = jobs.without_flags(args.argv, switches=("--continue",), values=("--executor", "--jobs"))
    first = [*_one_fold(argv, fold.number, parser), *own]
    again = [*jobs.without_flags(first, values=("--pretrained",)), "--continue"]  # it has weights already
    trace = fold.folder / "checkpoint_*.pth"
    return jobs.Job(f"fold {fold.number}", "train", tuple(first), tuple(again), trace, Path.cwd(), fold.folder / LOG)


def _one_fold(argv: Sequence[str], number: int, parser: argparse.ArgumentParser) -> list[str]:
    """`argv` with the fold's number for all-folds: the word that the parser takes as FOLD, should there be several."""
    for i, word in enumerate(argv):
        if word == ALL_FOLDS:
            out = [*argv[:i], str(number), *argv[i + 1 :]]
            if parser.parse_args(out).fold == number:
                return out
    raise InputError(f"{' '.join(argv)} names no {ALL_FOLDS}.")


def _done(args: argparse.Namespace, folds: dict[str, Fold], failed: dict[str, jobs.Ended], job: jobs.Job, ended: jobs.Ended) -> None:
    """Says how a job ended; a command that was stopped ends well too, but leaves its fold unfinished."""
    fold = folds[job.name]
    if ended.code == 0 and fold.finished:
        mean = fold.summary()["mean"]
        common.say(args, f"{job.name}: done, validation Dice {'-' if mean is None else f'{mean:.4f}'}")
        return
    failed[job.name] = ended if ended.cause else jobs.Ended(common.FAILED, f"it was stopped; see {job.log}")
    common.say(args, f"{job.name}: not finished, see {job.log}")
