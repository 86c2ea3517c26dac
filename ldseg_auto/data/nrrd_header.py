"""The NRRD header, as far as geometry goes: ITK makes spacing and direction of it, and writes other digits back than it read."""

from __future__ import annotations

from pathlib import Path

GEOMETRY = (b"space:", b"space dimension:", b"space directions:", b"space origin:")
LONGEST = 1 << 20  # bytes searched for the header's end


def read_header(path: Path) -> bytes | None:
    """The text of an NRRD file's header with the closing empty line; None for another kind of file (ITK will say what it is)."""
    with open(path, "rb") as stream:
        start = stream.read(LONGEST)
    return _header(start.replace(b"\r\n", b"\n"))


def copy_geometry(source: bytes | None, content: bytes) -> bytes:
    """The NRRD file `content` with the geometry lines of the header `source`, where that is an NRRD header with directions."""
    header = _header(content)
    lines = [line for line in (_header(source or b"") or b"").splitlines() if line.lower().startswith(GEOMETRY)]
    if header is None or not any(line.lower().startswith(b"space directions:") for line in lines):
        return content
    kept = [line for line in header.splitlines() if line and not line.lower().startswith(GEOMETRY)]
    # the space comes first in both: its dimension must be known before vectors are read, and `sizes` before directions
    return b"\n".join([*kept, *lines, b"", b""]) + content[len(header) :]


def _header(content: bytes) -> bytes | None:
    end = content.find(b"\n\n")
    return content[: end + 2] if content.startswith(b"NRRD") and end >= 0 else None
