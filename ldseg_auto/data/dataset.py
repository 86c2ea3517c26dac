"""A dataset in nnU-Net's raw format: `DatasetXXX_Name/{dataset.json, imagesTr/CASE_0000.EXT, labelsTr/CASE.EXT}`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ldseg_auto.data.cases import Case, find_input_cases, training_cases
from ldseg_auto.data.description import Description
from ldseg_auto.data.endings import label_ending
from ldseg_auto.data.splits import case_groups
from ldseg_auto.errors import DatasetError
from ldseg_auto.files import read_json

__all__ = ["Case", "Description", "RawDataset", "find_dataset", "find_input_cases", "label_ending", "open_dataset"]


@dataclass(frozen=True)
class RawDataset:
    """A dataset folder whose description and case list are checked; no image has been read."""

    folder: Path
    name: str
    description: Description
    cases: tuple[Case, ...]  # sorted by identifier


def find_dataset(raw_root: Path, dataset_id: int) -> Path:
    """The folder `DatasetXXX_Name` with number `dataset_id` below `raw_root`.

    Raises:
        DatasetError: there is none (says which there are), or there are several.
    """
    raw_root = Path(raw_root)
    if not raw_root.is_dir():
        raise DatasetError(f"the folder of raw datasets, {raw_root}, does not exist. Set --raw or ldseg_raw.")
    numbered = {f: re.match(r"Dataset(\d+)_", f.name) for f in sorted(raw_root.iterdir()) if f.is_dir()}
    there = {f: int(m[1]) for f, m in numbered.items() if m}
    found = [f for f, number in there.items() if number == int(dataset_id)]
    if not found:
        names = ", ".join(f.name for f in there) or "none"
        raise DatasetError(f"there is no dataset {dataset_id} (folder Dataset{int(dataset_id):03d}_NAME) in {raw_root}; there: {names}.")
    if len(found) > 1:
        names = ", ".join(f.name for f in found)
        raise DatasetError(f"dataset {dataset_id} is there {len(found)} times in {raw_root}: {names}. Rename all but one.")
    return found[0]


def open_dataset(folder: Path) -> RawDataset:
    """Reads dataset.json and lists the training cases; reads no image beyond the header of a natural one.

    Raises:
        DatasetError: dataset.json or the set of files breaks a rule of the format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"dataset folder {folder} does not exist.")
    source = folder / "dataset.json"
    description = Description.from_dict(read_json(source, DatasetError), str(source))
    cases = training_cases(folder, description)
    if len(cases) != description.num_training:
        declared = description.num_training
        raise DatasetError(f"{source}: numTraining = {declared}, but {len(cases)} training cases were found. Correct one or the other.")
    case_groups([c.identifier for c in cases], description.groups)
    return RawDataset(folder, folder.name, description, tuple(cases))
