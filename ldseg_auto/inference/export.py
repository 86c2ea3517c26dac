"""From the draws' probabilities, plane by plane on the networks' grids, to maps on the image's own grid.

Scores of a whole volume are never held: a slab of the image's grid is resampled, averaged and turned into labels as soon as the planes that
it needs have come. A class that is faint everywhere in a slab and cannot win there is left out of it, which changes no label and no figure:
the winner has 1 / heads or more, and linear resampling gives no class more than it had in the planes that it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.inference.case_score import FAINT, CaseScore, ScoreAccumulator
from ldseg_auto.inference.prediction import Wanted
from ldseg_auto.inference.uncertainty import entropy, mutual_information
from ldseg_auto.preprocessing.crop import slices
from ldseg_auto.preprocessing.store import Properties
from ldseg_auto.preprocessing.streaming import Part, ScoreStream, planes_at_a_time

SAFE = 0.999  # of 1 / heads: what rounding may take from the largest of the probabilities


@dataclass(frozen=True, eq=False)
class Maps:
    """All that is made of a case, canonical (z, y, x)."""

    indices: np.ndarray  # int16 label indices
    probabilities: np.ndarray | None  # (heads, z, y, x) float16
    entropy: np.ndarray | None  # float32, nats
    mutual_information: np.ndarray | None  # float32, nats
    samples: np.ndarray | None  # (draws, z, y, x) int16 label indices
    score: CaseScore


class Export:
    """Collects one case.

    Args:
        labels: the dataset's.
        properties: of the preprocessed image: its shape, spacing and crop.
        transpose: from canonical to the networks' axes.
        draws: over all streams.
        wanted: which maps to fill.
    """

    def __init__(self, labels: LabelSpec, properties: Properties, transpose: Sequence[int], draws: int, wanted: Wanted) -> None:
        shape, self.labels, self.wanted, self.draws = properties.shape, labels, wanted, draws
        self.score = ScoreAccumulator(labels, properties.spacing)
        self.indices = np.zeros(shape, np.int16)
        self.samples = np.zeros((draws, *shape), np.int16) if wanted.samples else None
        self.uncertainty = np.zeros((2, *shape), np.float32) if wanted.uncertainty else None
        self.probabilities = np.zeros((labels.num_heads, *shape), np.float16) if wanted.probabilities else None
        if self.probabilities is not None and not labels.has_regions:
            self.probabilities[0] = 1
        self._box, self._transpose = slices(properties.box), tuple(transpose)

    def run(self, streams: Sequence[ScoreStream]) -> Maps:
        """Takes the streams (of `stream_of`) to their end; every draw of every stream counts the same."""
        return run_together([self], [range(len(streams))], streams)[0]

    def finish(self) -> Maps:
        """After the last slab."""
        entropies, information = (None, None) if self.uncertainty is None else self.uncertainty
        return Maps(self.indices, self.probabilities, entropies, information, self.samples, self.score.finish())

    def slab(self, planes: slice, parts: Sequence[Part]) -> None:
        """Takes the next planes of all streams, head by head: neither the heads of a draw nor their mean are held together."""
        shape, regions = parts[0].shape, self.labels.has_regions
        draws = [_Assigned(self.labels, shape) for _ in range(self.draws if self.draws > 1 else 0)]
        mean, top, entropies = _Assigned(self.labels, shape), np.zeros(shape, np.float32), np.zeros((2, *shape), np.float32)
        for head in self._heads(parts):
            scores = [part.head(draw, head) for part in parts for draw in range(part.draws)]
            for assigned, score in zip(draws, scores, strict=False):
                assigned.add(head, score)
            average = _mean(scores)
            mean.add(head, average)
            probability = average + np.float32(0.5) if regions else average
            if regions or head:
                self.score.add_probability(head if regions else head - 1, probability)
            top += np.maximum(probability, 1 - probability) / self.labels.num_heads if regions else 0
            if self.probabilities is not None:
                self._put(self.probabilities[head], planes, probability)
            if self.uncertainty is not None:
                entropies[0] += entropy(probability[None], regions)
                entropies[1] += sum(entropy(s[None] + np.float32(0.5 * regions), regions) for s in scores) / self.draws
        self._finish(planes, mean, draws, top if regions else mean.best)
        if self.uncertainty is not None:
            self._put(self.uncertainty[0], planes, entropies[0])
            information = mutual_information(entropies[0], entropies[1]) if self.draws > 1 else 0
            self._put(self.uncertainty[1], planes, information)

    def _finish(self, planes: slice, mean: _Assigned, draws: Sequence[_Assigned], top: np.ndarray) -> None:
        """Label maps and score of a slab; `top` as CaseScore.softmax has it."""
        self._put(self.indices, planes, mean.indices)
        indices = [d.indices for d in draws] or [mean.indices]
        for number, of_draw in enumerate(indices if self.samples is not None else ()):
            self._put(self.samples[number], planes, of_draw)  # type: ignore[index]
        self.score.add_together(np.stack(indices))
        self.score.add_confidence(top, mean.indices)

    def _heads(self, parts: Sequence[Part]) -> list[int]:
        """Those that matter in a slab: all where more than labels is wanted, else the ones that can win in a draw or in their mean, or that
        are probable enough to count in the soft Dice."""
        if self.labels.has_regions or self.wanted.uncertainty or self.wanted.probabilities:
            return list(range(self.labels.num_heads))
        largest = np.max([part.largest() for part in parts], axis=0)
        return np.flatnonzero(largest >= SAFE * min(FAINT, 1 / self.labels.num_heads)).tolist()

    def _put(self, volume: np.ndarray, planes: slice, values: np.ndarray | int) -> None:
        """Writes planes of the crop, in the networks' axes, into a canonical volume (z, y, x)."""
        volume.transpose(self._transpose)[self._box][planes] = values


