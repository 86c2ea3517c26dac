"""Batches whose samples are pure functions of (seed, index of the batch, number): worker count, ranks and resuming change nothing."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch.utils.data import Dataset

from ldseg_auto.planners.plans import Configuration
from ldseg_auto.preprocessing.store import StoredCase, load_case
from ldseg_auto.training.augmentation import Draw, draw, source_size
from ldseg_auto.training.classes import Centres
from ldseg_auto.training.transforms import Batch, Raw, apply

KEPT = 256 * 2**20  # bytes of small cases that a process keeps decompressed
NOBODY = -1  # label of patches that the wanted rater did not draw


class Batches(Dataset):
    """Item i: `(image (b, c, *patch) float32, label (b, *patch) int64 indices)`.

    A case is drawn uniformly per sample, then one of its raters; the last `round(share x batch)` samples of a batch are centred
    on a voxel of a foreground class drawn uniformly among those that the case has, or as `centres` says; the others on any annotated
    voxel. `rater` takes one rater's labels instead; where that rater did not draw a case they are NOBODY's: -1 everywhere.
    """

    def __init__(
        self, folder: Path, identifiers: Sequence[str], configuration: Configuration, seed: int, length: int, augment: bool,
        rater: int | None = None, centres: Centres | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.identifiers, self.configuration = folder, list(identifiers), configuration
        self.seed, self.length, self.rater, self.centres = seed, length, rater, centres
        self.patch = configuration.patch_size
        self.augment, self.members = augment, range(configuration.batch_size)
        share = configuration.training.oversample_foreground
        self.forced = max(1, round(share * configuration.batch_size)) if share > 0 else 0
        self.cases: dict[str, StoredCase] = {}
        self.room = KEPT

    def __len__(self) -> int:
        return self.length

    def of_rank(self, rank: int, ranks: int) -> Batches:
        """The same batches, each with samples rank, rank + ranks, ... alone: those of all ranks make up the batch."""
        out = copy.copy(self)
        out.members = range(self.configuration.batch_size)[rank::ranks]
        return out

    def raws(self, index: int) -> list[Raw]:
        """Item `index` as read, before augmentation: one per sample."""
        first_forced = self.configuration.batch_size - self.forced
        return [self._sample(np.random.default_rng([self.seed, index, i]), i >= first_forced) for i in self.members]

    def __getitem__(self, index: int) -> Batch:
        with one_thread():  # several round sums otherwise
            made = [apply(raw) for raw in self.raws(index)]
        return torch.cat([image for image, _ in made]), torch.cat([label for _, label in made])

    def _sample(self, rng: np.random.Generator, forced: bool) -> Raw:
        """One sample, as read."""
        identifier = self.identifiers[rng.integers(len(self.identifiers))]
        case = self.cases.get(identifier) or self.cases.setdefault(identifier, self._load(identifier))
        rater = int(rng.integers(case.labels.shape[0]))  # drawn in any case: the same patches, whoever's labels
        row = rater if self.rater is None else case.properties.row_of(self.rater, case.labels.shape[0])
        centre = self._centre(rng, case, spatial(self.patch), forced)
        drawn = draw(rng, self.patch, case.image.shape[0], self.configuration.mirror_axes) if self.augment else Draw()
        image, label = self._read(case, centre, source_size(self.patch, drawn.affine), row)
        nothing = torch.zeros(0), torch.zeros(0, dtype=torch.int16)
        if drawn.affine is None:
            return Raw(torch.from_numpy(image)[None], torch.from_numpy(label)[None].long(), *nothing, [drawn])
        empty = torch.empty(1, len(image), *self.patch), torch.empty(1, *self.patch, dtype=torch.int64)
        return Raw(*empty, torch.from_numpy(image).flatten(), torch.from_numpy(label).flatten(), [drawn])

    def _load(self, identifier: str) -> StoredCase:
        """A case, in memory where there is room: decompressing a block for each patch takes most of the time that small cases take."""
        case = load_case(self.folder, identifier)
        size = sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in (case.image, case.labels))
        if size > self.room:
            return case
        self.room -= size
        return replace(case, image=case.image[:], labels=case.labels[:])

    def _read(self, case: StoredCase, centre: Sequence[int], size: Sequence[int], row: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Image `(c, *size)` float32 and label `(*size)` int16 around a voxel; `row` of the labels, None: nobody drew them."""
        box = spatial(size)
        start = [c - s // 2 for c, s in zip(centre, box, strict=True)]
        image = read_box(case.image, start, box).astype(np.float32, copy=False)
        label = np.full((1, *box), NOBODY, np.int16) if row is None else read_box(case.labels, start, box, slice(row, row + 1))
        return image.reshape(-1, *size), label.reshape(*size).astype(np.int16, copy=False)

    def _centre(self, rng: np.random.Generator, case: StoredCase, patch: Sequence[int], forced: bool) -> list[int]:
        """Centre voxel; not forced: uniform over the annotated voxels (or all), moved so that the patch lies within the image."""
        shape = case.image.shape[1:]
        index = self._class(rng, case, forced)
        if index is not None:
            voxels = case.properties.class_locations[index]
            wanted = list(voxels[rng.integers(len(voxels))])
        else:
            wanted = [int(rng.integers(s)) for s in shape]
        out = []
        for w, s, p in zip(wanted, shape, patch, strict=True):
            low, high = p // 2, s - (p - p // 2)
            out.append(int(min(max(w, low), high)) if high >= low else s // 2)
        return out

    def _class(self, rng: np.random.Generator, case: StoredCase, forced: bool) -> int | None:
        """The label index to centre a patch on (0: any annotated voxel); None: anywhere in the image."""
        known = case.properties.class_locations
        there = sorted(c for c, voxels in known.items() if c > 0 and len(voxels)) if forced else []
        index = self.centres.draw(rng, there) if self.centres is not None else there[rng.integers(len(there))] if there else None
        return 0 if index is None and 0 in known else index


def spatial(size: Sequence[int]) -> tuple[int, ...]:
    """(z, y, x) of a size in 2D or 3D."""
    return tuple(size) if len(size) == 3 else (1, *size)


def read_box(array: Any, start: Sequence[int], size: Sequence[int], channels: slice = slice(None)) -> np.ndarray:
    """`array[channels, start ... start + size]` of a `(c, z, y, x)` array, zero where the box leaves it; a copy."""
    first, last, _ = channels.indices(array.shape[0])
    return np.array(crop_and_pad_nd(array, [[first, last], *([a, a + s] for a, s in zip(start, size, strict=True))]))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in this process's main thread alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
