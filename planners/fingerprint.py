"""The dataset fingerprint: everything that the rules may look at, measured once and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldseg_auto.errors import PlansError
from ldseg_auto.files import hash_json, read_json, write_json
from ldseg_auto.planners.plans import Intensities
from ldseg_auto.planners.serialise import from_dict, require, to_dict

FINGERPRINT_VERSION = 2


@dataclass(frozen=True)
class CaseFingerprint:
    """One training case, in canonical orientation, axes (z, y, x)."""

    identifier: str
    shape: tuple[int, ...]  # voxels
    shape_after_crop: tuple[int, ...]  # voxels, cropped to non-zero
    spacing: tuple[float, ...]  # mm; 999 across the plane of natural images, as nnU-Net writes it
    orientation: str  # of the file, e.g. "LPS"
    input_hash: str  # SHA-256 over the bytes of images and labels
    volumes: dict[str, float]  # class -> ml (2D images: mm2, pixels where the file has no spacing), mean over raters
    components: dict[str, float]  # class -> connected components, mean over raters

    def __post_init__(self) -> None:
        for name in ("shape", "shape_after_crop", "spacing"):
            value = getattr(self, name)
            require(len(value) == 3 and all(v > 0 for v in value), name, value, "three numbers above 0")


@dataclass(frozen=True)
class LatentCandidate:
    """The block code of the training labels for one factor."""

    factor: tuple[int, ...]  # voxels per latent position and axis, in the configuration's axis order
    ceilings: dict[str, dict[str, float]]  # channels -> class -> reconstruction Dice
    modes: dict[str, tuple[tuple[float, ...], ...]]  # channels -> (variance of a mode, variance held by modes like it)


@dataclass(frozen=True)
class ClassStatistics:
    """One class over the dataset."""

    prevalence: float  # share of cases that have it
    median_volume: float  # of the cases that have it; unit as in CaseFingerprint.volumes
    median_components: float  # of the cases that have it


@dataclass(frozen=True)
class Fingerprint:
    """A training dataset."""

    dataset_name: str
    channel_names: tuple[str, ...]
    class_names: tuple[str, ...]  # foreground classes, or regions
    file_ending: str
    cases: tuple[CaseFingerprint, ...]
    median_relative_size_after_cropping: float  # voxels after over before
    foreground_intensity_properties_per_channel: dict[str, Intensities]  # channel index -> statistics
    classes: dict[str, ClassStatistics]
    latent: dict[str, tuple[LatentCandidate, ...]] = field(default_factory=dict)  # grid -> candidates; key: planner.label_grid
    raters: int = 1  # label folders; each case has one or more of them
    version: int = FINGERPRINT_VERSION

    def __post_init__(self) -> None:
        rule = f"{FINGERPRINT_VERSION}; measure the dataset again with ldseg_plan_and_preprocess --clean"
        require(self.version == FINGERPRINT_VERSION, "version", self.version, rule)
        require(len(self.cases) > 0, "cases", [], "at least one")
        require(self.raters >= 1, "raters", self.raters, "at least 1")
        wanted = {str(i) for i in range(len(self.channel_names))}
        given = self.foreground_intensity_properties_per_channel
        require(set(given) == wanted, "foreground_intensity_properties_per_channel", sorted(given), f"the channels {sorted(wanted)}")

    @property
    def data_hash(self) -> str:
        """Names the data: changes with any input file, the channels or the classes, and with nothing else."""
        content: Mapping[str, Any] = {
            "channels": list(self.channel_names),
            "classes": list(self.class_names),
            "cases": {c.identifier: c.input_hash for c in self.cases},
        }
        return hash_json(content)

    @property
    def intensities(self) -> tuple[Intensities, ...]:
        """Per channel."""
        return tuple(self.foreground_intensity_properties_per_channel[str(i)] for i in range(len(self.channel_names)))

    def save(self, path: Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, to_dict(self))

    @classmethod
    def load(cls, path: Path) -> Fingerprint:
        """Reads and validates.

        Raises:
            PlansError: damaged, of another version, or edited to impossible values.
        """
        return from_dict(cls, read_json(path, PlansError), str(path))


def intensity_statistics(samples: np.ndarray) -> Intensities:
    """nnU-Net's foreground statistics of `samples` (n,)."""
    low, median, high = np.percentile(samples, (0.5, 50, 99.5))
    x = samples.astype(np.float64)
    return Intensities(float(x.mean()), float(median), float(x.std()), float(x.min()), float(x.max()), float(low), float(high))


def class_statistics(cases: tuple[CaseFingerprint, ...], names: tuple[str, ...]) -> dict[str, ClassStatistics]:
    """Prevalence, and medians over the cases that have the class (0 where none has)."""
    out = {}
    for name in names:
        having = [c for c in cases if c.volumes[name] > 0]
        volume = float(np.median([c.volumes[name] for c in having])) if having else 0.0
        components = float(np.median([c.components[name] for c in having])) if having else 0.0
        out[name] = ClassStatistics(len(having) / len(cases), volume, components)
    return out
