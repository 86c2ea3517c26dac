"""Who starts the processes of a training, and what is said when they end."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ldseg_auto.cli import ranks
from ldseg_auto.errors import InputError

NAMES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_NAME")
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has started this process."""
    for name in (*NAMES, *SLURM, ranks.PARENT, ranks.MESSAGES):
        monkeypatch.delenv(name, raising=False)


def flags(devices: int | None = None, nodes: int | None = None) -> argparse.Namespace:
    return argparse.Namespace(devices=devices, num_nodes=nodes)


def test_devices_are_the_flags_or_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks.devices_of(flags()) == (1, 1)
    assert ranks.devices_of(flags(4, 2)) == (4, 2)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert ranks.devices_of(flags()) == ranks.devices_of(flags(4)) == ranks.devices_of(flags(4, 2)) == (4, 2)
    assert ranks.rank() == 5
    with pytest.raises(InputError, match="--devices 3 --num-nodes 2: torchrun has started 4 processes on each of 2 nodes"):
        ranks.devices_of(flags(3))


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "expected"),
    [
        ({}, 1, 1, False),
        ({}, 2, 1, True),
        ({}, 1, 2, True),
        (TORCHRUN, 4, 2, False),
        ({"LOCAL_RANK": "1"}, 2, 1, False),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, 2, 1, False),
        ({"SLURM_NTASKS": "1"}, 2, 1, True),  # one task that holds all GPUs
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, 2, 1, True),  # an interactive job
    ],
)
def test_who_starts_the_processes(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], devices: int, nodes: int, expected: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks.to_start(devices, nodes) == expected


def test_several_nodes_need_a_place_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(InputError, match="--num-nodes 2: MASTER_ADDR, NODE_RANK not set. Start the command with torchrun or srun"):
        ranks._place(4, 2)
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setenv("NODE_RANK", "1")
    assert ranks._place(4, 2) == {"MASTER_ADDR": "node0", "MASTER_PORT": "29500", "NODE_RANK": "1", "WORLD_SIZE": "8"}
    assert ranks._place(4, 1)["MASTER_ADDR"] == "127.0.0.1"


def ended(number: int, script: str) -> ranks.Rank:
    process = subprocess.Popen([sys.executable, "-c", script])
    process.wait()
    return ranks.Rank(number, process, ended=1.0)


def test_each_cause_is_named_once_and_consequences_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [("error: no such case", 2, False), ("failed: rank 1 has lost another", 1, True), ("error: no such case", 2, False)]
    for number, (message, code, lost) in enumerate(said):
        (tmp_path / f"{number}.json").write_text(json.dumps({"message": message, "code": code, "lost": lost}))
    three = [ended(n, f"raise SystemExit({code})") for n, (_, code, _) in enumerate(said)]
    assert ranks._outcome(three, [], tmp_path) == 2
    assert capsys.readouterr().err == "error: no such case\n"


def test_a_signal_decides_the_exit_code_unless_something_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ranks._outcome([ended(0, ""), ended(1, "raise SystemExit(1)")], [15], tmp_path) == 0
    assert ranks._outcome([ended(0, "raise SystemExit(130)")], [2], tmp_path) == 130
    assert ranks._outcome([ended(0, "import os; os.kill(os.getpid(), 15)")], [15], tmp_path) == 143  # before it listened
    assert capsys.readouterr().err == ""
    (tmp_path / "0.json").write_text(json.dumps({"message": "failed: the disk is full", "code": 1, "lost": False}))
    assert ranks._outcome([ended(0, "raise SystemExit(1)")], [15], tmp_path) == 1
    assert "the disk is full" in capsys.readouterr().err


def test_a_process_that_ended_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ranks._outcome([ended(0, ""), ended(1, "import os; os._exit(7)")], [], tmp_path) == 1
    assert "(rank 1 of this training) ended with exit code 7" in capsys.readouterr().err


def test_all_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ranks._outcome([ended(0, ""), ended(1, "")], [], tmp_path) == 0
    assert capsys.readouterr().err == ""
