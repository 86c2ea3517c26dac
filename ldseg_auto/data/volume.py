"""Volumes with a geometry (NIfTI, NRRD, MetaImage, GIPL) by SimpleITK; nothing is repaired in silence."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ldseg_auto.data import nifti_header, nrrd_header
from ldseg_auto.data.endings import ending_of
from ldseg_auto.data.geometry import NATURAL_Z, Geometry, check_direction, oriented
from ldseg_auto.errors import DatasetError
from ldseg_auto.files import atomic_path

NIFTI = (".nii", ".nii.gz")
META = (".mha", ".mhd")
GIPL_HEADER, GIPL_SIZE, GIPL_TYPE = 256, 0, 8  # bytes; size: 4 x uint16, type: uint16, big endian
GIPL_BYTES = {1: 1 / 8, 7: 1, 8: 1, 15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK writes its warnings to the terminal; what matters of them is checked here


def read(path: Path) -> tuple[np.ndarray, Geometry]:
    """Pixels `(z, y, x)` on the file's own grid, in the file's dtype, and that grid.

    Raises:
        DatasetError: missing, unreadable, truncated, empty, not 2D or 3D, several values per voxel, or an impossible geometry.
    """
    if not path.is_file():
        raise DatasetError(f"{path} does not exist.")
    header = _check_before(path)
    try:
        image = _read_alone(path)
    except RuntimeError as cause:
        raise _reading_error(path, str(cause)) from cause
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetPixelIDTypeAsString().startswith("complex"):
        kind = f"{image.GetNumberOfComponentsPerPixel()} values per voxel ({image.GetPixelIDTypeAsString()})"
        raise DatasetError(f"image {path} has {kind}; each channel must be its own file, CASE_0000, CASE_0001, ...")
    if image.GetDimension() not in (2, 3):
        raise DatasetError(
            f"image {path} is {image.GetDimension()}D, of size {image.GetSize()}; each time point or channel must be its own 3D file."
        )
    if 0 in image.GetSize():
        raise DatasetError(f"image {path} is empty: its size is {image.GetSize()} voxels (x, y, z).")
    array = sitk.GetArrayFromImage(image)
    return array.reshape((-1, *array.shape[-2:])), _geometry(image, path, header)


def from_image(image: sitk.Image, name: str) -> tuple[np.ndarray, Geometry]:
    """Pixels `(c, z, y, x)` of an image in memory on its own grid, in its dtype, one channel per component; and that grid.

    Raises:
        DatasetError: empty, not 2D or 3D, complex, or an impossible geometry; the message calls it `name`.
    """
    if image.GetDimension() not in (2, 3) or 0 in image.GetSize() or image.GetPixelIDTypeAsString().startswith("complex"):
        kind = f"{image.GetDimension()}D, of size {image.GetSize()} and type {image.GetPixelIDTypeAsString()}"
        raise DatasetError(f"image {name} is {kind}; expected 2D or 3D with real numbers.")
    array = sitk.GetArrayFromImage(image)
    several = image.GetNumberOfComponentsPerPixel() > 1
    array = np.moveaxis(array, -1, 0) if several else array[None]
    return array.reshape((len(array), -1, *array.shape[-2:])), _geometry(image, Path(name), None)


def write(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Writes `(z, y, x)` on the file's own grid, atomically, the same content as the same bytes.

    A NIfTI image's own header fields are copied to a NIfTI file, an NRRD image's to an NRRD file, so that its geometry stays what it was to
    the bit; from one format to another it is what ITK makes of it (NIfTI holds 32-bit numbers).

    Raises:
        OSError: the file cannot be written.
    """
    image = _as_image(array, geometry)
    ending = ending_of(path).lower()
    if ending in NIFTI:
        content = _nifti_bytes(image, geometry)
        with atomic_path(path) as temporary:
            temporary.write_bytes(nifti_header.compress(content) if ending == ".nii.gz" else content)
    elif ending == ".nrrd":
        content = _written(image, ".nrrd", compress=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(nrrd_header.copy_geometry(geometry.header, content))
    elif ending == ".mhd":
        _write_pair(path, image)
    else:
        with atomic_path(path) as temporary:
            _write(image, temporary, compress=ending != ".gipl")


def _read_alone(path: Path) -> sitk.Image:
    """Reads a file; the NIfTI library takes the voxels of CASE.nii for CASE.nii.gz when both are there, so then from a copy."""
    if ending_of(path).lower() != ".nii.gz" or not path.with_name(path.name[:-3]).exists():
        return sitk.ReadImage(str(path))
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copyfile(path, Path(folder) / "image.nii.gz")
        return sitk.ReadImage(str(copy))


def _check_before(path: Path) -> bytes | None:
    """What ITK would pass over; returns the header of a NIfTI or NRRD file."""
    ending = ending_of(path).lower()
    if ending in NIFTI:
        return nifti_header.check_file(path)
    if ending == ".nrrd":
        return nrrd_header.read_header(path)
    if ending in META:
        _check_meta(path)
    if ending == ".gipl":
        _check_gipl(path)
    return None


def _check_meta(path: Path) -> None:
    """ITK turns a negative ElementSpacing into a mirrored axis."""
    with open(path, "rb") as stream:
        header = stream.read(1 << 14).split(b"ElementDataFile")[0].decode("latin-1")
    found = re.search(r"^\s*ElementSpacing\s*=\s*(.*)$", header, re.MULTILINE)
    if found:
        _check_spacing(path, [_number(t) for t in found[1].split()])
    size = re.search(r"^\s*DimSize\s*=\s*(.*)$", header, re.MULTILINE)
    if size and any(_number(t) < 1 for t in size[1].split()):
        raise DatasetError(f"image {path} is empty: its size is ({', '.join(size[1].split())}) voxels (x, y, z).")


def _check_gipl(path: Path) -> None:
    """ITK fills the missing end of a truncated GIPL file with whatever is in memory."""
    with open(path, "rb") as stream:
        header = np.frombuffer(stream.read(GIPL_HEADER), ">u2")
    wanted = GIPL_HEADER
    if len(header) * 2 == GIPL_HEADER:
        wanted += int(math.prod(max(int(s), 1) for s in header[:4]) * GIPL_BYTES.get(int(header[GIPL_TYPE // 2]), 1))
    length = path.stat().st_size
    if length < wanted:
        raise DatasetError(f"image {path} cannot be read: it is truncated or damaged ({length} bytes, {wanted} expected). Copy it again.")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _check_spacing(path: Path, spacing: list[float]) -> None:
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        shown = ", ".join(f"{s:g}" for s in spacing)
        raise DatasetError(f"image {path}: spacing ({shown}) mm (x, y, z) must be positive and finite. Correct it in the file's header.")


def _reading_error(path: Path, message: str) -> DatasetError:
    """ITK's exception in the user's words."""
    if "spacing" in message.lower() or "existance of all space vector" in message:
        return DatasetError(f"image {path}: its spacing is zero, negative or not finite; it must be positive. Correct the file's header.")
    if "orthonormal" in message or "determinant" in message.lower():
        return DatasetError(f"image {path}: its direction is not orthonormal (it shears or scales). Resample it to a regular grid.")
    lines = message.splitlines() or [""]
    reason = next((line for line in lines if "ERROR" in line), lines[-1])
    return DatasetError(f"image {path} cannot be read: it is truncated or damaged ({reason.strip()}). Copy it again.")


def _geometry(image: sitk.Image, path: Path, header: bytes | None) -> Geometry:
    size, spacing, origin, direction = image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    _check_spacing(path, list(spacing))
    if not all(math.isfinite(o) for o in origin):
        raise DatasetError(f"image {path}: origin {origin} must be finite. Correct it in the file's header.")
    dimension = image.GetDimension()
    if dimension == 2:
        a, b, c, d = direction
        size, spacing, origin = (*size, 1), (*spacing, NATURAL_Z * max(spacing)), (*origin, 0.0)
        direction = (a, b, 0.0, c, d, 0.0, 0.0, 0.0, 1.0)
    check_direction(direction, path)
    return oriented(size, spacing, origin, direction, dimension, header)


def _as_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    flat = geometry.dimension == 2
    image = sitk.GetImageFromArray(array[0] if flat else array)
    image.SetSpacing(geometry.spacing[: geometry.dimension])
    image.SetOrigin(geometry.origin[: geometry.dimension])
    direction = geometry.direction
    image.SetDirection((*direction[0:2], *direction[3:5]) if flat else direction)
    return image


def _write(image: sitk.Image, path: Path, compress: bool) -> None:
    try:
        sitk.WriteImage(image, str(path), useCompression=compress)
    except RuntimeError as cause:  # ITK does not tell a full disk from another failure
        raise OSError(f"{path} could not be written ({str(cause).strip().splitlines()[-1]}); is there space left on the device?") from cause


def _nifti_bytes(image: sitk.Image, geometry: Geometry) -> bytes:
    content = bytearray(_written(image, ".nii", compress=False))
    if geometry.header is not None:
        nifti_header.copy_geometry(geometry.header, content)
    return bytes(content)


def _written(image: sitk.Image, ending: str, compress: bool) -> bytes:
    """The bytes of the file that ITK writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image{ending}"
        _write(image, path, compress)
        return path.read_bytes()


def _write_pair(path: Path, image: sitk.Image) -> None:
    """An .mhd with its .zraw: the data first, so that a header never stands without data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp_") as folder:
        header = Path(folder) / path.name
        _write(image, header, compress=True)
        for file in sorted(Path(folder).iterdir(), key=lambda f: f == header):
            os.replace(file, path.parent / file.name)
