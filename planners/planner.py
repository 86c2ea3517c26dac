"""From fingerprint to plans: a pure function that applies the rules and keeps their reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod

from ldseg_auto.errors import InputError, PlansError
from ldseg_auto.files import hash_json
from ldseg_auto.planners.choices import DEFAULT_GPU_MEMORY, Choices
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.method import Method
from ldseg_auto.planners.plans import Configuration, Latent, Network, Plans, Resampling, Sampling, Training
from ldseg_auto.planners.rules.aim import aims_at_mask, why
from ldseg_auto.planners.rules.default import batch_dice, default_configuration
from ldseg_auto.planners.rules.denoiser import choose_denoiser
from ldseg_auto.planners.rules.latent import CHANNELS, Choice, by_factor, candidate_factors, choose_latent
from ldseg_auto.planners.rules.lowres import low_resolution
from ldseg_auto.planners.rules.memory import RESERVE, Demand, prediction_gib, training_demand, training_gib
from ldseg_auto.planners.rules.memory import Plan as MemoryPlan
from ldseg_auto.planners.rules.normalisation import normalisation
from ldseg_auto.planners.rules.patch import PatchChoice, choose_patch
from ldseg_auto.planners.rules.resampling import resampling_reason
from ldseg_auto.planners.rules.spacing import target_grid, transposition
from ldseg_auto.planners.rules.steps import sampling_steps
from ldseg_auto.planners.rules.topology import Topology, topology_reason
from ldseg_auto.planners.rules.window import choose_tile_batch
from ldseg_auto.planners.serialise import to_dict
from ldseg_auto.planners.spectrum import LabelGrid

PLANS_NAME = "ldsegPlans"
BASE_WIDTHS = (32, 16, 8)  # channels of the first stage: the first with which a patch fits
MAX_WIDTH = {2: 512, 3: 320}


@dataclass(frozen=True)
class Layout:
    """Everything about a configuration that does not depend on the latent."""

    name: str
    spacing: tuple[float, ...]
    median_shape: tuple[float, float, float]  # voxels, transposed
    patch: PatchChoice
    reasons: dict[str, str]
    base_width: int = BASE_WIDTHS[0]

    @property
    def network(self) -> Network:
        """Without the choices that depend on the latent."""
        return network_of(self.patch.topology, self.base_width)

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """Candidate latent factors."""
        return tuple(candidate_factors(self.network.cumulative_strides[1:]))


def network_of(topology: Topology, base_width: int = BASE_WIDTHS[0]) -> Network:
    """The `auto` network for a topology: `base_width` channels, doubled per stage up to 320 (3D) or 512 (2D)."""
    largest = MAX_WIDTH[len(topology.patch_size)]
    widths = tuple(min(base_width * 2**i, largest) for i in range(len(topology.strides)))
    return Network("auto", widths, topology.strides, topology.kernel_sizes)


def _widest(choose: Callable[[int], PatchChoice]) -> tuple[PatchChoice, int]:
    """The patch for the widest network with which one fits, and that base width; raises InputError where none does."""
    for width in BASE_WIDTHS[:-1]:
        with suppress(InputError):
            return choose(width), width
    return choose(BASE_WIDTHS[-1]), BASE_WIDTHS[-1]


def _width_reason(width: int, dimensions: int, gpu_memory: float) -> str:
    doubled = f"base width {width}, doubled per stage up to {MAX_WIDTH[dimensions]}"
    return doubled if width == BASE_WIDTHS[0] else f"{doubled}: with {2 * width} even the smallest patch needs more than {gpu_memory:g} GiB"


def layouts(
    fingerprint: Fingerprint, heads: int, gpu_memory: float = DEFAULT_GPU_MEMORY, target_spacing: Sequence[float] = (),
    memory: Callable[[Topology], Demand] | None = None,
) -> tuple[tuple[int, int, int], dict[str, Layout]]:  # fmt: skip
    """Transposition, and the layout of each configuration that the dataset allows: 2d, 3d_fullres, 3d_lowres.

    Args:
        heads: logit channels.
        gpu_memory: GiB.
        target_spacing: mm, (z, y, x) or (y, x), in place of the rule's.
        memory: demand of a topology, in place of our own network's.

    Raises:
        InputError: the memory target is too small, or an impossible spacing.
    """
    cases = fingerprint.cases
    grid = target_grid([c.spacing for c in cases], [c.shape_after_crop for c in cases], target_spacing)
    order, why = transposition(grid.spacing, grid.median_shape)
    spacing = [grid.spacing[a] for a in order]
    shape = [grid.median_shape[a] for a in order]

    def patch(s: Sequence[float], m: Sequence[float]) -> tuple[PatchChoice, int]:
        voxels = len(cases) * prod(shape) * prod(spacing[3 - len(s) :]) / prod(s)
        return _widest(lambda width: choose_patch(s, m, voxels, memory or (lambda t: _demand(t, heads, fingerprint, width)), gpu_memory))

    def layout(name: str, s: Sequence[float], m: Sequence[float], sized: tuple[PatchChoice, int], why_spacing: str = grid.reason) -> Layout:
        """Of a configuration with spacing `s` and median shape `m`, for the patch and width that were found, with its reasons."""
        chosen, width = sized
        reasons = {"spacing": why_spacing, "patch_size": chosen.patch_reason, "batch_size": chosen.batch_reason, "transpose": why}
        reasons["network.strides"] = topology_reason(s, chosen.topology)
        reasons["resampling"] = resampling_reason(s if len(s) == 3 else spacing, Resampling())
        reasons["network.features_per_stage"] = _width_reason(width, len(s), gpu_memory)
        return Layout(name, tuple(s), (m[0], m[1], m[2]), chosen, reasons, width)

    found = {}
    if all(n > 1 for n in shape):
        full = patch(spacing, shape)
        low, why_low = low_resolution(
            spacing, shape, prod(full[0].topology.patch_size), lambda s, m: prod(patch(s, m)[0].topology.patch_size)
        )
        found["3d_fullres"] = layout("3d_fullres", spacing, shape, full)
        if low:
            found["3d_lowres"] = layout("3d_lowres", low[0], low[1], patch(*low), why_low)
        else:
            found["3d_fullres"].reasons["3d_lowres"] = why_low
    found["2d"] = layout("2d", spacing[1:], shape, patch(spacing[1:], shape[1:]))
    return order, found


def _demand(topology: Topology, heads: int, fingerprint: Fingerprint, width: int) -> Demand:
    return training_demand(_memory_plan(topology, heads, fingerprint, width), topology.patch_size)


def _memory_plan(topology: Topology, heads: int, fingerprint: Fingerprint, width: int) -> MemoryPlan:
    """What memory depends on, with the largest latent that the rule may choose later."""
    network = network_of(topology, width)
    latent = Latent(candidate_factors(network.cumulative_strides[1:])[0], max(CHANNELS))
    regions = heads == len(fingerprint.class_names)  # classes have a head for background
    raters = 1 if method_of(fingerprint).diversity == 0 else fingerprint.raters  # of whose method memory is that
    return MemoryPlan(network, latent, heads, regions, len(fingerprint.channel_names), raters)


def label_grid(layout: Layout, order: tuple[int, int, int]) -> LabelGrid:
    """The grid on which the latent of a layout is measured."""
    key = grid_key(layout.name, layout.spacing, layout.patch.topology.patch_size, order)
    return LabelGrid(key, order, layout.spacing, layout.patch.topology.patch_size, layout.factors)


def grid_key(name: str, spacing: Sequence[float], patch_size: Sequence[int], order: Sequence[int]) -> str:
    """Names the grid of a configuration's labels in the fingerprint."""
    sizes = [" x ".join(f"{v:.6g}" for v in values) for values in (spacing, patch_size)]
    return f"{name}: {sizes[0]} mm, patch {sizes[1]}, axes {''.join('zyx'[a] for a in order)}"


