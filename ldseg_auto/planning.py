"""Plans on disk: made from the stored fingerprint, copied from another dataset, and kept beside each other under their names."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from ldseg_auto.data.dataset import Case, Description, find_dataset, open_dataset
from ldseg_auto.errors import DatasetError, PlansError
from ldseg_auto.executors import LOCAL, absolute, open_executor
from ldseg_auto.files import atomic_path, read_json, write_json
from ldseg_auto.parallel import run_all
from ldseg_auto.planners.choices import Choices
from ldseg_auto.planners.extract import extract_fingerprint, hash_case, raise_failures
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.names import TAKEN, check_plans_name
from ldseg_auto.planners.planner import PLANS_NAME, label_grid, layouts
from ldseg_auto.planners.plans import VERSION, Plans
from ldseg_auto.planners.replan import check_choices, copy_plans, plan
from ldseg_auto.planners.spectrum import LabelGrid, measure_latents, sample_cases
from ldseg_auto.preprocessing.settings import settings_hash
from ldseg_auto.progress import Progress, silent
from ldseg_auto.report.write import write_report

logger = logging.getLogger(__name__)
FINGERPRINT = "dataset_fingerprint.json"
DESCRIPTION = "dataset.json"
ADVICE = "Delete the file to have it measured again, or use ldseg_plan_and_preprocess --clean."


@dataclass(frozen=True)
class Request:
    """What plans to make."""

    name: str = ""  # of the plans file, without .json; empty: ldsegPlans, or for copied plans theirs and their dataset's number
    choices: Choices = Choices()
    source: Path | None = None  # plans to copy; of the choices only the settings are then possible
    workers: int = 2
    results: Path | None = None  # root of the trained models, for the report
    executor: str = LOCAL  # what measures, where something has to be: local (`workers` processes), in-process, dask://HOST:PORT


def make_and_store(raw: Path, preprocessed: Path, dataset_id: int, request: Request, progress: Progress = silent) -> tuple[Path, Plans]:
    """Plans one dataset from its stored fingerprint; no image is read, except where there is no fingerprint yet.

    Labels are read where the choice needs a label code that the fingerprint lacks (another patch), and only these.

    Args:
        raw, preprocessed: the roots; raw may be absent where nothing is to be measured.

    Returns:
        The plans file and what it holds.

    Raises:
        InputError: an impossible choice, or raw data is needed and is not there or has changed.
        PlansError: the fingerprint, or the plans to copy, are damaged, of another version or edited.
    """
    raw, preprocessed = absolute(request.executor, raw), absolute(request.executor, preprocessed)
    if request.name:
        check_plans_name(request.name)
    content = None if request.source is None else read_json(request.source, PlansError)
    if content is not None:
        Plans.from_dict(content, str(request.source))
    target, stored, description = _measured(raw, preprocessed, dataset_id, request, progress)
    fingerprint = stored
    if content is not None:
        plans = copy_plans(content, fingerprint, description.labels.num_heads, request.choices.settings, request.name)
    else:
        grids = label_grids(fingerprint, description, request.choices)
        lacking = {name: grid for name, grid in grids.items() if grid.key not in fingerprint.latent}
        if lacking:
            fingerprint = _with_codes_of_raw(raw, fingerprint, lacking, request, progress)
        plans = plan(fingerprint, description.labels.num_heads, request.choices, request.name or PLANS_NAME)
    check_shared_folders(target, plans.plans_name, plans, description)
    if fingerprint is not stored:
        fingerprint.save(target / FINGERPRINT)
    path = write_plans(target, plans)
    write_report(target, fingerprint, plans, results=request.results)
    return path, plans


def _measured(
    raw: Path, preprocessed: Path, dataset_id: int, request: Request, progress: Progress
) -> tuple[Path, Fingerprint, Description]:  # fmt: skip
    """The preprocessed folder, its fingerprint and its dataset.json; measured now where there is no fingerprint."""
    stored = _stored_folder(preprocessed, dataset_id)
    if stored is not None:
        content = read_json(stored / DESCRIPTION, DatasetError)
        description, fingerprint = Description.from_dict(content, str(stored / DESCRIPTION)), load_fingerprint(stored / FINGERPRINT)
        if (fingerprint.dataset_name, fingerprint.class_names) != (stored.name, description.labels.foreground_names):
            what = f"{fingerprint.dataset_name} with the classes {', '.join(fingerprint.class_names)}"
            raise PlansError(f"{stored / FINGERPRINT} is of {what}; {stored / DESCRIPTION} says otherwise. {ADVICE}")
        return stored, fingerprint, description
    try:
        dataset = open_dataset(find_dataset(raw, dataset_id))
    except DatasetError as cause:
        raise DatasetError(f"{preprocessed} holds no fingerprint of dataset {dataset_id}, and {cause}") from None
    logger.info("%s: no fingerprint is stored; every case is read once.", dataset.name)
    with open_executor(request.executor, request.workers, (dataset.folder,)) as pool:
        fingerprint = extract_fingerprint(dataset, pool, progress)
    target = preprocessed / dataset.name
    fingerprint.save(target / FINGERPRINT)
    write_json(target / DESCRIPTION, dataset.description.content)
    return target, fingerprint, dataset.description


def _stored_folder(preprocessed: Path, dataset_id: int) -> Path | None:
    """The dataset's preprocessed folder, where it holds a fingerprint."""
    found = [f for f in sorted(preprocessed.glob(f"Dataset{dataset_id:03d}_*")) if (f / FINGERPRINT).exists()]
    return find_dataset(preprocessed, dataset_id) if found else None


