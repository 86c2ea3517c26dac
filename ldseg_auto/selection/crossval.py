"""Cross-validation: each case predicted by the fold that has not seen it, on its image's own grid, and compared with every rater.

Cases are taken from the preprocessed folder, as training's validation does: their voxels are those that the predictor would make of the
raw images, and the references of all raters lie beside them on the images' own grid. Finished cases are kept:

    results/DatasetXXX_Name/cross_validation/fold_K_HASH/CASE.b2nd   label indices (z, y, x)
                                                         CASE.json   scores, written last
                                                         about.json  what the hash is of
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import ldseg_auto
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.evaluate import evaluate_case
from ldseg_auto.evaluation.report import without_nan
from ldseg_auto.files import hash_json, read_json, write_json
from ldseg_auto.inference.device import choose_device
from ldseg_auto.inference.member import Member, load_member
from ldseg_auto.inference.model_folder import check_together
from ldseg_auto.inference.together import predict_together
from ldseg_auto.planners.names import REFERENCES
from ldseg_auto.preprocessing.store import load_case, load_properties, load_reference, open_array, write_array
from ldseg_auto.progress import Progress, silent
from ldseg_auto.selection.candidates import Candidate
from ldseg_auto.selection.trained import Trained

FOLDER = "cross_validation"
SEED = 0
Table = Mapping[str, Mapping[str, Mapping[str, float]]]  # rater -> class -> metric
Stream = tuple[str, int]  # a model's name and its steps


@dataclass(frozen=True)
class CrossValidation:
    """A dataset's cases, and where their predictions are kept.

    Args:
        preprocessed: preprocessed/DatasetXXX_Name.
        results: results/DatasetXXX_Name.
        tolerance: of NSD, mm (pixels for natural 2D images).
        device: auto | cpu | cuda | mps.
    """

    preprocessed: Path
    results: Path
    tolerance: float
    device: str = "auto"

    def predict(self, candidates: Sequence[Candidate], progress: Progress = silent) -> None:
        """Predicts and scores what is not there yet; each network runs once per case for all candidates.

        Args:
            candidates: with one number of samples, and the same folds.
        """
        todo = [
            (fold, case, missing)
            for fold, cases in candidates[0].models[0].cases.items()
            for case in cases
            if (missing := [c for c in candidates if self._stored(c, fold, case) is None])
        ]
        loaded: dict[tuple[str, Stream], Member] = {}
        for fold, case, missing in progress(todo, "cross-validation", total=len(todo)):
            for group in _together(missing):
                streams = sorted({stream for c in group for stream in _streams(c)})
                for key in [k for k in loaded if k[0] != fold]:  # the last fold's networks are let go
                    del loaded[key]
                for stream in streams:
                    if (fold, stream) not in loaded:
                        loaded[fold, stream] = self._load(group, fold, stream)
                self._predict_case(group, fold, case, {s: loaded[fold, s] for s in streams})

    def table(self, candidate: Candidate) -> dict[str, Table]:
        """Case -> rater -> class -> metric -> value (NaN: none), of predicted cases.

        Raises:
            InputError: a case is not predicted.
        """
        out: dict[str, Table] = {}
        for fold, case in _cases(candidate):
            found = self._stored(candidate, fold, case)
            if found is None:
                raise InputError(
                    f"case {case} is not predicted by {candidate.name}: its files in {self.results / FOLDER} are gone. Run again."
                )
            out[case] = {
                r: {n: {m: np.nan if v is None else v for m, v in t.items()} for n, t in classes.items()} for r, classes in found.items()
            }
        return out

    def maps(self, candidate: Candidate) -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[float, ...]]]:
        """Case, predicted label indices `(z, y, x)`, references `(raters, z, y, x)` and spacing in mm, one case at a time."""
        for fold, case in _cases(candidate):
            reference, spacing = load_reference(self.preprocessed / REFERENCES, case)
            yield case, open_array(self._folder(candidate, fold) / f"{case}.b2nd")[:].astype(np.int16), reference, spacing

    def score(self, reference: np.ndarray, indices: np.ndarray, labels: LabelSpec, spacing: Sequence[float]) -> Table:
        """Metrics of a label map `(z, y, x)` against references `(raters, z, y, x)`, NSD and HD95 too."""
        return {str(r): evaluate_case(one, indices, labels, spacing, tolerance=self.tolerance) for r, one in enumerate(reference)}

    def _predict_case(self, group: Sequence[Candidate], fold: str, case: str, members: Mapping[Stream, Member]) -> None:
        order, first = list(members), group[0]
        stored = [load_case(self.preprocessed / members[s].folder.configuration.data_identifier, case) for s in order]
        numbers = [[order.index(stream) for stream in _streams(c)] for c in group]
        found = predict_together(list(members.values()), stored, case, numbers, first.samples, SEED)
        reference, spacing = load_reference(self.preprocessed / REFERENCES, case)
        for candidate, indices in zip(group, found, strict=True):
            folder, labels = self._folder(candidate, fold), candidate.models[0].folder.description.labels
            if not (folder / "about.json").exists():
                write_json(folder / "about.json", _about(candidate, fold))
            small = np.uint8 if len(labels.table) <= 256 else np.int16
            write_array(folder / f"{case}.b2nd", indices.astype(small))
            content = {"inputs": self._inputs(candidate, case), "tolerance": self.tolerance}
            write_json(folder / f"{case}.json", without_nan({**content, "scores": self.score(reference, indices, labels, spacing)}))

    def _stored(self, candidate: Candidate, fold: str, case: str) -> Any:
        """A case's scores; None where it is not predicted, its input has changed or the tolerance is another."""
        path = self._folder(candidate, fold) / f"{case}.json"
        if not path.exists() or not path.with_suffix(".b2nd").exists():
            return None
        content = read_json(path)
        same = content.get("inputs") == self._inputs(candidate, case) and content.get("tolerance") == self.tolerance
        return content["scores"] if same else None

    def _inputs(self, candidate: Candidate, case: str) -> list[list[str]]:
        """Hashes of what a preprocessed case was made of, per model."""
        found = [load_properties(self.preprocessed / m.folder.configuration.data_identifier, case) for m in candidate.models]
        return [[p.input_hash, p.settings_hash] for p in found]

    def _folder(self, candidate: Candidate, fold: str) -> Path:
        return self.results / FOLDER / f"fold_{fold}_{hash_json(_about(candidate, fold))[:16]}"

    def _load(self, group: Sequence[Candidate], fold: str, stream: Stream) -> Member:
        model = next(m for c in group for m in c.models if m.name == stream[0])
        only = replace(model.folder, folds={fold: model.folder.folds[fold]})
        return load_member(only, choose_device(self.device), stream[1], group[0].samples)


