"""Classes that need care: centres of patches for rare ones, weights that fit the dataset, and those that no training case shows."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import InputError
from ldseg_auto.planners.plans import Training

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Centres:
    """On which label index a foreground patch is centred: one of a class (region) that is drawn by its share.

    Args:
        members: label indices of each foreground class (one) or region.
        shares: of each, 0 or more; a class that the case lacks leaves its share to the others.
    """

    members: tuple[tuple[int, ...], ...]
    shares: tuple[float, ...]

    def draw(self, rng: np.random.Generator, present: Collection[int]) -> int | None:
        """One of the indices `present`; of a region's, each is as likely. None where no class with a share is there."""
        there = [[i for i in indices if i in present] for indices in self.members]
        shares = np.array([share if indices else 0.0 for share, indices in zip(self.shares, there, strict=True)])
        if not shares.any():
            return None
        indices = there[rng.choice(len(there), p=shares / shares.sum())]
        return indices[rng.integers(len(indices))]


def centres(training: Training, labels: LabelSpec) -> Centres | None:
    """As `training.class_sampling` says; None where it says nothing: every label index that a case has is as likely."""
    if training.class_sampling is None:
        return None
    columns = labels.table.T[labels.num_heads - len(labels.foreground_names) :]
    return Centres(tuple(tuple(int(i) for i in np.flatnonzero(column)) for column in columns), training.class_sampling)


def check_classes(training: Training, labels: LabelSpec) -> None:
    """Logs which class has which weight.

    Raises:
        InputError: `class_weights` or `class_sampling` has not one number for each class.
    """
    names = labels.foreground_names
    for key in ("class_weights", "class_sampling"):
        values: Sequence[float] | None = getattr(training, key)
        if values is None:
            continue
        if len(values) != len(names):
            rule = f"expected one for each of the {len(names)} classes, in this order: {', '.join(names)}"
            raise InputError(f"training.{key} has {len(values)} number(s), {list(values)}; {rule}.")
        logger.info("%s: %s", key, ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True)))


def warn_of_absent(volumes: Mapping[str, Mapping[str, float]], train: Collection[str], validation: Collection[str]) -> None:
    """Warns of classes that none of a fold's training, or none of its validation cases shows.

    Args:
        volumes: case -> class -> volume (any unit); a case that it does not name may have every class.
    """
    for cases, what in (
        (train, "training cases has it: it is trained to be absent, and the model will not find it"),
        (validation, "validation cases has it: it has no Dice in this fold"),
    ):
        known = [volumes[c] for c in cases if c in volumes]
        if not known or len(known) < len(cases):
            continue
        absent = [name for name in known[0] if not any(case[name] > 0 for case in known)]
        if absent:
            logger.warning("class %s: none of the %d %s.", ", ".join(absent), len(cases), what)
