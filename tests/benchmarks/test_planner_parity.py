"""benchmarks/planner_parity.py: our planner on its datasets, against answers of nnU-Net 2.8.1's planner stored here.

NNUNET is part of what `benchmarks/planner_parity.py` measured (8 GB, 26 November 2026); nnU-Net itself is not needed here.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from ldseg_auto.planners.rules.topology import topology

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import parity_cases
import planner_parity as parity

DATASETS = {d.name: d for d in parity_cases.datasets()}
NNUNET = (  # dataset, configuration, spacing to four decimals, patch, total stride, batch
    ("hippocampus MR", "2d", (1.0, 1.0), (56, 40), (8, 8), 281),
    ("hippocampus MR", "3d_fullres", (1.0, 1.0, 1.0), (40, 56, 40), (8, 8, 8), 7),
    ("liver CT", "2d", (0.7741, 0.7661), (512, 512), (128, 128), 12),
    ("liver CT", "3d_lowres", (2.4638, 1.9353, 1.9153), (128, 128, 128), (32, 32, 32), 2),
    ("liver CT", "3d_fullres", (0.9855, 0.7741, 0.7661), (128, 128, 128), (32, 32, 32), 2),
    ("pancreas CT", "2d", (0.7998, 0.8033), (512, 640), (128, 128), 10),
    ("pancreas CT", "3d_lowres", (2.5719, 1.3219, 1.2891), (56, 192, 224), (8, 32, 32), 2),
    ("pancreas CT", "3d_fullres", (2.2851, 0.7998, 0.8033), (40, 224, 224), (8, 32, 32), 2),
    ("1:5, 24 slices", "2d", (0.704, 0.6959), (384, 384), (64, 64), 22),
    ("1:5, 24 slices", "3d_fullres", (3.3614, 0.704, 0.6959), (20, 320, 256), (4, 64, 64), 2),
    ("cardiac cine MR", "2d", (1.5991, 1.6281), (224, 224), (32, 32), 65),
    ("cardiac cine MR", "3d_fullres", (6.2003, 1.5991, 1.6281), (14, 224, 224), (2, 32, 32), 6),
    ("coarse y", "2d", (1.0001, 0.9922), (224, 224), (32, 32), 57),
    ("coarse y", "3d_fullres", (4.5582, 1.0001, 0.9922), (32, 224, 224), (8, 32, 32), 2),
    ("sagittal, coarse x", "2d", (0.7067, 0.6851), (320, 320), (64, 64), 32),
    ("sagittal, coarse x", "3d_fullres", (3.6859, 0.7067, 0.6851), (24, 256, 256), (4, 64, 64), 2),
    ("percentile finer than the plane", "2d", (1.0, 1.0), (224, 224), (32, 32), 48),
    ("percentile finer than the plane", "3d_fullres", (1.0, 1.0, 1.0), (96, 160, 160), (16, 32, 32), 2),
    ("thin plate", "2d", (0.983, 0.9826), (128, 128), (32, 32), 10),
    ("thin plate", "3d_fullres", (0.9983, 0.983, 0.9826), (6, 128, 128), (1, 32, 32), 2),
    ("light sheet", "2d", (0.4853, 0.4901), (1280, 1024), (256, 256), 2),
    ("light sheet", "3d_lowres", (12.9495, 6.5416, 6.607), (64, 192, 192), (16, 32, 32), 2),
    ("light sheet", "3d_fullres", (3.9698, 0.4853, 0.4901), (24, 256, 256), (4, 64, 64), 2),
    ("whole body CT", "2d", (0.9725, 0.9746), (512, 640), (128, 128), 10),
    ("whole body CT", "3d_lowres", (4.8321, 3.1722, 3.1792), (224, 96, 112), (32, 16, 16), 2),
    ("whole body CT", "3d_fullres", (1.4813, 0.9725, 0.9746), (224, 96, 112), (32, 16, 16), 2),
    ("crops of 128", "2d", (1.0, 1.0), (128, 128), (32, 32), 150),
    ("2D strip", "2d", (1.0116, 0.9868), (112, 2304), (16, 256), 2),
    ("12 MR channels", "2d", (1.008, 0.9839), (224, 224), (32, 32), 65),
    ("12 MR channels", "3d_fullres", (2.0217, 1.008, 0.9839), (64, 192, 160), (16, 32, 32), 2),
    ("118 classes CT", "2d", (1.4928, 1.496), (320, 256), (64, 64), 29),
    ("118 classes CT", "3d_lowres", (2.0732, 2.0663, 2.0709), (112, 128, 112), (16, 16, 16), 2),
    ("118 classes CT", "3d_fullres", (1.4977, 1.4928, 1.496), (112, 128, 112), (16, 16, 16), 2),
)  # fmt: skip


def replaced(dataset: parity_cases.Dataset) -> parity.Answer:
    """Our plan with nnU-Net's memory rule."""
    return parity.ours(dataset, 8.0, parity.nnunet_memory(dataset.classes))


def test_the_datasets_are_many_and_of_all_kinds() -> None:
    assert len(DATASETS) == len(parity_cases.datasets()) >= 40
    shapes = [d.shapes[0] for d in DATASETS.values()]
    ratios = [max(d.spacings[0]) / sorted(d.spacings[0])[1] for d in DATASETS.values() if min(d.shapes[0]) > 1]
    assert sum(min(s) == 1 for s in shapes) >= 10 and max(ratios) > 10 and min(ratios) < 1.1
    assert max(max(s) for s in shapes) > 10_000 and min(max(s) for s in shapes) < 10
    assert {"CT", "MRI"} <= {c for d in DATASETS.values() for c in d.channels} and max(len(d.channels) for d in DATASETS.values()) >= 12


