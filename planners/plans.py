"""The plans: the contract that preprocessing, training and prediction read.

Typed, frozen, versioned and validated on load. Every size is `(z, y, x)` in voxels (or `(y, x)` for a 2D
configuration), every spacing in millimetres in the same order, after transposition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import prod
from pathlib import Path
from typing import Any

from ldseg_auto.errors import PlansError
from ldseg_auto.files import read_json, write_json
from ldseg_auto.planners.choices import Choices
from ldseg_auto.planners.inherit import resolve
from ldseg_auto.planners.method import OF_NETWORK, VARIANTS, Method, Parts, check_method
from ldseg_auto.planners.names import REFERENCES, check_names, is_name
from ldseg_auto.planners.serialise import from_dict, require, to_dict
from ldseg_auto.planners.training_section import Training as Training

VERSION = 3
VERSION_RULE = f"{VERSION}; plan again with ldseg_plan, which takes seconds (a trained model needs the ldseg_auto that trained it)"
NORMALISATIONS = ("ct", "zscore", "rescale_to_0_1", "rgb_to_0_1", "none")
SAMPLERS = ("ddim", "ddpm", "multistep")


@dataclass(frozen=True)
class Intensities:
    """Foreground intensities of one channel over the training cases (nnU-Net's keys)."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float

    def __post_init__(self) -> None:
        require(self.std >= 0, "std", self.std, "0 or more")
        require(self.min <= self.max, "max", self.max, f"at least min = {self.min}")


@dataclass(frozen=True)
class Resampling:
    """How images, labels and logits change grid."""

    order_image: int = 3  # spline order for images, 0 to 5
    order_label: int = 1  # 0 nearest, 1 linear per class
    separate_axis_threshold: float = 3.0  # spacing ratio above which the coarsest axis is resampled by itself, order 0

    def __post_init__(self) -> None:
        require(0 <= self.order_image <= 5, "order_image", self.order_image, "0 to 5")
        require(self.order_label in (0, 1), "order_label", self.order_label, "0 or 1")
        require(self.separate_axis_threshold >= 1, "separate_axis_threshold", self.separate_axis_threshold, "at least 1")


@dataclass(frozen=True)
class Network:
    """The four parts' sizes; one entry per resolution stage, finest first."""

    variant: str  # auto | paper | direct
    features_per_stage: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]  # per stage and axis; the first stage has stride 1
    kernel_sizes: tuple[tuple[int, ...], ...]  # per stage and axis, odd
    blocks_per_stage: int = 1  # residual blocks (two convolutions each) per encoder stage
    denoiser_levels: int = 0  # grids of the U-shaped denoiser at most, from the latent's on; 0: all that the network has
    attention_positions: int = 0  # the U-shaped denoiser attends where its coarsest grid has so many positions at most; 0: never

    def __post_init__(self) -> None:
        require(self.variant in VARIANTS, "variant", self.variant, f"one of {VARIANTS}")
        stages = len(self.features_per_stage)
        require(stages >= 2, "features_per_stage", self.features_per_stage, "two stages or more")
        require(all(f > 0 for f in self.features_per_stage), "features_per_stage", self.features_per_stage, "positive")
        require(len(self.strides) == stages, "strides", self.strides, f"one entry for each of {stages} stages")
        require(len(self.kernel_sizes) == stages, "kernel_sizes", self.kernel_sizes, f"one entry for each of {stages} stages")
        require(all(s == 1 for s in self.strides[0]), "strides", self.strides, "the first stage has stride 1")
        require(all(s in (1, 2) for st in self.strides for s in st), "strides", self.strides, "each 1 or 2")
        require(all(2 in st for st in self.strides[1:]), "strides", self.strides, "a 2 in every stage after the first")
        require(all(k % 2 == 1 and k > 0 for ks in self.kernel_sizes for k in ks), "kernel_sizes", self.kernel_sizes, "odd")
        require(self.blocks_per_stage >= 1, "blocks_per_stage", self.blocks_per_stage, "at least 1")
        require(self.denoiser_levels >= 0, "denoiser_levels", self.denoiser_levels, "0 or more")
        require(self.attention_positions >= 0, "attention_positions", self.attention_positions, "0 or more")

    @property
    def cumulative_strides(self) -> tuple[tuple[int, ...], ...]:
        """Downsampling of each stage against the patch, per axis."""
        out: list[tuple[int, ...]] = []
        current = tuple(1 for _ in self.strides[0])
        for stride in self.strides:
            current = tuple(c * s for c, s in zip(current, stride, strict=True))
            out.append(current)
        return tuple(out)


