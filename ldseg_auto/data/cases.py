"""Cases: which files belong together, for training and for prediction."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ldseg_auto.data.description import Description
from ldseg_auto.data.endings import NATURAL, ending_of, label_ending, same_kind
from ldseg_auto.errors import DatasetError, InputError

T = TypeVar("T")
logger = logging.getLogger(__name__)

CHANNEL = re.compile(r"(.+)_(\d{4})")  # CASE_0000, without the ending
SHOWN = 5  # file names named in an error


@dataclass(frozen=True)
class Case:
    """The files of one case.

    Args:
        images: one file per channel, or a single natural image that holds them all.
        labels: one file per rater who drew the case; empty for prediction.
        raters: their numbers, in the order of `labels`; empty where all drew it.
    """

    identifier: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    raters: tuple[int, ...] = ()


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spaced, the first and (of two or more) the last among them."""
    return [items[round(float(i))] for i in np.linspace(0, len(items) - 1, min(count, len(items)))] if items else []


def training_cases(folder: Path, description: Description) -> list[Case]:
    """The training cases below a dataset folder, sorted by identifier.

    Raises:
        DatasetError: an image without label, a label without image, a missing channel, a name that does not follow the format.
    """
    if "dataset" in description.content:
        return _listed_cases(folder, description)
    images = _images(folder / "imagesTr", description, DatasetError)
    labels = _labels(folder, description)
    _check_pairs(images, labels, description)
    by_rater = [labels[rater] for rater in description.raters]
    return [_labelled(case, images[case], [names.get(case) for names in by_rater]) for case in sorted(images)]


def _labelled(case: str, images: tuple[Path, ...], labels: Sequence[Path | None]) -> Case:
    """A case with one label per rater, None where a rater did not draw it."""
    drawn = tuple(number for number, path in enumerate(labels) if path is not None)
    return Case(case, images, tuple(path for path in labels if path is not None), () if len(drawn) == len(labels) else drawn)


def find_input_cases(path: Path, description: Description) -> list[Case]:
    """The cases to predict: every `CASE_0000.EXT` of a folder, or a single file of any name.

    A single file needs no channel suffix, and its ending may be another than the training data's, if both kinds have a geometry (NIfTI,
    NRRD, MetaImage, GIPL) or both have none (PNG, BMP, JPEG, TIFF).

    Raises:
        InputError: nothing there, another ending, a missing or superfluous channel; the message names files.
    """
    path = Path(path)
    if path.is_file():
        return [_single_file(path, description)]
    if not path.is_dir():
        raise InputError(f"input {path} does not exist; name a folder with CASE_0000{description.file_ending} files, or one file.")
    images = _images(path, description, InputError)
    return [Case(c, images[c]) for c in sorted(images)]


def _single_file(path: Path, description: Description) -> Case:
    ending, wanted = ending_of(path), description.file_ending
    if not same_kind(ending, wanted):
        rule = "one has a geometry and the other none"
        raise InputError(f"input {path} is a {ending} file, but the model was trained with {wanted} files: {rule}. Convert it.")
    if ending.lower() != wanted.lower():
        logger.info("%s: read as %s; the model was trained with %s files, and the prediction is written as such.", path, ending, wanted)
    stem = path.name[: -len(ending)]
    match = CHANNEL.fullmatch(stem)
    identifier = match[1] if match and match[2] == "0000" else stem
    _check_channels(identifier, (path,), description, InputError, f"{identifier}_{{:04d}}{ending}")
    return Case(identifier, (path,))


def _names(folder: Path, ending: str, error: type[InputError]) -> list[str]:
    """Sorted file names with this ending, hidden files left out."""
    if not folder.is_dir():
        raise error(f"folder {folder} does not exist.")
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    matching = [n for n in names if n.endswith(ending) and len(n) > len(ending)]
    if not matching:
        endings = Counter(n[n.find(".") :] if "." in n else "(none)" for n in names)
        found = ", ".join(f"{count} x {e}" for e, count in endings.most_common(SHOWN)) or "no files at all"
        raise error(f"folder {folder} holds no {ending} file, the file_ending of dataset.json; found: {found}.")
    return matching


