"""Synthetic datasets for planner_parity.py: only what planners look at, spacing, shape, channels and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldseg_auto.planners.fingerprint import CaseFingerprint, ClassStatistics, Fingerprint
from ldseg_auto.planners.plans import Intensities

NATURAL = 999.0  # mm across the plane of a natural image, as both tools write it
ZERO = Intensities(0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 1.0)
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Dataset:
    """One dataset of either tool."""

    name: str
    spacings: tuple[Triple, ...]  # per case, mm, (z, y, x)
    shapes: tuple[tuple[int, int, int], ...]  # per case after cropping, voxels
    channels: tuple[str, ...]
    classes: int  # with background
    relative_size: float  # left by cropping, at the median

    def fingerprint(self) -> Fingerprint:
        """Ours, without label code."""
        names = tuple(f"class{k}" for k in range(1, self.classes))
        volumes = dict.fromkeys(names, 1.0)
        cases = tuple(
            CaseFingerprint(f"case_{i:04d}", shape, shape, spacing, "LPS", "", volumes, volumes)
            for i, (spacing, shape) in enumerate(zip(self.spacings, self.shapes, strict=True))
        )
        channels = {str(c): ZERO for c in range(len(self.channels))}
        classes = {name: ClassStatistics(1.0, 1.0, 1.0) for name in names}
        return Fingerprint(self.name, self.channels, names, ".nii.gz", cases, self.relative_size, channels, classes)

    def nnunet(self, memory: float) -> dict[str, Any]:
        """What parity_nnunet.py reads."""
        description = {
            "channel_names": {str(c): name for c, name in enumerate(self.channels)},
            "labels": {"background": 0, **{f"class{k}": k for k in range(1, self.classes)}},
            "numTraining": len(self.shapes), "file_ending": ".nii.gz", "overwrite_image_reader_writer": "SimpleITKIO",
            "dataset": {"case": {"images": ["none.nii.gz"], "label": "none.nii.gz"}},
        }  # fmt: skip
        fingerprint = {
            "spacings": self.spacings, "shapes_after_crop": self.shapes, "median_relative_size_after_cropping": self.relative_size,
            "foreground_intensity_properties_per_channel": {},
        }  # fmt: skip
        return {"description": description, "fingerprint": fingerprint, "memory": memory}


def cohort(
    name: str, spacing: Triple, shape: Triple, channels: Sequence[str] = ("MRI",), classes: int = 3, cases: int = 40,
    spread: float = 0.1, relative_size: float = 0.95,
) -> Dataset:  # fmt: skip
    """Cases around a typical one: sizes, and spacings of axes longer than one voxel, vary by a share `spread`, by a fixed seed."""
    rng = np.random.default_rng(sum(map(ord, name)))
    spacings, shapes = [], []
    for _ in range(cases):
        factor = 1 + spread * rng.uniform(-1, 1, (2, 3))
        spacings.append(tuple(s if n == 1 else round(float(s * f), 4) for s, n, f in zip(spacing, shape, factor[0], strict=True)))
        shapes.append(tuple(int(n) if n == 1 else max(1, round(n * f)) for n, f in zip(shape, factor[1], strict=True)))
    return Dataset(name, tuple(spacings), tuple(shapes), tuple(channels), classes, relative_size)  # type: ignore[arg-type]


def datasets() -> tuple[Dataset, ...]:
    """All, in the order of the table."""
    return (*_isotropic(), *_anisotropic(), *_tiny(), *_huge(), *_flat(), *_single_slices(), *_channels())


def _isotropic() -> list[Dataset]:
    return [
        cohort("hippocampus MR", (1, 1, 1), (36, 50, 35), cases=200, spread=0.0),
        cohort("heart MR", (1.37, 1.25, 1.25), (115, 320, 232), cases=20),
        cohort("brain MR, 4 channels, masked", (1, 1, 1), (138, 169, 138), ("FLAIR", "T1w", "t1gd", "T2w"), 4, 484, 0.05, 0.35),
        cohort("liver CT", (1, 0.77, 0.77), (482, 512, 512), ("CT",), 3, 131),
        cohort("pancreas CT", (2.5, 0.8, 0.8), (93, 512, 512), ("CT",), 3, 281),
        cohort("thorax CT", (0.8, 0.8, 0.8), (400, 512, 512), ("ct",), 6, 60),
        cohort("small volumes", (0.5, 0.5, 0.5), (64, 64, 64), cases=30),
        cohort("elongated", (1, 1, 1), (400, 60, 60), cases=30),
        cohort("half voxels in the median", (1, 1, 1), (41, 57, 73), cases=2, spread=0.04),
        cohort("a single case", (1, 1, 1), (160, 160, 160), cases=1),
        cohort("two cases, batch limited", (1.5, 1, 1), (50, 80, 80), ("CT",), cases=2),
    ]


def _anisotropic() -> list[Dataset]:
    ratios = [(3, 40), (3.5, 30), (4, 28), (5, 24), (6, 20), (8, 16), (10, 12), (12, 10)]
    found = [cohort(f"1:{r:g}, {n} slices", (r * 0.7, 0.7, 0.7), (n, 360, 340), cases=40, spread=0.05) for r, n in ratios]
    mixed = cohort("coarse axis of two kinds", (6, 1, 1), (20, 200, 200), cases=10, spread=0.0)
    thin = tuple((0.5, 1.0, 1.0) if i < 3 else s for i, s in enumerate(mixed.spacings))
    equal = tuple((1.0, 1.0, 1.0) if i < 3 else s for i, s in enumerate(mixed.spacings))
    return [
        *found,
        cohort("prostate MR, 2 channels", (3.6, 0.625, 0.625), (20, 320, 319), ("T2", "ADC"), 3, 32, 0.0),
        cohort("cardiac cine MR", (9, 1.56, 1.56), (10, 237, 208), ("cine",), 4, 200, 0.4),
        cohort("exactly 1:3", (3, 1, 1), (30, 200, 200), spread=0.0),
        cohort("coarse with many slices", (4, 1, 1), (160, 256, 256)),
        cohort("coarse y", (1, 5, 1), (200, 30, 220)),
        cohort("sagittal, coarse x", (0.7, 0.7, 4), (300, 300, 24)),
        cohort("two coarse axes", (5, 5, 1), (60, 60, 300)),
        Dataset("percentile finer than the plane", thin, mixed.shapes, ("MRI",), 3, 1.0),
        Dataset("percentile equal to the plane", equal, mixed.shapes, ("MRI",), 3, 1.0),
    ]


def _tiny() -> list[Dataset]:
    return [
        cohort("16 cubed", (1, 1, 1), (16, 16, 16), spread=0.0),
        cohort("8 cubed", (1, 1, 1), (8, 8, 8), spread=0.0),
        cohort("5 x 6 x 7", (1, 1, 1), (5, 6, 7), spread=0.0),
        cohort("one axis to halve", (1, 1, 1), (12, 5, 5), spread=0.0),
        cohort("two slices", (5, 1, 1), (2, 200, 200), spread=0.0),
        cohort("three slices of 64", (2, 1, 1), (3, 64, 64), spread=0.0),
        cohort("thin plate", (1, 1, 1), (6, 120, 120)),
    ]


def _huge() -> list[Dataset]:
    return [
        cohort("micro CT", (0.05, 0.05, 0.05), (1000, 1000, 1000), ("microscopy",), 2, 12),
        cohort("2000 cubed", (0.01, 0.01, 0.01), (2000, 2000, 2000), ("noNorm",), 2, 4),
        cohort("light sheet", (4, 0.5, 0.5), (300, 4096, 4096), ("fluorescence",), 2, 8),
        cohort("whole body CT", (1.5, 0.98, 0.98), (1200, 512, 512), ("CT",), 3, 100),
    ]


def _flat() -> list[Dataset]:
    rgb = ("rgb_to_0_1",) * 3
    return [
        cohort("ultrasound PNG", (NATURAL, 1, 1), (1, 540, 800), ("grey",), 2, 250, 0.0),
        cohort("retina RGB", (NATURAL, 1, 1), (1, 960, 999), rgb, 2, 20, 0.0),
        cohort("crops of 128", (NATURAL, 1, 1), (1, 128, 128), ("CT",), 2, 3000, 0.0),
        cohort("pathology RGB", (NATURAL, 1, 1), (1, 20000, 18000), rgb, 5, 30),
        cohort("2D with spacing", (NATURAL * 0.4, 0.4, 0.3), (1, 700, 512), ("X-ray",), 4, 80),
        cohort("2D strip", (NATURAL, 1, 1), (1, 100, 3000), ("grey",), 2, 40),
        cohort("2D of 32", (NATURAL, 1, 1), (1, 32, 32), ("grey",), 2, 500, 0.0),
        cohort("2D of 10 x 12", (NATURAL, 1, 1), (1, 10, 12), ("grey",), 2, 500, 0.0),
        cohort("2D of 6 x 7", (NATURAL, 1, 1), (1, 6, 7), ("grey",), 2, 500, 0.0),
    ]


def _single_slices() -> list[Dataset]:
    thick = cohort("single slice, thickness 1 to 10", (8, 1, 1), (1, 256, 256), cases=30, spread=0.0)
    thickness = tuple((1.0 + 9 * i / 29, 1.0, 1.0) for i in range(30))
    return [
        cohort("single slice, 8 mm", (8, 1, 1), (1, 256, 256)),
        cohort("single slice, 1 mm as the plane", (1, 1, 1), (1, 256, 256), spread=0.0),
        cohort("single slice, 0.5 mm", (0.5, 1, 1), (1, 256, 240), spread=0.0),
        cohort("single slice along x", (1, 1, 6), (256, 240, 1)),
        Dataset(thick.name, thickness, thick.shapes, ("MRI",), 3, 1.0),
    ]


def _channels() -> list[Dataset]:
    names = ("CT", "ct", "noNorm", "zscore", "Rescale_To_0_1", "RGB_to_0_1", "MRI", "none")
    return [
        cohort("every channel name, masked", (2, 1, 1), (60, 160, 160), names, 3, 40, relative_size=0.5),
        cohort("12 MR channels", (2, 1, 1), (80, 200, 200), tuple(f"MR{i}" for i in range(12)), 4),
        cohort("hyperspectral, 60 channels", (NATURAL, 1, 1), (1, 512, 512), tuple(f"band{i}" for i in range(60)), 4, 100, 0.0),
        cohort("PET and CT", (3, 2.04, 2.04), (326, 400, 400), ("CT", "PET"), 2, 500),
        cohort("118 classes CT", (1.5, 1.5, 1.5), (260, 250, 250), ("CT",), 118, 1200),
        cohort("cropped to exactly 75 %", (1, 1, 1), (120, 150, 130), ("T1",), 3, 40, relative_size=0.75),
        cohort("cropped to 74 %", (1, 1, 1), (120, 150, 130), ("T1", "CT"), 3, 40, relative_size=0.74),
    ]


def random_datasets(number: int) -> tuple[Dataset, ...]:
    """Drawn from a fixed seed: 3D, spacing 0.3 to 3 mm and up to 12 times as much along one axis, 4 to 600 voxels per axis."""
    rng = np.random.default_rng(2026)
    found = []
    for i in range(number):
        spacing, shape = rng.uniform(0.3, 3, 3), np.exp(rng.uniform(np.log(4), np.log(600), 3)).round()
        if rng.random() < 0.5:
            spacing[rng.integers(3)] *= rng.uniform(1, 12)
        channels = ("CT",) if rng.random() < 0.5 else ("MRI",) * int(rng.integers(1, 5))
        typical = (tuple(map(float, spacing)), tuple(map(float, shape)))
        classes, cases = int(rng.integers(2, 20)), int(rng.integers(1, 300))
        found.append(cohort(f"random {i}", *typical, channels, classes, cases, float(rng.uniform(0, 0.3)), float(rng.uniform(0.3, 1))))
    return tuple(found)