@dataclass(frozen=True)
class Latent:
    """The label latent: `channels` numbers per block of `factor` voxels."""

    factor: tuple[int, ...]  # voxels per latent position, per axis; one of the network's cumulative strides
    channels: int
    ceiling: float = 1.0  # reconstruction Dice of the worst class by the best linear code of this size, on training labels

    def __post_init__(self) -> None:
        require(all(f >= 1 for f in self.factor), "factor", self.factor, "at least 1 per axis")
        require(self.channels >= 1, "channels", self.channels, "at least 1")
        require(0 <= self.ceiling <= 1, "ceiling", self.ceiling, "0 to 1")


@dataclass(frozen=True)
class Sampling:
    """How latents are drawn at prediction."""

    steps: int  # network evaluations per sample
    sampler: str = "ddim"  # ddim | ddpm | multistep
    schedule: str = "cosine"  # linear | quadratic | cosine
    samples: int = 1
    centre: bool = True  # one sample in one step starts from zero noise (with prediction = z0)

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.sampler in SAMPLERS, "sampler", self.sampler, f"one of {SAMPLERS}")
        require(self.schedule in ("linear", "quadratic", "cosine"), "schedule", self.schedule, "linear, quadratic or cosine")
        require(self.samples >= 1, "samples", self.samples, "at least 1")


@dataclass(frozen=True)
class Inference:
    """The sliding window."""

    step: float = 0.5  # shift between tiles as a share of the patch
    tile_batch: int = 1  # tiles per network call

    def __post_init__(self) -> None:
        require(0 < self.step <= 1, "step", self.step, "above 0, at most 1")
        require(self.tile_batch >= 1, "tile_batch", self.tile_batch, "at least 1")


