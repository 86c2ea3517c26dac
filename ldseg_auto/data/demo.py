"""A small synthetic dataset in raw format, on which the whole chain runs in minutes: MR-like volumes of two organs and a lesion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from ldseg_auto.errors import InputError
from ldseg_auto.files import atomic_path, read_json, write_json
from ldseg_auto.progress import Progress, silent

LABELS = {"background": 0, "organ_a": 1, "organ_b": 2, "lesion": 3}
INTENSITIES = {"air": 0.0, "body": 100.0, "organ_a": 200.0, "organ_b": 40.0, "lesion": 380.0}
NOISE = 10.0  # standard deviation, in the units of INTENSITIES
BIAS = 0.08  # standard deviation of the bias field's logarithm
REFERENCE = "ldseg_make_demo"  # how a folder is known for a demo, which may be replaced
ORIENTATIONS = ("LPS", "RAS", "LPS", "PIR")  # of the files, in turn; the third is oblique
OBLIQUE_DEGREES = 7.0
DENT_SHARE, DENT_MM = 0.08, 1.2  # of an outline, one standard deviation: of its radius, and at most
FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


def write_demo(
    folder: Path, cases: int = 20, held_out: int = 4, seed: int = 0, overwrite: bool = False, progress: Progress = silent
) -> Path:
    """Writes imagesTr, labelsTr (`cases`), imagesTs, labelsTs (`held_out`) and dataset.json; equal seeds give equal files.

    Args:
        folder: DatasetXXX_Name; made where it does not exist.
        cases: training cases, at least 5, one per fold.
        held_out: test cases.
        overwrite: replace an earlier demo in `folder`.

    Returns:
        `folder`.

    Raises:
        InputError: fewer than 5 cases, or `folder` holds something (without `overwrite`, or something other than a demo).
    """
    if cases < 5 or held_out < 0:
        raise InputError(f"demo of {cases} training and {held_out} test cases: expected 5 or more, and 0 or more.")
    _make_room(folder, overwrite)
    numbers = [("Tr", i) for i in range(cases)] + [("Ts", i) for i in range(held_out)]
    for part, i in progress(numbers, "writing", total=len(numbers)):
        rng = np.random.default_rng([seed, part == "Ts", i])
        image, label, spacing = make_case(rng, lesion=i % 3 != 2)
        name = f"demo_{'test_' if part == 'Ts' else ''}{i:03d}"
        angle = OBLIQUE_DEGREES if i % len(ORIENTATIONS) == 2 else 0.0
        orientation = ORIENTATIONS[i % len(ORIENTATIONS)]
        _write(folder / f"images{part}" / f"{name}_0000.nii.gz", image, spacing, orientation, angle)
        _write(folder / f"labels{part}" / f"{name}.nii.gz", label, spacing, orientation, angle)
    write_json(folder / "dataset.json", {
        "channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": cases, "file_ending": ".nii.gz", "reference": REFERENCE,
        "description": f"synthetic, seed {seed}: two organs, and a lesion in two of three cases; labelsTs: masks of the test cases",
    })  # fmt: skip
    return folder


def make_case(rng: np.random.Generator, lesion: bool) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """One case in canonical orientation (z, y, x towards superior, posterior, left).

    Returns:
        Image int16 `(z, y, x)`, label uint8 `(z, y, x)`, spacing in mm `(z, y, x)`.
    """
    shape = tuple(int(rng.integers(low, high + 1)) for low, high in ((14, 18), (64, 72), (60, 68)))
    spacing = tuple(round(float(rng.uniform(low, high)), 2) for low, high in ((2.8, 3.2), (0.95, 1.05), (0.95, 1.05)))
    label = np.zeros(shape, np.uint8)
    body = _blob(rng, shape, spacing, np.zeros(3), np.array([40, 31, 29]))
    radii = np.array([15, 18, 13]) * rng.uniform(0.85, 1.15)
    centre = np.array([0, 2, -11]) + rng.uniform(-2, 2, 3)
    label[_blob(rng, shape, spacing, centre, radii)] = LABELS["organ_a"]
    organ = label == LABELS["organ_a"]
    other = np.array([0, -4, 16]) + rng.uniform(-2, 2, 3)
    label[_blob(rng, shape, spacing, other, np.array([13, 11, 8]) * rng.uniform(0.85, 1.15))] = LABELS["organ_b"]
    if lesion:
        direction = rng.normal(size=3)
        where = centre + 0.35 * radii * direction / np.linalg.norm(direction)
        label[_blob(rng, shape, spacing, where, np.full(3, rng.uniform(5.5, 8))) & organ] = LABELS["lesion"]
    return _scan(rng, body, label, spacing), label, spacing  # type: ignore[return-value]


def _blob(rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """A smoothly dented ellipsoid, binary `(z, y, x)`; `centre` (from the volume's) and `radii` in mm."""
    distance = np.zeros(shape)
    for axis in range(3):
        line = (np.arange(shape[axis]) - (shape[axis] - 1) / 2) * spacing[axis]
        distance += (((line - centre[axis]) / radii[axis]) ** 2).reshape([-1 if i == axis else 1 for i in range(3)])
    dent = min(DENT_SHARE, DENT_MM / max(radii))
    return np.sqrt(distance) + dent * _smooth(rng, shape, spacing, 6.0) < 1


def _smooth(rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], scale: float) -> np.ndarray:
    """A smooth random field `(z, y, x)` of mean 0 and deviation 1; `scale` in mm."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), [scale / s for s in spacing], mode="nearest")
    return (field - field.mean()) / field.std()


def _scan(rng: np.random.Generator, body: np.ndarray, label: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The magnitude image int16: tissue intensities, partial volume, a smooth bias field, Rician noise, and a scale of its own."""
    image = np.where(body, INTENSITIES["body"], INTENSITIES["air"])
    for name, value in LABELS.items():
        if value:
            image[label == value] = INTENSITIES[name]
    image = ndimage.gaussian_filter(image, [0.5 / s for s in spacing])
    image = image * np.exp(BIAS * _smooth(rng, label.shape, spacing, 25.0))
    real, imaginary = rng.normal(scale=NOISE, size=(2, *label.shape))
    return np.round(np.hypot(image + real, imaginary) * rng.uniform(0.5, 4)).astype(np.int16)


def _make_room(folder: Path, overwrite: bool) -> None:
    """Clears an earlier demo; refuses to touch anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{folder} is there already; nothing was changed. Use --overwrite to replace it, or another -d ID.")
    if not (folder / "dataset.json").is_file() or read_json(folder / "dataset.json").get("reference") != REFERENCE:
        raise InputError(f"{folder} is not a demo written by {REFERENCE}; nothing was changed. Use another -d ID.")
    (folder / "dataset.json").unlink()
    for old in (f for name in FOLDERS for f in (folder / name).glob("demo_*.nii.gz")):
        old.unlink()


def _write(path: Path, array: np.ndarray, spacing: Sequence[float], orientation: str, degrees: float) -> None:
    """Writes `(z, y, x)` as a file of the given orientation, rotated by `degrees` about the z axis in space."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in reversed(spacing)])
    cosine, sine = float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))
    image.SetDirection([cosine, -sine, 0, sine, cosine, 0, 0, 0, 1])
    image.SetOrigin([-s * n / 2 for s, n in zip(reversed(spacing), reversed(array.shape), strict=True)])
    with atomic_path(path) as temporary:
        sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(temporary), useCompression=True)
