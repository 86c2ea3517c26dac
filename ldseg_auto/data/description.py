"""dataset.json: what it must hold, and what it may."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ldseg_auto.data.endings import READABLE
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import DatasetError

logger = logging.getLogger(__name__)

DEFAULT_RATERS = ("labelsTr",)


@dataclass(frozen=True)
class Description:
    """A dataset.json, checked.

    Args:
        channel_names: one per image channel, in order; they choose the normalisation.
        labels: what the label values mean.
        file_ending: of image files, with the dot.
        num_training: training cases.
        raters: label folders, one per rater.
        groups: case -> group, or a regular expression on the case name; folds do not split a group. None: every case is its own.
        content: the JSON as read.
    """

    channel_names: tuple[str, ...]
    labels: LabelSpec
    file_ending: str
    num_training: int
    raters: tuple[str, ...] = DEFAULT_RATERS
    groups: Mapping[str, str] | str | None = None
    content: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: str) -> Description:
        """Checks the content of a dataset.json.

        Args:
            source: names the file in errors.

        Raises:
            DatasetError: a key is missing or its value breaks the rule; the message names all three.
        """
        names = "channel_names" if "channel_names" in content else "modality"  # modality: nnU-Net v1's word
        missing = [k for k in ("labels", "numTraining", "file_ending") if k not in content]
        if names not in content:
            missing.insert(0, "channel_names")
        if missing:
            raise DatasetError(f"{source} lacks {', '.join(missing)}; required: channel_names, labels, numTraining, file_ending. Add them.")
        if content.get("overwrite_image_reader_writer") is not None:
            logger.info("%s: overwrite_image_reader_writer has no effect: files are read by their ending and always reoriented.", source)
        return cls(
            channel_names=_channel_names(content[names], names, source),
            labels=LabelSpec.from_dict(content["labels"], content.get("regions_class_order"), source),
            file_ending=_file_ending(content["file_ending"], source),
            num_training=_num_training(content["numTraining"], source),
            raters=_raters(content.get("raters"), source),
            groups=_groups(content.get("groups"), source),
            content=dict(content),
        )


def _channel_names(value: Any, key: str, source: str) -> tuple[str, ...]:
    rule = 'expected an object with the keys "0", "1", ... without a gap and a name for each, such as {"0": "CT"}'
    if not isinstance(value, Mapping) or not value or set(value) != {str(i) for i in range(len(value))}:
        raise DatasetError(f"{source}: {key} = {value!r}; {rule}.")
    for number, name in value.items():
        if not isinstance(name, str) or not name.strip():
            raise DatasetError(f"{source}: {key}, channel {number} = {name!r}; {rule}.")
    return tuple(value[str(i)] for i in range(len(value)))


def _file_ending(value: Any, source: str) -> str:
    if not isinstance(value, str) or value.lower() not in READABLE:
        raise DatasetError(f"{source}: file_ending = {value!r}; readable: {' '.join(READABLE)}.")
    return value


def _num_training(value: Any, source: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DatasetError(f"{source}: numTraining = {value!r}; expected the number of training cases, 1 or more.")
    return value


def _raters(value: Any, source: str) -> tuple[str, ...]:
    if value is None:
        return DEFAULT_RATERS
    rule = 'expected a list of different folder names beside imagesTr, one per rater, such as ["labelsTr_rater1", "labelsTr_rater2"]'
    texts = isinstance(value, list) and value and all(isinstance(r, str) and r.strip() and r not in (".", "..") for r in value)
    if not texts or len(set(value)) != len(value) or any("/" in r or "\\" in r for r in value):
        raise DatasetError(f"{source}: raters = {value!r}; {rule}.")
    return tuple(value)


def _groups(value: Any, source: str) -> Mapping[str, str] | str | None:
    if value is None:
        return None
    if isinstance(value, str) and value:
        try:
            re.compile(value)
        except re.error as cause:
            raise DatasetError(f"{source}: groups = {value!r} is no regular expression: {cause}.") from None
        return value
    if isinstance(value, Mapping) and all(isinstance(g, str) and g for g in value.values()):
        return dict(value)
    rule = "expected an object case -> group (text), or a regular expression on the case name"
    raise DatasetError(f"{source}: groups = {str(value)[:80]!r}; {rule}.")
