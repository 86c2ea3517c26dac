"""Going on with a folder: what is kept, what is predicted again, what is refused; parts in one folder; stopping."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldseg_auto.data.cases import Case
from ldseg_auto.errors import InputError
from ldseg_auto.files import hash_file, write_json
from ldseg_auto.inference.folder import FolderTask, remove_temporary
from ldseg_auto.inference.outputs import Extras
from ldseg_auto.inference.predictor import Options, Predictor

Files = dict[str, bytes]


def files(folder: Path) -> Files:
    """All but the manifests, which hold times."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith("manifest")}


def manifest_of(folder: Path, name: str = "manifest.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


@pytest.fixture
def predictor(model: Path) -> Predictor:
    return Predictor.from_folder(model, device="cpu")


def go_on(predictor: Predictor, images: Path, out: Path, **more: Any) -> str:
    """Continues; a letter per case, k(ept), d(one) or f(ailed)."""
    return "".join(s.status[0] for s in predictor.predict_folder(images, out, resume=True, **more))


def spoil_output(images: Path, out: Path) -> None:
    (out / "toy_001.nii.gz").write_bytes((out / "toy_001.nii.gz").read_bytes()[:-20])


def spoil_record(images: Path, out: Path) -> None:
    content = manifest_of(out)
    del content["cases"]["toy_001"]["outputs"]
    write_json(out / "manifest.json", content)


def spoil_table(images: Path, out: Path) -> None:
    content = manifest_of(out, "predictions.json")
    del content["cases"]["toy_001"]
    write_json(out / "predictions.json", content)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda images, out: None, "kkk"),
        (lambda images, out: (out / "toy_001.nii.gz").unlink(), "kdk"),
        (lambda images, out: (out / "previews" / "toy_001.png").write_bytes(b""), "kdk"),
        (lambda images, out: (out / "predictions.csv").unlink(), "kkk"),
        (lambda images, out: (out / "predictions.json").unlink(), "ddd"),
        (spoil_output, "kdk"),
        (spoil_record, "kdk"),
        (spoil_table, "kdk"),
    ],
)
def test_what_is_missing_or_differs_is_predicted_again(
    predictor: Predictor, images: Path, tmp_path: Path, spoil: Callable[[Path, Path], None], expected: str
) -> None:
    out, extras = tmp_path / "out", Extras(preview=True)
    assert go_on(predictor, images, out, extras=extras) == "ddd"  # nothing to go on from
    before = files(out)
    spoil(images, out)
    assert go_on(predictor, images, out, extras=extras) == expected
    assert files(out) == before
    record = manifest_of(out)
    assert record["cases"]["toy_001"]["outputs"] == {n: hash_file(out / n) for n in ("toy_001.nii.gz", "previews/toy_001.png")}
    assert [c["cases_before"] for c in record["continued"]] == [3]


