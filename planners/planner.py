"""From fingerprint to plans: a pure function that applies the rules and keeps their reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from ldseg_auto.errors import InputError, PlansError
from ldseg_auto.files import hash_json
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.method import Method
from ldseg_auto.planners.plans import Configuration, Latent, Network, Plans, Resampling, Sampling, Training
from ldseg_auto.planners.rules.aim import why
from ldseg_auto.planners.rules.latent import Choice, candidate_factors, choose_latent
from ldseg_auto.planners.rules.lowres import SHARE, low_resolution
from ldseg_auto.planners.rules.memory import Demand, training_demand
from ldseg_auto.planners.rules.normalisation import normalisation
from ldseg_auto.planners.rules.patch import PatchChoice, choose_patch
from ldseg_auto.planners.rules.spacing import target_grid, transposition
from ldseg_auto.planners.rules.steps import sampling_steps
from ldseg_auto.planners.rules.topology import Topology
from ldseg_auto.planners.serialise import to_dict
from ldseg_auto.planners.spectrum import LabelGrid

DEFAULT_GPU_MEMORY = 8.0  # GiB, as nnU-Net's
PLANS_NAME = "ldsegPlans"
BASE_WIDTH = 32
MAX_WIDTH = {2: 512, 3: 320}
TYPICAL_LATENT_CHANNELS = 16  # for the memory estimate, before the latent is chosen


@dataclass(frozen=True)
class Layout:
    """Everything about a configuration that does not depend on the latent."""

    name: str
    spacing: tuple[float, ...]
    median_shape: tuple[float, float, float]  # voxels, transposed
    patch: PatchChoice
    reasons: dict[str, str]

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """Candidate latent factors."""
        return tuple(candidate_factors(network_of(self.patch.topology).cumulative_strides[1:]))


def network_of(topology: Topology) -> Network:
    """The `auto` network for a topology: base width 32, doubled per stage up to 320 (3D) or 512 (2D)."""
    largest = MAX_WIDTH[len(topology.patch_size)]
    widths = tuple(min(BASE_WIDTH * 2**i, largest) for i in range(len(topology.strides)))
    return Network("auto", widths, topology.strides, topology.kernel_sizes)


def layouts(
    fingerprint: Fingerprint, heads: int, gpu_memory: float = DEFAULT_GPU_MEMORY, target_spacing: Sequence[float] = ()
) -> tuple[tuple[int, int, int], dict[str, Layout]]:
    """Transposition, and the layout of each configuration that the dataset allows: 2d, 3d_fullres, 3d_lowres.

    Args:
        heads: logit channels.
        gpu_memory: GiB.
        target_spacing: mm, (z, y, x) or (y, x), in place of the rule's.

    Raises:
        InputError: the memory target is too small, or an impossible spacing.
    """
    cases = fingerprint.cases
    grid = target_grid([c.spacing for c in cases], [c.shape_after_crop for c in cases], target_spacing)
    order, why = transposition(grid.spacing, grid.median_shape)
    spacing = [grid.spacing[a] for a in order]
    shape = [grid.median_shape[a] for a in order]

    def patch(s: Sequence[float], m: Sequence[float]) -> PatchChoice:
        voxels = len(cases) * prod(m) * (shape[0] if len(m) == 2 else 1)
        return choose_patch(s, m, voxels, lambda t: _demand(t, heads, len(fingerprint.channel_names)), gpu_memory)

    def layout(name: str, s: Sequence[float], m: Sequence[float], chosen: PatchChoice, spacing_reason: str = grid.reason) -> Layout:
        reasons = {"spacing": spacing_reason, "patch_size": chosen.patch_reason, "batch_size": chosen.batch_reason, "transpose": why}
        return Layout(name, tuple(s), (m[0], m[1], m[2]), chosen, reasons)

    found = {}
    if all(n > 1 for n in shape):
        full = patch(spacing, shape)
        low = low_resolution(spacing, shape, prod(full.topology.patch_size), lambda s, m: prod(patch(s, m).topology.patch_size))
        found["3d_fullres"] = layout("3d_fullres", spacing, shape, full)
        if low:
            share = prod(full.topology.patch_size) / prod(shape)
            coarser = f"the patch at full resolution sees {share:.0%} of the median image: coarsened until it sees {SHARE:.0%}"
            found["3d_lowres"] = layout("3d_lowres", low[0], low[1], patch(*low), coarser)
    found["2d"] = layout("2d", spacing[1:], shape, patch(spacing[1:], shape[1:]))
    return order, found


def _demand(topology: Topology, heads: int, channels: int) -> Demand:
    network = network_of(topology)
    factor = candidate_factors(network.cumulative_strides[1:])[0]
    stage = network.cumulative_strides.index(factor)
    return training_demand(network, topology.patch_size, heads, channels, stage, TYPICAL_LATENT_CHANNELS)


def label_grid(layout: Layout, order: tuple[int, int, int]) -> LabelGrid:
    """The grid on which the latent of a layout is measured."""
    sizes = (" x ".join(f"{v:.6g}" for v in values) for values in (layout.spacing, layout.patch.topology.patch_size))
    spacing, patch = sizes
    key = f"{layout.name}: {spacing} mm, patch {patch}, axes {''.join('zyx'[a] for a in order)}"
    return LabelGrid(key, order, layout.spacing, layout.patch.topology.patch_size, layout.factors)


def choose_configurations(available: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """`wanted`, or all that are available.

    Raises:
        InputError: a configuration that the dataset does not allow.
    """
    for name in wanted or ():
        if name not in available:
            raise InputError(f"-c {name}: this dataset has no such configuration; it has {', '.join(available)}.")
    return [name for name in available if not wanted or name in wanted]


def make_plans(
    fingerprint: Fingerprint, heads: int, gpu_memory: float = DEFAULT_GPU_MEMORY, target_spacing: Sequence[float] = ()
) -> Plans:
    """Applies every rule; the same fingerprint gives the same plans, with all configurations that the dataset allows.

    Args:
        heads: logit channels: classes with background, or regions.
        gpu_memory: GiB of the graphics card to plan for.
        target_spacing: mm, (z, y, x) or (y, x), in place of the rule's.

    Raises:
        InputError: see layouts.
        PlansError: the fingerprint lacks the label code of a configuration.
    """
    order, found = layouts(fingerprint, heads, gpu_memory, target_spacing)
    schemes, use_mask, normalisation_reason = normalisation(fingerprint.channel_names, fingerprint.median_relative_size_after_cropping)
    planned = {}
    for name, layout in found.items():
        latent, steps, reasons = _latent(fingerprint, layout, order)
        network = network_of(layout.patch.topology)
        settings = Training(batch_dice=name == "2d" or (name == "3d_fullres" and "3d_lowres" in found))
        planned[name] = Configuration(
            "", layout.spacing, layout.patch.topology.patch_size, layout.patch.batch_size, layout.median_shape, schemes, use_mask,
            network, Latent(latent.factor, latent.channels, latent.ceiling), Sampling(steps), Method(), Resampling(), settings,
            raters=fingerprint.raters,
            memory_gib=round(layout.patch.demand.gib(layout.patch.batch_size), 2),
            reasons={**layout.reasons, "normalisation": normalisation_reason, **reasons, "method": why(fingerprint.raters)},
        )  # fmt: skip
    planned = _with_folders(planned, fingerprint, order)
    default = next(n for n in ("3d_fullres", "2d", "3d_lowres") if n in planned)
    transpose = next(iter(found.values())).reasons["transpose"]
    reasons = {"transpose_forward": transpose, "default_configuration": f"{default}: the finest 3D, else 2D"}
    return Plans(
        fingerprint.dataset_name, PLANS_NAME, fingerprint.data_hash, fingerprint.file_ending, order, fingerprint.intensities, planned,
        default, reasons,
    )  # fmt: skip


def _latent(fingerprint: Fingerprint, layout: Layout, order: tuple[int, int, int]) -> tuple[Choice, int, dict[str, str]]:
    grid = label_grid(layout, order)
    candidates = fingerprint.latent.get(grid.key)
    if not candidates:
        known = "; ".join(fingerprint.latent) or "none"
        raise PlansError(f"the fingerprint holds no label code for '{grid.key}' (it has {known}); run ldseg_plan_and_preprocess again.")
    choice = choose_latent({c.factor: {int(k): dice for k, dice in c.ceilings.items() if dice} for c in candidates})
    modes = next(c.modes for c in candidates if c.factor == choice.factor)[str(choice.channels)]
    draws = Method().resolved("auto", fingerprint.raters).diversity == 1
    steps, why_steps = sampling_steps([(v, w) for v, w in modes], draws)
    reasons = {"latent": choice.reason, "sampling.steps": why_steps}
    return choice, steps, reasons | ({"warning": choice.warning} if choice.warning else {})


def _with_folders(planned: dict[str, Configuration], fingerprint: Fingerprint, order: tuple[int, int, int]) -> dict[str, Configuration]:
    """Names the folder of each configuration's preprocessed cases; equal preprocessing shares one."""
    names: dict[str, str] = {}
    out = {}
    for name, configuration in planned.items():
        key = hash_json({"settings": preprocessing_settings(configuration, fingerprint, order)})
        names.setdefault(key, f"{PLANS_NAME}_{name}")
        out[name] = replace(configuration, data_identifier=names[key])
    return out


