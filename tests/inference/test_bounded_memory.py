"""Peak memory does not grow with the number of classes times the volume."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ldseg_auto.planners.plans import Configuration, Inference, Sampling

SHAPE, CLASSES = (96, 128, 128), 90
SCRIPT = """
import sys
from pathlib import Path
import numpy as np, torch
from ldseg_auto.inference.predictor import Options, Predictor
from ldseg_auto.scratch import Room

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

torch.set_num_threads(1)
predictor = Predictor.from_folder(sys.argv[1], device="cpu", options=Options(room=Room(limit=2**22)))
rng = np.random.default_rng(0)
predictor.predict(rng.normal(size=(16, 32, 32)).astype(np.float32), (1.0, 1.0, 1.0))
image = rng.normal(size=(96, 128, 128)).astype(np.float32)
before = peak()
found = predictor.predict(image, (1.0, 1.0, 1.0))
print(peak() - before, len(np.unique(found.label)))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read in /proc")
def test_ninety_classes(
    make_configuration: Callable[..., Configuration], make_dataset: Callable[..., Path], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Logits of the whole volume would take 540 MiB, and probabilities as much again."""
    raw = make_dataset(tmp_path / "raw", n_cases=1, shape=(4, 8, 8), classes=CLASSES - 1)
    strides = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    known = make_configuration(strides=strides, stage=1, patch=(16, 32, 32), sampling=Sampling(1))
    model = make_model(tmp_path / "results", raw, "3d", replace(known, inference=Inference(step=1.0)))
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(model)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    growth, classes = done.stdout.split()
    assert int(classes) > CLASSES / 4  # an untrained network
    assert float(growth) < 300
