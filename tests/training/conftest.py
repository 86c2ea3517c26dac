"""Tiny configurations and preprocessed cases for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from lightning_fabric import Fabric

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.planners.method import Method
from ldseg_auto.planners.plans import Configuration, Latent, Network, Sampling, Training
from ldseg_auto.preprocessing.store import Properties, save_case
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.loop import Trainer


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


@pytest.fixture(scope="session")
def make_bench(store: Callable[..., list[str]]) -> Callable[[Path, Configuration], Bench]:
    """Makes a Bench of a folder and a configuration."""
    return lambda folder, configuration: Bench(folder, store, configuration)


class Bench:
    """Cases on disk and trainers for them."""

    labels = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 2})
    origin = {"dataset_name": "Dataset001_Toy", "fingerprint_hash": "abc"}

    def __init__(self, folder: Path, store: Callable[..., list[str]], configuration: Configuration) -> None:
        self.folder, self.configuration = folder, configuration
        self.names = store(folder / "data", (4, 20, 20))
        few = Batches(folder / "data", self.names, configuration, 1, 2, False)
        self.patches = [few[i] for i in range(len(few))]

    def trainer(self, name: str, seed: int = 3, precision: str = "32-true") -> Trainer:
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
        return Trainer(self.configuration, self.labels, self.folder / name, fabric, seed, self.origin)

    def batches(self, length: int, seed: int = 3, augment: bool = False) -> Batches:
        return Batches(self.folder / "data", self.names, self.configuration, seed, length, augment)
