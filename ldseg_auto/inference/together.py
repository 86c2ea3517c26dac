"""One preprocessed case by several models at once: each network runs once, whatever is averaged with what."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from ldseg_auto.inference.export import Export, run_together, stream_of
from ldseg_auto.inference.fallback import Way, within_memory
from ldseg_auto.inference.member import Member
from ldseg_auto.inference.prediction import Wanted
from ldseg_auto.preprocessing.store import StoredCase

LABELS = Wanted()


def predict_together(
    members: Sequence[Member], cases: Sequence[StoredCase], name: str, groups: Sequence[Sequence[int]], samples: int, seed: int
) -> list[np.ndarray]:
    """Label indices `(z, y, x)` int16 on the image's own grid, one map per group; the networks' memory is bounded as in the predictor.

    Args:
        members: models that fit together (model_folder.check_together).
        cases: the case as each member's configuration has it.
        name: of the case; names the noise.
        groups: members whose draws are averaged, by their numbers.
        samples, seed: as Predictor.
    """

    def attempt(way: Way) -> list[np.ndarray]:
        return _attempt([m.adapted(way) for m in members], cases, name, groups, samples, seed)

    return within_memory([m.window for m in members], name, attempt)[0]


def _attempt(
    members: Sequence[Member], cases: Sequence[StoredCase], name: str, groups: Sequence[Sequence[int]], samples: int, seed: int
) -> list[np.ndarray]:
    labels, transpose = members[0].folder.description.labels, members[0].folder.plans.transpose_forward
    with ExitStack() as closing_last:
        streams = []
        for member, case in zip(members, cases, strict=True):
            draws = member.draws(name, seed, samples)
            planes = member.window.planes(member.models, case.image[:], draws)
            closing_last.callback(planes.close)
            streams.append(stream_of(planes, member.volumes(draws), labels, case.properties))
        sizes = [sum(streams[m].volumes[0] for m in group) for group in groups]
        exports = [Export(labels, cases[g[0]].properties, transpose, size, LABELS) for g, size in zip(groups, sizes, strict=True)]
        return [maps.indices for maps in run_together(exports, groups, streams)]
