"""Predicting a folder: which cases, where to, and a manifest of what became of each."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ldseg_auto.data.dataset import Case, Description, find_input_cases
from ldseg_auto.data.endings import label_ending
from ldseg_auto.errors import InputError
from ldseg_auto.inference.case_writer import CaseWriter
from ldseg_auto.inference.inputs import Input
from ldseg_auto.inference.manifest import CaseStatus, Manifest, part_suffix
from ldseg_auto.inference.outputs import Extras
from ldseg_auto.inference.prediction import Prediction, Wanted
from ldseg_auto.progress import Progress, silent

logger = logging.getLogger(__name__)
JOBS = "jobs"  # folder below the output for the logs of parts that are predicted as jobs (cli/predict_jobs.py)
TEMPORARY = re.compile(r"\.tmp_.{8}_(.+)")  # files.atomic_path: the name that it would have been given


@dataclass(frozen=True)
class FolderTask:
    """What to predict, and where to."""

    inputs: Path  # a folder of CASE_0000.EXT files, or one file
    output: Path
    overwrite: bool = False  # accept an output folder that is not empty
    part: tuple[int, int] = (1, 1)  # (k, n): cases k, k + n, k + 2n, ... of the sorted list
    extras: Extras = Extras()  # files beside label maps, predictions.csv and predictions.json
    flag_below: float | None = None  # predicted Dice below which a case is flagged
    resume: bool = False  # go on from the manifest that an earlier run left in the output folder, where there is one


class Engine(Protocol):
    """What of a Predictor a folder needs."""

    device: torch.device

    @property
    def description(self) -> Description: ...

    def outcomes(
        self, images: Iterable[Input], wanted: Wanted, stop: threading.Event | None
    ) -> Generator[tuple[Input, Prediction | Exception], None, None]: ...

    def provenance(self) -> dict[str, Any]: ...

    def settings(self) -> dict[str, Any]: ...

    def about_predicted_dice(self) -> dict[str, str]: ...

    def about_volumes(self) -> dict[str, str]: ...


def predict_folder(
    engine: Engine, task: FolderTask, progress: Progress = silent, stop: threading.Event | None = None
) -> list[CaseStatus]:  # fmt: skip
    """Predicts the cases of a task into its output folder as CASE.EXT, with manifest.json, predictions.csv and predictions.json.

    One case failing does not stop the others. A case is written while the next one is predicted.

    Args:
        stop: once set, the case in work is given up after a tile, what is predicted already is written, and the rest is left.

    Returns:
        A status for each case of the task, in their order; fewer when stopped.

    Raises:
        InputError: no cases, missing channels, an impossible part or flag_below, the output folder is not empty and not to be overwritten,
            or holds the inputs; it is to be gone on with, but was made by another model or with other settings.
    """
    everything = find_input_cases(task.inputs, engine.description)
    cases, suffix = select_part(everything, task.part), part_suffix(task.part)
    manifest = Manifest(task.output / f"manifest{suffix}.json", _settings(engine, task, len(cases)))
    check_output(task, cases, manifest.path, label_ending(engine.description.file_ending))
    resumed = task.resume and manifest.path.exists()
    if resumed:
        manifest.take_over()
    about = {"predicted_dice": engine.about_predicted_dice(), "volume_intervals": engine.about_volumes()}
    writer = CaseWriter(task.output, engine.description, task.extras, task.flag_below, about, resumed, suffix)
    task.output.mkdir(parents=True, exist_ok=True)
    remove_temporary(task, everything)
    kept = {c.identifier: manifest.kept(c.identifier) for c in cases if c.identifier in writer.cases and manifest.finished(c)}
    _begin(manifest, writer, {c.identifier for c in cases} - kept.keys())
    if resumed:
        logger.info("%d of %d cases are done already.", len(kept), len(cases))
    found = _predict([c for c in cases if c.identifier not in kept], engine, writer, manifest, progress, stop)
    statuses = kept | {s.identifier: s for s in found}
    return [statuses[c.identifier] for c in cases if c.identifier in statuses]


def _begin(manifest: Manifest, writer: CaseWriter, again: set[str]) -> None:
    """The files as they are before the first case: without those that are predicted again."""
    manifest.forget(again)
    manifest.save()
    if writer.cases:
        writer.cases = {name: record for name, record in writer.cases.items() if name not in again}
        writer.write_table()


def _predict(
    cases: Sequence[Case], engine: Engine, writer: CaseWriter, manifest: Manifest, progress: Progress, stop: threading.Event | None
) -> list[CaseStatus]:
    """Predicts and writes cases."""
    inputs, statuses = [Input(case.identifier, case.images) for case in cases], []
    pending: Future[CaseStatus] | None = None
    with ThreadPoolExecutor(1, "ldseg-write") as pool, closing(engine.outcomes(inputs, writer.extras.wanted, stop)) as found:
        for case, (_, outcome) in zip(progress(cases, "predicting", total=len(cases)), found, strict=False):  # stopped: fewer
            if pending is not None:
                statuses.append(pending.result())
            pending = pool.submit(_finish, case, outcome, writer, manifest)
            del outcome
        statuses += [] if pending is None else [pending.result()]
    return statuses


def select_part(cases: Sequence[Case], part: tuple[int, int]) -> list[Case]:
    """Every n-th case, from the k-th on, for part (k, n), k from 1 to n: together the parts are all cases, each once."""
    number, count = part
    if not 1 <= number <= count:
        raise InputError(f"part {number}/{count}: expected k/n with k from 1 to n, for instance 1/4.")
    return list(cases[number - 1 :: count])


def remove_temporary(task: FolderTask, cases: Sequence[Case]) -> None:
    """Removes the temporary files that a killed run left in the output folder; not those of other parts, which may run.

    Args:
        cases: all of the task's inputs, not those of its part alone.
    """
    suffix, names = part_suffix(task.part), sorted((c.identifier for c in cases), key=len, reverse=True)
    own = {f"manifest{suffix}.json", f"predictions{suffix}.json", f"predictions{suffix}.csv"}
    mine = {c.identifier for c in select_part(cases, task.part)}
    for path in task.output.rglob(".tmp_*"):
        match = TEMPORARY.fullmatch(path.name)
        owner = next((n for n in names if match and match[1].startswith(n)), None)
        if match and path.is_file() and (match[1] in own or owner in mine):
            path.unlink(missing_ok=True)


def check_output(task: FolderTask, cases: Sequence[Case], manifest: Path, ending: str) -> None:
    """Raises InputError where the task may not write into its output folder."""
    output = task.output
    if any(p.resolve().parent == output.resolve() for c in cases for p in c.images):
        raise InputError(f"output folder {output} holds the input images, which predictions could replace. Choose another.")
    if output.exists() and not output.is_dir():
        raise InputError(f"output {output} is a file; name a folder.")
    there = {p.name for p in output.iterdir() if not TEMPORARY.fullmatch(p.name)} - {JOBS} if output.is_dir() else set()
    others = any(re.fullmatch(rf"manifest_\d+of{task.part[1]}\.json", name) for name in there)
    shared = others and manifest.name not in there and not there & {f"{c.identifier}{ending}" for c in cases}
    if not there or task.overwrite or shared or (task.resume and manifest.name in there):
        return
    if task.resume:
        raise InputError(f"output folder {output} is not empty, and has no {manifest.name} to continue from. Choose another.")
    raise InputError(
        f"output folder {output} is not empty; nothing was changed. Choose another, or --overwrite to replace predictions there, "
        "or --continue to go on with a run that was interrupted."
    )


def _finish(case: Case, outcome: Prediction | Exception, writer: CaseWriter, manifest: Manifest) -> CaseStatus:
    """Writes a case's files, then the manifest."""
    files: list[Path] = []
    try:
        if isinstance(outcome, Exception):
            raise outcome
        files = writer.write(case, outcome)
        status, notes = CaseStatus(case.identifier, "done", "", outcome.seconds), outcome.notes
    except Exception as cause:  # whatever it is, the other cases go on; status, manifest and exit code tell
        logger.error("case %s failed: %s", case.identifier, cause, exc_info=logger.isEnabledFor(logging.DEBUG))
        status, notes = CaseStatus(case.identifier, "failed", str(cause) or type(cause).__name__, 0.0), ()
    manifest.add(case, status, files, notes)
    return status


def _settings(engine: Engine, task: FolderTask, expected: int) -> dict[str, Any]:
    """What the manifest says beside the cases and the versions."""
    return {
        "device": str(engine.device), **engine.provenance(), **engine.settings(), "part": "{}/{}".format(*task.part),
        "extras": asdict(task.extras), "flag_below": task.flag_below, "expected": expected,
    }  # fmt: skip
