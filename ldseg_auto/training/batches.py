"""Batches as a pure function of (seed, index): whatever the worker count, batch i is the same, and resuming needs no state."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch.utils.data import DataLoader, Dataset

from ldseg_auto.errors import InputError, LdsegError
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.preprocessing.store import StoredCase, load_case
from ldseg_auto.training import augmentation

Batch = tuple[torch.Tensor, torch.Tensor]


class Batches(Dataset):
    """Item i: `(image (b, c, *patch) float32, label (b, *patch) int64 indices)`.

    A case is drawn uniformly per sample, then one of its raters; the last `round(share x batch)` samples of a batch are centred
    on a voxel of a foreground class drawn uniformly among those that the case has. `rater` takes one rater's labels instead.
    """

    def __init__(
        self, folder: Path, identifiers: Sequence[str], configuration: Configuration, seed: int, length: int, augment: bool,
        rater: int | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.identifiers, self.configuration = folder, list(identifiers), configuration
        self.seed, self.length, self.rater = seed, length, rater
        self.patch = configuration.patch_size
        self.source = augmentation.source_size(self.patch) if augment else self.patch
        self.transform = augmentation.build(self.patch, configuration.mirror_axes) if augment else None
        share = configuration.training.oversample_foreground
        self.forced = max(1, round(share * configuration.batch_size)) if share > 0 else 0
        self.cases: dict[str, StoredCase] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([self.seed, index])
        size = self.configuration.batch_size
        samples = [self._sample(rng, i >= size - self.forced) for i in range(size)]
        image, label = np.stack([s[0] for s in samples]), np.stack([s[1] for s in samples])
        if self.transform:
            image, label = augmentation.seeded(self.transform, int(rng.integers(2**31)), image, label)
        return torch.from_numpy(image), torch.from_numpy(np.rint(label[:, 0]).astype(np.int64))

    def _sample(self, rng: np.random.Generator, forced: bool) -> tuple[np.ndarray, np.ndarray]:
        """Image `(c, *source)` and label `(1, *source)`, float32."""
        identifier = self.identifiers[rng.integers(len(self.identifiers))]
        case = self.cases.get(identifier) or self.cases.setdefault(identifier, load_case(self.folder, identifier))
        rater = int(rng.integers(case.labels.shape[0]))  # drawn in any case: the same patches, whoever's labels
        rater = rater if self.rater is None else self.rater % case.labels.shape[0]
        size = self.source if len(self.source) == 3 else (1, *self.source)
        patch = self.patch if len(self.patch) == 3 else (1, *self.patch)
        centre = self._centre(rng, case, patch, forced)
        start = [c - s // 2 for c, s in zip(centre, size, strict=True)]
        image = read_box(case.image, start, size)
        label = read_box(case.labels, start, size, slice(rater, rater + 1))
        if len(self.source) == 2:
            image, label = image[:, 0], label[:, 0]
        return image.astype(np.float32), label.astype(np.float32)

    def _centre(self, rng: np.random.Generator, case: StoredCase, patch: Sequence[int], forced: bool) -> list[int]:
        """Centre voxel; not forced: uniform over the positions at which the patch lies within the image."""
        shape = case.image.shape[1:]
        classes = sorted(c for c, voxels in case.properties.class_locations.items() if len(voxels))
        if forced and classes:
            voxels = case.properties.class_locations[classes[rng.integers(len(classes))]]
            wanted = list(voxels[rng.integers(len(voxels))])
        else:
            wanted = [int(rng.integers(s)) for s in shape]
        out = []
        for w, s, p in zip(wanted, shape, patch, strict=True):
            low, high = p // 2, s - (p - p // 2)
            out.append(int(min(max(w, low), high)) if high >= low else s // 2)
        return out


def read_box(array: Any, start: Sequence[int], size: Sequence[int], channels: slice = slice(None)) -> np.ndarray:
    """`array[channels, start ... start + size]` of a `(c, z, y, x)` array, zero where the box leaves it."""
    first, last, _ = channels.indices(array.shape[0])
    return np.asarray(crop_and_pad_nd(array, [[first, last], *([a, a + s] for a, s in zip(start, size, strict=True))]))


def stream(batches: Batches, first: int, workers: int, pin: bool) -> Generator[Batch, None, None]:
    """Yields items first, first + 1, ... in order, made by `workers` processes (0: in this one); closing it ends them.

    Raises:
        InputError: a case cannot be read.
        LdsegError: a worker process was killed.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, len(batches)),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )
    try:
        yield from loader
    except InputError as cause:  # from a worker it comes with the worker's traceback as its text
        raise InputError(str(cause).strip().splitlines()[-1].split("Error: ", 1)[-1]) from cause
    except RuntimeError as cause:
        if "DataLoader worker (pid" not in str(cause):
            raise
        raise LdsegError(
            f"a process that makes training batches ended unexpectedly ({str(cause).splitlines()[0]}). "
            "Usually memory or shared memory ran out: try --set training.workers=0, or a smaller batch_size."
        ) from cause
