"""The trained models of a dataset that can be compared by cross-validation, and what is missing, with the command that makes it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldseg_auto.data.description import Description
from ldseg_auto.data.splits import case_groups, fold_cases
from ldseg_auto.errors import InputError, ModelError
from ldseg_auto.files import hash_json, read_json
from ldseg_auto.inference.model_folder import ModelFolder, read_model_folder, trained_folds
from ldseg_auto.inference.recipe import checkpoints
from ldseg_auto.planners.serialise import to_dict
from ldseg_auto.preprocessing.settings import settings_hash

logger = logging.getLogger(__name__)
FINAL = "checkpoint_final.pth"
APART = ("training", "reasons")  # of a configuration; prediction does not read them


@dataclass(frozen=True, eq=False)
class Trained:
    """One model folder with the folds to compare."""

    folder: ModelFolder
    hashes: Mapping[str, str]
    """fold -> SHA-256 of its checkpoint."""
    cases: Mapping[str, tuple[str, ...]]
    """fold -> the cases that it has not seen."""

    @property
    def name(self) -> str:
        """PLANS__CONFIG."""
        return self.folder.path.name

    @property
    def settings(self) -> str:
        """Names all of the configuration that prediction reads."""
        return hash_json({k: v for k, v in to_dict(self.folder.configuration).items() if k not in APART})


def find_trained(
    preprocessed: Path, results: Path, configurations: Sequence[str] = (), plans: Sequence[str] = (), folds: Sequence[str] = ()
) -> list[Trained]:
    """The models to compare, by name, with the same folds for each.

    Args:
        preprocessed: preprocessed/DatasetXXX_Name.
        results: results/DatasetXXX_Name.
        configurations, plans: their names; empty takes all that have a trained fold.
        folds: numbers; empty takes all of splits_final.json.

    Raises:
        InputError: a fold is not trained or not finished, cases are not preprocessed (all named, with the commands), or a fold has seen
            cases that it is to be measured on.
        ModelError: the models are not of this dataset, or their labels differ.
    """
    names = _wanted(results, configurations, plans)
    every = _folds_of(preprocessed)
    wanted = list(folds) or every
    unknown = [f for f in wanted if f not in every]
    if unknown:
        rule = "fold all has seen every case, so nothing is left to measure it on" if "all" in unknown else "there is no such fold"
        raise InputError(f"-f {' '.join(unknown)}: {rule}; compare folds among {' '.join(every)}.")
    _check_trained(results, names, wanted)
    found = [_read(results / name, wanted) for name in names]
    _check_alike(found, wanted)
    _check_preprocessed(found, preprocessed)
    _warn_of_groups(found[0])
    return found


def split_name(name: str) -> tuple[str, str]:
    """Plans and configuration of a model folder's name."""
    plans, _, configuration = name.rpartition("__")
    return plans, configuration


def _wanted(results: Path, configurations: Sequence[str], plans: Sequence[str]) -> list[str]:
    """Names of model folders; those asked for by name are taken, trained or not."""
    fitting = {}
    for path in sorted(results.glob("*__*")):
        (of_plans, configuration), folds = split_name(path.name), trained_folds(path)
        if folds and configuration in (configurations or [configuration]) and of_plans in (plans or [of_plans]):
            fitting[path.name] = folds
    names = [name for name, folds in fitting.items() if set(folds) - {"all"}]
    for configuration in configurations:
        if not any(split_name(name)[1] == configuration for name in names):
            names.append(f"{(plans or ['ldsegPlans'])[0]}__{configuration}")
    if not names and fitting:
        raise InputError(
            f"{results}: only fold all is trained ({', '.join(fitting)}). It has seen every case, so nothing can be measured: train folds, "
            f"such as {_command(results, next(iter(fitting)), '0')}."
        )
    if not names:
        raise InputError(f"no fold is trained in {results}. Start with ldseg_train {_number(results)} 0.")
    return sorted(names)


def _folds_of(preprocessed: Path) -> list[str]:
    """Numbers of the folds in splits_final.json."""
    path = preprocessed / "splits_final.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run ldseg_plan_and_preprocess -d {_number(preprocessed)}.") from None
    except ValueError as cause:
        raise InputError(f"{path} is not valid JSON: {cause}.") from None
    fold_cases(content, 0)
    return [str(i) for i in range(len(content))]


