"""Names that become files and folders: of plans, configurations and folders of cases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ldseg_auto.errors import InputError
from ldseg_auto.planners.inherit import KEY, VOXELS
from ldseg_auto.planners.serialise import require

NAME = re.compile(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")  # no path, no dot, no "__", which parts plans and configuration in PLANS__CONFIG
REFERENCES = "gt_segmentations"  # folder of the references, beside the folders of cases
TAKEN = ("dataset", "dataset_fingerprint", "splits_final")  # files beside the plans
RULE = "letters, digits, single _ and -"


def is_name(text: str) -> bool:
    """Whether `text` can name a folder or a configuration."""
    return bool(NAME.fullmatch(text))


def check_plans_name(name: str) -> str:
    """`name`, where a plans file may be written under it.

    Raises:
        InputError: it is a path, holds a dot or "__", or names another file of the folder.
    """
    if not is_name(name) or name in TAKEN:
        raise InputError(f"--plans-name {name}: expected {RULE}, and none of {', '.join(TAKEN)}, which are other files of the folder.")
    return name


def check_names(configurations: Mapping[str, Any], fields: Sequence[str]) -> None:
    """Raises RuleBroken where a name, a parent or a shared folder is impossible.

    Args:
        configurations: name -> Configuration.
        fields: of a configuration; as names they would make `--set` ambiguous.
    """
    owners: dict[str, str] = {}
    for name, configuration in configurations.items():
        require(is_name(name) and name not in fields, "configurations", name, f"another name: {RULE}, and no field's name")
        parent = getattr(configuration, KEY)
        require(parent is None or parent in configurations, f"configurations.{name}.{KEY}", parent, f"one of {tuple(configurations)}")
        folder = configuration.data_identifier
        owner = owners.setdefault(folder, name)
        other = differing_voxels(configurations[owner], configuration)
        rule = f"another folder than that of {owner}, whose {other} differs: cases cannot be preprocessed in two ways into one folder"
        require(not other, f"configurations.{name}.data_identifier", folder, rule)


def differing_voxels(one: Any, other: Any) -> str:
    """The first setting that gives two configurations other voxels, or "" (a 2D spacing says nothing of the first axis)."""
    for name in VOXELS:
        first, second = getattr(one, name), getattr(other, name)
        shared = min(len(first), len(second)) if name == "spacing" else 0
        if first[-shared:] != second[-shared:] if shared else first != second:
            return name
    return ""