def load_fingerprint(path: Path) -> Fingerprint:
    """The fingerprint at `path`.

    Raises:
        PlansError: it is damaged, of another version, or was edited; says what to do.
    """
    try:
        return Fingerprint.load(path)
    except PlansError as cause:
        raise PlansError(f"{cause} {ADVICE}") from None


def label_grids(fingerprint: Fingerprint, description: Description, choices: Choices) -> dict[str, LabelGrid]:
    """Configuration -> grid whose label code the plans need.

    Raises:
        InputError: an impossible choice.
    """
    check_choices(choices)
    order, found = layouts(fingerprint, description.labels.num_heads, choices.gpu_memory, choices.target_spacing)
    return {name: label_grid(layout, order) for name, layout in found.items()}


def with_codes(
    fingerprint: Fingerprint, cases: Sequence[Case], description: Description, grids: Mapping[str, LabelGrid], pool: Executor,
    progress: Progress,
) -> Fingerprint:  # fmt: skip
    """The fingerprint with the label codes of these grids, measured on a sample of the cases' labels."""
    if not grids:
        return fingerprint
    codes = measure_latents(sample_cases(cases, fingerprint), description, list(grids.values()), pool, progress)
    return replace(fingerprint, latent={**fingerprint.latent, **codes})


def _with_codes_of_raw(
    raw: Path, fingerprint: Fingerprint, lacking: Mapping[str, LabelGrid], request: Request, progress: Progress
) -> Fingerprint:  # fmt: skip
    """Adds label codes from the raw labels, whose files must be those that were measured."""
    what = f"the fingerprint has no label code for {', '.join(grid.key for grid in lacking.values())}"
    try:
        dataset = open_dataset(raw / fingerprint.dataset_name)
    except DatasetError as cause:
        raise DatasetError(f"{what}; it is measured from the raw labels, but {cause}") from None
    known = {c.identifier: c.input_hash for c in fingerprint.cases}
    changed = f"{what}, and the raw files of {dataset.name} have changed since it was taken: run ldseg_plan_and_preprocess."
    if {c.identifier for c in dataset.cases} != set(known):
        raise DatasetError(changed)
    sample = sample_cases(dataset.cases, fingerprint)
    logger.info("%s: another grid; the labels of %d cases are read once more.", dataset.name, len(sample))
    with open_executor(request.executor, request.workers, (dataset.folder,)) as pool:
        outcomes = run_all(pool, hash_case, sample, "hashing", progress)
        raise_failures(outcomes, dataset.name)
        if any(o.value != known[o.item.identifier] for o in outcomes):
            raise DatasetError(changed)
        return with_codes(fingerprint, dataset.cases, dataset.description, lacking, pool, progress)


def existing_plans(path: Path, fingerprint: Fingerprint) -> tuple[Plans | None, Choices]:
    """The plans at `path`, if they are of this data; and the choices to make them with, if they are not.

    Raises:
        PlansError: they are damaged or impossible, of another dataset, or were copied for files that have changed since.
    """
    if not path.exists():
        return None, Choices()
    content = read_json(path, PlansError)
    if content.get("version") != VERSION:
        logger.warning("%s is of version %s, and %d is written now: the plans are made again.", path, content.get("version"), VERSION)
        return None, Choices()
    plans = Plans.from_dict(content, str(path))
    if plans.fingerprint_hash == fingerprint.data_hash:
        return plans, plans.choices
    what = f"{path} is of {plans.dataset_name} (data {plans.fingerprint_hash[:12]}), not of {fingerprint.dataset_name} as it is now"
    if plans.dataset_name != fingerprint.dataset_name:
        raise PlansError(f"{what}. To use plans of another dataset copy them with ldseg_plan --from-plans FILE.")
    if plans.choices.copied_from:
        raise PlansError(f"{what}: copied from {plans.choices.copied_from} before the files changed. Copy them again with ldseg_plan.")
    logger.warning("%s: the data has changed; the plans are made again with the same choices.", path)
    return None, plans.choices


def check_shared_folders(target: Path, name: str, plans: Plans, description: Description) -> None:
    """Raises PlansError where plans of the same data in another file than NAME.json keep other voxels in a folder of these plans."""
    own = {c.data_identifier: settings_hash(plans, c, description) for c in plans.configurations.values()}
    for path in sorted(target.glob("*.json")):
        if path.stem in TAKEN or "." in path.stem or path.stem == name:
            continue
        try:
            other = Plans.load(path)
        except PlansError:
            continue  # not plans, or not usable: no cases of theirs to keep
        for key, c in other.configurations.items():
            folder = c.data_identifier
            if other.fingerprint_hash == plans.fingerprint_hash and own.get(folder, "") not in ("", settings_hash(other, c, description)):
                both = f"{name} and {path.stem} (configuration {key}) both use the folder {folder}, with different voxels"
                raise PlansError(f"{both}. Choose another --plans-name, or another folder with --set NAME.data_identifier=FOLDER.")


def write_plans(target: Path, plans: Plans) -> Path:
    """Writes PLANS_NAME.json; other plans of that name are kept under another."""
    path = target / f"{plans.plans_name}.json"
    if path.exists():
        with contextlib.suppress(PlansError):  # a damaged file is kept as well
            if read_json(path, PlansError) == plans.to_dict():
                return path
        keep(path)
    plans.save(path)
    return path


def keep(path: Path) -> None:
    """Copies `path` to NAME.previous_1.json, or the first number that is free; a full disk leaves `path` as it was."""
    kept = next(p for i in range(1, 1000) if not (p := path.with_suffix(f".previous_{i}.json")).exists())
    with atomic_path(kept) as temporary:
        temporary.write_bytes(path.read_bytes())
    logger.info("%s differed from the new one and is kept as %s.", path.name, kept.name)
