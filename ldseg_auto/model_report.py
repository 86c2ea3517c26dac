"""The report on a trained model: one HTML file with its validation cases, curves, calibration and what is missing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldseg_auto.data.cases import evenly
from ldseg_auto.data.dataset import Description
from ldseg_auto.errors import InputError, LdsegError, ModelError
from ldseg_auto.files import read_json, write_text
from ldseg_auto.inference.device import choose_device
from ldseg_auto.inference.examine import Examined, Examiner
from ldseg_auto.inference.model_folder import read_model_folder, trained_folds
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.planner import PLANS_NAME
from ldseg_auto.planners.plans import Plans
from ldseg_auto.progress import Progress, silent
from ldseg_auto.report.model import BEST, WORST, Anew, Looked, Model, render_model
from ldseg_auto.report.model_files import Score, read_fold

logger = logging.getLogger(__name__)
NAME = "report.html"


@dataclass(frozen=True)
class Look:
    """How much is predicted anew, for pictures and calibration."""

    cases: int = 12  # the worst three, the best, and others evenly in the order of Dice; 0 predicts none
    seconds: float = 600.0  # after which no further case is begun
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.cases < 0:
            raise InputError(f"--cases {self.cases}: expected 0 or more.")


def write_model_report(
    model: Path, output: Path | None = None, preprocessed: Path | None = None, look: Look | None = None, progress: Progress = silent
) -> Path:  # fmt: skip
    """Writes the page, atomically.

    Args:
        model: model folder, results/DatasetXXX_Name/PLANS__CONFIG.
        output: None is report.html in the model folder.
        preprocessed: preprocessed/DatasetXXX_Name, for pictures and calibration; they are left out where it is not there.
        look: None predicts nothing.

    Returns:
        The file.

    Raises:
        ModelError: no model folder, or nothing in it is trained; PlansError, DatasetError: its files are damaged.
        OSError: the file cannot be written.
    """
    if not (model / "plans.json").exists():
        raise ModelError(f"{model} is no model folder: it has no plans.json. Expected results/DatasetXXX_Name/PLANS__CONFIG.")
    plans = Plans.load(model / "plans.json")
    description = Description.from_dict(read_json(model / "dataset.json", ModelError), str(model / "dataset.json"))
    if not trained_folds(model):
        raise ModelError(f"no fold is trained in {model}. Run ldseg_train first.")
    folds = [read_fold(model / f"fold_{name}") for name in trained_folds(model)]
    fingerprint = _fingerprint(model)
    without = Model(model.name, plans, description, fingerprint, folds, Anew(), {})
    anew = _look(model, without, preprocessed, look, progress)
    page = Model(model.name, plans, description, fingerprint, folds, anew, _wanting(without, anew, preprocessed))
    path = output or model / NAME
    write_text(path, render_model(page))
    return path


def _fingerprint(model: Path) -> Fingerprint | None:
    try:
        return Fingerprint.load(model / "dataset_fingerprint.json")
    except LdsegError as cause:
        logger.warning("the report says less of the dataset: %s", cause)
        return None


def _look(folder: Path, model: Model, preprocessed: Path | None, look: Look | None, progress: Progress) -> Anew:
    """Pictures and calibration; what cannot be done is said on the page."""
    scores = [s for s in model.scores if s.dice is not None]
    if look is None or look.cases == 0:
        return Anew(note="No case was predicted for this page: ldseg_report does.")
    if not scores:
        return Anew(note="There are no validation scores to choose cases by.")
    if preprocessed is None or not _same_data(preprocessed, model.plans):
        return Anew(note="The preprocessed cases that this model was trained on were not at hand: nothing was predicted for this page.")
    chosen = choose(scores, look.cases)
    done, note = _examine(folder, model, preprocessed, chosen, look, progress)
    if not done:
        return Anew(note=note)
    edge = {(s.fold, s.case) for s in (*scores[:WORST], *scores[len(scores) - BEST :])}
    pictures = [Looked(e.case, e.fold, e.cut) for e in done if (e.fold, e.case) in edge]
    total = done[0].reliability
    for examined in done[1:]:
        total = total + examined.reliability
    order = {(s.fold, s.case): i for i, s in enumerate(scores)}
    return Anew(sorted(pictures, key=lambda p: order[p.fold, p.case]), total, note)


def choose(scores: Sequence[Score], count: int) -> list[Score]:
    """The worst three, the best, then others evenly in the order of Dice, `count` in all.

    Args:
        scores: lowest Dice first.
    """
    places = list(dict.fromkeys([*range(WORST), *range(len(scores) - BEST, len(scores))]))
    rest = [i for i in range(len(scores)) if i not in places]
    places += evenly(rest, max(0, count - len(places)))
    return [scores[i] for i in places if 0 <= i < len(scores)][:count]


def _examine(
    folder: Path, model: Model, preprocessed: Path, chosen: Sequence[Score], look: Look, progress: Progress
) -> tuple[list[Examined], str]:
    """What was predicted within the time, and what the page says of it."""
    read, configuration = read_model_folder(folder), model.plans.configuration()
    examiner = Examiner(read, preprocessed / configuration.data_identifier, choose_device(look.device))
    seeds = {f.fold: int(f.manifest.get("seed", 0)) for f in model.folds}
    done: list[Examined] = []
    failed: list[str] = []
    start, late = time.monotonic(), False
    for score in progress(chosen, "cases for the report", total=len(chosen)):
        late = late or time.monotonic() - start > look.seconds
        if late:
            continue
        try:
            done.append(examiner(score.fold, score.case, seeds[score.fold]))
        except LdsegError as cause:
            logger.warning("case %s is not in the report: %s", score.case, cause)
            failed.append(score.case)
    steps = f"{examiner.steps} step{'s' * (examiner.steps != 1)}"
    note = (
        f"{len(done)} of {len(model.scores)} validation cases were predicted anew for this page: the worst, the best, and others evenly. "
    )
    note += f"One sample in {steps}, on the network's grid, against the first rater."
    note += f" Stopped after {look.seconds:.0f} seconds: {len(chosen) - len(done) - len(failed)} more were meant to be." if late else ""
    note += f" Could not be predicted: {', '.join(failed)}." if failed else ""
    return done, note


def _same_data(preprocessed: Path, plans: Plans) -> bool:
    path = preprocessed / "dataset_fingerprint.json"
    return path.exists() and read_json(path).get("data_hash") == plans.fingerprint_hash


def _wanting(model: Model, anew: Anew, preprocessed: Path | None) -> dict[str, str]:
    """What is missing, and the command that makes it."""
    number, plans = model.plans.dataset_name.removeprefix("Dataset").split("_")[0].lstrip("0"), model.plans
    flags = f"-c {plans.default_configuration}" + ("" if plans.plans_name == PLANS_NAME else f" -p {plans.plans_name}")
    found: dict[str, str] = {}
    direct = plans.configuration().network.variant == "direct"
    for f in model.folds:
        again = f"ldseg_train {number} {f.fold} {flags} --continue"
        if not f.finished:
            found[f"the end of the training of fold {f.fold}"] = again
        found |= {f"fold {f.fold}: {name}": again for name in f.missing if not (direct and name == "latent.json")}
    there = {f.fold for f in model.folds}
    for fold in range(_splits(preprocessed)):
        if str(fold) not in there:
            found[f"fold {fold}"] = f"ldseg_train {number} {fold} {flags}"
    if anew.reliability is None and model.scores:
        have = preprocessed is not None and _same_data(preprocessed, plans)
        make = f"ldseg_report {number} {flags}"
        found["pictures of the worst and the best cases, calibration"] = (
            make if have else f"ldseg_plan_and_preprocess -d {number} {flags}, then {make}"
        )
    return found


def _splits(preprocessed: Path | None) -> int:
    """How many folds the dataset has; 0 where that is not known."""
    try:
        content = json.loads((preprocessed / "splits_final.json").read_text(encoding="utf-8")) if preprocessed else []
    except (OSError, ValueError):
        return 0
    return len(content) if isinstance(content, list) else 0