def _check_trained(results: Path, names: Sequence[str], folds: Sequence[str]) -> None:
    commands = []
    for name in names:
        for fold in folds:
            if not (results / name / f"fold_{fold}" / FINAL).exists():
                begun = fold in trained_folds(results / name)
                commands.append(_command(results, name, fold) + (" --continue" if begun else ""))
    if commands:
        shown = "\n".join(f"  {c}" for c in commands)
        raise InputError(
            f"{len(commands)} folds are not trained to their end, but each case has to be predicted by a model that has not seen it. "
            f"Train them, or name the folds (-f) and configurations (-c) to compare:\n{shown}"
        )


def _read(path: Path, folds: Sequence[str]) -> Trained:
    folder = read_model_folder(path, folds)
    cases = {}
    for fold in folds:
        manifest = read_json(path / f"fold_{fold}" / "manifest.json", ModelError)
        train, validation = manifest.get("train", []), manifest.get("validation", [])
        both = sorted(set(train) & set(validation))
        if both:
            raise InputError(
                f"{path}/fold_{fold} was trained on {len(both)} of the cases that it is to be measured on (first: {both[0]}). "
                "Correct splits_final.json and train it again."
            )
        cases[fold] = tuple(validation)
    seen: dict[str, str] = {}
    for fold, names in cases.items():
        twice = [c for c in names if c in seen]
        if twice:
            raise InputError(
                f"{path}: folds {seen[twice[0]]} and {fold} share {len(twice)} validation cases (first: {twice[0]}), which would count "
                "twice. Compare folds that share none (-f)."
            )
        seen |= dict.fromkeys(names, fold)
    return Trained(folder, checkpoints(folder), cases)


def _check_alike(found: Sequence[Trained], folds: Sequence[str]) -> None:
    """Raises where the models are not to be compared case by case."""
    first = found[0]
    for other in found[1:]:
        if other.folder.description.labels != first.folder.description.labels:
            raise ModelError(
                f"{other.name} and {first.name} were trained with other labels (dataset.json beside them): compare them apart (-c)."
            )
        for fold in folds:
            if set(other.cases[fold]) != set(first.cases[fold]):
                command = _command(other.folder.path.parent, other.name, fold)
                raise InputError(
                    f"fold {fold} of {other.name} and of {first.name} leave out other cases: splits_final.json changed between them. "
                    f"Move one of them away and train it again, for instance {command}."
                )


def _check_preprocessed(found: Sequence[Trained], preprocessed: Path) -> None:
    path = preprocessed / "dataset_fingerprint.json"
    data = read_json(path).get("data_hash") if path.exists() else None
    description = Description.from_dict(read_json(preprocessed / "dataset.json"), str(preprocessed / "dataset.json"))
    for model in found:
        plans, configuration = model.folder.plans, model.folder.configuration
        name, configured = split_name(model.name)
        command = f"ldseg_plan_and_preprocess -d {_number(preprocessed)} -c {configured}" + ("" if name == "ldsegPlans" else f" -p {name}")
        if data not in (None, plans.fingerprint_hash):
            raise ModelError(
                f"{model.name} was trained on other data than {preprocessed} holds now. Train it again, or bring the data back."
            )
        folder, settings = preprocessed / configuration.data_identifier, settings_hash(plans, configuration, description)
        missing = [c for cases in model.cases.values() for c in cases if not _is_preprocessed(folder, c, settings)]
        if missing:
            raise InputError(f"{len(missing)} cases are not preprocessed for {model.name} (first: {missing[0]}). Run {command}.")


def _is_preprocessed(folder: Path, case: str, settings: str) -> bool:
    path = folder / f"{case}.json"
    return path.exists() and read_json(path).get("settings_hash") in (None, "", settings)


def _warn_of_groups(model: Trained) -> None:
    groups = case_groups([c for cases in model.cases.values() for c in cases], model.folder.description.groups)
    where: dict[str, set[str]] = {}
    for fold, cases in model.cases.items():
        for case in cases:
            where.setdefault(groups[case], set()).add(fold)
    split = sorted(g for g, folds in where.items() if len(folds) > 1)
    if split:
        logger.warning(
            "%d groups (first: %s) are split between folds: their cases are no unseen ones, and scores too high.", len(split), split[0]
        )


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("Dataset").split("_")[0])


def _command(results: Path, name: str, fold: str) -> str:
    plans, configuration = split_name(name)
    return f"ldseg_train {_number(results)} {fold} -c {configuration}" + ("" if plans == "ldsegPlans" else f" -p {plans}")