def stream_of(planes: Iterable[np.ndarray], draws: int, labels: LabelSpec, properties: Properties) -> ScoreStream:
    """The window's probabilities `(draws, heads, planes, y, x)` as scores on the image's grid; those of regions less 0.5."""
    scores = (p - np.float32(0.5) for p in planes) if labels.has_regions else iter(planes)
    sizes = properties.preprocessed_shape, properties.cropped_shape, properties.separate_axis
    return ScoreStream(scores, (draws, labels.num_heads), *sizes)


def run_together(exports: Sequence[Export], groups: Sequence[Sequence[int]], streams: Sequence[ScoreStream]) -> list[Maps]:
    """Takes the streams to their end once, each export those of its group, by their numbers."""
    count = planes_at_a_time(streams)
    for start in range(0, len(streams[0]), count):
        stop = min(start + count, len(streams[0]))
        parts = [stream.part(start, stop) for stream in streams]
        for export, group in zip(exports, groups, strict=True):
            export.slab(slice(start, stop), [parts[number] for number in group])
    for stream in streams:
        stream.finish()
    return [export.finish() for export in exports]


class _Assigned:
    """Label indices `(n, y, x)` of one slab, head by head: as LabelSpec.assign, where heads may be left out."""

    def __init__(self, labels: LabelSpec, shape: Sequence[int]) -> None:
        self.labels = labels
        self.indices = np.zeros(tuple(shape), np.int16)
        self.best = np.full(tuple(shape), -np.inf, np.float32)

    def add(self, head: int, score: np.ndarray) -> None:
        """The next head's scores, heads ascending."""
        if self.labels.has_regions:
            self.indices[score > 0] = self.labels.values.index(self.labels.paint[head])
            return
        higher = score > self.best
        np.copyto(self.indices, head, where=higher)
        np.copyto(self.best, score, where=higher)


def _mean(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Of arrays of one shape, added in their order."""
    if len(scores) == 1:
        return scores[0]
    total = scores[0] + scores[1]
    for score in scores[2:]:
        total += score
    total /= np.float32(len(scores))
    return total


def values_of(labels: LabelSpec, indices: np.ndarray) -> np.ndarray:
    """Label indices (*spatial) int16 as the values of dataset.json, in place where they fit: int16, or int32 where a value needs it."""
    if labels.values == tuple(range(len(labels.values))):
        return indices
    table = np.array(labels.values, np.int16 if max(labels.values) <= np.iinfo(np.int16).max else np.int32)
    if table.dtype != indices.dtype:
        return table[indices]
    for plane in indices:
        plane[:] = table[plane]
    return indices
