"""A folder predicted in parts by several processes: the records of a whole run are dealt out to the parts, and gathered again.

Part k of n keeps manifest_KofN.json, predictions_KofN.json and .csv; a whole run manifest.json, predictions.json and .csv. A case is in
one of them at a time: what gathers can be killed at any moment and run again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldseg_auto.data.cases import Case
from ldseg_auto.errors import InputError
from ldseg_auto.files import read_json, write_json
from ldseg_auto.inference.folder import select_part
from ldseg_auto.inference.manifest import differing, part_suffix
from ldseg_auto.inference.outputs import PredictionTable, read_predictions

MANIFEST = re.compile(r"manifest_([1-9]\d*)of([1-9]\d*)\.json")
MACHINE = ("torch", "python", "device")  # of which the parts may have several


def suffixes(output: Path) -> list[str]:
    """Of the parts that have records in `output`, in order."""
    found = [MANIFEST.fullmatch(p.name) for p in output.iterdir()] if output.is_dir() else []
    numbers = sorted((int(m[2]), int(m[1])) for m in found if m)
    return [f"_{k}of{n}" for n, k in numbers]


def clear(output: Path) -> None:
    """Removes the records of a whole run and of all parts; masks stay."""
    for suffix in ["", *suffixes(output)]:
        _remove(output, suffix)


def deal(output: Path, cases: Sequence[Case], count: int) -> None:
    """Gathers what there is, and deals its cases out to `count` parts; cases that are not in `cases` stay in manifest.json.

    Raises:
        InputError: see `gather`.
    """
    gather(output)
    if count == 1 or not (output / "manifest.json").exists():
        return
    whole, tables, about = read_json(output / "manifest.json"), read_predictions(output), _about(output, "")
    for number in range(1, count + 1):
        names = [c.identifier for c in select_part(cases, (number, count))]
        suffix, own = part_suffix((number, count)), {"part": f"{number}/{count}", "expected": len(names), "continued": []}
        if about:
            PredictionTable(output, about, suffix).write(_only(tables, names))
        write_json(output / f"manifest{suffix}.json", {**whole, **own, "cases": _only(whole["cases"], names)})
    left = whole["cases"].keys() - {c.identifier for c in cases}
    write_json(output / "manifest.json", {**whole, "cases": _only(whole["cases"], sorted(left))})
    if about:
        PredictionTable(output, about).write(_only(tables, left))


def gather(output: Path, expected: int | None = None) -> dict[str, Any]:
    """Brings the parts' records together as those of a whole run, and removes the parts' own.

    Args:
        expected: cases of the whole run; None: those of the parts.

    Returns:
        The manifest; empty where there is none.

    Raises:
        InputError: the parts were predicted with different settings or by different models, or a record is damaged.
    """
    found = suffixes(output)
    records = [read_json(output / f"manifest{s}.json") for s in ([""] if (output / "manifest.json").exists() else []) + found]
    if not records:
        return {}
    _check(output, records)
    cases = {name: case for record in records for name, case in record["cases"].items()}
    several = {k: ", ".join(sorted({str(r[k]) for r in records if k in r})) for k in MACHINE}
    number = sum(r.get("expected", 0) for r in records[-len(found) :]) if expected is None else expected
    continued = [c for record in records for c in record["continued"]]
    whole = {**records[-1], **several, "part": "1/1", "expected": number, "continued": continued, "cases": _only(cases, sorted(cases))}
    if found:
        sources = [s for s in ["", *found] if (output / f"predictions{s}.json").exists()]
        if sources:
            tables = {name: case for s in sources for name, case in read_predictions(output, s).items()}
            PredictionTable(output, _about(output, sources[-1])).write(tables)
        write_json(output / "manifest.json", whole)
    for suffix in found:
        _remove(output, suffix)
    return whole


def _check(output: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Raises InputError where the records are not of one run."""
    for record in records:
        if not isinstance(record.get("cases"), dict) or not isinstance(record.get("continued"), list):
            raise InputError(f"{output} holds a manifest that ldseg_predict did not write (part {record.get('part')}). Use another folder.")
    for first, record in itertools.product(records[:1], records[1:]):
        different = [f"{k} ({first.get(k)} and {record.get(k)})" for k in differing(first, record) if k != "part"]
        if different:
            raise InputError(f"{output} holds parts that were predicted differently: {'; '.join(different)}. Predict into another folder.")


def _about(output: Path, suffix: str) -> dict[str, Any]:
    """What predictions.json says beside the cases; empty without the file."""
    path = output / f"predictions{suffix}.json"
    return {k: v for k, v in read_json(path).items() if k != "cases"} if path.exists() else {}


def _only(records: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: records[name] for name in names if name in records}


def _remove(output: Path, suffix: str) -> None:
    """The manifest last: with it the others are found."""
    for name in (f"predictions{suffix}.csv", f"predictions{suffix}.json", f"manifest{suffix}.json"):
        (output / name).unlink(missing_ok=True)
