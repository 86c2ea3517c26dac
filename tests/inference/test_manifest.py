"""What a manifest counts as a case's files, beyond the obvious ones (going on by it: test_folder.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ldseg_auto.data.cases import Case
from ldseg_auto.files import hash_file, write_json
from ldseg_auto.inference.manifest import CaseStatus, Manifest, part_suffix
from ldseg_auto.inference.predictor import Predictor


@pytest.mark.parametrize("sidecar", ["toy_000_0000.json", "toy_000.json"])
def test_sidecars_of_tiff_are_inputs_and_outputs(make_dataset: Callable, make_model: Callable, tmp_path: Path, sidecar: str) -> None:
    raw, out = make_dataset(tmp_path / "raw", n_cases=2, shape=(1, 24, 20), ending=".tif"), tmp_path / "out"
    beside = raw / "imagesTr" / sidecar
    beside.write_text(json.dumps({"spacing": [3, 1, 1]}))
    predictor = Predictor.from_folder(make_model(tmp_path / "results", raw), device="cpu")
    assert [s.status for s in predictor.predict_folder(raw / "imagesTr", out)] == ["done"] * 2
    cases = json.loads((out / "manifest.json").read_text())["cases"]
    assert cases["toy_000"]["inputs"] == {p.name: hash_file(p) for p in (raw / "imagesTr" / "toy_000_0000.tif", beside)}
    assert cases["toy_000"]["outputs"].keys() == {"toy_000.tif", "toy_000.json"}
    assert cases["toy_001"]["inputs"].keys() == {"toy_001_0000.tif"} and cases["toy_001"]["outputs"].keys() == {"toy_001.tif"}
    beside.write_text(json.dumps({"spacing": [3, 2, 2]}))
    assert [s.status for s in predictor.predict_folder(raw / "imagesTr", out, resume=True)] == ["done", "kept"]
    (out / "toy_000.json").unlink()
    assert [s.status for s in predictor.predict_folder(raw / "imagesTr", out, resume=True)] == ["done", "kept"]


@pytest.mark.parametrize(("part", "suffix"), [((1, 1), ""), ((1, 4), "_1of4"), ((12, 12), "_12of12")])
def test_names_of_parts(part: tuple[int, int], suffix: str) -> None:
    assert part_suffix(part) == suffix


def test_the_file_is_the_content_after_each_case(tmp_path: Path) -> None:
    """Also after cases were taken out, and one came again with another record."""
    manifest = Manifest(tmp_path / "manifest.json", {"seed": 1})

    def check() -> None:
        write_json(tmp_path / "expected.json", manifest.content)
        assert (tmp_path / "manifest.json").read_bytes() == (tmp_path / "expected.json").read_bytes()

    manifest.save()
    check()
    for name, status in (("b", "done"), ("a", "failed"), ("c", "done"), ("a", "done")):
        manifest.add(Case(name, ()), CaseStatus(name, status, "", 1.5), [], ["note"])
        check()
    assert list(manifest.content["cases"]) == ["b", "a", "c"] and manifest.content["cases"]["a"]["status"] == "done"
    manifest.forget({"b"})
    manifest.save()
    check()
