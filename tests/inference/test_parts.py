"""Records of a whole run dealt out to parts and gathered: nothing is lost or changed, whatever the number of parts and their order."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ldseg_auto.data.cases import Case
from ldseg_auto.errors import InputError
from ldseg_auto.files import write_json
from ldseg_auto.inference.outputs import PredictionTable
from ldseg_auto.inference.parts import clear, deal, gather, suffixes

NAMES = [f"case_{i:02d}" for i in range(7)]
CASES = [Case(name, (Path(f"{name}_0000.nii.gz"),), ()) for name in NAMES]
SETTINGS = {"ldseg_auto": "1", "torch": "2", "python": "3", "device": "cpu", "seed": 0, "samples": 1, "extras": {"preview": False}}
ABOUT = {"flag_below": None, "predicted_dice": {"fold_0": "none"}}


def table_row(value: float) -> dict[str, Any]:
    return {"predicted_dice": value, "flag": "", "draws": 1, "volumes": {"organ": {"mask": value, "low": None, "high": None}}}


def record(output: Path, suffix: str, names: list[str], **more: Any) -> None:
    """A run's files, as ldseg_predict leaves them."""
    cases = {n: {"identifier": n, "status": "done", "seconds": 1.0, "outputs": {f"{n}.nii.gz": "abc"}} for n in names}
    content = {**SETTINGS, "part": "1/1", "expected": len(names), "continued": [], "cases": cases, **more}
    write_json(output / f"manifest{suffix}.json", content)
    PredictionTable(output, ABOUT, suffix).write({n: table_row(float(n[-2:])) for n in names})


def files(output: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in output.iterdir()}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("known", [range(7), (1, 4), ()])
def test_dealing_and_gathering_changes_nothing(tmp_path: Path, count: int, known: range) -> None:
    record(tmp_path, "", [NAMES[i] for i in known], expected=7)
    before = files(tmp_path)
    deal(tmp_path, CASES, count)
    assert len(suffixes(tmp_path)) == (count if count > 1 else 0)
    held = [set(json.loads(p.read_text())["cases"]) for p in tmp_path.glob("manifest*.json")]
    assert sum(map(len, held)) == len(set().union(*held)) == len(known)  # each case in one place
    deal(tmp_path, CASES, 4)  # by an interrupted run that goes on with another number
    gather(tmp_path, 7)
    assert files(tmp_path) == before


@pytest.mark.parametrize("seed", range(4))
def test_parts_become_one_run_in_whatever_order_they_end(tmp_path: Path, seed: int) -> None:
    whole, parts, order = tmp_path / "whole", tmp_path / "parts", random.Random(seed)
    record(whole, "", NAMES)
    numbers = [1, 2, 3]
    order.shuffle(numbers)
    for k in numbers:
        names = NAMES[k - 1 :: 3]
        order.shuffle(names)
        record(parts, f"_{k}of3", names, part=f"{k}/3")
    assert gather(parts)["cases"].keys() == set(NAMES)
    assert files(parts) == files(whole)


def test_cases_that_are_no_longer_among_the_inputs_stay(tmp_path: Path) -> None:
    record(tmp_path, "", NAMES)
    before = files(tmp_path)
    deal(tmp_path, CASES[2:], 2)
    assert list(json.loads((tmp_path / "manifest.json").read_text())["cases"]) == NAMES[:2]
    gather(tmp_path, 7)
    assert files(tmp_path) == before


def test_a_part_that_was_never_begun_is_missing_and_machines_may_differ(tmp_path: Path) -> None:
    record(tmp_path, "_1of2", NAMES[::2], part="1/2", device="cuda:0", torch="2.9")
    record(tmp_path, "_2of2", [], part="2/2", device="cpu", torch="2.9")
    whole = gather(tmp_path, 7)
    assert (whole["device"], whole["torch"], whole["expected"], list(whole["cases"])) == ("cpu, cuda:0", "2.9", 7, NAMES[::2])
    assert sorted(files(tmp_path)) == ["manifest.json", "predictions.csv", "predictions.json"]
    clear(tmp_path)
    assert files(tmp_path) == {} and gather(tmp_path) == {}


def test_parts_of_different_runs_are_refused_and_kept(tmp_path: Path) -> None:
    record(tmp_path, "_1of2", NAMES[::2], part="1/2")
    record(tmp_path, "_2of2", NAMES[1::2], part="2/2", seed=1)
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"predicted differently: seed \(0 and 1\). Predict into another folder"):
        gather(tmp_path)
    assert files(tmp_path) == before
    write_json(tmp_path / "manifest_2of2.json", {"cases": 3})
    with pytest.raises(InputError, match="a manifest that ldseg_predict did not write"):
        gather(tmp_path)
