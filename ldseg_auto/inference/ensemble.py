"""The mean of saved probabilities (.npz, ours or nnU-Net's), head by head: no file is ever held whole."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from ldseg_auto.data.description import Description
from ldseg_auto.data.endings import label_ending
from ldseg_auto.data.image_io import read_label, write_label
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import InputError
from ldseg_auto.files import atomic_path
from ldseg_auto.inference.outputs import EPOCH, LEVEL

ENTRY = "probabilities.npy"
NOT_OURS = "expected an .npz as ldseg_predict --save-probabilities npz or nnUNetv2_predict --save_probabilities write it"


def shared_cases(folders: Sequence[Path]) -> list[str]:
    """The cases that have probabilities in the folders, sorted.

    Raises:
        InputError: fewer than two folders, no case, or a case that a folder lacks.
    """
    if len(folders) < 2:
        raise InputError(f"{len(folders)} folder was named; an ensemble is the mean of two or more.")
    found = {folder: {p.name[: -len(".npz")] for p in folder.glob("*.npz")} for folder in folders}
    everywhere = sorted(set.union(*found.values()))
    if not everywhere:
        raise InputError(f"there are no probabilities (CASE.npz) in {', '.join(map(str, folders))}; {NOT_OURS}.")
    for folder, cases in found.items():
        missing = [c for c in everywhere if c not in cases]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise InputError(f"{folder} has no probabilities of {len(missing)} cases that another folder has: {shown}.")
    return everywhere


def ensemble_case(case: str, folders: Sequence[Path], output: Path, description: Description, keep: bool) -> Path:
    """Writes the label map of a case's mean probabilities, on the grid of the label map in the first folder.

    Args:
        folders: each with CASE.npz, the first with its label map.
        keep: write the mean probabilities too, as CASE.npz.

    Raises:
        InputError: a file is missing, damaged, or of another shape.
    """
    ending, labels = label_ending(description.file_ending), description.labels
    there = folders[0] / f"{case}{ending}"
    if not there.exists():
        raise InputError(f"{there} does not exist: the label map that was written beside the probabilities gives the grid.")
    geometry = read_label(there).geometry
    grid = tuple(geometry.size[::-1])
    with ExitStack() as stack:
        heads = [stack.enter_context(open_heads(folder / f"{case}.npz", (labels.num_heads, *grid))) for folder in folders]
        target = stack.enter_context(_writing(output / f"{case}.npz", (labels.num_heads, *grid))) if keep else None
        indices = labels.assign(_means(heads, labels, target))
    path = output / f"{case}{ending}"
    write_label(path, labels.decode(geometry.to_canonical(indices)), geometry)
    return path


@contextmanager
def open_heads(path: Path, shape: tuple[int, ...]) -> Iterator[Iterator[np.ndarray]]:
    """The heads of an .npz one after the other, `shape[1:]` float32 each.

    Raises:
        InputError: no such array, or another shape than `shape` (heads, z, y, x).
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(ENTRY) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            found, fortran, dtype = read(stream)
            if tuple(found) != tuple(shape) or fortran or dtype.kind != "f":
                raise InputError(f"{path} holds {dtype} of shape {found}; the dataset and the label map ask for {shape} (heads, z, y, x).")
            yield _heads(path, stream, dtype, shape)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as cause:
        if isinstance(cause, InputError):
            raise
        raise InputError(f"{path} cannot be read ({cause}); {NOT_OURS}.") from cause


def _heads(path: Path, stream: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    size = dtype.itemsize * prod(shape[1:])
    for _ in range(shape[0]):
        content = stream.read(size)
        if len(content) < size:
            raise InputError(f"{path} is truncated; {NOT_OURS}.")
        yield np.frombuffer(content, dtype).reshape(shape[1:]).astype(np.float32)


def _means(folders: Sequence[Iterator[np.ndarray]], labels: LabelSpec, target: IO[bytes] | None) -> Iterator[np.ndarray]:
    """Scores of one head after the other as LabelSpec.assign takes them; the probabilities go to `target`."""
    for heads in zip(*folders, strict=True):
        mean = sum(heads[1:], heads[0]) / np.float32(len(heads))
        if target is not None:
            target.write(mean.astype(np.float16).tobytes())
        yield mean - np.float32(0.5) if labels.has_regions else mean


@contextmanager
def _writing(path: Path, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """An .npz to which float16 heads are written one by one."""
    entry = zipfile.ZipInfo(ENTRY, EPOCH)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
        entry.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(entry, "w", force_zip64=True) as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "<f2", "fortran_order": False, "shape": tuple(shape)})
            yield stream
