"""Fingerprints and plans written by hand, so that what must be found in them is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from ldseg_auto.planners.fingerprint import CaseFingerprint, Fingerprint, Histogram, IntensityRange, LatentCandidate, class_statistics
from ldseg_auto.planners.planner import grid_key
from ldseg_auto.planners.plans import Configuration, Intensities, Latent, Network, Plans, Sampling

STATISTICS = Intensities(0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 1.0)
CHANNELS = 2


def make_case(number: int, seed: int = 0, mr: bool = False) -> CaseFingerprint:
    """An inconspicuous 3D case: 3 x 1 x 1 mm, a few percent of variation in all that varies; MR intensities have a scale of their own."""
    rng = np.random.default_rng([seed, number])
    scale = float(np.exp(rng.normal(0, 0.8))) if mr else 1.0
    low, middle, high = (scale * float(v) for v in (-1000 * (not mr) + rng.normal(0, 3), 40 + rng.normal(0, 5), 300 + rng.normal(0, 8)))
    image = IntensityRange(middle, low, middle, high)
    inside = IntensityRange(scale * 100.0, scale * 60.0, scale * (100 + float(rng.normal(0, 4))), scale * 150.0)
    shape = tuple(int(n * rng.uniform(0.9, 1.1)) for n in (30, 100, 90))
    spacing = tuple(float(s * rng.uniform(0.97, 1.03)) for s in (3.0, 1.0, 1.0))
    volumes = {"organ": float(50 * np.exp(rng.normal(0, 0.3))), "lesion": float(2 * np.exp(rng.normal(0, 0.5)))}
    return CaseFingerprint(
        f"case_{number:03d}", shape, shape, spacing, "LPS", f"hash {number}", volumes, {"organ": 1.0, "lesion": 1.0},
        (image,) * CHANNELS, (inside,) * CHANNELS, oblique_degrees=round(float(rng.uniform(0, 2)), 1),
    )  # fmt: skip


def make_fingerprint(cases: Sequence[CaseFingerprint], raters: int = 1) -> Fingerprint:
    """A dataset of such cases with two channels, CT and PET."""
    names = ("organ", "lesion")
    histogram = Histogram((0.0, 1.0, 2.0, 4.0), (5, 3, 0), (0, 1, 2))
    return Fingerprint(
        "Dataset001_Toy", ("CT", "PET"), names, ".nii.gz", tuple(cases), 1.0, {"0": STATISTICS, "1": STATISTICS},
        class_statistics(tuple(cases), names), raters=raters, histograms={"0": histogram, "1": histogram},
    )  # fmt: skip


def make_plans(fingerprint: Fingerprint, raters: int = 1) -> tuple[Fingerprint, Plans]:
    """Plans of one 3D configuration with a latent of 4 channels at 1/(1 x 4 x 4) and 6 steps, and the fingerprint with its curve."""
    network = Network("auto", (8, 16, 32), ((1, 1, 1), (1, 2, 2), (1, 2, 2)), ((1, 3, 3),) * 3)
    count = len(fingerprint.channel_names)
    configuration = Configuration(
        "folder", (3.0, 1.0, 1.0), (16, 32, 32), 2, (30.0, 100.0, 90.0), ("zscore",) * count, (False,) * count, network,
        Latent((1, 4, 4), 4, 0.95), Sampling(6), raters=raters, memory_gib=4.0, prediction_memory_gib=9.5,
        reasons={"spacing": "median", "warning": "class lesion is small"},
    )  # fmt: skip
    curve = {str(k): dict.fromkeys(fingerprint.class_names, 1 - 0.2 / k) for k in (1, 2, 4)}
    candidate = LatentCandidate((1, 4, 4), curve, {str(k): ((1.0, 2.0), (9.0, 1.0)) for k in (1, 2, 4)})
    key = grid_key("3d_fullres", configuration.spacing, configuration.patch_size, (0, 1, 2))
    plans = Plans(
        fingerprint.dataset_name, "ldsegPlans", fingerprint.data_hash, fingerprint.file_ending, (0, 1, 2), (STATISTICS,) * count,
        {"3d_fullres": configuration}, "3d_fullres", {"default_configuration": "the finest"},
    )  # fmt: skip
    return replace(fingerprint, latent={key: (candidate,)}), plans


@pytest.fixture(scope="session")
def case_of() -> Callable[..., CaseFingerprint]:
    """See make_case."""
    return make_case


@pytest.fixture(scope="session")
def fingerprint_of() -> Callable[..., Fingerprint]:
    """See make_fingerprint."""
    return make_fingerprint


@pytest.fixture(scope="session")
def plans_of() -> Callable[..., tuple[Fingerprint, Plans]]:
    """See make_plans."""
    return make_plans
