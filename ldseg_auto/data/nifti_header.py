"""The NIfTI-1 header, as far as geometry goes: checked as it stands in the file, and copied from one file to another.

ITK repairs a bad voxel size in silence, fills truncated data and NaN with zeros, and writes an oblique direction back with other bits than
it read; so the file is looked at itself.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ldseg_auto.errors import DatasetError

HEADER = 348  # bytes of a NIfTI-1 header
DIM, DATATYPE, PIXDIM, VOX_OFFSET = 40, 70, 76, 108  # byte positions: dim[8], datatype and bitpix int16; pixdim[8], vox_offset float32
QFORM = 252  # qform_code, sform_code int16; quatern_b .. qoffset_z, srow_x .. srow_z float32 (18 of them)
_QUAT = "hh18f"
FLOATS = {16: "f4", 64: "f8"}  # datatype codes that can hold NaN
CHUNK = 1 << 22  # bytes, a multiple of every voxel's


def check_file(path: Path) -> bytes | None:
    """Checks voxel size, length and values of a NIfTI-1 file and returns its header; None for another kind (ITK will say what it is).

    Raises:
        DatasetError: the file is missing, truncated or damaged, holds NaN or infinity, or a voxel size is zero, negative or not finite.
    """
    try:
        with _unpacked(path) as stream:
            header = stream.read(HEADER)
            order = _byte_order(header)
            if order is None:
                return None
            count = _check_header(path, header, order)
            _check_data(path, stream, header, order, count)
            return header
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as cause:
        raise DatasetError(f"image {path} cannot be read: it is truncated or damaged ({cause}). Copy it again.") from cause


def _unpacked(path: Path) -> BinaryIO:
    with open(path, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else open(path, "rb")  # type: ignore[return-value]


def _check_header(path: Path, header: bytes, order: str) -> int:
    """Returns the number of voxels."""
    dim = struct.unpack_from(order + "8h", header, DIM)
    pixdim = struct.unpack_from(order + "8f", header, PIXDIM)
    rank = min(max(dim[0], 1), 7)
    if min(dim[1 : rank + 1]) < 1:
        raise DatasetError(f"image {path} is empty: its size is {tuple(dim[1 : rank + 1])} voxels (x, y, z).")
    if not all(math.isfinite(p) and p > 0 for p in pixdim[1 : min(rank, 3) + 1]):
        shown = ", ".join(f"{p:g}" for p in pixdim[1 : min(rank, 3) + 1])
        raise DatasetError(f"image {path}: spacing ({shown}) mm (x, y, z) must be positive and finite. Correct pixdim in its header.")
    return math.prod(dim[1 : rank + 1])


def _check_data(path: Path, stream: BinaryIO, header: bytes, order: str, count: int) -> None:
    """Reads all voxels, which also checks the sum at the end of a compressed file."""
    kind, bits = struct.unpack_from(order + "2h", header, DATATYPE)
    if header[344:347] == b"n+1":  # otherwise the voxels are in another file, and ITK will say what it makes of it
        offset = struct.unpack_from(order + "f", header, VOX_OFFSET)[0]
        stream.read(int(min(max(offset - HEADER, 0), CHUNK)) if math.isfinite(offset) else 0)
    wanted, length, bad = count * bits // 8, 0, 0
    while chunk := stream.read(CHUNK):
        used = chunk[: max(wanted - length, 0)]
        if kind in FLOATS:
            values = np.frombuffer(used[: len(used) // (bits // 8) * (bits // 8)], order + FLOATS[kind])
            bad += len(values) - int(np.isfinite(values).sum())
        length += len(chunk)
    if length < wanted:
        reason = f"{length} bytes of voxels, {wanted} expected"
        raise DatasetError(f"image {path} cannot be read: it is truncated or damaged ({reason}). Copy it again.")
    if bad:
        raise DatasetError(f"image {path}: {bad} of {count} values are NaN or infinite. Replace them by finite ones.")


def copy_geometry(source: bytes, target: bytearray) -> None:
    """Overwrites voxel size, qform and sform of the header at the start of `target` by those of `source`, whatever the byte orders.

    Nothing is done where `source` is no NIfTI-1 header (an image in another format).
    """
    order, written = _byte_order(source), _byte_order(target)
    if order is None or written is None:
        return
    struct.pack_into(written + "4f", target, PIXDIM, *struct.unpack_from(order + "4f", source, PIXDIM))
    struct.pack_into(written + _QUAT, target, QFORM, *struct.unpack_from(order + _QUAT, source, QFORM))


def compress(content: bytes) -> bytes:
    """Gzip without name or time, so that the same content gives the same bytes."""
    return gzip.compress(content, compresslevel=6, mtime=0)


def _byte_order(header: bytes | bytearray) -> str | None:
    if len(header) < HEADER:
        return None
    return next((order for order in "<>" if struct.unpack_from(order + "i", header, 0)[0] == HEADER), None)
