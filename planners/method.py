"""The parts in which LDSeg as published (`paper`), this project's variant (`auto`) and the arm without diffusion (`direct`) differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from ldseg_auto.planners.rules.aim import aim
from ldseg_auto.planners.serialise import require

VARIANTS = ("auto", "paper", "direct")
PREDICTIONS, LABEL_INPUTS, DENOISERS, STANDARDISATIONS = ("z0", "eps"), ("onehot", "integer"), ("unet", "attention"), ("running", "sample")
SHARES = ("pure_noise", "later_steps", "recycling", "reconstruction_share", "diversity")


@dataclass(frozen=True)
class Method:
    """One field per part that was studied (documentation/method.md); None takes the variant's own value (`preset`)."""

    prediction: str | None = None  # z0 | eps: what the denoiser gives
    label_input: str | None = None  # onehot | integer: how labels enter the label encoder
    skips: bool | None = None  # image features of every stage into the decoder
    denoiser: str | None = None  # unet (image features on each of its grids) | attention (one-channel embedding of the image)
    signal_gate: bool | None = None  # the denoiser reads sqrt(alpha_bar) zt: nothing at t = 1, where zt is noise
    block_code: bool | None = None  # the label autoencoder begins as the best linear code of the training labels' blocks
    standardisation: str | None = None  # running | sample: where the latent's mean and deviation come from
    stop_gradient: bool | None = None  # nothing of the regression reaches the label encoder through its target
    pure_noise: float | None = None  # share of samples at t = 1
    later_steps: float | None = None  # share of samples that are denoised once more, at t < 1, for the regression alone: nothing is decoded
    recycling: float | None = None  # share of the samples at t < 1 noised from the model's own draw
    reconstruction_weight: float | None = None  # of the label autoencoder's segmentation loss
    reconstruction_share: float | None = None  # share of a batch whose labels the autoencoder decodes: a second pass of the decoder
    regression_weight: float | None = None  # of the error on the latent
    diversity: float | None = None  # at t = 1: 0 trains the best mask, 1 the energy score, whose optimum is the posterior
    dice_weight: float | None = None  # against cross-entropy
    input_scale: float | None = None  # of the latent before noise is added; below 1 makes every t harder
    average_steps: bool | None = None  # a sample's steps go towards the mean of all its predictions so far, not towards the last one
    mirror_samples: bool | None = None  # each of several samples sees the image in another of the orientations that training mirrored it to

    RETIRED: ClassVar[Mapping[str, float]] = {"skip_dropout": 0.0, "skip_noise": 0.0}  # disturbed image features: documentation/method.md

    def __post_init__(self) -> None:
        allowed = {
            "prediction": PREDICTIONS, "label_input": LABEL_INPUTS, "denoiser": DENOISERS, "standardisation": STANDARDISATIONS,
        }  # fmt: skip
        for name, values in allowed.items():
            require(getattr(self, name) in (None, *values), name, getattr(self, name), f"one of {values}")
        for name in SHARES:
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, name, value, "0 to 1")
        for name in ("reconstruction_weight", "regression_weight", "dice_weight"):
            value = getattr(self, name)
            require(value is None or value >= 0, name, value, "0 or more")
        require(self.input_scale is None or 0 < self.input_scale <= 1, "input_scale", self.input_scale, "above 0, at most 1")

    def resolved(self, variant: str, raters: int) -> Parts:
        """Every part of `variant` on data of so many raters, this object's own values first.

        A diversity of 0 asks for the best mask: the rest is then what one rater gets. What a part rules out goes with it: the gate, the
        averaged steps and the mirrored samples with diversity, t = 1 with prediction of eps, the block code with integer labels.
        """
        own = {k: v for k, v in asdict(self).items() if v is not None}
        if self.diversity:
            own = {"signal_gate": False, "average_steps": False, "mirror_samples": False, **own}
        if self.label_input == "integer":
            own = {"block_code": False, **own}
        if self.prediction == "eps":
            own = {"pure_noise": 0.0, **own}
        return Parts(**{**preset(variant, 1 if self.diversity == 0 else raters), **own})

    def fixed(self, variant: str, raters: int) -> Method:
        """The same with no part left open: what is saved with a model, whatever later versions prefer."""
        return replace(self, **asdict(self.resolved(variant, raters)))


