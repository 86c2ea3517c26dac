"""Reads images and label maps in canonical orientation, and writes label maps back on the images' own grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldseg_auto.data import natural, volume
from ldseg_auto.data.endings import LOSSY, TIFF, VOLUME, ending_of
from ldseg_auto.data.geometry import NATURAL_Z, Geometry, differences
from ldseg_auto.errors import DatasetError, InputError
from ldseg_auto.files import atomic_path, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Image:
    """Intensities `(c, z, y, x)` float32 in canonical orientation, with spacing (z, y, x) in mm."""

    array: np.ndarray
    spacing: tuple[float, float, float]
    geometry: Geometry


@dataclass(frozen=True)
class LabelMap:
    """Raw label values `(z, y, x)`, an integer dtype, in canonical orientation, with spacing (z, y, x) in mm."""

    array: np.ndarray
    spacing: tuple[float, float, float]
    geometry: Geometry


def read_image(paths: Sequence[Path]) -> Image:
    """Reads one image from one file per channel; a natural colour image brings three channels.

    Raises:
        DatasetError: a file is unreadable, truncated, empty, 4D, holds NaN or infinite intensities or an impossible geometry, or the files
            do not lie on the same grid.
    """
    files = [Path(p) for p in paths]
    parts = [_read(path) for path in files]
    geometry = parts[0][1]
    for path, (_, other) in zip(files[1:], parts[1:], strict=True):
        different = differences(geometry, other)
        if different:
            raise DatasetError(f"channels {files[0]} and {path} do not lie on the same grid: {'; '.join(different)}.")
    array = np.concatenate([geometry.to_canonical(_as_float(pixels, path)) for path, (pixels, _) in zip(files, parts, strict=True)])
    return Image(np.ascontiguousarray(array), geometry.canonical_spacing, geometry)


def read_label(path: Path) -> LabelMap:
    """Reads a label map; values stored as floating point are taken if they are whole numbers.

    Raises:
        DatasetError: as read_image, or a value is not a whole number.
    """
    path = Path(path)
    values, geometry = _read(path, label=True)
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.floor(values))
        if not whole.all():
            raise DatasetError(f"label {path} holds the value {values[~whole].flat[0]:g}; label values are whole numbers.")
        values = values.astype(np.int64)
    return LabelMap(np.ascontiguousarray(geometry.to_canonical(values[0])), geometry.canonical_spacing, geometry)


def write_label(path: Path, raw_values: np.ndarray, geometry: Geometry) -> None:
    """Writes a canonical label map `(z, y, x)` of whole numbers on the grid of `geometry`, in the format of the ending.

    It is written whole or not at all, and the same values give the same bytes. A TIFF with spacing gets its sidecar CASE.json.

    Raises:
        InputError: the format cannot hold a label map, or the array has not the geometry's shape.
        OSError: the file cannot be written.
    """
    path = Path(path)
    ending = ending_of(path).lower()
    if ending in LOSSY:
        raise InputError(f"{path}: JPEG is lossy and would change label values. Use .png.")
    if raw_values.shape != geometry.shape:
        raise InputError(f"{path}: label map of shape {raw_values.shape}, expected {geometry.shape} (z, y, x), the shape of the image.")
    values = geometry.from_canonical(np.asarray(raw_values))
    values = np.ascontiguousarray(values, np.uint8 if not values.size or values.max() <= 255 else np.uint16)
    if ending in VOLUME:
        volume.write(path, values, geometry)
        return
    with atomic_path(path) as temporary:
        natural.write_values(temporary, values)
    if ending in TIFF and geometry.has_spacing:
        write_json(path.with_name(path.name[: -len(ending)] + ".json"), {"spacing": list(geometry.spacing[::-1])})


def write_image(path: Path, array: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0), geometry: Geometry | None = None) -> None:
    """Writes a volume `(z, y, x)` of any dtype on an axis-parallel grid with `spacing` (z, y, x) in mm, or a canonical one on `geometry`.

    Raises:
        InputError: the ending is not a volume format's.
    """
    path = Path(path)
    if ending_of(path).lower() not in VOLUME:
        raise InputError(f"{path}: expected one of {' '.join(VOLUME)}.")
    if geometry is None:
        z, y, x = (float(s) for s in spacing)
        geometry = Geometry((array.shape[2], array.shape[1], array.shape[0]), (x, y, z))
    volume.write(path, np.ascontiguousarray(geometry.from_canonical(array)), geometry)


def _read(path: Path, label: bool = False) -> tuple[np.ndarray, Geometry]:
    """Pixels (c, z, y, x) on the file's own grid, and that grid."""
    ending = ending_of(path).lower()
    if ending in VOLUME:
        pixels, geometry = volume.read(path)
        return pixels[None], geometry
    pixels = natural.read_values(path)[None] if label else natural.read_pixels(path)
    return pixels, _natural_geometry(path, pixels.shape[1:], ending in TIFF, label)


def _natural_geometry(path: Path, shape: tuple[int, ...], tiff: bool, label: bool) -> Geometry:
    size = (shape[2], shape[1], shape[0])
    spacing = natural.sidecar_spacing(path) if tiff else None
    if spacing is not None:
        return Geometry(size, spacing[::-1])
    if shape[0] == 1:
        return Geometry(size, (1.0, 1.0, NATURAL_Z), dimension=2, has_spacing=False)
    if not label:
        stem = path.name[: -len(ending_of(path))]
        logger.warning("%s has no sidecar %s.json with its spacing; 1 mm is assumed for all axes.", path, stem)
    return Geometry(size, (1.0, 1.0, 1.0), has_spacing=False)


def _as_float(pixels: np.ndarray, path: Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = pixels.astype(np.float32)
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise DatasetError(f"image {path}: {bad} of {array.size} values are NaN or infinite. Replace them by finite ones.")
    return array
