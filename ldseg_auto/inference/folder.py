"""Predicting a folder: which cases, where to, and a manifest of what became of each."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

import ldseg_auto
from ldseg_auto.data.dataset import Case, Description, find_input_cases
from ldseg_auto.errors import InputError
from ldseg_auto.files import hash_file, write_json
from ldseg_auto.inference.case_writer import CaseWriter
from ldseg_auto.inference.inputs import Input
from ldseg_auto.inference.outputs import Extras
from ldseg_auto.inference.prediction import Prediction, Wanted
from ldseg_auto.progress import Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseStatus:
    """What became of one case."""

    identifier: str
    status: str  # done | failed
    message: str
    seconds: float


@dataclass(frozen=True)
class FolderTask:
    """What to predict, and where to."""

    inputs: Path  # a folder of CASE_0000.EXT files, or one file
    output: Path
    overwrite: bool = False  # accept an output folder that is not empty
    part: tuple[int, int] = (1, 1)  # (k, n): cases k, k + n, k + 2n, ... of the sorted list
    extras: Extras = Extras()  # files beside label maps, predictions.csv and predictions.json
    flag_below: float | None = None  # predicted Dice below which a case is flagged


class Engine(Protocol):
    """What of a Predictor a folder needs."""

    device: torch.device
    samples: int
    seed: int

    @property
    def description(self) -> Description: ...

    def outcomes(self, images: Iterable[Input], wanted: Wanted) -> Iterator[tuple[Input, Prediction | Exception]]: ...

    def provenance(self) -> dict[str, Any]: ...

    def about_predicted_dice(self) -> dict[str, str]: ...


def predict_folder(engine: Engine, task: FolderTask, progress: Progress = silent) -> list[CaseStatus]:
    """Predicts the cases of a task into its output folder as CASE.EXT, with manifest.json, predictions.csv and predictions.json.

    One case failing does not stop the others. A case is written while the next one is predicted.

    Raises:
        InputError: no cases, missing channels, an impossible part or flag_below, the output folder is not empty and not to be overwritten,
            or holds the inputs.
    """
    cases = select_part(find_input_cases(task.inputs, engine.description), task.part)
    _check_output(task, cases)
    writer = CaseWriter(task.output, engine.description, task.extras, task.flag_below, {"predicted_dice": engine.about_predicted_dice()})
    task.output.mkdir(parents=True, exist_ok=True)
    manifest, statuses = _manifest(engine, len(cases)), []
    inputs = [Input(case.identifier, case.images) for case in cases]
    pending: Future[CaseStatus] | None = None
    with ThreadPoolExecutor(1, "ldseg-write") as pool, closing(engine.outcomes(inputs, task.extras.wanted)) as found:  # type: ignore[type-var]
        for case, (_, outcome) in zip(progress(cases, "predicting", total=len(cases)), found, strict=True):
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


def _check_output(task: FolderTask, cases: Sequence[Case]) -> None:
    output = task.output
    if any(p.resolve().parent == output.resolve() for c in cases for p in c.images):
        raise InputError(f"output folder {output} holds the input images, which predictions could replace. Choose another.")
    if output.exists() and not output.is_dir():
        raise InputError(f"output {output} is a file; name a folder.")
    if output.is_dir() and any(output.iterdir()) and not task.overwrite:
        raise InputError(
            f"output folder {output} is not empty; nothing was changed. Choose another, or --overwrite to replace predictions there."
        )


def _finish(case: Case, outcome: Prediction | Exception, writer: CaseWriter, manifest: dict[str, Any]) -> CaseStatus:
    """Writes a case's files, then the manifest."""
    status = _write(case, outcome, writer)
    read = {p.name: hash_file(p) for p in case.images if p.exists()}
    manifest["cases"][case.identifier] = {**asdict(status), "inputs": read}
    write_json(writer.output / "manifest.json", manifest)
    return status


def _write(case: Case, outcome: Prediction | Exception, writer: CaseWriter) -> CaseStatus:
    try:
        if isinstance(outcome, Exception):
            raise outcome
        writer.write(case, outcome)
    except Exception as cause:  # whatever it is, the other cases go on; status, manifest and exit code tell
        logger.error("case %s failed: %s", case.identifier, cause, exc_info=logger.isEnabledFor(logging.DEBUG))
        return CaseStatus(case.identifier, "failed", str(cause) or type(cause).__name__, 0.0)
    return CaseStatus(case.identifier, "done", "", outcome.seconds)


def _manifest(engine: Engine, expected: int) -> dict[str, Any]:
    """What is known before the first case."""
    return {
        "ldseg_auto": ldseg_auto.__version__, "torch": torch.__version__, "python": platform.python_version(), "device": str(engine.device),
        **engine.provenance(), "samples": engine.samples, "seed": engine.seed, "expected": expected, "cases": {},
    }  # fmt: skip
