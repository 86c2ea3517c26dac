"""A folder prediction that is killed or stopped at random moments, and goes on: the files are those of an undisturbed run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLER = ROOT / "benchmarks" / "kill_predict.py"


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize(("name", "extras"), [("KILL", ("--save-probabilities", "npz", "--preview")), ("TERM", ())])
def test_files_are_those_of_an_undisturbed_run(
    make_dataset: Callable, make_model: Callable, tmp_path: Path, name: str, extras: tuple[str, ...]
) -> None:
    raw = make_dataset(tmp_path / "raw", n_cases=6, shape=(6, 24, 20))
    model = make_model(tmp_path / "results", raw)
    command = [sys.executable, KILLER, "-i", raw / "imagesTr", "-m", model, "--kills", 4, "--signal", name, "--work", tmp_path / "work"]
    done = subprocess.run([*map(str, command), "--", *extras], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^4 runs at work were sent SIG{name}, in \d+ rounds; 0 faults", done.stdout, re.MULTILINE), done.stdout