def choose_configurations(available: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """`wanted`, or all that are available.

    Raises:
        InputError: a configuration that the dataset does not allow.
    """
    for name in wanted or ():
        if name not in available:
            raise InputError(f"-c {name}: this dataset has no such configuration; it has {', '.join(available)}.")
    return [name for name in available if not wanted or name in wanted]


def make_plans(fingerprint: Fingerprint, heads: int, gpu_memory: float = DEFAULT_GPU_MEMORY, target_spacing: Sequence[float] = ()) -> Plans:
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
    method, why_method = method_of(fingerprint), why(fingerprint.raters, fingerprint.agreement)
    planned = {}
    for name, layout in found.items():
        latent, steps, reasons = _latent(fingerprint, layout, order)
        network, why_network = _with_denoiser(layout, latent)
        dice, reasons["training.batch_dice"] = batch_dice(name, list(found))
        settings = Training(batch_dice=dice)
        sized = Configuration(
            name, layout.spacing, layout.patch.topology.patch_size, layout.patch.batch_size, layout.median_shape, schemes, use_mask,
            network, Latent(latent.factor, latent.channels, latent.ceiling), Sampling(steps), method, Resampling(), settings,
            raters=fingerprint.raters,
            reasons={**layout.reasons, "normalisation": normalisation_reason, **reasons, **why_network, "method": why_method},
        )  # fmt: skip
        regions = heads == len(fingerprint.class_names)
        planned[name] = with_memory(_with_tiles(sized, heads, regions), heads, regions)
    planned = with_folders(planned, fingerprint, order)
    default, why_default = default_configuration(planned, found["2d"].median_shape, found.get("3d_fullres", found["2d"]).spacing)
    transpose = next(iter(found.values())).reasons["transpose"]
    reasons = {"transpose_forward": transpose, "default_configuration": why_default}
    return Plans(
        fingerprint.dataset_name, PLANS_NAME, fingerprint.data_hash, fingerprint.file_ending, order, fingerprint.intensities, planned,
        default, reasons, Choices(gpu_memory, tuple(float(s) for s in target_spacing)),
    )  # fmt: skip


def method_of(fingerprint: Fingerprint) -> Method:
    """What is planned of the method: all of it the variant's own, but for raters who agree, where the best mask is trained."""
    agree = fingerprint.raters > 1 and aims_at_mask(fingerprint.raters, fingerprint.agreement)
    return Method(diversity=0.0) if agree else Method()


def _latent(fingerprint: Fingerprint, layout: Layout, order: tuple[int, int, int]) -> tuple[Choice, int, dict[str, str]]:
    grid = label_grid(layout, order)
    candidates = fingerprint.latent.get(grid.key)
    if not candidates:
        known = "; ".join(fingerprint.latent) or "none"
        raise PlansError(f"the fingerprint holds no label code for '{grid.key}' (it has {known}); run ldseg_plan_and_preprocess again.")
    choice = choose_latent(by_factor(candidates))
    modes = next(c.modes for c in candidates if c.factor == choice.factor)[str(choice.channels)]
    draws = method_of(fingerprint).resolved("auto", fingerprint.raters).diversity == 1
    steps, why_steps = sampling_steps([(v, w) for v, w in modes], draws)
    reasons = {"latent": choice.reason, "sampling.steps": why_steps}
    return choice, steps, reasons | ({"warning": choice.warning} if choice.warning else {})


def _with_denoiser(layout: Layout, latent: Choice) -> tuple[Network, dict[str, str]]:
    """The network with the denoiser that the latent's grid asks for, and the reasons."""
    network, patch = layout.network, layout.patch.topology.patch_size
    grid = [p // f for p, f in zip(patch, latent.factor, strict=True)]
    choice = choose_denoiser(grid, network.strides[network.cumulative_strides.index(latent.factor) :])
    reasons = {"network.denoiser_levels": choice.levels_reason, "network.attention_positions": choice.attention_reason}
    return replace(network, denoiser_levels=choice.levels, attention_positions=choice.attention_positions), reasons


def _with_tiles(configuration: Configuration, heads: int, regions: bool) -> Configuration:
    """With as many tiles per network call of prediction as a large card has work for, in no more memory than training takes."""
    c, training = configuration, training_gib(configuration, heads, regions)

    def tiled(number: int) -> Configuration:
        return replace(c, inference=replace(c.inference, tile_batch=number))

    chosen, reason = choose_tile_batch(c.patch_size, lambda number: prediction_gib(tiled(number), heads) <= training)
    return replace(tiled(chosen), reasons={**c.reasons, "inference.tile_batch": reason})


def with_memory(configuration: Configuration, heads: int, regions: bool) -> Configuration:
    """The configuration with the memory that training and prediction need.

    Args:
        heads: logit channels.
        regions: sigmoid heads.
    """
    c = configuration
    training, prediction = RESERVE + training_gib(c, heads, regions), RESERVE + prediction_gib(c, heads)
    reason = (
        f"of the card: training {training:.2f} GiB at batch {c.batch_size}, prediction {prediction:.2f} GiB, {RESERVE:g} GiB of each for "
        "CUDA's context and the allocator's gaps; unfinished planes of logits lie on the card where it has room, else in main memory"
    )
    reasons = {**c.reasons, "memory": reason}
    return replace(c, memory_gib=round(training, 2), prediction_memory_gib=round(prediction, 2), reasons=reasons)


def with_folders(
    planned: Mapping[str, Configuration], fingerprint: Fingerprint, order: tuple[int, int, int], plans_name: str = PLANS_NAME
) -> dict[str, Configuration]:
    """Names the folder of each configuration's preprocessed cases, PLANS_NAME and configuration; equal preprocessing shares one."""
    names: dict[str, str] = {}
    out = {}
    for name, configuration in planned.items():
        key = hash_json({"settings": preprocessing_settings(configuration, fingerprint, order)})
        names.setdefault(key, f"{plans_name}_{name}")
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
    row("training memory (GiB)", *(f"{c.memory_gib:.1f}" if c.memory_gib else "-" for c in all_of))
    row("prediction memory (GiB)", *(f"{c.prediction_memory_gib:.1f}" if c.prediction_memory_gib else "-" for c in all_of))
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
