"""A CT-like dataset in nnU-Net format, the same on every machine: noise, a body and five organs, grids that differ between cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

DATASET = "Dataset701_SyntheticCT"
SHAPE = (200, 512, 512)
# mm (z, y, x): the median, 2.5 x 0.85 x 0.85, is no case's own, so that every volume is resampled; cases 2 and 3 are coarser than 3 : 1
SPACINGS = ((2.0, 0.78), (2.5, 0.84), (2.5, 0.82), (3.0, 0.80), (2.5, 0.86), (2.0, 0.90), (2.5, 0.88), (3.0, 1.02))
AIR, BODY, NOISE = -1000, 0, 12  # HU
# organ -> HU, centre and half axes as shares of the volume (z, y, x)
ORGANS = {
    "liver": (60, (0.45, 0.45, 0.34), (0.25, 0.17, 0.15)),
    "spleen": (50, (0.50, 0.55, 0.72), (0.14, 0.08, 0.07)),
    "left_kidney": (30, (0.35, 0.62, 0.64), (0.12, 0.06, 0.05)),
    "right_kidney": (30, (0.35, 0.62, 0.37), (0.12, 0.06, 0.05)),
    "aorta": (150, (0.50, 0.58, 0.50), (0.55, 0.02, 0.02)),
}


def make_dataset(raw: Path, cases: int = len(SPACINGS), shape: Sequence[int] = SHAPE) -> Path:
    """Writes `cases` volumes of `shape` (z, y, x) into raw/DATASET, unless that many are there; returns the folder.

    The spacings repeat where there are more cases.
    """
    folder = raw / DATASET
    content = {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, **{name: i for i, name in enumerate(ORGANS, start=1)}},
        "numTraining": cases, "file_ending": ".nii.gz",
    }  # fmt: skip
    done = folder / "dataset.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == content:
        return folder
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for case in range(cases):
        image, label = make_case(case, shape)
        along, within = SPACINGS[case % len(SPACINGS)]
        for array, path in ((image, f"imagesTr/ct_{case:03d}_0000.nii.gz"), (label, f"labelsTr/ct_{case:03d}.nii.gz")):
            written = sitk.GetImageFromArray(array)
            written.SetSpacing((within, within, along))
            sitk.WriteImage(written, str(folder / path), useCompression=True, compressionLevel=1)
    done.write_text(json.dumps(content), encoding="utf-8")
    return folder


def make_case(seed: int, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Image in HU, int16, and label, uint8, of `shape` (z, y, x)."""
    rng = np.random.default_rng(seed)
    image = np.full(tuple(shape), AIR, np.float32)
    label = np.zeros(tuple(shape), np.uint8)
    image[_ellipsoid(shape, (0.5, 0.5, 0.5), (9.0, 0.32, 0.42))] = BODY
    for index, (value, centre, half) in enumerate(ORGANS.values(), start=1):
        moved = np.array(centre) + rng.uniform(-0.02, 0.02, 3)
        inside = _ellipsoid(shape, moved, np.array(half) * rng.uniform(0.85, 1.15, 3))
        image[inside], label[inside] = value, index
    image += rng.standard_normal(image.shape, np.float32) * NOISE
    return np.rint(image).astype(np.int16), label


def _ellipsoid(shape: Sequence[int], centre: Sequence[float], half: Sequence[float]) -> np.ndarray:
    """Voxels of an ellipsoid, (z, y, x) bool; centre and half axes are shares of the volume."""
    axes = [(((np.arange(n) + 0.5) / n - c) / h) ** 2 for n, c, h in zip(shape, centre, half, strict=True)]
    z, y, x = (a.astype(np.float32) for a in axes)
    return z[:, None, None] + y[:, None] + x <= 1
