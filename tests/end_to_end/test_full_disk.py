"""A full disk, simulated: what was finished is still there, and the same command goes on afterwards."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def full_disk(monkeypatch: pytest.MonkeyPatch, on: Callable[[Path], bool]) -> None:
    """Files whose name says so cannot be put in place, as on a full disk."""
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if on(Path(target)):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def kept(tree: Callable, bench: Any, before: dict[str, bytes], may_change: str) -> None:
    """Every earlier file is there with its content (but those that match `may_change`), and no temporary file."""
    after = tree(bench.root)
    assert [name for name in before if after.get(name) != before[name] and not re.search(may_change, name)] == []
    assert not [name for name in after if ".tmp_" in name]


def test_full_disk_while_measuring(bench, refused, monkeypatch):
    full_disk(monkeypatch, lambda p: True)
    refused(bench, r"failed: the disk is full \(.*\)\. Finished files are kept: make room", "plan", "-d", 1, "--clean", code=1)


def test_full_disk_while_preprocessing(bench, tree, monkeypatch, capsys):
    raw = bench.dataset(1)
    shutil.copy(raw / "imagesTr/toy_001_0000.nii.gz", raw / "imagesTr/toy_009_0000.nii.gz")
    shutil.copy(raw / "labelsTr/toy_001.nii.gz", raw / "labelsTr/toy_009.nii.gz")
    (raw / "dataset.json").write_text(json.dumps(json.loads((raw / "dataset.json").read_text()) | {"numTraining": 4}))
    before = tree(bench.root)
    full_disk(monkeypatch, lambda p: p.name == "toy_009.b2nd" and p.parent.name.startswith("ldsegPlans"))
    assert bench.run("plan", "-d", 1) == 1
    err = capsys.readouterr().err
    assert re.search("case toy_009 failed: .*No space left on device", err) and "Traceback" not in err
    kept(tree, bench, before, r"dataset_fingerprint|ldsegPlans\.json|report\.html|splits_final|preprocessed/.*/dataset\.json")
    monkeypatch.undo()
    assert bench.run("plan", "-d", 1) == 0
    assert "1 cases preprocessed, 3 were up to date" in capsys.readouterr().out


def test_full_disk_at_a_checkpoint(bench, tree, monkeypatch, capsys):
    """The second epoch's checkpoint does not fit: the first one's is still there, and training continues from it."""
    latest = bench.model(1, "3d_fullres") / "fold_1" / "checkpoint_latest.pth"
    full_disk(monkeypatch, lambda p: p == latest and latest.exists())
    before = tree(bench.root)
    assert bench.train(1, 1, length=("--epochs", 2)) == 1
    err = capsys.readouterr().err
    assert re.search(r"failed: the disk is full \(.*checkpoint_latest\.pth\)\. Finished files are kept: make room and run", err)
    assert "Traceback" not in err
    kept(tree, bench, before, "^$")
    monkeypatch.undo()
    assert bench.train(1, 1, length=("--epochs", 2, "--continue")) == 0


def test_full_disk_while_predicting(bench, tree, monkeypatch, capsys):
    output = bench.root / "out"
    command = ("predict", "-i", bench.dataset(1) / "imagesTr", "-o", output)
    full_disk(monkeypatch, lambda p: p.name == "toy_001.nii.gz")
    before = tree(bench.root)
    assert bench.run(*command) == 1
    err = capsys.readouterr().err
    assert re.search("failed: toy_001: .*No space left on device", err) and "Traceback" not in err
    kept(tree, bench, before, "^$")
    statuses = {name: case["status"] for name, case in json.loads((output / "manifest.json").read_text())["cases"].items()}
    assert statuses == {"toy_000": "done", "toy_001": "failed", "toy_002": "done"}
    tables = ["manifest.json", "predictions.csv", "predictions.json"]
    assert sorted(p.name for p in output.iterdir()) == [*tables, "toy_000.nii.gz", "toy_002.nii.gz"]
