"""benchmarks/train.py: the settings that make the tools alike, its stopwatch, its report, and our half on tiny data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import train

FOLDER = Path(__file__).parents[2] / "benchmarks"


def arguments(work: Path, *more: str) -> object:
    folder = work / "nnunet" / train.HIPPOCAMPUS
    folder.mkdir(parents=True)
    architecture = {"arch_kwargs": {"features_per_stage": [8, 16]}}
    plan = {"batch_size": 7, "patch_size": [4, 8, 8], "architecture": architecture}
    (folder / "nnUNetPlans.json").write_text(json.dumps({"configurations": {train.CONFIGURATION: plan}}))
    return train.arguments(["--work", str(work), *more])


def test_our_rows_have_nnunets_patch_and_widths_and_the_batch_that_was_asked_for(tmp_path: Path) -> None:
    args = arguments(tmp_path, "--batch", "3", "--iterations", "5", "--workers", "4", "--set", "training.augment_on=cpu")
    settings = dict(s.split("=", 1) for s in train.our_settings(args, "auto-compiled"))
    assert settings["patch_size"] == "[4, 8, 8]" and settings["network.features_per_stage"] == "[8, 16]"
    assert (settings["network.variant"], settings["training.compile"]) == ("auto", "true")
    assert (settings["batch_size"], settings["training.workers"], settings["training.iterations_per_epoch"]) == ("3", "4", "5")
    assert settings["training.augment_on"] == "cpu"
    assert dict(s.split("=", 1) for s in train.our_settings(args, "direct"))["training.compile"] == "false"
    graphs = {row: dict(s.split("=", 1) for s in train.our_settings(args, row))["training.graphs"] for row in ("auto", "auto-no-graphs")}
    assert graphs == {"auto": "auto", "auto-no-graphs": "off"}


def test_the_stopwatch_times_the_second_epoch_alone_and_ends_the_third() -> None:
    watch = train.Stopwatch("cpu")
    for epoch, pause in ((1, 0.03), (2, 0.01)):
        for _ in watch(range(5), f"epoch {epoch}", 5):
            time.sleep(pause)
    assert 0.01 <= watch.seconds < 0.03
    assert watch.cpu_seconds < watch.seconds
    with pytest.raises(train.Enough):
        list(watch(range(5), "epoch 3", 5))


def test_report_compares_medians() -> None:
    """2 samples in 4 s; direct takes half of nnU-Net's time, auto 1.5 times direct's; 10^15 operations in 2 s are half of the peak."""
    runs = {
        "nnunet": [train.Run(s, s, 0.1, 500.0, 100.0, None) for s in (3.0, 4.0, 9.0)],
        "direct": [train.Run(2.0, 1.0, 0.02, 400.0, 200.0, 1e15)],
        "auto": [train.Run(3.0, 2.0, 0.0, 600.0, 300.0, 3e15)],
    }
    lines = train.report(runs, 2, 1e15).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(c) for c in cells}) == 1
    assert cells[2] == ["nnunet", "4.000", "0.50", "1.00", "2.00", "1.00", "4.00", "10.0%", "500", "100", "-"]
    assert cells[3] == ["direct", "2.000", "1.00", "0.50", "1.00", "0.25", "1.00", "2.0%", "400", "200", "50.0%"]
    assert cells[4][3:7] == ["0.75", "1.50", "0.50", "2.00"] and cells[4][-1] == "100.0%"
    assert "bf16" not in train.report({"auto": runs["auto"]}, 2, None)


def test_help_names_what_can_be_measured() -> None:
    done = subprocess.run([sys.executable, str(FOLDER / "train.py"), "--help"], capture_output=True, text=True, check=True)
    assert all(word in done.stdout for word in ("--only", "auto-compiled", "--device", "--batch", "--iterations", "--set"))
    assert re.search(r"What remains different", done.stdout)
