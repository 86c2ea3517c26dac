"""Preprocesses a dataset, case by case in parallel; finished cases are kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ldseg_auto.data.dataset import Case, Description, RawDataset
from ldseg_auto.data.image_io import Image
from ldseg_auto.data.training_case import load_training_case
from ldseg_auto.errors import InputError
from ldseg_auto.parallel import Outcome, run_all
from ldseg_auto.planners.plans import Plans
from ldseg_auto.preprocessing.case import class_locations, preprocess_array, preprocess_labels
from ldseg_auto.preprocessing.settings import settings_hash
from ldseg_auto.preprocessing.store import load_properties, save_case, save_reference
from ldseg_auto.progress import Progress, silent

REFERENCES = "gt_segmentations"


@dataclass(frozen=True)
class Job:
    """One case for all configurations."""

    case: Case
    description: Description
    plans: Plans
    folders: Mapping[str, str]  # folder of the preprocessed cases -> a configuration that it belongs to
    target: Path  # preprocessed/DatasetXXX_Name
    input_hash: str

    @property
    def identifier(self) -> str:
        """The case's."""
        return self.case.identifier


def folders_of(plans: Plans, configurations: Sequence[str]) -> dict[str, str]:
    """Folder -> the first configuration of the plans that uses it (as settings_hash), for the folders of these configurations."""
    wanted = {plans.configuration(name).data_identifier for name in configurations}
    out: dict[str, str] = {}
    for name, configuration in plans.configurations.items():
        if configuration.data_identifier in wanted:
            out.setdefault(configuration.data_identifier, name)
    return out


def preprocess_dataset(
    dataset: RawDataset, plans: Plans, configurations: Sequence[str], target: Path, hashes: Mapping[str, str], pool: Executor,
    progress: Progress = silent,
) -> list[Outcome[Job, int]]:  # fmt: skip
    """Preprocesses every case for the named configurations.

    Args:
        target: preprocessed/DatasetXXX_Name.
        hashes: case -> hash of its input files (see planners.extract.hash_case).

    Returns:
        Per case the number of folders written (0: all were finished already), or its error; one case failing stops no other. What a
        worker wrote counts also if it died before it could say so: whoever repeated its work found it there.

    Raises:
        LdsegError: a worker died.
    """
    folders = folders_of(plans, configurations)
    jobs = [Job(c, dataset.description, plans, folders, target, hashes[c.identifier]) for c in dataset.cases]
    before = [{path.stem for path in (target / folder).glob("*.json")} for folder in folders]
    outcomes = run_all(pool, preprocess_case, jobs, "preprocessing", progress)
    return [o if o.value != 0 else replace(o, value=sum(o.item.identifier not in there for there in before)) for o in outcomes]


def preprocess_case(job: Job) -> int:
    """Reads one case and writes it for each folder that lacks it; returns how many were written.

    Raises:
        DatasetError: the case cannot be used.
        OSError: the disk is full.
    """
    wanted = {folder: job.plans.configuration(name) for folder, name in job.folders.items()}
    hashes = {folder: settings_hash(job.plans, c, job.description) for folder, c in wanted.items()}
    todo = [f for f in wanted if not is_finished(job.target / f, job.identifier, job.input_hash, hashes[f])]
    reference = job.target / REFERENCES
    if not todo and (reference / f"{job.identifier}.json").exists():
        return 0
    for written in (reference, *(job.target / f for f in todo)):
        remove_leftovers(written, job.identifier)
    image, labels = load_training_case(job.case, job.description)
    stacked = labels[0][None] if len(labels) == 1 else np.stack(labels)  # a view saves a copy of the volume
    save_reference(reference, job.identifier, stacked, image.spacing)
    for folder in todo:
        _preprocess_folder(job, folder, hashes[folder], image, stacked)
    return len(todo)


def _preprocess_folder(job: Job, folder: str, settings: str, image: Image, labels: np.ndarray) -> None:
    """One folder's version of a case; what it needed is given back when it is written."""
    configuration = job.plans.configuration(job.folders[folder])
    data, properties = preprocess_array(image.array, image.spacing, job.plans, configuration)
    indices = preprocess_labels(labels, properties, job.plans, configuration)
    locations = class_locations(indices, job.description.labels, job.identifier)
    known = replace(properties, input_hash=job.input_hash, settings_hash=settings, raters=job.case.raters, class_locations=locations)
    save_case(job.target / folder, job.identifier, data, indices, known)


def remove_leftovers(folder: Path, identifier: str) -> None:
    """Removes what a killed process left half written of a case (see files.atomic_path); other cases' files may be in work."""
    names = {f"{identifier}{end}" for end in (".b2nd", "_labels.b2nd", "_locations.b2nd", ".json")}
    for path in folder.glob(".tmp_*"):
        if path.name[len(".tmp_12345678_") :] in names:
            path.unlink(missing_ok=True)


def is_finished(folder: Path, identifier: str, input_hash: str, settings: str) -> bool:
    """Whether the stored case was made from these inputs with these settings; a damaged record counts as unfinished."""
    if not (folder / f"{identifier}.json").exists():
        return False
    try:
        there = load_properties(folder, identifier)
    except InputError:
        return False
    return (there.input_hash, there.settings_hash) == (input_hash, settings)


def clean(target: Path, folders: Sequence[str]) -> None:
    """Removes the named folders of preprocessed cases, and the references."""
    for folder in (*folders, REFERENCES):
        shutil.rmtree(target / folder, ignore_errors=True)
