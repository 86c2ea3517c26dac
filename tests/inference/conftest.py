"""An untrained model and the images that it can predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration, Intensities, Plans
from ldseg_auto.training import checkpoint

SETUP = {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "stage": 1, "patch": (4, 16, 16)}


@pytest.fixture
def model(tmp_path: Path, make_configuration: Callable[..., Configuration], make_dataset: Callable[..., Path]) -> Path:
    """An untrained model of three classes, whose masks have structure, and the raw dataset `raw/Dataset001_Toy` it belongs to."""
    raw = make_dataset(tmp_path / "raw", n_cases=3, shape=(6, 24, 20))
    folder = tmp_path / "results" / "Dataset001_Toy" / "ldsegPlans__3d_fullres"
    configuration = make_configuration(**SETUP)
    intensities = Intensities(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    known = {"3d_fullres": configuration}
    Plans("Dataset001_Toy", "ldsegPlans", "abc", ".nii.gz", (0, 1, 2), (intensities,), known, "3d_fullres").save(folder / "plans.json")
    (folder / "dataset.json").write_text((raw / "dataset.json").read_text())
    torch.manual_seed(0)
    network = LDSeg(configuration, 3)
    torch.nn.init.normal_(network.decoder.head.weight, std=2.0)
    content = {"ema": network.state_dict(), "dataset_name": "Dataset001_Toy", "fingerprint_hash": "abc"}
    checkpoint.save(folder / "fold_0" / "checkpoint_final.pth", content)
    return folder


@pytest.fixture
def images(model: Path, tmp_path: Path) -> Path:
    """imagesTr of the dataset."""
    return tmp_path / "raw" / "Dataset001_Toy" / "imagesTr"