def _images(folder: Path, description: Description, error: type[InputError]) -> dict[str, tuple[Path, ...]]:
    """Image files of each case in a folder, complete and in the order of the channels."""
    ending = description.file_ending
    channels: dict[str, list[int]] = {}
    for name in _names(folder, ending, error):
        match = CHANNEL.fullmatch(name[: -len(ending)])
        if match is None:
            raise error(f"{folder / name}: images are named CASE_0000{ending}, with four digits for the channel. Rename the file.")
        channels.setdefault(match[1], []).append(int(match[2]))
    images = {}
    for case, numbers in channels.items():
        pattern = f"{case}_{{:04d}}{ending}"
        gaps = [n for n in range(len(numbers)) if n not in numbers]
        if gaps:
            raise error(f"case {case}: channel {gaps[0]} is missing; expected {folder / pattern.format(gaps[0])}.")
        images[case] = tuple(folder / pattern.format(n) for n in range(len(numbers)))
        _check_channels(case, images[case], description, error, str(folder / pattern))
    return images


def _check_channels(case: str, images: Sequence[Path], description: Description, error: type[InputError], pattern: str) -> None:
    """One file per declared channel, or natural images that hold them all together.

    Args:
        pattern: formats a channel's number as the file expected for it.
    """
    wanted, found = len(description.channel_names), len(images)
    if found < wanted and all(ending_of(p).lower() in NATURAL for p in images):
        from ldseg_auto.data.natural import count_channels  # pillow, which training does not need

        found = sum(count_channels(p) for p in images)
    counts = f"case {case}: {found} channel(s) found, dataset.json declares {wanted} ({', '.join(description.channel_names)})"
    if found < wanted:
        raise error(f"{counts}; missing channel: expected {pattern.format(len(images))}.")
    if found > wanted:
        raise error(f"{counts}; last one found: {images[-1]}. Remove what is too much.")


def _labels(folder: Path, description: Description) -> dict[str, dict[str, Path]]:
    """Rater -> case -> label file."""
    ending = label_ending(description.file_ending)
    labels = {}
    for rater in description.raters:
        names = _names(folder / rater, ending, DatasetError)
        labels[rater] = {n[: -len(ending)]: folder / rater / n for n in names}
    return labels


def _check_pairs(images: Mapping[str, Sequence[Path]], labels: Mapping[str, Mapping[str, Path]], description: Description) -> None:
    ending = label_ending(description.file_ending)
    for rater, names in labels.items():
        alone = sorted(set(names) - set(images))
        if alone:
            expected = f"imagesTr/{alone[0]}_0000{description.file_ending}"
            raise DatasetError(f"{len(alone)} label(s) without image, first {names[alone[0]]}: expected {expected}.")
        lacking = sorted(set(images) - set(names))
        if lacking and len(labels) > 1:
            logger.warning("rater %s has no label for %d of %d cases (first: %s).", rater, len(lacking), len(images), lacking[0])
    bare = sorted(set(images).difference(*labels.values()))
    if bare:
        expected = " or ".join(f"{rater}/{bare[0]}{ending}" for rater in labels)
        raise DatasetError(f"{len(bare)} image(s) without label, first {images[bare[0]][0]}: expected {expected}.")


def _listed_cases(folder: Path, description: Description) -> list[Case]:
    """Cases from dataset.json's own list, `dataset`: identifier -> images and label."""
    content = description.content["dataset"]
    if not isinstance(content, Mapping) or not content:
        raise DatasetError(f'{folder}/dataset.json: dataset is {str(content)[:60]!r}; expected case -> {{"images": [...], "label": ...}}.')
    return [_listed_case(folder, case, content[case], description) for case in sorted(content)]


def _listed_case(folder: Path, case: str, entry: Any, description: Description) -> Case:
    rule = 'expected {"images": [file, ...], "label": file}, or as label a list of one file per rater (null: did not draw it)'
    images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, Mapping) else (None, None)
    images = images if isinstance(images, list) else []
    given = label if isinstance(label, list) else [label]
    labels = [f for f in given if f is not None]
    if not images or not labels or len(given) > len(description.raters) or not all(isinstance(f, str) for f in (*images, *labels)):
        raise DatasetError(f"{folder}/dataset.json: dataset, case {case}: {str(entry)[:80]!r}; {rule}.")
    found = [folder / os.path.expandvars(f) for f in (*images, *labels)]
    missing = [f for f in found if not f.is_file()]
    if missing:
        raise DatasetError(f"{folder}/dataset.json: dataset, case {case}: {missing[0]} does not exist.")
    files = tuple(found[: len(images)])
    _check_channels(case, files, description, DatasetError, "one more file in images (number {})")
    paths = iter(found[len(images) :])
    return _labelled(case, files, [*(f and next(paths) for f in given), *[None] * (len(description.raters) - len(given))])
