"""Figures of one case: the agreement of its draws, its softmax response and soft Dice, and volumes with an interval.

A draw is one sample of one model. `ScoreAccumulator` takes label indices draw by draw, or all draws of one piece of the volume after
another, and holds no label map: whole draws wait packed to as few bits as the classes need, and compressed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ldseg_auto.data.geometry import NATURAL_Z, Geometry
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.predicted_dice import Evidence, PredictedDice, likely_volumes, predict

CHUNK = 2**18  # voxels looked at together; float32 counts whole numbers exactly up to 2^24
LOW, HIGH = 5, 95  # percentiles of the draws' volumes (numpy's, linear between draws)
LEVEL = 1  # of zlib: label maps shrink a hundredfold at any level
FAINT = 0.1  # probabilities below it count as 0 in the soft Dice: heads that stay below it everywhere need not be looked at


@dataclass(frozen=True)
class Volume:
    """Size of one class or region: ml, or for a 2D image mm2 (pixels where it has no spacing)."""

    mean: float
    """over the draws."""
    low: float
    """5th percentile of the draws; `mean` for one draw."""
    high: float
    """95th percentile of the draws; `mean` for one draw."""
    mask: float
    """of the label map, which comes from the mean probabilities: it can lie outside low to high."""
    likely_low: float | None = None
    """low and high stretched until they held 90 % of the references' volumes of validation cases (evaluation/intervals.py); None where
    that is not known, or no draw shows the class."""
    likely_high: float | None = None


@dataclass(frozen=True)
class CaseScore:
    """What is known of one case without a reference."""

    draws: int
    """models times samples."""
    agreement: float | None
    """mean Dice over pairs of draws and over classes, each (pair, class) with the same weight, as evaluation.agreement.pairwise_dice: a
    class that both draws lack has no value, and draws without any foreground agree (1). None for one draw."""
    softmax: float
    """softmax response: the largest of the mean probabilities (with regions the mean over regions of max(p, 1 - p)), averaged over the
    predicted foreground. 1.0 where nothing is predicted: no voxel is there that could be doubted, so this 1.0 says nothing."""
    soft_dice: float
    """soft Dice confidence (Borges et al. 2024, arXiv 2402.10665): the Dice that the label map would have if each voxel were of a class as
    probably as the mean probabilities say, nearly. `2 sum(p in the mask) / (sum(p) + size of the mask)`, p below 0.1 counting as 0; mean
    over the classes that are predicted (a region's mask being its own p > 0.5). 1.0 where nothing is predicted."""
    volumes: dict[str, Volume]
    """class or region -> its size."""
    foreground: float = 0.0
    """size of all that is not background in the label map, in `unit`."""
    unit: str = "ml"
    """of the sizes: ml, mm2 for a 2D image, pixels for one without spacing."""
    predicted_dice: float | None = None
    """Dice that such cases had among the model's validation cases (evaluation/predicted_dice.py); None without a fit, or where
    nothing is predicted."""
    predicted_error: float | None = None
    """mean absolute error of `predicted_dice` on held-out validation cases."""

    @property
    def evidence(self) -> Evidence:
        """What a Dice is predicted from."""
        return Evidence(self.softmax, self.foreground, self.agreement, self.soft_dice)

    def completed(self, fits: Sequence[PredictedDice], samples: int, geometry: Geometry | None) -> CaseScore:
        """With the predicted Dice, the volumes' likely intervals, and with `pixels` for the unit of a 2D image without spacing.

        Args:
            fits: of the models that have one.
            samples: per model.
            geometry: of the image; None for a bare array.
        """
        unit = "pixels" if self.unit == "mm2" and geometry is not None and not geometry.has_spacing else self.unit
        dice, error = predict(fits, self.evidence, samples) or (None, None)
        likely = {name: likely_volumes(fits, name, v.low, v.high, samples) or (None, None) for name, v in self.volumes.items()}
        volumes = {name: replace(v, likely_low=likely[name][0], likely_high=likely[name][1]) for name, v in self.volumes.items()}
        return replace(self, unit=unit, predicted_dice=dice, predicted_error=error, volumes=volumes)


def voxel_size(spacing: Sequence[float]) -> tuple[float, str]:
    """Size of one voxel and its unit: ml, or mm2 for a 2D image, whose spacing (z, y, x) in mm has the z that image_io gives it."""
    flat = math.isclose(spacing[0], NATURAL_Z * max(spacing[1:]))
    return (math.prod(spacing[1:]), "mm2") if flat else (math.prod(spacing) / 1000, "ml")


class ScoreAccumulator:
    """Collects what a `CaseScore` needs.

    Draws come either whole, one `add` each, or together, one `add_together` for each piece of the volume. Beside them `add_confidence`
    and `add_probability` take the mean prediction in one or more pieces.

    Args:
        labels: the dataset's.
        spacing: mm (z, y, x) of the grid that all arrays lie on.
    """

    def __init__(self, labels: LabelSpec, spacing: Sequence[float]) -> None:
        members = labels.table.T if labels.has_regions else labels.table.T[1:]
        self.names = labels.foreground_names
        self.members = members > 0  # (classes, indices): which indices belong to a class or region
        self.bits = max(1, (members.shape[1] - 1).bit_length())
        self.voxel, self.unit = voxel_size(spacing)
        self.draws: list[list[bytes | None]] = []  # per whole draw its chunks; None for one of background alone
        self.shared: np.ndarray | None = None  # (classes, draws, draws) voxels that two draws have in common
        self.counts = np.zeros(members.shape[1], np.int64)  # of the label map's indices but the background
        self.regions = labels.has_regions
        self.top, self.seen = 0.0, 0
        self.probable = np.zeros((3, len(self.members)))  # per class: sum of its probabilities, that within its mask, size of that mask
        self.length = 0

    def add(self, indices: np.ndarray) -> None:
        """The next draw's label indices `(*spatial)`, whole."""
        self._check(self.shared is None and self.length in (0, indices.size), f"add of {indices.shape}")
        flat = indices.reshape(-1)
        self.length = flat.size
        self.draws.append([self._pack(flat[i : i + CHUNK]) for i in range(0, flat.size, CHUNK)])

    def add_together(self, indices: np.ndarray) -> None:
        """Label indices `(draws, *piece)` of all draws in one piece of the volume; every voxel belongs to one piece."""
        self._check(not self.draws and (self.shared is None or self.shared.shape[1] == len(indices)), f"add_together of {indices.shape}")
        if self.shared is None:
            self.shared = np.zeros((len(self.members), len(indices), len(indices)))
        flat = indices.reshape(len(indices), -1)
        for start in range(0, flat.shape[1], CHUNK):
            self.shared += self._shared(flat[:, start : start + CHUNK])

    def add_confidence(self, top: np.ndarray, indices: np.ndarray) -> None:
        """The mean prediction in one piece of the volume: top probability (see CaseScore.softmax) and label indices, both `(*piece)`."""
        indices, top = indices.reshape(-1), top.reshape(-1)
        for start in range(0, indices.size, CHUNK):
            part = slice(start, start + CHUNK)
            inside = np.flatnonzero(indices[part])
            self.counts += np.bincount(indices[part][inside], minlength=len(self.counts))
            self.top += float(top[part][inside].sum(dtype=float))
            if not self.regions:
                self._add_winners(top[part][inside], indices[part][inside])
        self.seen += indices.size

    def add_probability(self, number: int, probability: np.ndarray) -> None:
        """Mean probabilities `(*piece)` of the class or region `number` of `names` in one piece, left out if all are below FAINT."""
        p = probability.reshape(-1)
        self.probable[0, number] += p[p >= FAINT].sum(dtype=float)
        if self.regions:
            self.probable[1:, number] += p[p > 0.5].sum(dtype=float), np.count_nonzero(p > 0.5)

    def _add_winners(self, top: np.ndarray, indices: np.ndarray) -> None:
        """Probabilities and indices `(n,)` of foreground voxels of the label map; the faint ones are no part of `add_probability`'s sum."""
        for row, weights in enumerate((np.where(top < FAINT, top, 0), top, np.ones(len(top)))):
            self.probable[row] += np.bincount(indices, weights, len(self.counts))[1 : len(self.members) + 1]

    def finish(self) -> CaseScore:
        """The score, without a predicted Dice.

        Raises:
            ValueError: no draw, or no mean prediction was added.
        """
        if self.draws:
            self.shared = np.zeros((len(self.members), len(self.draws), len(self.draws)))
            for position, chunks in enumerate(zip(*self.draws, strict=True)):
                self.shared += self._shared_of_chunks(chunks, min(CHUNK, self.length - position * CHUNK))
        inside = int(self.counts.sum())
        if self.shared is None or not self.seen:
            raise ValueError("finish() without draws or without a mean prediction: call add or add_together, and add_confidence.")
        sizes, masks = self.shared.diagonal(axis1=1, axis2=2) * self.voxel, self.members @ self.counts * self.voxel
        volumes = {name: _volume(s, float(m)) for name, s, m in zip(self.names, sizes, masks, strict=True)}
        softmax = self.top / inside if inside else 1.0
        soft_dice = _soft_dice(*self.probable)
        return CaseScore(sizes.shape[1], _agreement(self.shared), softmax, soft_dice, volumes, inside * self.voxel, self.unit)

    def _check(self, right: bool, what: str) -> None:
        if not right:
            raise ValueError(f"{what}: draws of one case come whole, each of the same shape, or all together piece by piece, not both.")

    def _pack(self, flat: np.ndarray) -> bytes | None:
        """Label indices `(n,)` as compressed bit planes."""
        if not flat.any():
            return None
        planes = (np.packbits(flat & (1 << bit) != 0).tobytes() for bit in range(self.bits))
        return zlib.compress(b"".join(planes), LEVEL)

    def _unpack(self, chunk: bytes | None, size: int) -> np.ndarray:
        """Label indices `(size,)` uint16."""
        out = np.zeros(size, np.uint16)
        if chunk is not None:
            packed = np.frombuffer(zlib.decompress(chunk), np.uint8).reshape(self.bits, -1)
            for bit, plane in enumerate(packed):
                out |= np.unpackbits(plane, count=size).astype(np.uint16) << bit
        return out

    def _shared_of_chunks(self, chunks: Sequence[bytes | None], size: int) -> np.ndarray | float:
        if all(c is None for c in chunks):
            return 0.0
        return self._shared(np.stack([self._unpack(c, size) for c in chunks]))

    def _shared(self, flat: np.ndarray) -> np.ndarray:
        """Voxels `(classes, draws, draws)` that each two draws have in common in each class, of indices `(draws, n)`, n at most CHUNK."""
        out = np.zeros((len(self.members), len(flat), len(flat)))
        flat = flat[:, np.flatnonzero(flat.any(0))]
        present = np.bincount(flat.reshape(-1), minlength=self.members.shape[1]) > 0
        for found, member in zip(out, self.members, strict=True):
            if (member & present).any():
                mask = member[flat].astype(np.float32)
                found[:] = mask @ mask.T
        return out


def _agreement(shared: np.ndarray) -> float | None:
    """Mean Dice over pairs and classes of `(classes, draws, draws)` voxels in common."""
    if shared.shape[1] < 2:
        return None
    first, second = np.triu_indices(shared.shape[1], k=1)
    sizes = shared.diagonal(axis1=1, axis2=2)
    common, total = shared[:, first, second], sizes[:, first] + sizes[:, second]
    return float((2 * common[total > 0] / total[total > 0]).mean()) if total.any() else 1.0


def _soft_dice(total: np.ndarray, within: np.ndarray, size: np.ndarray) -> float:
    """Mean over the predicted classes of the sums `(classes,)` that ScoreAccumulator collects; 1 without any."""
    there = size > 0
    return float((2 * within[there] / (total[there] + size[there])).mean()) if there.any() else 1.0


def _volume(sizes: np.ndarray, mask: float) -> Volume:
    """Of the draws' sizes `(draws,)`."""
    mean = float(sizes.mean())
    low, high = np.percentile(sizes, (LOW, HIGH)).tolist() if len(sizes) > 1 else (mean, mean)
    return Volume(mean, low, high, mask)
