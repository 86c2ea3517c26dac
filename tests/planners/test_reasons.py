"""Every decision of a plan has its reason, in numbers that are those of the plan; from fingerprints without images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ldseg_auto.planners.fingerprint import CaseFingerprint, ClassStatistics, Fingerprint, LatentCandidate
from ldseg_auto.planners.planner import describe, label_grid, layouts, make_plans
from ldseg_auto.planners.plans import Intensities

DECIDED = {  # what the rules choose, by its path in the plans
    "spacing", "patch_size", "batch_size", "transpose", "normalisation", "resampling", "network.strides", "network.features_per_stage",
    "training.batch_dice", "latent", "sampling.steps", "method",
}  # fmt: skip


def fingerprint(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> Fingerprint:
    """Twenty equal cases of one class; a label code that every latent of four channels describes."""
    cases = tuple(CaseFingerprint(f"c{i:02d}", shape, shape, spacing, "LPS", f"{i}", {"a": 1.0}, {"a": 1.0}) for i in range(20))
    intensities = {"0": Intensities(0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 1.0)}
    bare = Fingerprint("Dataset001_Toy", ("CT",), ("a",), ".nii.gz", cases, 1.0, intensities, {"a": ClassStatistics(1.0, 1.0, 1.0)})
    order, found = layouts(bare, 2)
    codes = {
        label_grid(layout, order).key: tuple(LatentCandidate(f, {"4": {"a": 0.995}}, {"4": ((1.0, 1.0),)}) for f in layout.factors)
        for layout in found.values()
    }
    return replace(bare, latent=codes)


@pytest.mark.parametrize(
    ("spacing", "shape", "default", "said"),
    [
        ((5.0, 1.0, 1.0), (12, 40, 48), "3d_fullres", ["12 slices of 5 mm", "coarse axis by itself", "none: the patch at full resolution"]),
        ((999.0, 1.0, 1.0), (1, 64, 48), "2d", ["one slice", "ct: CT"]),
    ],
)
def test_every_decision_says_why(spacing: tuple, shape: tuple, default: str, said: list[str]) -> None:
    plans = make_plans(fingerprint(spacing, shape), 2)
    assert plans.default_configuration == default and plans.reasons["default_configuration"].startswith(default)
    for name, configuration in plans.configurations.items():
        assert set(configuration.reasons) >= DECIDED and all(configuration.reasons.values())
        assert f"{len(configuration.network.strides)} stages" in configuration.reasons["network.strides"]
        assert configuration.training.batch_dice == (name == "2d")
    text = describe(plans) + plans.reasons["default_configuration"]
    assert [s for s in said if s not in text] == []
    assert ("3d_lowres" in plans.configurations["2d"].reasons) is False  # said where it would have been used
