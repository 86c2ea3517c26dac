"""What a caller may hand over as an image, and the way from there to the networks' grids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from ldseg_auto.data.endings import ending_of
from ldseg_auto.data.geometry import NATURAL_Z, Geometry
from ldseg_auto.errors import InputError
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.preprocessing.case import preprocess
from ldseg_auto.preprocessing.store import Properties
from ldseg_auto.scratch import Room, Scratch

if TYPE_CHECKING:
    import SimpleITK

Source = Union[np.ndarray, "SimpleITK.Image", str, Path, Sequence[str | Path]]  # | needs the class itself, so SimpleITK's import
CHANNEL = re.compile(r"_\d{4}$")


@dataclass(frozen=True, eq=False)
class Input:
    """One case to predict."""

    case: str  # names the noise: the same name, seed and image give the same mask
    image: Source
    """a path or one per channel; a SimpleITK image (several channels as a vector image); or a float array `(z, y, x)`, `(c, z, y, x)`, or
    `(y, x)` for one 2D channel, whose axes run towards Superior, Posterior and Left."""
    spacing: tuple[float, ...] | None = None  # mm, as many numbers as the array has spatial axes; for arrays only


@dataclass(frozen=True, eq=False)
class Loaded:
    """An image in canonical orientation."""

    array: np.ndarray  # (c, z, y, x) float32
    spacing: tuple[float, ...]  # mm (z, y, x)
    geometry: Geometry | None


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on each configuration's grid: `(c, z, y, x)` float32, in memory or in a file, and what was done."""

    case: str
    spacing: tuple[float, ...]
    geometry: Geometry | None
    grids: tuple[tuple[Scratch, Properties], ...]
    seconds: float


def load(given: Input, channels: int) -> Loaded:
    """Reads or takes over an image.

    Raises:
        InputError: another number of channels than `channels`, values that are not finite, no or impossible spacing.
        DatasetError: a file is unreadable, see image_io.read_image.
    """
    if isinstance(given.image, np.ndarray):
        loaded = _from_array(given)
    elif isinstance(given.image, (str, Path)):
        loaded = _from_files([given.image])
    elif isinstance(given.image, Sequence):
        loaded = _from_files(given.image)
    else:
        loaded = _from_sitk(given)
    if len(loaded.array) != channels:
        raise InputError(f"case {given.case}: the image has {len(loaded.array)} channels, the model was trained with {channels}.")
    return loaded


def prepare(loaded: Loaded, plans: Sequence[tuple[Plans, Configuration]], room: Room) -> tuple[tuple[Scratch, Properties], ...]:
    """The image on the grid of each of `plans`."""
    return tuple(preprocess(loaded.array, loaded.spacing, p, c, room) for p, c in plans)


def _from_files(paths: Sequence[str | Path]) -> Loaded:
    from ldseg_auto.data.image_io import read_image

    image = read_image([Path(p) for p in paths])
    return Loaded(image.array, image.spacing, image.geometry)


def _from_array(given: Input) -> Loaded:
    array, case = np.asarray(given.image), given.case
    if array.ndim not in (2, 3, 4) or not array.size or array.dtype.kind not in "biuf":
        raise InputError(
            f"case {case}: an array of {array.dtype} and shape {array.shape}; expected numbers (z, y, x), (c, z, y, x), or (y, x) in 2D."
        )
    spacing, spatial = tuple(float(s) for s in given.spacing or ()), min(array.ndim, 3)
    if len(spacing) != spatial or not np.isfinite(spacing).all() or min(spacing) <= 0:
        raise InputError(f"case {case}: spacing = {given.spacing}; an array of shape {array.shape} needs {spatial} numbers above 0, in mm.")
    array = _finite(array, case)
    if spatial == 2:
        return Loaded(array[None, None], (NATURAL_Z * max(spacing), *spacing), None)
    return Loaded(array if array.ndim == 4 else array[None], spacing, None)


def _from_sitk(given: Input) -> Loaded:
    import SimpleITK

    from ldseg_auto.data.volume import from_image

    if not isinstance(given.image, SimpleITK.Image):
        raise InputError(f"case {given.case}: {type(given.image).__name__} is no image; expected an array, a SimpleITK image, or paths.")
    array, geometry = from_image(given.image, given.case)
    return Loaded(_finite(np.ascontiguousarray(geometry.to_canonical(array)), given.case), geometry.canonical_spacing, geometry)


def _finite(array: np.ndarray, case: str) -> np.ndarray:
    """As float32, which is the array itself where it has that type."""
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise InputError(f"case {case}: {bad} of {array.size} values are NaN or infinite. Replace them by finite ones.")
    return array


def case_of(image: Source) -> str:
    """The file's name without ending and channel number; "image" for what is no file."""
    first = image[0] if isinstance(image, Sequence) and not isinstance(image, str) and image else image
    if not isinstance(first, (str, Path)):
        return "image"
    name = Path(first).name
    return CHANNEL.sub("", name[: -len(ending_of(Path(first)))])
