"""Plans with a person's choices, and plans copied from another dataset: pure functions of a fingerprint."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ldseg_auto.errors import PlansError
from ldseg_auto.planners.choices import Choices
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.inherit import DECIDE_MEMORY, KEY, merge
from ldseg_auto.planners.method import Method
from ldseg_auto.planners.overrides import override_plans, parse
from ldseg_auto.planners.planner import PLANS_NAME, grid_key, make_plans, with_folders, with_memory
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.planners.rules.normalisation import normalisation
from ldseg_auto.planners.rules.spacing import target_grid

FAR = 2.0  # a spacing so many times the dataset's own is worth a warning


def plan(fingerprint: Fingerprint, heads: int, choices: Choices, name: str = PLANS_NAME) -> Plans:
    """The rules' plans with the person's choices; the same fingerprint, heads, choices and name give the same plans.

    Args:
        heads: logit channels.
        name: of the plans; the folders of preprocessed cases begin with it.

    Raises:
        InputError, PlansError: an impossible choice, or a fingerprint without the label code that the choice needs.
    """
    check_choices(choices)
    made = make_plans(fingerprint, heads, choices.gpu_memory, choices.target_spacing)
    content = _with_own_folders(made.to_dict(), name)
    plans = _measured(override_plans(content, choices.settings), made, fingerprint, heads)
    return replace(_shared_folders(plans, fingerprint, choices.settings), choices=choices)


def copy_plans(content: Mapping[str, Any], fingerprint: Fingerprint, heads: int, settings: Sequence[str], name: str = "") -> Plans:
    """Plans of another dataset, for fine-tuning on this one.

    Everything that the weights know stays: transposition, spacing, patch, network, latent, normalisation with the other dataset's
    intensities. From this dataset come its name, hash, file ending, median shapes and number of raters. Configurations that this dataset
    does not allow are left out.

    Args:
        content: the plans file as JSON (a model folder's plans.json too).
        heads: logit channels of this dataset, which may be others.
        name: see `copied_name`, which is the default.

    Raises:
        PlansError: impossible plans, another number of channels, or no configuration that this dataset allows.
    """
    source = Plans.from_dict(content, "the plans to copy")
    allowed = _allowed(source, fingerprint)
    given: Mapping[str, Any] = content["configurations"]
    configurations = {}
    for key in allowed:
        keeps = given[key].get(KEY) in allowed or given[key].get(KEY) is None
        own = given[key] if keeps else source.to_dict()["configurations"][key] | {KEY: None}
        configurations[key] = {**own, "raters": fingerprint.raters}
    default = source.default_configuration if source.default_configuration in allowed else allowed[0]
    origin = f"{source.dataset_name}, {source.plans_name}"
    name = name or copied_name(source)
    known = {
        **content, "dataset_name": fingerprint.dataset_name, "fingerprint_hash": fingerprint.data_hash,
        "file_ending": fingerprint.file_ending, "configurations": configurations, "default_configuration": default,
    }  # fmt: skip
    plans = override_plans(_with_own_folders(known, name), settings)
    target = source.choices.gpu_memory
    copied = {k: _of_this_data(c, plans, fingerprint, origin) for k, c in plans.configurations.items()}
    copied = {k: _with_memory(c, heads, fingerprint, target) for k, c in copied.items()}
    plans = _shared_folders(replace(plans, plans_name=name, configurations=copied), fingerprint, settings)
    return replace(plans, choices=Choices(target, (), tuple(settings), origin))


def copied_name(source: Plans) -> str:
    """Name of copied plans: `ldsegPlans_from004` of ldsegPlans of Dataset004_X."""
    number = re.match(r"Dataset(\d+)_", source.dataset_name)
    return f"{source.plans_name}_from{number[1] if number else 'other'}"


def check_choices(choices: Choices) -> None:
    """Raises PlansError where a spacing is chosen in two ways."""
    for path in parse(choices.settings):
        if choices.target_spacing and path.split(".")[-1] == "spacing":
            spacing = " ".join(f"{s:g}" for s in choices.target_spacing)
            raise PlansError(f"--target-spacing {spacing} and --set {path} both set the spacing: keep one.")


def _with_own_folders(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A folder for each configuration that does not inherit one; `_shared_folders` joins those with equal voxels."""
    known = content["configurations"]
    named = {k: {**c, "data_identifier": f"{name}_{k}"} if c.get(KEY) is None or "data_identifier" in c else c for k, c in known.items()}
    return {**content, "plans_name": name, "configurations": named}


def _shared_folders(plans: Plans, fingerprint: Fingerprint, settings: Sequence[str]) -> Plans:
    """One folder for configurations with the same voxels, except where a setting named it."""
    chosen = parse(settings)
    shared = with_folders(plans.configurations, fingerprint, plans.transpose_forward, plans.plans_name)
    by_hand = [k for k in shared if "data_identifier" in chosen or f"{k}.data_identifier" in chosen]
    return replace(plans, configurations={**shared, **{k: plans.configurations[k] for k in by_hand}})


def _measured(plans: Plans, made: Plans, fingerprint: Fingerprint, heads: int) -> Plans:
    """The records of what was set by hand: the ceiling of its latent (0 where it was not measured) and its memory."""
    out = {}
    for name, configuration in plans.configurations.items():
        root = name
        while root not in made.configurations:
            root = plans.configurations[root].inherits_from or ""
        planned = made.configurations[root]
        if (configuration.latent.factor, configuration.latent.channels) != (planned.latent.factor, planned.latent.channels):
            ceiling = _ceiling(configuration, grid_key(root, planned.spacing, planned.patch_size, made.transpose_forward), fingerprint)
            configuration = replace(configuration, latent=replace(configuration.latent, ceiling=ceiling))
        if any(getattr(configuration, key) != getattr(planned, key) for key in DECIDE_MEMORY):
            configuration = _with_memory(configuration, heads, fingerprint, made.choices.gpu_memory)
        out[name] = configuration
    return replace(plans, configurations=out)


def _with_memory(configuration: Configuration, heads: int, fingerprint: Fingerprint, target: float) -> Configuration:
    """With its memory estimated (0 where the method is another than the variant's own), and a warning where it is above the target."""
    c, own = configuration, [Method().resolved(configuration.network.variant, raters) for raters in (1, configuration.raters)]
    if c.parts not in own:
        reasons = {**c.reasons, "memory": "not estimated: the method was set by hand"}
        return replace(c, memory_gib=0.0, prediction_memory_gib=0.0, reasons=reasons)
    c = with_memory(c, heads, heads == len(fingerprint.class_names))
    if c.memory_gib <= target:
        return c
    warning = f"as it was set, training needs {c.memory_gib:.1f} GiB, and the plans are for {target:g} GiB"
    return replace(c, reasons={**c.reasons, "warning": "; ".join(filter(None, (c.reasons.get("warning"), warning)))})


def _ceiling(configuration: Configuration, grid: str, fingerprint: Fingerprint) -> float:
    """Of the largest number of channels that was measured and is not above the configuration's; 0 where none was."""
    latent = configuration.latent
    curves = [c.ceilings for c in fingerprint.latent.get(grid, ()) if c.factor == latent.factor]
    measured = {int(k): min(dice.values()) for curve in curves for k, dice in curve.items() if dice and int(k) <= latent.channels}
    return measured[max(measured)] if measured else 0.0


def _allowed(source: Plans, fingerprint: Fingerprint) -> list[str]:
    """Names of the configurations that fit the dataset; see copy_plans for the errors."""
    theirs, ours = len(source.foreground_intensities), len(fingerprint.channel_names)
    what = f"the plans of {source.dataset_name} cannot be copied to {fingerprint.dataset_name}"
    if theirs != ours:
        raise PlansError(f"{what}: they are for {theirs} channel(s), and it has {ours} ({', '.join(fingerprint.channel_names)}).")
    shape = target_grid([c.spacing for c in fingerprint.cases], [c.shape_after_crop for c in fingerprint.cases]).median_shape
    flat = [axis for axis in range(3) if shape[axis] <= 1]
    found = [name for name, c in source.configurations.items() if not flat or c.dimensions == 2]
    if not found:
        raise PlansError(f"{what}: it is 2D, and they have 3D configurations only ({', '.join(source.configurations)}).")
    if flat and source.transpose_forward[0] not in flat:
        axis = "zyx"[source.transpose_forward[0]]
        raise PlansError(f"{what}: their slices are cut across axis {axis}, and its images have one voxel along {'zyx'[flat[0]]}.")
    return found


def _of_this_data(configuration: Configuration, plans: Plans, fingerprint: Fingerprint, origin: str) -> Configuration:
    """With this dataset's median shape, and the reasons that a person should read before fine-tuning."""
    order, spacing = plans.transpose_forward, configuration.spacing
    found = np.array([[c.spacing[a] for a in order] for c in fingerprint.cases])
    target = np.concatenate([found[:, : 3 - len(spacing)], np.tile(spacing, (len(found), 1))], axis=1)
    shapes = np.array([[c.shape_after_crop[a] for a in order] for c in fingerprint.cases]) * found / target
    median = np.median(np.maximum(np.round(shapes), 1), axis=0)
    schemes = normalisation(fingerprint.channel_names, fingerprint.median_relative_size_after_cropping)[0]
    own = np.median(found, axis=0)[3 - len(spacing) :]
    warnings = [configuration.reasons["warning"]] if "warning" in configuration.reasons else []
    if schemes != configuration.normalisation:
        named = [", ".join(s) for s in (configuration.normalisation, schemes)]
        warnings.append(f"normalisation {named[0]} is copied, where this dataset's channel names ask for {named[1]}")
    if any(not 1 / FAR <= a / b <= FAR for a, b in zip(own, spacing, strict=True)):
        texts = [" x ".join(f"{v:.4g}" for v in values) for values in (spacing, own)]
        warnings.append(f"the copied spacing, {texts[0]} mm, is far from this dataset's, {texts[1]} mm")
    reasons = {"copied": f"from {origin}, whose intensities normalise this dataset too; the reasons below are that dataset's"}
    reasons = merge(merge(reasons, configuration.reasons), {"warning": "; ".join(warnings)} if warnings else {})
    return replace(configuration, median_shape=tuple(float(m) for m in median), reasons=reasons)
