"""A preprocessed dataset as training reads it: plans with the settings, the fold's cases, fixed patches."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ldseg_auto.data.dataset import Description
from ldseg_auto.data.splits import case_groups, doubts, fold_cases
from ldseg_auto.errors import InputError
from ldseg_auto.files import read_json
from ldseg_auto.planners.overrides import override
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.preprocessing.settings import settings_hash
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.classes import centres, check_classes, warn_of_absent
from ldseg_auto.training.patches import Patches

logger = logging.getLogger(__name__)
PREPROCESSED = ("data_identifier", "spacing", "normalisation", "use_mask_for_norm", "resampling")  # decided before training
RECORDS = ("median_shape", "prediction_memory_gib", "raters", "memory_gib", "reasons")  # of planning; training does not read them


@dataclass(frozen=True)
class Prepared:
    """A preprocessed dataset, as training reads it."""

    folder: Path
    plans: Plans
    name: str
    description: Description
    train: list[str]
    validation: list[str]

    @property
    def configuration(self) -> Configuration:
        """The one to train."""
        return self.plans.configurations[self.name]


def read_plans(preprocessed: Path, plans_name: str) -> Plans:
    """The plans of a preprocessed dataset; raises InputError where there are none of this name."""
    path = preprocessed / f"{plans_name}.json"
    if not path.exists():
        raise InputError(f"{path} does not exist. Run ldseg_plan_and_preprocess for this dataset first.")
    return Plans.load(path)


def prepare(
    preprocessed: Path, fold: int | str, configuration: str | None, plans_name: str, settings: Sequence[str], base: Plans | None = None
) -> Prepared:
    """Reads plans, splits and dataset.json; applies the settings.

    Args:
        base: plans to use in place of the file's: those that a training was begun with.

    Raises:
        InputError: something is missing (and the command that makes it), or not all cases of the fold are preprocessed.
    """
    path = preprocessed / f"{plans_name}.json"
    plans = base or read_plans(preprocessed, plans_name)
    name = configuration or plans.default_configuration
    planned = plans.configuration(name)
    changed = override(planned, settings, name)
    changed = replace(changed, method=changed.method.fixed(changed.network.variant, changed.raters))
    if any(getattr(changed, key) != getattr(planned, key) for key in RECORDS) or changed.latent.ceiling != planned.latent.ceiling:
        names = f"{', '.join(RECORDS)} or latent.ceiling"
        raise InputError(f"--set of {names} has no effect: they record how the plans came about. Leave it out.")
    for key in PREPROCESSED:
        if getattr(changed, key) != getattr(planned, key):
            raise InputError(
                f"--set {key}: the cases are preprocessed with {getattr(planned, key)!r}, training cannot change that. Plan again."
            )
    plans = replace(plans, configurations={**plans.configurations, name: changed}, default_configuration=name)
    splits = preprocessed / "splits_final.json"
    split = fold_cases(_read_splits(splits), fold)
    train, validation = split["train"], split["val"]
    description = Description.from_dict(read_json(preprocessed / "dataset.json"), str(preprocessed / "dataset.json"))
    advice = f"Run ldseg_plan_and_preprocess -c {name}" + ("." if plans_name == "ldsegPlans" else f" -p {plans_name}.")
    _check_data(preprocessed, plans, path, advice)
    settings_of_cases = settings_hash(plans, changed, description)
    missing = [c for c in (*train, *validation) if not _is_preprocessed(preprocessed / changed.data_identifier, c, settings_of_cases)]
    if missing:
        raise InputError(f"{len(missing)} cases of fold {fold} are not preprocessed for {name} (first: {missing[0]}). {advice}")
    check_classes(changed.training, description.labels)
    by_case = case_groups([*train, *validation], description.groups)
    for doubt in doubts({fold: split}, by_case) if fold != "all" else ():
        logger.warning("%s: %s", splits, doubt)
    warn_of_absent(_volumes(preprocessed / "dataset_fingerprint.json"), train, validation)
    return Prepared(preprocessed, plans, name, description, list(train), list(validation))


def _check_data(preprocessed: Path, plans: Plans, path: Path, advice: str) -> None:
    """Raises InputError where the plans are of other data than the preprocessed folder's."""
    fingerprint = preprocessed / "dataset_fingerprint.json"
    there = read_json(fingerprint).get("data_hash") if fingerprint.exists() else None
    if there not in (None, plans.fingerprint_hash):
        what = f"{path} is of other data (fingerprint {plans.fingerprint_hash[:12]}) than {fingerprint} ({str(there)[:12]})"
        raise InputError(f"{what}. {advice}")


def _volumes(fingerprint: Path) -> dict[str, dict[str, float]]:
    """Case -> class -> volume, as it was measured; empty without a fingerprint."""
    cases = read_json(fingerprint).get("cases", []) if fingerprint.exists() else []
    return {case["identifier"]: case["volumes"] for case in cases if "volumes" in case}


def _is_preprocessed(folder: Path, identifier: str, settings: str) -> bool:
    """Whether the case is finished, and was made with these settings (a case that does not say is taken as it is)."""
    if not (folder / f"{identifier}.json").exists():
        return False
    return read_json(folder / f"{identifier}.json").get("settings_hash") in (None, "", settings)


def _read_splits(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run ldseg_plan_and_preprocess for this dataset.") from None
    except ValueError as cause:
        raise InputError(f"{path} is not valid JSON: {cause}. Correct it, or delete it and run ldseg_plan_and_preprocess.") from None


def batches(prepared: Prepared, seed: int, length: int) -> Batches:
    """`length` batches of the training cases, augmented as planned."""
    configuration = prepared.configuration
    cases = prepared.folder / configuration.data_identifier
    chosen = centres(configuration.training, prepared.description.labels)
    return Batches(cases, prepared.train, configuration, seed, length, configuration.training.augmentation, centres=chosen)


def validation_patches(prepared: Prepared, rater: int | None = None) -> Patches:
    """The fixed patches of the validation cases: the same for every training of this fold.

    Args:
        rater: whose labels; None draws one per patch.
    """
    return _fixed_patches(prepared, prepared.validation, 1, rater)


def statistics_patches(prepared: Prepared) -> Patches:
    """As many fixed patches of the training cases, not augmented."""
    return _fixed_patches(prepared, prepared.train, 2, None)


def _fixed_patches(prepared: Prepared, identifiers: list[str], seed: int, rater: int | None) -> Patches:
    configuration = prepared.configuration
    cases = prepared.folder / configuration.data_identifier
    length = max(1, round(configuration.training.validation_patches / configuration.batch_size))
    batches = Batches(cases, identifiers, configuration, seed=seed, length=length, augment=False, rater=rater)
    return [batches[i] for i in range(len(batches))]
