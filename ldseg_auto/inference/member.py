"""One model folder, loaded: its networks and how they are run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ldseg_auto.evaluation.predicted_dice import PredictedDice
from ldseg_auto.inference.device import inference_type
from ldseg_auto.inference.fallback import Way, adapted
from ldseg_auto.inference.kernels import use_onednn
from ldseg_auto.inference.model_folder import ModelFolder, load_network, measured_steps, predicted_dice
from ldseg_auto.inference.noise import sample_numbers
from ldseg_auto.inference.window import Draws, SlidingWindow
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.scratch import Room


@dataclass(frozen=True)
class Options:
    """How networks are run; none of it changes what is predicted but the mirrorings, and the others by rounding."""

    mirror: bool = False  # average over mirrorings along the axes that training mirrored: 2 to the power of axes evaluations
    mirror_samples: bool = True  # without `mirror`: each of several samples sees another mirroring, where the method says so
    precision: str = "auto"  # auto | float32 | bf16 | float16
    compile: bool = False  # torch.compile
    room: Room = Room()  # for logits that wait for their last tile


DEFAULT = Options()


@dataclass(frozen=True, eq=False)
class Member:
    """One model folder, loaded: its networks (one per fold) and its window."""

    folder: ModelFolder
    models: tuple[LDSeg, ...]
    window: SlidingWindow
    steps: int
    predicted: dict[str, PredictedDice]  # fold -> its fit of the Dice

    def adapted(self, way: Way) -> Member:
        """The same, run in another way, beside this one."""
        models, window = adapted(way, self.models, self.window, self.folder.configuration)
        return replace(self, models=models, window=window)

    def draws(self, case: str, seed: int, samples: int) -> Draws:
        """What is drawn of a case."""
        numbers = sample_numbers(self.folder.configuration, self.steps, samples)
        return Draws(case, seed, self.steps, tuple(numbers), self.folder.description.labels.has_regions)

    def volumes(self, draws: Draws) -> int:
        """How many volumes of probabilities the window gives: one per network and sample."""
        return len(self.models) * len(draws.numbers)


def load_member(
    folder: ModelFolder, device: torch.device, steps: int | None, samples: int, tile_batch: int | None = None, options: Options = DEFAULT
) -> Member:
    """Loads the folds of a model folder; `steps` None takes what validation chose for that many samples, else the planned number."""
    configuration = folder.configuration
    if steps is None:
        steps = measured_steps(folder, "chosen" if samples == 1 else "chosen_for_samples") or configuration.sampling.steps
    models = tuple(load_network(folder, fold, device) for fold in folder.folds)
    for model in models:
        if options.compile:
            for part in (model.image_encoder, model.denoiser, model.decoder):
                part.compile()
        elif device.type == "cpu" and inference_type(device, options.precision) == torch.float32:
            use_onednn(model)
    batch = configuration.inference.tile_batch if tile_batch is None else tile_batch
    axes = configuration.mirror_axes if options.mirror else ()
    turn = options.mirror_samples and configuration.parts.mirror_samples
    window = SlidingWindow(configuration, device, batch, axes, options.precision, options.room, turn)
    return Member(folder, models, window, steps, predicted_dice(folder))
