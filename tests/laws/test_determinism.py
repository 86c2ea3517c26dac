"""Plans are the same to the byte on another process, for any order of the files, any number of workers, and from the stored fingerprint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FILES = ("ldsegPlans.json", "dataset_fingerprint.json")


def plan(root: Path, workers: int, seed: str, *flags: str) -> dict[str, bytes]:
    """Runs ldseg_plan in a process of its own, whose sets and dictionaries of text are hashed with `seed`; what it wrote."""
    roots = ["--raw", str(root / "raw"), "--preprocessed", str(root / "preprocessed")]
    command = [sys.executable, "-m", "ldseg_auto.cli.plan", "-d", "1", "-np", str(workers), "--quiet", *roots, *flags]
    environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": str(workers)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return {name: (root / "preprocessed" / "Dataset001_Toy" / name).read_bytes() for name in FILES}


KINDS = {"volumes": (".nii.gz", (6, 20, 16)), "pictures": (".png", (1, 40, 32))}


@pytest.fixture(scope="module")
def planned(request: pytest.FixtureRequest, make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one dataset of six cases of two shapes, planned with one worker."""
    ending, shape = KINDS[request.param]
    root = tmp_path_factory.mktemp("first")
    make_dataset(root / "raw", n_cases=6, shape=shape, ending=ending)
    plan(root, 1, "1")
    return root


def written(root: Path) -> dict[str, bytes]:
    return {name: (root / "preprocessed" / "Dataset001_Toy" / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("planned", ["pictures"], indirect=True)
def test_another_process_order_and_number_of_workers(planned: Path, tmp_path: Path) -> None:
    """The files are made in the opposite order, which is the order in which many file systems list them."""
    first, second = planned / "raw" / "Dataset001_Toy", tmp_path / "raw" / "Dataset001_Toy"
    for source in sorted((p for p in first.rglob("*") if p.is_file()), reverse=True):
        (second / source.relative_to(first)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, second / source.relative_to(first))
    assert plan(tmp_path, 2, "2") == written(planned)


@pytest.mark.parametrize("planned", ["volumes"], indirect=True)
def test_replay_from_the_stored_fingerprint(planned: Path, tmp_path: Path) -> None:
    """Without the raw data; other choices in between, whose label codes the fingerprint keeps, change nothing."""
    shutil.copytree(planned, tmp_path / "root")
    other = plan(tmp_path / "root", 2, "3", "--target-spacing", "2", "2")
    shutil.rmtree(tmp_path / "root" / "raw")
    again = plan(tmp_path / "root", 2, "4")
    assert again["ldsegPlans.json"] == written(planned)["ldsegPlans.json"] != other["ldsegPlans.json"]
