"""What a person chose when the plans were made: it stands in the plans, so that they can be made again."""

from __future__ import annotations

from dataclasses import dataclass

from ldseg_auto.planners.serialise import require

DEFAULT_GPU_MEMORY = 8.0  # GiB, as nnU-Net's


@dataclass(frozen=True)
class Choices:
    """What a person chose when the plans were made; the same fingerprint and choices give the same plans."""

    gpu_memory: float = DEFAULT_GPU_MEMORY  # GiB of the graphics card
    target_spacing: tuple[float, ...] = ()  # mm, (z, y, x) or (y, x); empty: the rule's
    settings: tuple[str, ...] = ()  # PATH=VALUE, as given to --set
    copied_from: str = ""  # dataset and plans that these were copied from

    def __post_init__(self) -> None:
        require(self.gpu_memory > 0, "gpu_memory", self.gpu_memory, "above 0 GiB")
        require(all(s > 0 for s in self.target_spacing), "target_spacing", self.target_spacing, "above 0 mm")
