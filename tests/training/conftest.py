"""Tiny configurations and preprocessed cases for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.planners.method import Method
from ldseg_auto.planners.plans import Configuration, Latent, Network, Sampling, Training
from ldseg_auto.preprocessing.store import Properties, save_case


@pytest.fixture(scope="session")
def make_configuration() -> Callable[..., Configuration]:
    """See `configuration`."""
    return configuration


@pytest.fixture(scope="session")
def store() -> Callable[..., list[str]]:
    """See `store_cases`."""
    return store_cases


def configuration(
    variant: str = "auto", patch: Sequence[int] = (16, 16), batch: int = 2, method: Method | None = None, **training: object
) -> Configuration:
    """Two stages of 8 and 16 channels, latent of 4 channels at half the resolution, no augmentation and no workers unless asked for."""
    n = len(patch)
    settings = {"augmentation": False, "workers": 0, "iterations_per_epoch": 5, "epochs": 2, "validation_patches": 2, **training}
    return Configuration(
        data_identifier="data", spacing=(1.0,) * n, patch_size=tuple(patch), batch_size=batch, median_shape=(4.0, 16.0, 16.0),
        normalisation=("zscore",), use_mask_for_norm=(False,),
        network=Network(variant, (8, 16), ((1,) * n, (2,) * n), ((3,) * n, (3,) * n)),
        latent=Latent((2,) * n, 4), sampling=Sampling(2), method=method or Method(), training=Training(**settings),  # type: ignore[arg-type]
    )  # fmt: skip


def store_cases(folder: Path, shape: Sequence[int], number: int = 2, raters: int = 1, empty: Sequence[int] = ()) -> list[str]:
    """Cases whose image is the label plus noise: class 1 fills the middle, class 2 its first voxel; those in `empty` have no foreground."""
    rng = np.random.default_rng(0)
    names = [f"case{i}" for i in range(number)]
    for i, name in enumerate(names):
        label = np.zeros((raters, *shape), np.int16)
        if i not in empty:
            middle = tuple(slice(n // 4, max(n // 4 + 1, 3 * n // 4)) for n in shape)
            label[(slice(None), *middle)] = 1
            label[(slice(None), *(s.start for s in middle))] = 2
        image = (label[:1] + 0.1 * rng.normal(size=(1, *shape))).astype(np.float32)
        found = {c: np.argwhere(label[0] == c) for c in (1, 2) if (label == c).any()}
        box = tuple((0, n) for n in shape)
        save_case(folder, name, image, label, Properties((1.0,) * 3, tuple(shape), box, tuple(shape), tuple(shape), class_locations=found))
    return names
