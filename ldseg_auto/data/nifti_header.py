"""The NIfTI-1 header, as far as geometry goes: checked as it stands in the file, and copied from one file to another.

ITK repairs a bad voxel size in silence, fills truncated data with zeros, and writes an oblique direction back with other bits than it
read; so these three look at the header itself.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

from ldseg_auto.errors import DatasetError

HEADER = 348  # bytes of a NIfTI-1 header
DIM, PIXDIM, VOX_OFFSET, BITPIX = 40, 76, 108, 72  # byte positions: dim[8] int16, pixdim[8] float32, vox_offset float32, bitpix int16
QFORM, END_OF_SROW = 252, 328  # qform_code, sform_code int16; quatern_b .. qoffset_z, srow_x .. srow_z float32 (18 of them)
_QUAT = "hh18f"


def check_file(path: Path) -> bytes | None:
    """Checks voxel size and length of a NIfTI-1 file and returns its header; None for another kind of file (ITK will say what it is).

    Raises:
        DatasetError: the file is truncated, or a voxel size is zero, negative or not finite.
    """
    header, length = _header_and_length(path)
    order = _byte_order(header)
    if order is None:
        return None
    dim = struct.unpack_from(order + "8h", header, DIM)
    pixdim = struct.unpack_from(order + "8f", header, PIXDIM)
    rank = min(max(dim[0], 1), 7)
    if min(dim[1 : rank + 1]) < 1:
        raise DatasetError(f"image {path} is empty: its size is {tuple(dim[1 : rank + 1])} voxels (x, y, z).")
    if not all(math.isfinite(p) and p > 0 for p in pixdim[1 : min(rank, 3) + 1]):
        shown = ", ".join(f"{p:g}" for p in pixdim[1 : min(rank, 3) + 1])
        raise DatasetError(f"image {path}: spacing ({shown}) mm (x, y, z) must be positive and finite. Correct pixdim in its header.")
    bits = struct.unpack_from(order + "h", header, BITPIX)[0]
    offset = struct.unpack_from(order + "f", header, VOX_OFFSET)[0] if header[344:347] == b"n+1" else 0.0
    wanted = int(offset) + math.prod(dim[1 : rank + 1]) * bits // 8
    if length < wanted:
        reason = f"{length} bytes unpacked, {wanted} expected"
        raise DatasetError(f"image {path} cannot be read: it is truncated or damaged ({reason}). Copy it again.")
    return header


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


def _header_and_length(path: Path) -> tuple[bytes, int]:
    """The first 348 bytes and the length of a file, both after unpacking."""
    try:
        with open(path, "rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        if not packed:
            with open(path, "rb") as stream:
                return stream.read(HEADER), path.stat().st_size
        with gzip.open(path, "rb") as unpacked:
            header, length = unpacked.read(HEADER), 0
            while chunk := unpacked.read(1 << 20):
                length += len(chunk)
            return header, length + len(header)
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as cause:
        raise DatasetError(f"image {path} cannot be read: it is truncated or damaged ({cause}). Copy it again.") from cause
