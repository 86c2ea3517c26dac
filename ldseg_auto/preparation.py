"""From a raw dataset to a preprocessed one: fingerprint, plans, splits, preprocessed cases. What is up to date is kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from ldseg_auto.data.dataset import Case, RawDataset, find_dataset, open_dataset
from ldseg_auto.data.splits import make_splits
from ldseg_auto.data.verify import verify_dataset
from ldseg_auto.errors import DatasetError, PlansError
from ldseg_auto.files import read_json, write_json
from ldseg_auto.parallel import executor, run_all
from ldseg_auto.planners.extract import extract_fingerprint, hash_case, raise_failures
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.planner import DEFAULT_GPU_MEMORY, PLANS_NAME, choose_configurations, label_grid, layouts, make_plans
from ldseg_auto.planners.plans import Plans
from ldseg_auto.planners.spectrum import measure_latent, sample_cases
from ldseg_auto.preprocessing.run import clean as remove_cases
from ldseg_auto.preprocessing.run import folders_of, preprocess_dataset
from ldseg_auto.progress import Progress, silent

logger = logging.getLogger(__name__)
FINGERPRINT = "dataset_fingerprint.json"
SPLITS = "splits_final.json"


@dataclass(frozen=True)
class Options:
    """What the user may choose."""

    configurations: tuple[str, ...] = ()  # to preprocess; empty takes all (the plans hold all in any case)
    workers: int = 2
    verify: bool = False  # read and check every case first
    clean: bool = False  # measure and preprocess again, whatever is there
    gpu_memory: float = DEFAULT_GPU_MEMORY  # GiB
    groups: str | None = None  # regular expression on the case name, in place of dataset.json's `groups`


@dataclass(frozen=True)
class Prepared:
    """The outcome."""

    folder: Path  # preprocessed/DatasetXXX_Name
    plans: Plans
    written: int  # cases preprocessed now
    kept: int  # cases that were finished already
    failures: Mapping[str, str]  # case -> cause


def plan_and_preprocess(raw: Path, preprocessed: Path, dataset_id: int, options: Options, progress: Progress = silent) -> Prepared:
    """Measures, plans and preprocesses one dataset.

    Args:
        raw, preprocessed: the roots.

    Raises:
        DatasetError: the dataset breaks a rule of the format, or cases cannot be used (all are named).
        InputError: an impossible option.
        LdsegError: a worker died.
    """
    dataset = open_dataset(find_dataset(raw, dataset_id))
    if options.groups is not None:
        dataset = replace(dataset, description=replace(dataset.description, groups=options.groups))
    splits = make_splits([c.identifier for c in dataset.cases], dataset.description.groups)
    target = preprocessed / dataset.name
    if options.verify:
        problems = verify_dataset(dataset, options.workers, progress)
        if problems:
            raise DatasetError(f"{dataset.name} has {len(problems)} problem(s):\n  " + "\n  ".join(problems))
    with executor(options.workers) as pool:
        hashes = _hash_cases(dataset, pool)
        fingerprint = _fingerprint(dataset, target, hashes, options, pool, progress)
        plans = make_plans(fingerprint, dataset.description.labels.num_heads, options.gpu_memory)
        wanted = choose_configurations(list(plans.configurations), options.configurations)
        _write_plans(target, plans)
        write_json(target / "dataset.json", dataset.description.content)
        _write_splits(dataset, target, splits)
        if options.clean:
            remove_cases(target, list(folders_of(plans, wanted)))
        outcomes = preprocess_dataset(dataset, plans, wanted, target, hashes, pool, progress)
    failures = {o.item.identifier: str(o.error) or type(o.error).__name__ for o in outcomes if o.error is not None}
    written = sum(bool(o.value) for o in outcomes)
    return Prepared(target, plans, written, len(outcomes) - written - len(failures), failures)


def _hash_cases(dataset: RawDataset, pool: Executor) -> dict[str, str]:
    """Case -> hash of its files."""
    outcomes = run_all(pool, hash_case, dataset.cases, "hashing")
    raise_failures(outcomes, dataset.name)
    return {o.item.identifier: o.value for o in outcomes if o.value is not None}


def _fingerprint(
    dataset: RawDataset, target: Path, hashes: Mapping[str, str], options: Options, pool: Executor, progress: Progress
) -> Fingerprint:  # fmt: skip
    """The stored fingerprint where it is of the same files, else a new one; label codes are added where the plan needs them."""
    path = target / FINGERPRINT
    fingerprint = None if options.clean else _stored(path, dataset, hashes)
    measured = fingerprint is None
    if fingerprint is None:
        fingerprint = extract_fingerprint(dataset, pool, progress)
    order, found = layouts(fingerprint, dataset.description.labels.num_heads, options.gpu_memory)
    choose_configurations(list(found), options.configurations)
    codes = dict(fingerprint.latent)
    sample: list[Case] = sample_cases(dataset.cases, fingerprint)
    for layout in found.values():
        grid = label_grid(layout, order)
        if grid.key not in codes:
            codes[grid.key] = measure_latent(sample, dataset.description, grid, pool, progress)
            measured = True
    fingerprint = replace(fingerprint, latent=codes)
    if measured:
        fingerprint.save(path)
    return fingerprint


def _stored(path: Path, dataset: RawDataset, hashes: Mapping[str, str]) -> Fingerprint | None:
    """The fingerprint at `path`, or None where there is none, or where files, channels or classes have changed since.

    Raises:
        PlansError: it is damaged, or was edited.
    """
    if not path.exists():
        return None
    try:
        there = Fingerprint.load(path)
    except PlansError as cause:
        raise PlansError(f"{cause} Delete the file, or measure the dataset again with --clean.") from None
    same_labels = there.class_names == dataset.description.labels.foreground_names
    same_channels = there.channel_names == dataset.description.channel_names
    if same_labels and same_channels and {c.identifier: c.input_hash for c in there.cases} == dict(hashes):
        return there
    logger.info("%s: the raw files have changed since the fingerprint was taken; it is taken again.", dataset.name)
    return None


def _write_plans(target: Path, plans: Plans) -> None:
    """Writes the plans; others that are there are kept under another name."""
    path = target / f"{PLANS_NAME}.json"
    if path.exists():
        if read_json(path) == plans.to_dict():
            return
        kept = next(p for i in range(1, 1000) if not (p := target / f"{PLANS_NAME}.previous_{i}.json").exists())
        path.rename(kept)
        logger.info("%s differed from the new plans and is kept as %s.", path.name, kept.name)
    plans.save(path)


def _write_splits(dataset: RawDataset, target: Path, splits: list[dict[str, list[str]]]) -> None:
    """Writes splits_final.json: the raw folder's own where there is one; what is there is kept while it names the same cases."""
    own, path = dataset.folder / SPLITS, target / SPLITS
    if own.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _read_splits(own, dataset))
        return
    if path.exists() and _names(_read_list(path)) == {c.identifier for c in dataset.cases} and dataset.description.groups is None:
        return
    write_json(path, splits)


def _read_splits(path: Path, dataset: RawDataset) -> list[dict[str, list[str]]]:
    """The user's own splits.

    Raises:
        DatasetError: they name a case that is not in the dataset.
    """
    splits = _read_list(path)
    strangers = sorted(_names(splits) - {c.identifier for c in dataset.cases})
    if strangers:
        raise DatasetError(f"{path} names case {strangers[0]}, which is not in imagesTr ({len(strangers)} such cases). Correct the file.")
    return splits


def _read_list(path: Path) -> list[dict[str, list[str]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as cause:
        raise DatasetError(f"{path} is not valid JSON: {cause}. Correct the file, or delete it to have the splits made.") from None
    if not isinstance(content, list) or not all(isinstance(s, dict) and {"train", "val"} <= set(s) for s in content):
        raise DatasetError(f'{path}: expected a list of {{"train": [case, ...], "val": [case, ...]}}. Correct the file, or delete it.')
    return content


def _names(splits: list[dict[str, list[str]]]) -> set[str]:
    return {case for split in splits for part in ("train", "val") for case in split[part]}
