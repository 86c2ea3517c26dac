"""Preprocessed cases on disk: Blosc2 arrays with JSON properties.

A case is `CASE.b2nd` (image), `CASE_labels.b2nd`, `CASE_locations.b2nd` and, written last, `CASE.json`: only with the JSON it counts
as finished. References on their own grid are `gt_segmentations/CASE.b2nd` with `CASE.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from ldseg_auto.errors import InputError
from ldseg_auto.files import atomic_path, read_json, write_json
from ldseg_auto.planners.serialise import from_dict, to_dict

# On noisy intensities a tenth of the seconds of LZ4HC level 5 (nnU-Net's choice), 5 % smaller files, and as fast to read.
CPARAMS = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
DPARAMS = {"nthreads": 1}  # it is written into the file, which would otherwise depend on the machine
# From here on asarray copies chunk by chunk in Python, and looks each time at every file that the process wrote before (blosc2 4.14);
# assigning looks once, which for small arrays would be once too often.
LARGE = 2**24  # bytes
MAX_CHUNK = 2**18  # voxels of a chunk: what a patch reads at least


@dataclass(frozen=True)
class Properties:
    """What happened to a case, axes (z, y, x).

    `class_locations` holds sampled voxels (n, 3) of each foreground index on the preprocessed grid and, where all raters left voxels to be
    ignored, under 0 sampled ones of the others; it is stored beside the JSON.
    """

    spacing: tuple[float, ...]  # mm, canonical orientation
    shape: tuple[int, ...]  # voxels, canonical orientation
    box: tuple[tuple[int, ...], ...]  # of the crop, transposed: first voxel and one past the last
    cropped_shape: tuple[int, ...]  # transposed
    preprocessed_shape: tuple[int, ...]  # transposed and resampled
    separate_axis: int | None = None  # the coarse axis that was resampled by itself
    input_hash: str = ""
    settings_hash: str = ""
    class_locations: dict[int, np.ndarray] = field(default_factory=dict, compare=False)
    raters: tuple[int, ...] = ()  # numbers of those who drew the case, in the order of its labels; empty: all did

    def row_of(self, rater: int, rows: int) -> int | None:
        """Which of the case's `rows` label maps is this rater's; None where this rater did not draw the case."""
        known = self.raters or range(rows)
        return known.index(rater) if rater in known else None


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case: arrays are read from disk when they are indexed.

    Attributes:
        image: `(c, z, y, x)` float32.
        labels: `(raters, z, y, x)` indices.
    """

    image: Any
    labels: Any
    properties: Properties


def save_case(folder: Path, identifier: str, image: np.ndarray, labels: np.ndarray, properties: Properties) -> None:
    """Writes a case; its JSON, which marks it as finished, comes last.

    Args:
        image: `(c, z, y, x)` float32.
        labels: `(raters, z, y, x)` indices.

    Raises:
        OSError: the disk is full or not writable; a finished case of this name is then marked as unfinished, others are untouched.
    """
    done = folder / f"{identifier}.json"
    done.unlink(missing_ok=True)
    write_array(folder / f"{identifier}.b2nd", np.ascontiguousarray(image, np.float32))
    write_array(folder / f"{identifier}_labels.b2nd", _small(labels))
    rows = [np.column_stack([np.full(len(v), c), v]) for c, v in properties.class_locations.items() if len(v)]
    write_array(folder / f"{identifier}_locations.b2nd", np.concatenate(rows).astype(np.int32) if rows else np.full((1, 4), -1, np.int32))
    content = to_dict(properties)
    del content["class_locations"]
    write_json(done, content)


def load_properties(folder: Path, identifier: str) -> Properties:
    """The JSON part; `class_locations` is empty.

    Raises:
        PlansError: damaged.
    """
    content = read_json(folder / f"{identifier}.json")
    return from_dict(Properties, content, str(folder / f"{identifier}.json"))


def load_case(folder: Path, identifier: str) -> StoredCase:
    """Opens a case.

    Raises:
        InputError: it is missing, unfinished or damaged.
    """
    properties = load_properties(folder, identifier)
    rows = open_array(folder / f"{identifier}_locations.b2nd")[:]
    locations = {int(c): rows[rows[:, 0] == c, 1:] for c in np.unique(rows[:, 0]) if c >= 0}
    image, labels = open_array(folder / f"{identifier}.b2nd"), open_array(folder / f"{identifier}_labels.b2nd")
    known = {name: getattr(properties, name) for name in Properties.__dataclass_fields__}
    return StoredCase(image, labels, Properties(**{**known, "class_locations": locations}))


def save_reference(folder: Path, identifier: str, labels: np.ndarray, spacing: Sequence[float]) -> None:
    """Writes the labels `(raters, z, y, x)` of a case on their own canonical grid, with their spacing (mm)."""
    write_array(folder / f"{identifier}.b2nd", _small(labels))
    write_json(folder / f"{identifier}.json", {"spacing": [float(s) for s in spacing]})


def load_reference(folder: Path, identifier: str) -> tuple[np.ndarray, tuple[float, ...]]:
    """Labels `(raters, z, y, x)` int16 of a case on their own canonical grid, and their spacing (mm).

    Raises:
        InputError: missing or damaged.
    """
    path = folder / f"{identifier}.json"
    spacing = read_json(path).get("spacing")
    if not isinstance(spacing, list) or len(spacing) != 3 or not all(isinstance(s, float) and s > 0 for s in spacing):
        rule = "expected three numbers above 0 (mm)"
        raise InputError(f"{path}: spacing = {spacing!r}; {rule}. Delete it and run ldseg_plan_and_preprocess again.")
    return open_array(folder / f"{identifier}.b2nd")[:].astype(np.int16), tuple(spacing)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a Blosc2 array, atomically.

    Raises:
        OSError: the disk is full or not writable.
    """
    with atomic_path(path) as temporary:
        temporary.unlink()
        where = {"urlpath": str(temporary), "mode": "w", "chunks": _chunks(array.shape), "cparams": CPARAMS, "dparams": DPARAMS}
        try:
            if array.nbytes < LARGE:
                blosc2.asarray(array, **where)
            else:
                blosc2.empty(array.shape, array.dtype, **where)[...] = np.ascontiguousarray(array)
        except RuntimeError as cause:
            raise OSError(f"{path} could not be written ({cause}); is there space left on the device?") from cause


def open_array(path: Path) -> Any:
    """Opens a Blosc2 array for reading.

    Raises:
        InputError: missing or damaged.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; run ldseg_plan_and_preprocess again.")
    try:
        return blosc2.open(str(path), mode="r", dparams=DPARAMS)
    except (RuntimeError, ValueError, OSError) as cause:
        raise InputError(f"{path} cannot be read ({cause}); it is damaged. Delete it and run ldseg_plan_and_preprocess again.") from cause


def _small(labels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(labels, np.uint8 if labels.max(initial=0) <= 255 else np.int16)


def _chunks(shape: Sequence[int]) -> tuple[int, ...]:
    """Chunks of at most 2^18 voxels, cut from the longest axis first, so that a patch reads little beyond itself."""
    out = list(shape)
    while np.prod(out) > MAX_CHUNK:
        longest = int(np.argmax(out))
        out[longest] = -(-out[longest] // 2)
    return tuple(max(1, n) for n in out)
