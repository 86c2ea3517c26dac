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

from threadpoolctl import threadpool_limits

from ldseg_auto.data.dataset import RawDataset, find_dataset, open_dataset
from ldseg_auto.data.splits import Split, case_groups, doubts, fold_cases, make_splits, split_groups
from ldseg_auto.data.verify import verify_dataset
from ldseg_auto.errors import DatasetError, InputError
from ldseg_auto.executors import LOCAL, absolute, open_executor
from ldseg_auto.files import write_json
from ldseg_auto.parallel import run_all
from ldseg_auto.planners.choices import Choices
from ldseg_auto.planners.extract import extract_fingerprint, hash_case, raise_failures
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.names import check_plans_name
from ldseg_auto.planners.overrides import new_names
from ldseg_auto.planners.planner import PLANS_NAME, choose_configurations
from ldseg_auto.planners.plans import Plans
from ldseg_auto.planners.replan import plan
from ldseg_auto.planning import (
    DESCRIPTION,
    FINGERPRINT,
    check_shared_folders,
    existing_plans,
    keep,
    label_grids,
    load_fingerprint,
    with_codes,
    write_plans,
)  # fmt: skip
from ldseg_auto.preprocessing.run import clean as remove_cases
from ldseg_auto.preprocessing.run import folders_of, preprocess_dataset
from ldseg_auto.progress import Progress, silent
from ldseg_auto.report.write import Report, write_report

logger = logging.getLogger(__name__)
SPLITS = "splits_final.json"


@dataclass(frozen=True)
class Options:
    """What the user may choose."""

    configurations: tuple[str, ...] = ()  # to preprocess; empty takes all (the plans hold all in any case)
    workers: int = 2
    verify: bool = False  # read and check every case first
    clean: bool = False  # measure and preprocess again, whatever is there
    plans_name: str = PLANS_NAME  # of the plans file, without .json
    choices: Choices | None = None  # for new plans; None takes the plans that are there as they are, else the rules' own
    groups: str | None = None  # regular expression on the case name, in place of dataset.json's `groups`
    results: Path | None = None  # root of the trained models, for the report
    executor: str = LOCAL  # what works on the cases: local (`workers` processes), in-process, dask://HOST:PORT


@dataclass(frozen=True)
class Prepared:
    """The outcome."""

    folder: Path  # preprocessed/DatasetXXX_Name
    plans: Plans
    written: int  # cases preprocessed now
    kept: int  # cases that were finished already
    failures: Mapping[str, str]  # case -> cause
    report: Report  # written, and the cases that stand out


def plan_and_preprocess(raw: Path, preprocessed: Path, dataset_id: int, options: Options, progress: Progress = silent) -> Prepared:
    """Measures, plans and preprocesses one dataset.

    Args:
        raw, preprocessed: the roots.

    Raises:
        DatasetError: the dataset breaks a rule of the format, or cases cannot be used (all are named).
        InputError: an impossible option.
        LdsegError: a worker died.
    """
    raw, preprocessed = absolute(options.executor, raw), absolute(options.executor, preprocessed)
    if options.choices is not None:  # a name that is read only may be any that is there
        check_plans_name(options.plans_name)
    dataset = open_dataset(find_dataset(raw, dataset_id))
    if options.groups is not None:
        dataset = replace(dataset, description=replace(dataset.description, groups=_checked_groups(options.groups)))
    target = preprocessed / dataset.name
    splits = _kept_splits(dataset, target / SPLITS)
    if options.verify:
        problems = verify_dataset(dataset, options.workers, progress, options.executor)
        if problems:
            raise DatasetError(f"{dataset.name} has {len(problems)} problem(s):\n  " + "\n  ".join(problems))
    place = open_executor(options.executor, options.workers, (dataset.folder,), preprocessed)
    with threadpool_limits(1), place as pool:  # this process's matrices are small: threads would only wait
        hashes = _hash_cases(dataset, pool, progress)
        fingerprint, plans, new = _plan(dataset, target, hashes, options, pool, progress)
        wanted = choose_configurations(list(plans.configurations), options.configurations)
        if new:
            write_plans(target, plans)
        write_json(target / DESCRIPTION, dataset.description.content)
        _write_splits(target / SPLITS, splits or _new_splits(dataset, fingerprint))
        if options.clean:
            remove_cases(target, list(folders_of(plans, wanted)))
        outcomes = preprocess_dataset(dataset, plans, wanted, target, hashes, pool, progress)
        report = write_report(target, fingerprint, plans, dataset, pool, progress, options.results)
    failures = {o.item.identifier: str(o.error) or type(o.error).__name__ for o in outcomes if o.error is not None}
    written = sum(bool(o.value) for o in outcomes)
    return Prepared(target, plans, written, len(outcomes) - written - len(failures), failures, report)


