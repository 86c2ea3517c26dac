"""Writes a synthetic CT dataset of 24 cases, seven of them with a planted oddity, for the report (documentation/report.md).

    python benchmarks/planted_ct.py FOLDER                                    writes FOLDER/raw/Dataset950_PlantedCT; half a minute, 17 MB
    ldseg_plan_and_preprocess -d 950 --raw FOLDER/raw --preprocessed FOLDER/preprocessed

Expected: the seven cases of ODDITIES stand out, each for what was planted, and no other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from ldseg_auto.files import write_json

NAME = "Dataset950_PlantedCT"
CASES = 24
LABELS = {"background": 0, "liver": 1, "tumour": 2, "spleen": 3}
ODDITIES = {
    3: "spacing", 5: "tiny tumour", 9: "liver at the border", 11: "mirrored", 14: "intensities x 1000", 17: "intensities + 1024",
    20: "orientation",
}  # fmt: skip


def main() -> None:
    """Writes the dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write_dataset(parser.parse_args().folder / "raw" / NAME)


def write_dataset(folder: Path) -> None:
    """Images, labels and dataset.json."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(CASES):
        odd = ODDITIES.get(number, "")
        image, label, spacing = make_case(np.random.default_rng(number), odd)
        for part, name, array in (("imagesTr", f"ct_{number:03d}_0000", image), ("labelsTr", f"ct_{number:03d}", label)):
            _write(folder / part / f"{name}.nii.gz", array, spacing, odd)
    write_json(folder / "dataset.json", {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": CASES, "file_ending": ".nii.gz"})


def make_case(rng: np.random.Generator, odd: str) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Image in HU and label, both `(z, y, x)`, and the spacing in mm."""
    plane = 0.9 + 0.03 * rng.standard_normal()
    spacing = (3.0 + 0.2 * rng.standard_normal(), plane, plane)
    shape = (36 + int(rng.integers(-3, 4)), 120, 128)
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij", sparse=True)

    def ball(centre: np.ndarray, radii: tuple[float, ...]) -> np.ndarray:
        return ((z - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((x - centre[2]) / radii[2]) ** 2 < 1

    centre = np.array([45.0 if odd == "liver at the border" else 0.0, -5.0, -20.0]) + rng.normal(0, 2, 3)
    label = np.zeros(shape, np.uint8)
    label[ball(centre, tuple(np.array([32, 17, 20]) * rng.uniform(0.85, 1.15)))] = LABELS["liver"]
    tumour = ball(centre + np.array([0, 3, 4]), (rng.uniform(5, 9),) * 3)
    if odd == "tiny tumour":
        tumour[:] = False
        tumour[shape[0] // 2, shape[1] // 2, shape[2] // 2 - 18 : shape[2] // 2 - 16] = True
    label[tumour & (label > 0)] = LABELS["tumour"]
    label[ball(np.array([5, 0, 26]), (20.0, 12.0, 9.0))] = LABELS["spleen"]
    image = np.select([ball(np.array([0, 0, 0]), (1e4, 40, 48)), ball(np.array([0, 0, 0]), (1e4, 44, 52))], [40.0, -60.0], -1000.0)
    image[ball(np.array([0, 30, 0]), (1e4, 9, 10))] = 500
    image = np.select([label == v for v in (1, 2, 3)], [110.0, 60.0, 130.0], image)
    image = np.clip(gaussian_filter(image, (0.5, 0.7, 0.7)) + rng.normal(0, 14, shape), -1024, 3000).round()
    image = image * (1000 if "1000" in odd else 1) + (1024 if "1024" in odd else 0)
    return image.astype(np.int32), label, (8.0, plane, plane) if odd == "spacing" else spacing


def _write(path: Path, array: np.ndarray, spacing: tuple[float, float, float], odd: str) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in reversed(spacing)])
    if odd == "mirrored":
        image.SetDirection([-1, 0, 0, 0, 1, 0, 0, 0, 1])
    if odd == "orientation":
        image = sitk.DICOMOrient(image, "RAS")
    sitk.WriteImage(image, str(path), True)


if __name__ == "__main__":
    main()
