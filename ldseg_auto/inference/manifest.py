"""The manifest of a predicted folder: what was run and what became of each case; by it an interrupted run goes on."""

from __future__ import annotations

import platform
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import ldseg_auto
from ldseg_auto.data.cases import Case
from ldseg_auto.data.endings import TIFF, ending_of
from ldseg_auto.errors import InputError
from ldseg_auto.files import Encoded, hash_file, json_member, read_json, write_json_members

MAY_DIFFER = ("torch", "python", "device", "tile_batch", "expected", "continued", "cases")  # between a run and its continuation


@dataclass(frozen=True)
class CaseStatus:
    """What became of one case."""

    identifier: str
    status: str  # done | failed | kept (done by an earlier run, and still as that left it)
    message: str
    seconds: float


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The settings by which two manifests are not of one run. Kinds of device have their own precision, and round anyway."""
    allowed = {*MAY_DIFFER, *(() if one.get("device") == other.get("device") else ("precision",))}
    return [k for k in {**other, **one} if k not in allowed and one.get(k) != other.get(k)]


def part_suffix(part: tuple[int, int]) -> str:
    """What the names of a part's manifest and tables end in, so that parts can share a folder: `_1of4`, or nothing for 1/1."""
    return "" if part[1] == 1 else f"_{part[0]}of{part[1]}"


class Manifest:
    """A manifest file, written anew and at once after each case, which is turned into text once.

    Args:
        path: of the file.
        settings: what was run, as JSON: models, settings and their like.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._members = Encoded(json_member)
        self.content: dict[str, Any] = {
            "ldseg_auto": ldseg_auto.__version__, "torch": torch.__version__, "python": platform.python_version(),
            **settings, "continued": [], "cases": {},
        }  # fmt: skip

    def take_over(self) -> None:
        """Goes on from what the file holds.

        Raises:
            InputError: the file is damaged, or was written by another model or with other settings (says which).
        """
        earlier = read_json(self.path)
        cases, continued = earlier.get("cases"), earlier.get("continued", [])
        if not isinstance(cases, dict) or not isinstance(continued, list):
            raise InputError(f"{self.path} is no manifest of ldseg_predict. Predict into another folder.")
        different = [f"{k} (then {earlier.get(k)}, now {self.content.get(k)})" for k in differing(earlier, self.content)]
        if different:
            raise InputError(
                f"{self.path} was written with another model or other settings: {'; '.join(different)}. "
                "Continue with the same ones, or predict into another folder."
            )
        now = {k: self.content.get(k) for k in ("torch", "python", "device")}
        first = {k: earlier.get(k) for k in (*MAY_DIFFER[:4], "precision") if k in earlier}
        self.content |= {**first, "cases": cases, "continued": [*continued, {**now, "cases_before": len(cases)}]}

    def finished(self, case: Case) -> bool:
        """Whether a case is done: its inputs are those of then, and its files have the content that was written."""
        record = self.content["cases"].get(case.identifier)
        if not isinstance(record, dict) or record.get("status") != "done" or not record.get("outputs"):
            return False
        paths = {self.path.parent / name: digest for name, digest in record["outputs"].items()}
        return record.get("inputs") == hash_inputs(case) and all(p.is_file() and hash_file(p) == digest for p, digest in paths.items())

    def kept(self, case: str) -> CaseStatus:
        """The status of a case that is finished."""
        return CaseStatus(case, "kept", "", self.content["cases"][case]["seconds"])

    def forget(self, cases: Container[str]) -> None:
        """Takes cases out: they are predicted again."""
        self.content["cases"] = {name: record for name, record in self.content["cases"].items() if name not in cases}

    def add(self, case: Case, status: CaseStatus, files: Iterable[Path], notes: Sequence[str]) -> None:
        """Records a case and writes the file."""
        outputs = {p.relative_to(self.path.parent).as_posix(): hash_file(p) for p in files}
        record = {**asdict(status), "notes": list(notes), "inputs": hash_inputs(case), "outputs": outputs}
        self.content["cases"][case.identifier] = record
        self.save()

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        content = {k: v for k, v in self.content.items() if k != "cases"}
        write_json_members(self.path, content, "cases", self._members(self.content["cases"]))


def hash_inputs(case: Case) -> dict[str, str]:
    """File name -> SHA-256 of a case's images and, for TIFF, the sidecars that give their spacing."""
    return {p.name: hash_file(p) for image in case.images for p in (image, *_sidecars(image)) if p.is_file()}


def _sidecars(image: Path) -> list[Path]:
    ending = ending_of(image)
    stem = image.name[: -len(ending)]
    return [image.with_name(f"{n}.json") for n in (stem, stem[:-5])] if ending.lower() in TIFF else []
