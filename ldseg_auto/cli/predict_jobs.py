"""ldseg_predict --executor: the cases are dealt out to jobs, each of which loads the model and predicts its part of them."""

from __future__ import annotations

import argparse
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldseg_auto.cli import common, jobs
from ldseg_auto.cli.interrupt import stopping
from ldseg_auto.errors import InputError
from ldseg_auto.executors import LOCAL, cluster_size, is_remote

if TYPE_CHECKING:
    from ldseg_auto.data.description import Description


def check_flags(args: argparse.Namespace) -> None:
    """Raises InputError where flags do not go together."""
    where = args.executor or (LOCAL if args.jobs else None)
    if where is not None and args.part != (1, 1):
        raise InputError("--part {}/{}: with --executor or --jobs the parts are made here. Leave --part out.".format(*args.part))
    if args.jobs is not None and is_remote(args.executor or LOCAL):
        raise InputError(f"--jobs {args.jobs}: {args.executor} has a job for each of its workers. Leave --jobs out.")


def work(args: argparse.Namespace, description: Description) -> int:
    """Predicts all cases; names those that failed.

    Args:
        description: of the model's dataset.
    """
    from ldseg_auto.data.dataset import find_input_cases
    from ldseg_auto.data.endings import label_ending
    from ldseg_auto.inference.folder import JOBS, FolderTask, check_output
    from ldseg_auto.inference.parts import clear, deal, gather

    where, output = args.executor or LOCAL, args.output
    slots = [] if is_remote(where) else jobs.gpu_slots(jobs.gpus(args.device), args.jobs)
    cases = find_input_cases(args.input, description)
    count = min(cluster_size(where) if is_remote(where) else len(slots), len(cases))
    if args.resume:
        gather(output)
    task = FolderTask(args.input, output, args.overwrite, resume=args.resume)
    check_output(task, cases, output / "manifest.json", label_ending(description.file_ending))
    output.mkdir(parents=True, exist_ok=True)
    if args.overwrite:
        clear(output)
    elif args.resume:
        deal(output, cases, count)
    wanted = [_job(args, (number, count), output.absolute() / JOBS) for number in range(1, count + 1)]
    failed: dict[str, jobs.Ended] = {}
    with stopping(jobs.STOP_GRACE) as stop:
        jobs.run_jobs(wanted, where, output.absolute(), slots, stop, partial(_done, failed))
    found = gather(output, len(cases)).get("cases", {})
    if stop.code:
        common.complain(f"interrupted: {len(found)} cases are dealt with, see the manifest in {output}. Go on with --continue.")
        return stop.code
    return _report(args, [c.identifier for c in cases], found, failed)


def _report(args: argparse.Namespace, cases: list[str], found: dict[str, dict], failed: dict[str, jobs.Ended]) -> int:
    """Says what became of the cases, and of jobs that ended before their last one."""
    done = [name for name in cases if found.get(name, {}).get("status") == "done"]
    common.say(args, f"{len(done)} of {len(cases)} cases predicted: {args.output}")
    for name in cases:
        if found.get(name, {}).get("status") == "failed":
            common.complain(f"failed: {name}: {found[name]['message']}")
    lost = {name: ended for name, ended in failed.items() if not ended.cause.startswith("failed: ") or len(found) < len(cases)}
    for cause in sorted({ended.cause for ended in lost.values()}):
        common.complain(cause if cause.startswith(("error: ", "failed: ")) else f"failed: {cause}")
    if not failed and len(done) == len(cases):
        return common.DONE
    return common.BAD_INPUT if failed and all(ended.code == common.BAD_INPUT for ended in failed.values()) else common.FAILED


def _job(args: argparse.Namespace, part: tuple[int, int], logs: Path) -> jobs.Job:
    """The same command for one part; folders are named, for a worker's environment may have others."""
    from ldseg_auto.inference.manifest import part_suffix

    argv = jobs.without_flags(args.argv, switches=("--continue", "--overwrite"), values=("--executor", "--jobs"))
    name = "{}/{}".format(*part)
    common_part = [*argv, "--results", str(common.root(args, "results").absolute()), "--part", name]
    first = [*common_part, *(["--overwrite"] if args.overwrite else [])]
    trace = args.output.absolute() / f"manifest{part_suffix(part)}.json"
    return jobs.Job(
        f"part {name}", "predict", tuple(first), (*common_part, "--continue"), trace, Path.cwd(), logs / f"{part[0]}of{part[1]}.log"
    )


def _done(failed: dict[str, jobs.Ended], job: jobs.Job, ended: jobs.Ended) -> None:
    """Keeps what went wrong, with its log; the log of a part that went well is of no use."""
    if ended.code:
        failed[job.name] = ended
        return
    job.log.unlink(missing_ok=True)
    if not any(job.log.parent.iterdir()):
        shutil.rmtree(job.log.parent, ignore_errors=True)