@dataclass(frozen=True)
class Parts:
    """`Method` with every part decided."""

    prediction: str
    label_input: str
    skips: bool
    denoiser: str
    signal_gate: bool
    block_code: bool
    standardisation: str
    stop_gradient: bool
    pure_noise: float
    later_steps: float
    recycling: float
    reconstruction_weight: float
    reconstruction_share: float
    regression_weight: float
    diversity: float
    dice_weight: float
    input_scale: float
    average_steps: bool
    mirror_samples: bool


PUBLISHED: Mapping[str, Any] = {
    "prediction": "eps", "label_input": "integer", "skips": False, "denoiser": "attention", "signal_gate": False,
    "block_code": False, "standardisation": "sample",
    "stop_gradient": False, "pure_noise": 0.0, "later_steps": 0.0, "recycling": 0.0,
    "reconstruction_weight": 0.0, "reconstruction_share": 0.0, "regression_weight": 1.0,
    "diversity": 0.0, "dice_weight": 2.0, "input_scale": 1.0,
    "average_steps": False, "mirror_samples": False,
}  # fmt: skip
AUTO: dict[str, Any] = {
    "prediction": "z0", "label_input": "onehot", "skips": True, "denoiser": "unet", "signal_gate": True,
    "block_code": True, "standardisation": "running",
    "stop_gradient": True, "pure_noise": 1.0, "later_steps": 0.25, "recycling": 1.0,
    "reconstruction_weight": 0.5, "reconstruction_share": 0.0625, "regression_weight": 1.0,
    "diversity": 0.0, "dice_weight": 1.0, "input_scale": 1.0,
    "average_steps": True, "mirror_samples": True,
}  # fmt: skip


DIRECT: Mapping[str, Any] = AUTO | {
    "block_code": False, "pure_noise": 1.0, "later_steps": 0.0, "recycling": 0.0,
    "reconstruction_weight": 0.0, "reconstruction_share": 0.0,
    "regression_weight": 0.0, "average_steps": False, "mirror_samples": False,
}  # fmt: skip
# what weights are made for
OF_NETWORK = ("prediction", "label_input", "skips", "denoiser", "signal_gate", "standardisation", "input_scale")
OF_DIRECT = ("dice_weight",)  # the parts that an arm without a latent has


def preset(variant: str, raters: int) -> Mapping[str, Any]:
    """What a variant takes where nothing else is said; `auto` aims at what the number of raters calls for."""
    if variant == "auto":
        return AUTO | aim(raters)
    return PUBLISHED if variant == "paper" else DIRECT


def check_method(method: Method, variant: str, raters: int) -> None:
    """Raises RuleBroken where parts contradict each other, or `direct` is given one that it has not."""
    for name, value in asdict(method).items():
        if variant == "direct" and name not in OF_DIRECT:
            require(value in (None, DIRECT[name]), f"method.{name}", value, "null with network.variant = direct, which has no diffusion")
    parts = method.resolved(variant, raters)
    if parts.diversity:
        rule = "z0 with method.diversity above 0: a first step that predicts eps cannot give a sample"
        require(parts.prediction == "z0", "method.prediction", parts.prediction, rule)
        require(parts.pure_noise > 0, "method.pure_noise", parts.pure_noise, "above 0 with method.diversity, which acts on those samples")
        rule = "false with method.diversity above 0: the first step must read the noise that it draws from"
        require(not parts.signal_gate, "method.signal_gate", parts.signal_gate, rule)
    if parts.block_code:
        rule = "false with method.label_input = integer: the code is one of classes or regions"
        require(parts.label_input == "onehot", "method.block_code", parts.block_code, rule)
    if parts.recycling and variant != "direct":
        needed = parts.pure_noise < 1 or parts.later_steps > 0
        require(needed, "method.recycling", parts.recycling, "0 with method.later_steps = 0 and method.pure_noise = 1: no sample has t < 1")
    if parts.prediction == "eps":
        rule = "below 1 with method.prediction = eps, which says nothing at t = 1"
        require(parts.pure_noise < 1, "method.pure_noise", parts.pure_noise, rule)
