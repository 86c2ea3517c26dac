"""benchmarks/memory.py: the plans that it compares, its report, and one plan on the CPU."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import memory

FOLDER = Path(__file__).parents[2] / "benchmarks"
ABSENT = ("SimpleITK", "PIL", "nibabel", "tifffile", "blosc2", "lightning_fabric", "matplotlib", "tqdm")  # what a bare GPU machine lacks


@pytest.mark.parametrize("device", sorted(memory.ROWS))
def test_twelve_plans_that_cover_what_memory_depends_on(device: str) -> None:
    rows = memory.ROWS[device]
    assert len(rows) == len({r.name for r in rows}) == 12
    for row in rows:
        assert memory.configuration_of(row).patch_size == row.patch  # multiples of the strides: the patch is what the table says
    assert {len(r.patch) for r in rows} == {2, 3} and {r.variant for r in rows} == {"auto", "direct"}
    assert max(r.heads for r in rows) >= 16 and max(r.channels for r in rows) >= 4 and max(r.raters for r in rows) >= 4
    assert {r.regions for r in rows} == {True, False} and len({r.latent for r in rows}) > 2


def test_widths_are_the_planner_s() -> None:
    from ldseg_auto.planners.planner import MAX_WIDTH, network_of
    from ldseg_auto.planners.rules.topology import topology

    assert memory.MAX_WIDTH == MAX_WIDTH
    for row in memory.CUDA:
        planned = network_of(topology(row.spacing, row.patch))
        assert memory.configuration_of(row).network == replace(planned, variant=row.variant)


def test_report_counts_what_is_within_the_tolerance() -> None:
    def one(training: float, prediction: float) -> dict:
        found = {"training": 1.0, "prediction": 2.0}
        return {
            "plan": {"name": "p", "patch": [8, 8], "batch": 2},
            "estimated": {"training": training, "prediction": prediction},
            "measured": found,
        }

    text = memory.report([one(1.1, 2.0), one(0.7, 2.5)])
    assert "Training: largest deviation 30.0%, within 15% in 1 of 2; prediction: 25.0%, 1 of 2." in text
    assert "| p | 8 x 8 | 2 | 1.100 | 1.000 | 1.100 | 2.000 | 2.000 | 1.000 | - |" in text


def test_one_plan_is_compared_in_a_process_without_the_packages_of_data() -> None:
    """Estimated and measured are of the same size: what libraries hold weighs more in a plan as small as this."""
    code = (
        f"import json, sys; sys.modules.update(dict.fromkeys({ABSENT!r})); sys.path.insert(0, {str(FOLDER)!r}); import memory; "
        "row = memory.Row('tiny', (1.0, 1.0), (256, 256), 4, width=8); print(json.dumps(memory.compare(row, 'cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = memory.json.loads(done.stdout.splitlines()[-1])
    estimated, measured = found["estimated"]["training"], found["measured"]["training"]
    assert 0.5 < estimated / measured < 1.5
    assert measured == max(found["measured"][part] for part in ("forward", "backward", "update"))
