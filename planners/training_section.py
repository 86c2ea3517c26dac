"""The plans' `training` section; importable as `ldseg_auto.planners.plans.Training` too."""

from __future__ import annotations

from dataclasses import dataclass

from ldseg_auto.planners.serialise import require

PRECISIONS = ("auto", "float32", "bf16", "float16")
PLACES = ("auto", "cpu", "device")
SWITCH = ("auto", "on", "off")


@dataclass(frozen=True)
class Training:
    """Everything that the trainer needs beside the data."""

    epochs: int = 500
    iterations_per_epoch: int = 250
    learning_rate: float = 1e-3
    early_stopping: int = 0  # epochs without a better smoothed pseudo-Dice after which training ends, its rate annealed first; 0: never
    schedule: str = "poly"  # poly | cosine, over iterations (or over the time budget)
    warmup: float = 0.02  # share of the schedule spent rising to the learning rate
    weight_decay: float = 1e-4
    gradient_clip: float = 5.0  # largest norm
    ema_decay: float = 0.995
    oversample_foreground: float = 0.33  # share of a batch centred on foreground
    batch_dice: bool = True  # Dice over the batch as one volume
    validation_patches: int = 32  # fixed patches per epoch, rounded to whole batches
    augmentation: bool = True
    mirror_axes: tuple[int, ...] | None = None  # of the patch, that augmentation mirrors along, and so prediction may; None: all
    class_weights: tuple[float, ...] | None = None  # of each foreground class (region) in the loss, background 1; None: all 1
    class_sampling: tuple[float, ...] | None = None  # how often foreground patches are centred on each; None: those there equally
    workers: int = 2  # processes that read, and augment, the batches; 0: none but the training itself
    augment_on: str = "auto"  # cpu (by the workers) | device (a batch at a time) | auto, which is device on CUDA
    precision: str = "auto"  # auto | float32 | bf16 | float16 (autocast); auto takes what is fast on the device
    compile: bool = False  # torch.compile the network's parts
    graphs: str = "auto"  # CUDA graphs: on | off | auto, which is on where memory allows and the network is not compiled

    def __post_init__(self) -> None:
        for name in ("epochs", "iterations_per_epoch", "validation_patches"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("learning_rate", "gradient_clip"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("weight_decay", "workers", "early_stopping"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(0 <= self.oversample_foreground <= 1, "oversample_foreground", self.oversample_foreground, "0 to 1")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "0 to below 1")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "0 to below 1")
        require(self.schedule in ("poly", "cosine"), "schedule", self.schedule, "poly or cosine")
        require(self.precision in PRECISIONS, "precision", self.precision, f"one of {PRECISIONS}")
        require(self.augment_on in PLACES, "augment_on", self.augment_on, f"one of {PLACES}")
        require(self.graphs in SWITCH, "graphs", self.graphs, f"one of {SWITCH}")
        axes = self.mirror_axes or ()
        require(len(set(axes)) == len(axes) and all(a in (0, 1, 2) for a in axes), "mirror_axes", axes, "different axes of the patch")
        weights, shares = self.class_weights, self.class_sampling
        positive = weights is None or (len(weights) > 0 and min(weights) > 0)
        require(positive, "class_weights", weights, "a number above 0 for each class, or null")
        positive = shares is None or (len(shares) > 0 and min(shares) >= 0 and max(shares) > 0)
        require(positive, "class_sampling", shares, "a number of 0 or more for each class, one of them above 0, or null")
