"""From trained folds to inference.json: cross-validation of models and pairs, choice, post-processing, and what was measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ldseg_auto
from ldseg_auto.data.splits import case_groups
from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.report import without_nan
from ldseg_auto.files import write_json, write_text
from ldseg_auto.inference.recipe import NAME, Part, Recipe
from ldseg_auto.progress import Progress, silent
from ldseg_auto.selection.candidates import Candidate, is_direct, pairs, single, with_samples
from ldseg_auto.selection.choose import Scored, best_single, better
from ldseg_auto.selection.crossval import CrossValidation
from ldseg_auto.selection.postprocessing import Outcome, find_rules
from ldseg_auto.selection.report import Comparison, as_json, as_markdown
from ldseg_auto.selection.scores import METRICS, Sample
from ldseg_auto.selection.trained import Trained, find_trained

logger = logging.getLogger(__name__)
REPORT = "find_best"
FEW = 20  # cases below which intervals are too narrow (evaluation/bootstrap.py)


@dataclass(frozen=True)
class Question:
    """What to compare.

    Raises:
        InputError: impossible values.
    """

    configurations: Sequence[str] = ()  # empty: all that have a trained fold
    plans: Sequence[str] = ()  # their names; empty: all
    folds: Sequence[str] = ()  # empty: all of splits_final.json
    metric: str = "dice"  # that decides: dice | nsd
    tolerance: float | None = None  # of NSD, mm; None: the finest voxel edge of the compared configurations
    ensembles: bool = True
    samples: Sequence[int] = (1, 4)  # the first for every candidate, the others for the best of them
    steps: int | None = None  # None: as validation chose
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(f"--metric {self.metric}: expected one of {', '.join(METRICS)}.")
        if not self.samples or min(self.samples) < 1 or (self.steps is not None and self.steps < 1):
            raise InputError(f"--samples {self.samples}, --steps {self.steps}: expected 1 or more.")


def find_best(preprocessed: Path, results: Path, question: Question | None = None, progress: Progress = silent) -> Comparison:
    """Compares, chooses and writes inference.json (beside the model folders, and in each compared one for itself), find_best.json and .md.

    Finished predictions are kept in `cross_validation/` (crossval.py) and not made again.

    Args:
        preprocessed: preprocessed/DatasetXXX_Name.
        results: results/DatasetXXX_Name.
        question: None compares all that is trained.

    Raises:
        InputError, ModelError: something is missing, see trained.find_trained; no class in any case.
    """
    question = question or Question()
    models = find_trained(preprocessed, results, question.configurations, question.plans, question.folds)
    sample = _sample(models[0])
    validation = CrossValidation(preprocessed, results, question.tolerance or finest_edge(models), question.device)
    few, *more = sorted(set(question.samples))
    singles = [single(model, few, question.steps) for model in models]
    both, notes = pairs(singles) if question.ensembles else ([], [])
    scored = _score(validation, [*singles, *both], sample, progress)
    first = best_single(scored, question.metric)
    chosen = better(scored[len(singles) :], first, question.metric, sample)
    larger = [with_samples(chosen.candidate, n, question.steps) for n in more if not is_direct(chosen.candidate)]
    drawn = [s for candidate in larger for s in _score(validation, [candidate], sample, progress)]
    chosen = better(drawn, chosen, question.metric, sample)
    alone = [s for s in scored[: len(singles)] if s.candidate.models != chosen.candidate.models]
    left = progress([*alone, chosen], "post-processing", total=len(alone) + 1)
    outcomes = {s.candidate: find_rules(validation, s.candidate, sample, s.table) for s in left}
    after = Scored.of(chosen.candidate, outcomes[chosen.candidate].table, sample)
    comparison = Comparison(
        results.name, question.metric, validation.tolerance, sample, tuple(scored), tuple(drawn), first, chosen, after,
        outcomes[chosen.candidate], tuple(notes), len(sample.groups) < FEW,
    )  # fmt: skip
    _write(results, comparison, {s: outcomes[s.candidate] for s in alone}, sample)
    return comparison


def finest_edge(models: Sequence[Trained]) -> float:
    """The smallest voxel edge of the compared configurations, mm (1 for natural images: a pixel)."""
    return min(min(m.folder.configuration.spacing) for m in models)


def _sample(model: Trained) -> Sample:
    cases = [case for names in model.cases.values() for case in names]
    return Sample.of(case_groups(cases, model.folder.description.groups))


def _score(validation: CrossValidation, candidates: Sequence[Candidate], sample: Sample, progress: Progress) -> list[Scored]:
    validation.predict(candidates, progress)
    return [Scored.of(c, validation.table(c), sample) for c in candidates]


def _write(results: Path, comparison: Comparison, alone: dict[Scored, Outcome], sample: Sample) -> None:
    """The recipes come last: with them the reports are there."""
    write_json(results / f"{REPORT}.json", as_json(comparison))
    write_text(results / f"{REPORT}.md", as_markdown(comparison))
    chosen, outcome = comparison.chosen, comparison.outcome
    own = dict(alone)
    if len(chosen.candidate.models) == 1:
        own[chosen] = outcome
    for scored, found in own.items():
        after = Scored.of(scored.candidate, found.table, sample)
        folder = scored.candidate.models[0].folder.path
        _recipe(scored.candidate, found, comparison, after, inside=True).save(folder / NAME)
    _recipe(chosen.candidate, outcome, comparison, comparison.after, inside=False).save(results / NAME)


def _recipe(candidate: Candidate, outcome: Outcome, comparison: Comparison, after: Scored, inside: bool) -> Recipe:
    """Args: inside: for the inference.json in the model folder."""
    parts = [
        Part("." if inside else model.name, dict(model.hashes), steps)
        for model, steps in zip(candidate.models, candidate.steps, strict=True)
    ]
    others = {s.candidate.name: s.means for s in comparison.scored if s.candidate != candidate}
    measured = {
        "cases": len(comparison.sample.cases), "metric": comparison.metric, "tolerance": comparison.tolerance, "after": after.means,
        "compared_with": others, "report": f"{REPORT}.json",
    }  # fmt: skip
    return Recipe(
        comparison.dataset,
        ldseg_auto.__version__,
        tuple(parts),
        candidate.samples,
        outcome.unit,
        outcome.rules,
        measured=without_nan(measured),
    )