@dataclass(frozen=True)
class Configuration:
    """One way to train on the dataset: 2d, 3d_fullres or 3d_lowres."""

    data_identifier: str  # folder of the preprocessed cases; configurations with equal preprocessing share it
    spacing: tuple[float, ...]  # mm, transposed; two numbers for 2d
    patch_size: tuple[int, ...]  # voxels
    batch_size: int
    median_shape: tuple[float, ...]  # voxels, after resampling, three numbers always
    normalisation: tuple[str, ...]  # per channel
    use_mask_for_norm: tuple[bool, ...]  # per channel: statistics over non-zero voxels only
    network: Network
    latent: Latent
    sampling: Sampling
    method: Method = field(default_factory=Method)
    resampling: Resampling = field(default_factory=Resampling)
    training: Training = field(default_factory=Training)
    inference: Inference = field(default_factory=Inference)
    inherits_from: str | None = None  # the configuration that gave what the file left out
    raters: int = 1  # of the training labels: decides what `auto` aims at
    memory_gib: float = 0.0  # of the card that training needs at this patch and batch, estimated
    prediction_memory_gib: float = 0.0  # of the card that prediction needs, estimated
    reasons: dict[str, str] = field(default_factory=dict)  # decision -> the numbers that led to it

    def __post_init__(self) -> None:
        folder = self.data_identifier
        require(is_name(folder) and folder != REFERENCES, "data_identifier", folder, f"a folder's name, not {REFERENCES}")
        n = len(self.patch_size)
        require(n in (2, 3), "patch_size", self.patch_size, "two or three numbers")
        require(len(self.spacing) == n, "spacing", self.spacing, f"{n} numbers, as patch_size")
        require(all(s > 0 for s in self.spacing), "spacing", self.spacing, "above 0 mm")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.raters >= 1, "raters", self.raters, "at least 1")
        positive = len(self.median_shape) == 3 and all(m > 0 for m in self.median_shape)
        require(positive, "median_shape", self.median_shape, "three numbers above 0")
        for key in ("memory_gib", "prediction_memory_gib"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        require(len(self.normalisation) > 0, "normalisation", self.normalisation, "one for each channel")
        require(all(x in NORMALISATIONS for x in self.normalisation), "normalisation", self.normalisation, f"each of {NORMALISATIONS}")
        require(len(self.use_mask_for_norm) == len(self.normalisation), "use_mask_for_norm", self.use_mask_for_norm, "one per channel")
        require(all(len(s) == n for s in self.network.strides), "network.strides", self.network.strides, f"{n} numbers per stage")
        require(
            all(len(k) == n for k in self.network.kernel_sizes), "network.kernel_sizes", self.network.kernel_sizes, f"{n} numbers per stage"
        )
        total = self.network.cumulative_strides[-1]
        divisible = all(p > 0 and p % t == 0 for p, t in zip(self.patch_size, total, strict=True))
        require(divisible, "patch_size", self.patch_size, f"positive multiples of the total stride {total}")
        require(prod(p // t for p, t in zip(self.patch_size, total, strict=True)) > 1, "patch_size", self.patch_size, f"more than {total}")
        allowed = self.network.cumulative_strides[1:]
        check_method(self.method, self.network.variant, self.raters)
        axes = self.training.mirror_axes or ()
        require(all(a < n for a in axes), "training.mirror_axes", self.training.mirror_axes, f"axes below {n}, the number of patch_size's")
        require(self.latent.factor in allowed, "latent.factor", self.latent.factor, f"one of the network's cumulative strides {allowed}")

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of the patch that training mirrors along."""
        if not self.training.augmentation:
            return ()
        return tuple(range(self.dimensions)) if self.training.mirror_axes is None else self.training.mirror_axes

    @property
    def channels(self) -> int:
        """Image channels."""
        return len(self.normalisation)

    @property
    def parts(self) -> Parts:
        """The method, with what the variant leaves open filled in."""
        return self.method.resolved(self.network.variant, self.raters)

    @property
    def network_parts(self) -> dict[str, Any]:
        """The parts of the method that weights are made for."""
        return {name: getattr(self.parts, name) for name in OF_NETWORK}

    @property
    def centre(self) -> bool:
        """Whether one sample in one step starts from zero noise; a predicted eps of zero noise says nothing."""
        return self.sampling.centre and self.parts.prediction == "z0"

    @property
    def latent_stage(self) -> int:
        """Index of the network stage whose grid the latent lives on."""
        return self.network.cumulative_strides.index(self.latent.factor)

    @property
    def denoiser_stages(self) -> slice:
        """The network stages on whose grids the U-shaped denoiser works."""
        return slice(self.latent_stage, self.latent_stage + (self.network.denoiser_levels or len(self.network.strides)))

    @property
    def attention(self) -> bool:
        """Whether the U-shaped denoiser attends on its coarsest grid."""
        coarsest = self.network.cumulative_strides[self.denoiser_stages][-1]
        return prod(p // s for p, s in zip(self.patch_size, coarsest, strict=True)) <= self.network.attention_positions

    @property
    def latent_size(self) -> int:
        """The latent dimension: channels x positions of one patch."""
        return self.latent.channels * prod(p // f for p, f in zip(self.patch_size, self.latent.factor, strict=True))


@dataclass(frozen=True)
class Plans:
    """All decisions for a dataset."""

    dataset_name: str
    plans_name: str
    fingerprint_hash: str  # names the data: SHA-256 over channels, classes and input files
    file_ending: str
    transpose_forward: tuple[int, int, int]  # permutation of (z, y, x) that puts the coarsest axis first
    foreground_intensities: tuple[Intensities, ...]  # per channel
    configurations: dict[str, Configuration]
    default_configuration: str
    reasons: dict[str, str] = field(default_factory=dict)
    choices: Choices = field(default_factory=Choices)
    version: int = VERSION

    def __post_init__(self) -> None:
        require(self.version == VERSION, "version", self.version, VERSION_RULE)
        require(sorted(self.transpose_forward) == [0, 1, 2], "transpose_forward", self.transpose_forward, "a permutation of 0, 1, 2")
        require(len(self.configurations) > 0, "configurations", {}, "at least one")
        names = tuple(self.configurations)
        require(self.default_configuration in names, "default_configuration", self.default_configuration, f"one of {names}")
        check_names(self.configurations, [f.name for f in fields(Configuration)])
        for name, configuration in self.configurations.items():
            ok = configuration.channels == len(self.foreground_intensities)
            require(ok, f"configurations.{name}.normalisation", configuration.normalisation, f"{len(self.foreground_intensities)} channels")

    @property
    def transpose_backward(self) -> tuple[int, ...]:
        """The inverse permutation."""
        return tuple(self.transpose_forward.index(i) for i in range(3))

    def configuration(self, name: str | None = None) -> Configuration:
        """The named configuration, or the default one.

        Raises:
            PlansError: there is none of that name.
        """
        name = name or self.default_configuration
        if name not in self.configurations:
            raise PlansError(
                f"configuration '{name}' is not in the plans of {self.dataset_name}; there are {', '.join(self.configurations)}."
            )
        return self.configurations[name]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: str = "plans") -> Plans:
        """Validated.

        Raises:
            PlansError: unknown key, missing key, wrong type or impossible value, with the key's path.
        """
        version = content.get("version", VERSION)
        if version != VERSION:  # before the keys, which another version may have others of
            raise PlansError(f"{source}: version = {version!r} is not possible: expected {VERSION_RULE}.")
        return from_dict(cls, resolve(content, source), source)

    def save(self, path: Path) -> None:
        """Writes JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> Plans:
        """Reads and validates; raises PlansError."""
        return cls.from_dict(read_json(path, PlansError), str(path))
