"""From a raw dataset to a preprocessed one: fingerprint, plans, splits, preprocessed cases. What is up to date is kept."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from ldseg_auto.data.dataset import Case, RawDataset, find_dataset, open_dataset
from ldseg_auto.data.splits import fold_cases, make_splits
from ldseg_auto.data.verify import verify_dataset
from ldseg_auto.errors import DatasetError, InputError, PlansError
from ldseg_auto.files import read_json, write_json, write_text
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
    target_spacing: tuple[float, ...] = ()  # mm, (z, y, x) or (y, x), in place of the planner's
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
        dataset = replace(dataset, description=replace(dataset.description, groups=_checked_groups(options.groups)))
    target = preprocessed / dataset.name
    splits = _splits(dataset, target / SPLITS)
    if options.verify:
        problems = verify_dataset(dataset, options.workers, progress)
        if problems:
            raise DatasetError(f"{dataset.name} has {len(problems)} problem(s):\n  " + "\n  ".join(problems))
    with executor(options.workers) as pool:
        hashes = _hash_cases(dataset, pool, progress)
        fingerprint = _fingerprint(dataset, target, hashes, options, pool, progress)
        plans = make_plans(fingerprint, dataset.description.labels.num_heads, options.gpu_memory, options.target_spacing)
        wanted = choose_configurations(list(plans.configurations), options.configurations)
        _write_plans(target, plans)
        write_json(target / "dataset.json", dataset.description.content)
        _write_splits(target / SPLITS, splits)
        if options.clean:
            remove_cases(target, list(folders_of(plans, wanted)))
        outcomes = preprocess_dataset(dataset, plans, wanted, target, hashes, pool, progress)
    failures = {o.item.identifier: str(o.error) or type(o.error).__name__ for o in outcomes if o.error is not None}
    written = sum(bool(o.value) for o in outcomes)
    return Prepared(target, plans, written, len(outcomes) - written - len(failures), failures)


def _hash_cases(dataset: RawDataset, pool: Executor, progress: Progress) -> dict[str, str]:
    """Case -> hash of its files."""
    outcomes = run_all(pool, hash_case, dataset.cases, "hashing", progress)
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
    order, found = layouts(fingerprint, dataset.description.labels.num_heads, options.gpu_memory, options.target_spacing)
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


def _checked_groups(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as cause:
        raise InputError(f"--groups {pattern!r} is no regular expression: {cause}.") from None
    return pattern


def _write_plans(target: Path, plans: Plans) -> None:
    """Writes the plans; others that are there are kept under another name."""
    path = target / f"{PLANS_NAME}.json"
    if path.exists():
        if read_json(path, PlansError) == plans.to_dict():
            return
        _keep(path)
    plans.save(path)


def _splits(dataset: RawDataset, path: Path) -> list[dict[str, list[str]]]:
    """The raw folder's own splits where there are some; else those at `path` while they name the same cases; else new ones.

    Raises:
        DatasetError: the user's own splits are damaged, or name a case that is not in the dataset; a case has no group.
    """
    own, cases = dataset.folder / SPLITS, {c.identifier for c in dataset.cases}
    if own.exists():
        splits = _read_splits(own)
        strangers = sorted(_names(splits) - cases)
        if strangers:
            count = len(strangers)
            raise DatasetError(f"{own} names case {strangers[0]}, which is not in imagesTr ({count} such cases). Correct the file.")
        return splits
    made = make_splits(sorted(cases), dataset.description.groups)
    if dataset.description.groups is None and path.exists():
        there = _read_splits(path)
        return there if _names(there) == cases else made
    return made


def _write_splits(path: Path, splits: list[dict[str, list[str]]]) -> None:
    """Writes the splits; others that are there are kept under another name."""
    if path.exists():
        with contextlib.suppress(ValueError):  # a damaged one is kept as well
            if json.loads(path.read_text(encoding="utf-8")) == splits:
                return
        _keep(path)
    write_json(path, splits)


def _keep(path: Path) -> None:
    """Copies `path` to NAME.previous_1.json, or the first number that is free; a full disk leaves `path` as it was."""
    kept = next(p for i in range(1, 1000) if not (p := path.with_suffix(f".previous_{i}.json")).exists())
    write_text(kept, path.read_text(encoding="utf-8"))
    logger.info("%s differed from the new one and is kept as %s.", path.name, kept.name)


def _read_splits(path: Path) -> list[dict[str, list[str]]]:
    advice = "Correct the file, or delete it to have the splits made."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fold_cases(content, "all")  # checks the form
    except InputError as cause:
        raise DatasetError(f"{path}: {cause} {advice}") from None
    except ValueError as cause:
        raise DatasetError(f"{path} is not valid JSON: {cause}. {advice}") from None
    return content


def _names(splits: list[dict[str, list[str]]]) -> set[str]:
    return set(fold_cases(splits, "all")["train"])
