"""ldseg_predict with jobs: the files of one run, on this machine and on a Dask cluster whose worker is killed."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ldseg_auto.cli import common, predict


def files(output: Path) -> dict[str, bytes]:
    """Every file; of the manifest the hashes alone, for it says how long each case took, and where."""
    found = {str(p.relative_to(output)): p.read_bytes() for p in sorted(output.rglob("*")) if p.is_file()}
    manifest = json.loads(found.pop("manifest.json"))
    cases = {name: {k: c[k] for k in ("status", "inputs", "outputs")} for name, c in manifest.pop("cases").items()}
    return {**found, "manifest.json": json.dumps([cases, {**manifest, "continued": None}]).encode()}


def run(model: Path, images: Path, output: Path, *more: object) -> int:
    flags = ["-i", images, "-o", output, "-m", model, "--device", "cpu", *more]
    return common.run(predict.build(), predict.work, [str(f) for f in flags])


@pytest.fixture
def model(make_dataset: Callable, make_model: Callable, tmp_path: Path) -> Path:
    return make_model(tmp_path / "results", make_dataset(tmp_path / "raw", n_cases=5, shape=(6, 24, 20)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "Dataset001_Toy" / "imagesTr"


def test_jobs_on_this_machine(model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files of one process; a case that fails is named, and predicted by the next run."""
    out, extras = tmp_path / "out", ("--preview", "--save-probabilities", "npz")
    assert run(model, images, tmp_path / "whole", *extras) == 0
    good = (images / "toy_003_0000.nii.gz").read_bytes()
    (images / "toy_003_0000.nii.gz").write_bytes(b"no image")
    capsys.readouterr()
    assert run(model, images, out, *extras, "--jobs", 2) == 1
    said, err = capsys.readouterr()
    assert "4 of 5 cases predicted" in said and re.fullmatch(r"failed: toy_003: .*\n", err), err
    assert (out / "jobs/2of2.log").exists() and not (out / "jobs/1of2.log").exists()
    (images / "toy_003_0000.nii.gz").write_bytes(good)
    assert run(model, images, out, *extras, "--jobs", 2) == 2
    assert "not empty; nothing was changed" in capsys.readouterr().err
    assert run(model, images, out, *extras, "--jobs", 3, "--continue") == 0
    found = files(out)
    assert re.search("toy_003", found.pop("jobs/2of2.log").decode())
    assert found == files(tmp_path / "whole")


def test_parts_that_were_predicted_by_hand_become_one(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(model, images, tmp_path / "whole") == 0
    assert [run(model, images, out, "--part", f"{k}/2") for k in (2, 1)] == [0, 0]
    assert run(model, images, out, "--continue", "--jobs", 1) == 0
    assert files(out) == files(tmp_path / "whole")


def test_a_worker_killed_within_its_part(model: Path, images: Path, tmp_path: Path, dask_cluster: Callable) -> None:
    cluster, out = dask_cluster(2), tmp_path / "out"
    assert run(model, images, tmp_path / "whole", "--samples", 2) == 0

    def kill() -> None:
        while not list(out.glob("manifest_*of2.json")):
            time.sleep(0.01)
        cluster.workers[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    (out / "mine").mkdir(parents=True)
    assert run(model, images, out, "--samples", 2, "--executor", cluster.address, "--overwrite") == 0
    assert cluster.workers[0].wait(1) == -9
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--jobs", 2, "--part", "1/2"), "--part 1/2: with --executor or --jobs the parts are made here. Leave --part out"),
        (("--executor", "dask://a:1", "--jobs", 2), "--jobs 2: dask://a:1 has a job for each of its workers. Leave --jobs out"),
        (("--executor", "dask://127.0.0.1:1"), "no Dask scheduler answers at dask://127.0.0.1:1"),
        (("--jobs", 2, "-f", "7"), "fold 7 is not trained in"),
    ],
)
def test_bad_input(model: Path, images: Path, tmp_path: Path, flags: tuple, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, images, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["in-process", "dask://a", "a:1"])
def test_names_of_executors(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        predict.build().parse_args(["-i", "a", "-o", "b", "--executor", where])
    assert stop.value.code == 2 and re.search(r"expected local(, in-process)? or dask://HOST:PORT", capsys.readouterr().err)
