"""File endings: which formats are read, and in which format a label map is written."""

from __future__ import annotations

from pathlib import Path

from ldseg_auto.errors import InputError

VOLUME = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl")  # with a geometry of their own
TIFF = (".tif", ".tiff")  # natural, or a volume (several pages, or a spacing sidecar)
LOSSY = (".jpg", ".jpeg")
NATURAL = (".png", ".bmp", *LOSSY, *TIFF)  # 2D, grey or RGB, without a geometry
READABLE = VOLUME + NATURAL


def ending_of(path: Path) -> str:
    """The readable ending of a file name, as it is written there; case does not matter.

    Raises:
        InputError: it is none that can be read.
    """
    name = Path(path).name
    for ending in READABLE:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[len(name) - len(ending) :]
    raise InputError(f"{path} has no ending that can be read; readable: {' '.join(READABLE)}.")


def label_ending(file_ending: str) -> str:
    """The ending of a dataset's label files, given and predicted: the images' own, but .png where that is .jpg (lossy)."""
    return ".png" if file_ending.lower() in LOSSY else file_ending


def same_kind(first: str, second: str) -> bool:
    """Whether a model trained on files of one ending can take the other: both with a geometry, or both without."""
    first, second = first.lower(), second.lower()
    return (first in VOLUME and second in VOLUME) or (first in NATURAL and second in NATURAL)