def _hash_cases(dataset: RawDataset, pool: Executor, progress: Progress) -> dict[str, str]:
    """Case -> hash of its files."""
    outcomes = run_all(pool, hash_case, dataset.cases, "hashing", progress)
    raise_failures(outcomes, dataset.name)
    return {o.item.identifier: o.value for o in outcomes if o.value is not None}


def _plan(
    dataset: RawDataset, target: Path, hashes: Mapping[str, str], options: Options, pool: Executor, progress: Progress
) -> tuple[Fingerprint, Plans, bool]:  # fmt: skip
    """The stored fingerprint and plans where they are of the same files, else new ones; and whether the plans are new.

    Label codes are added to the fingerprint where new plans need them.
    """
    there = None if options.clean else _stored(target / FINGERPRINT, dataset, hashes)
    fingerprint = there or extract_fingerprint(dataset, pool, progress)
    path, description = target / f"{options.plans_name}.json", dataset.description
    plans, choices = (None, options.choices) if options.choices else existing_plans(path, fingerprint)
    grids = label_grids(fingerprint, description, choices)
    choose_configurations(list(plans.configurations if plans else (*grids, *new_names(choices.settings))), options.configurations)
    lacking = {name: grid for name, grid in grids.items() if grid.key not in fingerprint.latent}
    if there is None or (plans is None and lacking):
        fingerprint = with_codes(fingerprint, dataset.cases, description, lacking, pool, progress)
    if there is None:  # long work, whatever becomes of the plans
        fingerprint.save(target / FINGERPRINT)
    made = plans or plan(fingerprint, description.labels.num_heads, choices, options.plans_name)
    check_shared_folders(target, options.plans_name, made, description)
    if there not in (None, fingerprint):
        fingerprint.save(target / FINGERPRINT)
    return fingerprint, made, plans is None


def _stored(path: Path, dataset: RawDataset, hashes: Mapping[str, str]) -> Fingerprint | None:
    """The fingerprint at `path`, or None where there is none, or where files, channels or classes have changed since.

    Raises:
        PlansError: it is damaged, or was edited.
    """
    if not path.exists():
        return None
    there = load_fingerprint(path)
    same_labels = there.class_names == dataset.description.labels.foreground_names
    same_channels = there.channel_names == dataset.description.channel_names and there.dataset_name == dataset.name
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


def _kept_splits(dataset: RawDataset, path: Path) -> list[Split] | None:
    """The raw folder's own splits where there are some; else those at `path` while they name the same cases and split no group.

    Raises:
        DatasetError: the user's own splits are damaged, or name a case that is not in the dataset; a case has no group.
    """
    own, cases = dataset.folder / SPLITS, {c.identifier for c in dataset.cases}
    by_case = case_groups(sorted(cases), dataset.description.groups)
    if own.exists():
        splits = _read_splits(own)
        strangers = sorted(_names(splits) - cases)
        if strangers:
            count = len(strangers)
            raise DatasetError(f"{own} names case {strangers[0]}, which is not in imagesTr ({count} such cases). Correct the file.")
        _warn(own, splits, by_case)
        return splits
    if not path.exists():
        return None
    there = _read_splits(path)
    divided = sorted({group for split in there for group in split_groups(split, by_case)})
    if _names(there) != cases or divided:
        why = f"splits group {divided[0]}" if divided else "does not name exactly the dataset's cases"
        logger.warning("%s %s: the splits are made anew. To keep yours put them into %s.", path, why, dataset.folder)
        return None
    _warn(path, there, by_case)
    return there


def _warn(path: Path, splits: list[Split], by_case: Mapping[str, str]) -> None:
    for doubt in doubts(dict(enumerate(splits)), by_case):
        logger.warning("%s: %s", path, doubt)


def _new_splits(dataset: RawDataset, fingerprint: Fingerprint) -> list[Split]:
    holds = {c.identifier: [name for name, volume in c.volumes.items() if volume > 0] for c in fingerprint.cases}
    return make_splits([c.identifier for c in dataset.cases], dataset.description.groups, holds)


def _write_splits(path: Path, splits: list[Split]) -> None:
    """Writes the splits; others that are there are kept under another name."""
    if path.exists():
        with contextlib.suppress(ValueError):  # a damaged one is kept as well
            if json.loads(path.read_text(encoding="utf-8")) == splits:
                return
        keep(path)
    write_json(path, splits)


def _read_splits(path: Path) -> list[Split]:
    advice = "Correct the file, or delete it to have the splits made."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fold_cases(content, "all")  # checks the form
    except InputError as cause:
        raise DatasetError(f"{path}: {cause} {advice}") from None
    except ValueError as cause:
        raise DatasetError(f"{path} is not valid JSON: {cause}. {advice}") from None
    return content


def _names(splits: list[Split]) -> set[str]:
    return set(fold_cases(splits, "all")["train"])
