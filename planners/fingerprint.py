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

FINGERPRINT_VERSION = 3
VERSION_RULE = f"{FINGERPRINT_VERSION}; measure the dataset again with ldseg_plan_and_preprocess --clean"


@dataclass(frozen=True)
class IntensityRange:
    """Intensities of one channel of one case; six digits."""

    mean: float
    percentile_00_5: float
    median: float
    percentile_99_5: float

    @property
    def width(self) -> float:
        """From percentile 0.5 to 99.5."""
        return self.percentile_99_5 - self.percentile_00_5


@dataclass(frozen=True)
class Histogram:
    """How often intensities of one channel occur, every case weighing the same."""

    edges: tuple[float, ...]  # of the bins, ascending
    image: tuple[int, ...]  # counts of voxels of the cropped images that are not zero
    foreground: tuple[int, ...]  # counts of foreground voxels
    outside: float = 0.0  # share of the image's voxels beyond the edges

    def __post_init__(self) -> None:
        ascending = all(low < high for low, high in zip(self.edges[:-1], self.edges[1:], strict=True))
        require(len(self.edges) >= 2 and ascending, "edges", self.edges, "two ascending numbers or more")
        for name in ("image", "foreground"):
            require(len(getattr(self, name)) == len(self.edges) - 1, name, getattr(self, name), "one count per bin")


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
    image_intensities: tuple[IntensityRange, ...] = ()  # per channel; voxels of the cropped image that are not zero
    foreground_intensities: tuple[IntensityRange, ...] = ()  # per channel; empty where the case has no foreground
    at_border: tuple[str, ...] = ()  # classes whose mask reaches the first or last voxel of an axis, for any rater
    mirrored: bool = False  # the file's axes are left-handed (negative determinant of its direction)
    oblique_degrees: float = 0.0  # largest angle between an axis of the file and the axis of space that it is read as
    agreement: float | None = None  # mean Dice over pairs of raters and classes; None with one rater, or where nobody drew anything

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
    histograms: dict[str, Histogram] = field(default_factory=dict)  # channel index -> intensities
    version: int = FINGERPRINT_VERSION

    def __post_init__(self) -> None:
        require(self.version == FINGERPRINT_VERSION, "version", self.version, VERSION_RULE)
        require(len(self.cases) > 0, "cases", [], "at least one")
        require(self.raters >= 1, "raters", self.raters, "at least 1")
        wanted = {str(i) for i in range(len(self.channel_names))}
        given = self.foreground_intensity_properties_per_channel
        require(set(given) == wanted, "foreground_intensity_properties_per_channel", sorted(given), f"the channels {sorted(wanted)}")

    @property
    def agreement(self) -> float | None:
        """Mean over the cases that have one of the agreement between their raters."""
        found = [c.agreement for c in self.cases if c.agreement is not None]
        return sum(found) / len(found) if found else None

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
        """Writes JSON, atomically; with the data's hash, which plans and checkpoints carry, and a hash of the file's own content."""
        content = to_dict(self)
        write_json(path, {**content, "data_hash": self.data_hash, "content_hash": hash_json(content)})

    @classmethod
    def load(cls, path: Path) -> Fingerprint:
        """Reads and validates.

        Raises:
            PlansError: damaged, of another version, or edited.
        """
        content = read_json(path, PlansError)
        if content.get("version") != FINGERPRINT_VERSION:  # before the keys, which another version may have others of
            raise PlansError(f"{path}: version = {content.get('version')!r} is not possible: expected {VERSION_RULE}.")
        stated = {name: content.pop(name, None) for name in ("data_hash", "content_hash")}
        found = from_dict(cls, content, str(path))
        for name, value in (("data_hash", found.data_hash), ("content_hash", hash_json(content))):
            if stated[name] != value:
                was = f"{name} = {stated[name]!r}, but its content has {value[:12]}..."
                raise PlansError(f"{path}: {was}: it was edited after it was measured. To change a decision use --set.")
        return found


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