def test_a_changed_image_is_predicted_again_and_a_failed_one_too(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    out, first = tmp_path / "out", images / "toy_000_0000.nii.gz"
    good = first.read_bytes()
    first.write_bytes(b"no image")
    assert go_on(predictor, images, out) == "fdd"
    first.write_bytes(good)
    assert go_on(predictor, images, out) == "dkk"
    first.write_bytes((images / "toy_002_0000.nii.gz").read_bytes())
    assert go_on(predictor, images, out) == "dkk"
    predictor.predict_folder(images, tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")


def test_images_that_have_gone_stay_in_the_tables(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predictor.predict_folder(images, out)
    before = files(out)
    (images / "toy_000_0000.nii.gz").unlink()
    assert go_on(predictor, images, out) == "kk"
    assert files(out) == before and list(manifest_of(out)["cases"]) == ["toy_000", "toy_001", "toy_002"]


@pytest.mark.parametrize(
    ("loading", "predicting", "message"),
    [
        ({"seed": 1}, {}, r"seed \(then 0, now 1\)"),
        ({"steps": 1}, {}, r"steps \(then 2, now 1\)"),
        ({"samples": 2}, {}, r"samples \(then 1, now 2\)"),
        ({}, {"extras": Extras("npz")}, r"extras \(then .*None.*, now .*npz"),
        ({}, {"flag_below": 0.5}, r"flag_below \(then None, now 0\.5\)"),
    ],
)
def test_other_settings_are_refused(
    predictor: Predictor, model: Path, images: Path, tmp_path: Path, loading: dict, predicting: dict, message: str
) -> None:
    predictor.predict_folder(images, tmp_path / "out")
    before = {**files(tmp_path / "out"), "": (tmp_path / "out" / "manifest.json").read_bytes()}
    other = Predictor.from_folder(model, device="cpu", **loading)
    with pytest.raises(InputError, match=r"manifest\.json was written with another model or other settings: " + message):
        go_on(other, images, tmp_path / "out", **predicting)
    assert {**files(tmp_path / "out"), "": (tmp_path / "out" / "manifest.json").read_bytes()} == before


def test_another_kind_of_device_may_go_on_in_its_own_precision(predictor: Predictor, model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predictor.predict_folder(images, out)
    half = Predictor.from_folder(model, device="cpu", options=Options(precision="bf16"))
    with pytest.raises(InputError, match=r"other settings: precision \(then float32, now bfloat16\)"):
        go_on(half, images, out)
    content = manifest_of(out)
    write_json(out / "manifest.json", {**content, "device": "cuda", "precision": "float16"})
    assert go_on(predictor, images, out) == "kkk"
    assert [manifest_of(out)[k] for k in ("device", "precision")] == ["cuda", "float16"]


def test_another_model_is_refused_and_another_tile_batch_is_not(predictor: Predictor, model: Path, images: Path, tmp_path: Path) -> None:
    predictor.predict_folder(images, tmp_path / "out")
    assert go_on(Predictor.from_folder(model, device="cpu", tile_batch=4), images, tmp_path / "out") == "kkk"
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps(plans))  # the same content in other bytes
    with pytest.raises(InputError, match=r"other settings: plans \(then [0-9a-f]{64}, now [0-9a-f]{64}\)"):
        go_on(Predictor.from_folder(model, device="cpu"), images, tmp_path / "out")


def test_a_folder_without_manifest_is_refused(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match=r"is not empty, and has no manifest\.json to continue from"):
        go_on(predictor, images, tmp_path / "out")
    write_json(tmp_path / "out" / "manifest.json", {"cases": 3})
    with pytest.raises(InputError, match=r"manifest\.json is no manifest of ldseg_predict"):
        go_on(predictor, images, tmp_path / "out")


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_parts_share_a_folder(predictor: Predictor, images: Path, tmp_path: Path, order: tuple[int, int]) -> None:
    out = tmp_path / "out"
    predictor.predict_folder(images, tmp_path / "whole")
    for k in order:
        predictor.predict_folder(images, out, part=(k, 2))
    found = files(out)
    tables = {f"predictions_{k}of2.{e}" for k in (1, 2) for e in ("csv", "json")}
    assert found.keys() == {"toy_000.nii.gz", "toy_001.nii.gz", "toy_002.nii.gz"} | tables
    assert all(found[n] == content for n, content in files(tmp_path / "whole").items() if n.endswith(".gz"))
    assert [list(manifest_of(out, f"manifest_{k}of2.json")["cases"]) for k in (1, 2)] == [["toy_000", "toy_002"], ["toy_001"]]
    with pytest.raises(InputError, match="not empty; nothing was changed"):
        predictor.predict_folder(images, out, part=(1, 2))
    with pytest.raises(InputError, match="not empty; nothing was changed"):
        predictor.predict_folder(images, out, part=(1, 3))
    (out / "toy_002.nii.gz").unlink()
    assert go_on(predictor, images, out, part=(1, 2)) == "kd" and go_on(predictor, images, out, part=(2, 2)) == "k"
    assert files(out) == found


def test_a_part_may_begin_with_continue_in_a_folder_of_others(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    predictor.predict_folder(images, tmp_path / "out", part=(1, 2))
    assert go_on(predictor, images, tmp_path / "out", part=(2, 2)) == "d"


def test_temporary_files_are_removed_but_not_those_of_other_parts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases = [Case(name, (tmp_path / f"{name}_0000.nii.gz",), ()) for name in ("a", "a_1", "b")]  # part 1 of 2: a and b
    names = ["a.nii.gz", "a_sample_000.nii.gz", "b.npz", "a_1.nii.gz", "a_1_sample_000.nii.gz", "manifest_1of2.json", "manifest_2of2.json"]
    for name in [*(f".tmp_abcdef_8_{n}" for n in names), "a.nii.gz", ".tmp_mine"]:
        (out / "samples").mkdir(parents=True, exist_ok=True)
        (out / "samples" / name).touch()
    remove_temporary(FolderTask(tmp_path, out, part=(1, 2)), cases)
    left = [".tmp_abcdef_8_a_1.nii.gz", ".tmp_abcdef_8_a_1_sample_000.nii.gz", ".tmp_abcdef_8_manifest_2of2.json", ".tmp_mine", "a.nii.gz"]
    assert sorted(p.name for p in (out / "samples").iterdir()) == left
    remove_temporary(FolderTask(tmp_path, out), cases)
    assert sorted(p.name for p in (out / "samples").iterdir()) == [".tmp_abcdef_8_manifest_2of2.json", ".tmp_mine", "a.nii.gz"]


def test_a_run_that_is_stopped_leaves_whole_cases_and_goes_on(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stop, window = tmp_path / "out", threading.Event(), predictor.members[0].window
    real, calls = window._network, []

    def network(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == per_case + 2:  # within the second case
            stop.set()
        return real(*args)

    predictor.predict_folder(images, tmp_path / "whole")
    monkeypatch.setattr(window, "_network", network)
    per_case = 10**6
    predictor.predict(images / "toy_000_0000.nii.gz")
    per_case, _ = len(calls), calls.clear()
    statuses = predictor.predict_folder(images, out, stop=stop)
    assert [(s.identifier, s.status) for s in statuses] == [("toy_000", "done")] and len(calls) == per_case + 2
    assert {n for n in files(out) if not n.startswith("predictions")} == {"toy_000.nii.gz"}
    assert manifest_of(out)["expected"] == 3 and list(manifest_of(out)["cases"]) == ["toy_000"]
    assert predictor.predict_folder(images, out, resume=True, stop=stop)[0].status == "kept"  # stopped before it begins
    monkeypatch.undo()
    assert go_on(predictor, images, out) == "kdd"
    assert files(out) == files(tmp_path / "whole")


def test_the_manifest_says_what_was_run(predictor: Predictor, model: Path, images: Path, tmp_path: Path) -> None:
    predictor.predict_folder(images, tmp_path / "out", part=(1, 2), extras=Extras(uncertainty=True), flag_below=0.5)
    content = manifest_of(tmp_path / "out", "manifest_1of2.json")
    assert content["plans"] == hash_file(model / "plans.json") and content["device"] == "cpu"
    assert (content["tta"], content["precision"], content["part"], content["flag_below"]) == ("none", "float32", "1/2", 0.5)
    assert content["extras"] == {"probabilities": None, "uncertainty": True, "samples": False, "preview": False}
    assert all(re.fullmatch(r"\d+\.\d+.*", content[k]) for k in ("ldseg_auto", "torch", "python"))
    case = content["cases"]["toy_002"]
    assert case["seconds"] > 0 and case["status"] == "done" and case["notes"] == []
    assert case["inputs"] == {"toy_002_0000.nii.gz": hash_file(images / "toy_002_0000.nii.gz")}