def check(dataset: parity_cases.Dataset, answer: parity.Answer) -> None:
    """What plans.Network and the window need, and a batch of two at least."""
    assert sorted(answer[parity.SHARED]["transpose"]) == [0, 1, 2]
    assert len(answer[parity.SHARED]["normalisation"]) == len(dataset.channels)
    for name in answer[parity.SHARED]["configurations"]:
        plan = answer[name]
        total = [2 ** sum(stride[axis] == 2 for stride in plan["strides"]) for axis in range(len(plan["patch"]))]
        assert plan["batch"] >= 2 and len(plan["strides"]) == len(plan["widths"]) >= 2
        assert all(p % t == 0 for p, t in zip(plan["patch"], total, strict=True))
        assert len(plan["spacing"]) == len(plan["patch"]) == (2 if name == "2d" else 3)


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_is_planned(name: str) -> None:
    """With nnU-Net's memory rule, which costs no tracing of networks; the benchmark plans all of them with ours as well."""
    check(DATASETS[name], replaced(DATASETS[name]))


@pytest.mark.parametrize("name", ["5 x 6 x 7", "2D of 6 x 7", "single slice, 0.5 mm"])
def test_odd_ones_are_planned_with_our_own_memory(name: str) -> None:
    check(DATASETS[name], parity.ours(DATASETS[name], 8.0))


@pytest.mark.parametrize(("name", "configuration", "spacing", "patch", "stride", "batch"), NNUNET)
def test_rules_give_what_nnunet_gives(name: str, configuration: str, spacing: tuple, patch: tuple, stride: tuple, batch: int) -> None:
    """With its memory rule in place of ours; the batch may be one less, as ours is not rounded up."""
    plan = replaced(DATASETS[name])[configuration]
    total = tuple(2 ** sum(s[axis] == 2 for s in plan["strides"]) for axis in range(len(patch)))
    assert plan["spacing"] == pytest.approx(spacing, abs=6e-5)
    assert (plan["patch"], total) == (patch, stride)
    assert plan["batch"] in (batch, batch - 1)


def test_nnunet_estimate_by_hand() -> None:
    """Two stages, widths 32 and 64, on 8 x 8 and 4 x 4: 2 (32 x 64 + 64 x 16) + 3 x 32 x 64 + 5 x 64."""
    assert parity.feature_voxels(topology((1, 1), (8, 8)), 5) == 2 * (2048 + 1024) + 3 * 2048 + 320


def test_eight_gib_hold_the_reference_batch() -> None:
    """128^3 has 5.6e8 feature voxels for two samples (nnunet.md 1.5): within 8 GiB for two, above for three."""
    demand = parity.nnunet_memory(2)(topology((1, 1, 1), (128, 128, 128)))
    assert demand.gib(2) < 8 < demand.gib(3)


@pytest.mark.parametrize(
    ("name", "configuration", "field", "change", "reason"),
    [
        ("hippocampus MR", "3d_fullres", "batch", lambda b: b + 1, parity.ROUNDED),
        ("hippocampus MR", "3d_fullres", "batch", lambda b: b + 2, parity.UNEXPLAINED),
        ("hippocampus MR", "3d_fullres", "patch", lambda p: (8, 8, 8), parity.UNEXPLAINED),
        ("single slice, 0.5 mm", "2d", "patch", lambda p: (1, 256), parity.SINGLE),
        ("ultrasound PNG", "2d", "patch", lambda p: (1, 256), parity.UNEXPLAINED),  # a natural image is no excuse
        ("2D of 6 x 7", "2d", "strides", lambda s: ((1, 1),), parity.LATENT),
        ("liver CT", "all", "normalisation", lambda n: ("zscore",), parity.UNEXPLAINED),
    ],
)
def test_differences_are_found_and_named(name: str, configuration: str, field: str, change, reason: str) -> None:
    plan = replaced(DATASETS[name])
    theirs = {c: dict(fields) for c, fields in plan.items()}
    assert parity.compare(DATASETS[name], theirs, plan, plan)[0] == []
    theirs[configuration][field] = change(theirs[configuration][field])
    found, compared = parity.compare(DATASETS[name], theirs, plan, plan)
    assert [(d.configuration, d.field, d.reason) for d in found] == [(configuration, field, reason)]
    assert compared[field] >= 1 and reason in parity.summary(found, compared)


def test_what_only_our_memory_changes_is_said_so() -> None:
    plan = replaced(DATASETS["hippocampus MR"])
    planned = {c: dict(fields) for c, fields in plan.items()}
    planned["3d_fullres"]["batch"] = 2
    found, _ = parity.compare(DATASETS["hippocampus MR"], plan, planned, plan)
    assert [d.reason for d in found] == [parity.MEMORY]


def test_summary_counts() -> None:
    difference = parity.Difference("a", "2d", "batch", 1, 2, parity.MEMORY)
    row = parity.summary([difference, difference], Counter({"batch": 5})).splitlines()[-1]
    assert row == "| batch | 5 | 5 |  |  |  |  | 2 |"
    row = parity.summary([difference, parity.Difference("a", "2d", "batch", 1, 2, parity.ROUNDED)], Counter({"batch": 5})).splitlines()[-1]
    assert row == "| batch | 5 | 4 | 1 |  |  |  | 1 |"
