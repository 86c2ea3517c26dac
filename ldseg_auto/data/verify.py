"""`--verify`: every case read and checked before anything is planned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np

from ldseg_auto.data.cases import Case
from ldseg_auto.data.dataset import RawDataset
from ldseg_auto.data.description import Description
from ldseg_auto.data.image_io import Image
from ldseg_auto.data.training_case import load_training_case
from ldseg_auto.errors import DatasetError
from ldseg_auto.executors import LOCAL, open_executor
from ldseg_auto.parallel import run_all
from ldseg_auto.progress import Progress, silent

logger = logging.getLogger(__name__)


def verify_case(case: Case, description: Description) -> None:
    """Checks all that can be checked in one case.

    Raises:
        DatasetError: what `load_training_case` refuses, or a constant channel; the message names the case.
    """
    image, _ = load_training_case(case, description)
    check_constant(case, image, description)


def verify_dataset(dataset: RawDataset, workers: int = 1, progress: Progress = silent, where: str = LOCAL) -> list[str]:
    """All problems of a dataset, one sentence each, in the order of the cases; empty when there are none.

    Besides `verify_case` for each case it warns of a class (region) that is in no readable case's labels.

    Args:
        workers: processes; 1 reads in this one.
        where: the executor, see executors.open_executor.

    Raises:
        LdsegError: a worker died.
    """
    with open_executor(where, workers, (dataset.folder,)) as pool:
        outcomes = run_all(pool, partial(_inspect, description=dataset.description), dataset.cases, "verifying", progress)
    found = []
    for outcome in outcomes:
        if outcome.value is None:
            raise outcome.error or RuntimeError(f"case {outcome.item.identifier} was not inspected.")
        found.append(outcome.value)
    for absent in _absent_classes([heads for _, heads in found], dataset.description):
        logger.warning("%s: %s", dataset.name, absent)
    return [problem for problem, _ in found if problem]


def _inspect(case: Case, description: Description) -> tuple[str, tuple[bool, ...]]:
    """The problem of a case, or "", and for each head whether it is there; no heads where the labels could not be read."""
    heads: tuple[bool, ...] = ()
    try:
        image, labels = load_training_case(case, description)
        present = np.unique(np.concatenate([np.unique(label) for label in labels]))
        heads = tuple(bool(h) for h in description.labels.table[present].any(axis=0))
        check_constant(case, image, description)
    except DatasetError as cause:
        return str(cause), heads
    return "", heads


def check_constant(case: Case, image: Image, description: Description) -> None:
    """Raises DatasetError for a constant channel: it carries no information, and is most often an export gone wrong."""
    for name, channel in zip(description.channel_names, image.array, strict=True):
        if channel.min() == channel.max():
            shown = f"constant ({channel.flat[0]:g} everywhere)"
            raise DatasetError(f"case {case.identifier}: channel {name} is {shown}; check the file, or leave the case out.")


def _absent_classes(heads: Sequence[tuple[bool, ...]], description: Description) -> list[str]:
    readable = [h for h in heads if h]
    names, skip = description.labels.foreground_names, 0 if description.labels.has_regions else 1
    if not readable:
        return []
    absent = [n for i, n in enumerate(names) if not any(h[i + skip] for h in readable)]
    rule = "it cannot be learnt: remove it from labels in dataset.json or add cases that show it"
    return [f"class {n} is in none of the {len(readable)} cases read; {rule}." for n in absent]