def preprocessing_settings(configuration: Configuration, fingerprint: Fingerprint, order: tuple[int, int, int]) -> dict[str, object]:
    """What decides the preprocessed voxels, where a 2D spacing counts as the 3D one whose first axis is left alone."""
    spacing = list(configuration.spacing)
    if len(spacing) == 2 and all(c.spacing[order[0]] == fingerprint.cases[0].spacing[order[0]] for c in fingerprint.cases):
        spacing.insert(0, fingerprint.cases[0].spacing[order[0]])
    return {
        "spacing": spacing,
        "normalisation": list(configuration.normalisation),
        "use_mask": list(configuration.use_mask_for_norm),
        "resampling": to_dict(configuration.resampling),
    }


def describe(plans: Plans) -> str:
    """A table of the decisions, with their reasons below; for a person."""
    rows = [("", *plans.configurations)]

    def row(label: str, *values: str) -> None:
        rows.append((label, *values))

    all_of = list(plans.configurations.values())
    row("spacing (mm)", *(_times(c.spacing) for c in all_of))
    row("median shape (voxels)", *(_times([round(m) for m in c.median_shape]) for c in all_of))
    row("patch (voxels)", *(_times(c.patch_size) for c in all_of))
    row("batch", *(str(c.batch_size) for c in all_of))
    row("normalisation", *(", ".join(dict.fromkeys(c.normalisation)) for c in all_of))
    row("stages (width)", *(" ".join(map(str, c.network.features_per_stage)) for c in all_of))
    row("latent", *(f"{c.latent.channels} channels at 1/{_times(c.latent.factor)}" for c in all_of))
    row("latent dimension", *(str(c.latent_size) for c in all_of))
    row("ceiling, worst class", *(f"{c.latent.ceiling:.3f}" for c in all_of))
    row("sampling steps", *(str(c.sampling.steps) for c in all_of))
    row("training memory (GiB)", *(f"{c.memory_gib:.1f}" for c in all_of))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    default, transposed = plans.default_configuration, plans.reasons["transpose_forward"]
    title = f"{plans.dataset_name}, {plans.plans_name}; default configuration {default}; {transposed}"
    why = [(name, key, text) for name, c in plans.configurations.items() for key, text in c.reasons.items()]
    reasons = [f"  {name}, {key}: {text}" for name, key, text in why if key != "transpose"]
    return "\n".join([title, "", *lines, "", "Why:", *reasons])


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in (float(f"{v:.4g}") for v in values))