def _together(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Candidates whose models can run side by side; one after the other where axes differ."""
    rest = list(candidates)
    while rest:
        group: list[Candidate] = []
        for candidate in list(rest):
            if _fit([*group, candidate]):
                group.append(candidate)
                rest.remove(candidate)
        yield group


def _fit(candidates: Sequence[Candidate]) -> bool:
    try:
        check_together([m.folder for c in candidates for m in c.models])
    except InputError:
        return False
    return True


def _streams(candidate: Candidate) -> list[Stream]:
    return [(m.name, s) for m, s in zip(candidate.models, candidate.steps, strict=True)]


def _cases(candidate: Candidate) -> list[tuple[str, str]]:
    """Fold and case, by case."""
    found = [(fold, case) for fold, cases in candidate.models[0].cases.items() for case in cases]
    return sorted(found, key=lambda item: item[1])


def _about(candidate: Candidate, fold: str) -> dict[str, Any]:
    """What a prediction depends on beside the case."""
    models = [_about_model(m, s, fold) for m, s in zip(candidate.models, candidate.steps, strict=True)]
    return {"ldseg_auto": ldseg_auto.__version__, "models": models, "samples": candidate.samples, "seed": SEED}


def _about_model(model: Trained, steps: int, fold: str) -> dict[str, Any]:
    return {"model": model.name, "fold": fold, "checkpoint": model.hashes[fold], "settings": model.settings, "steps": steps}
