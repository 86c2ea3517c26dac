"""The predictor: images in, masks out, on the images' own grid."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ldseg_auto
from ldseg_auto.data.dataset import Case, Description, find_input_cases, label_ending
from ldseg_auto.data.image_io import read_image, write_label
from ldseg_auto.errors import InputError
from ldseg_auto.files import hash_file, write_json
from ldseg_auto.inference.device import choose_device
from ldseg_auto.inference.model_folder import ModelFolder, load_network, measured_steps, read_model_folder
from ldseg_auto.inference.window import SlidingWindow
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.preprocessing.case import preprocess_array, scores_to_indices
from ldseg_auto.progress import Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseStatus:
    """What became of one case."""

    identifier: str
    status: str  # done | failed
    message: str
    seconds: float


class Predictor:
    """Trained networks, ready for images.

    Args:
        folder: the model folder, read.
        models: one network per fold.
        device: where they run.
        steps: network evaluations per sample.
        samples: posterior samples per case, averaged in probability space.
        seed: of the noise; the same seed gives the same files.
        tile_batch: tiles per network call on an accelerator.
    """

    def __init__(
        self, folder: ModelFolder, models: Sequence[LDSeg], device: torch.device, steps: int, samples: int, seed: int, tile_batch: int
    ) -> None:
        for name, value in (("steps", steps), ("samples", samples), ("tile_batch", tile_batch)):
            if value < 1:
                raise InputError(f"{name} = {value}: expected 1 or more.")
        self.folder, self.models, self.device = folder, list(models), device
        self.steps, self.samples, self.seed = steps, samples, seed
        self.window = SlidingWindow(folder.configuration, device, tile_batch)

    @classmethod
    def from_folder(
        cls, model_folder: Path, folds: Sequence[str] | None = None, device: str = "auto", steps: int | None = None,
        samples: int | None = None, seed: int = 0, tile_batch: int | None = None,
    ) -> Predictor:  # fmt: skip
        """Loads a model folder.

        Args:
            folds: None takes all trained ones; their probabilities are averaged.
            steps: None takes what validation chose, by Dice for one sample, by the distance to the raters for several; else the
                planned number.
            samples, tile_batch: None takes the plans'.

        Raises:
            ModelError, PlansError, InputError: see read_model_folder, load_network, choose_device.
        """
        folder = read_model_folder(Path(model_folder), folds)
        chosen = choose_device(device)
        sampling = folder.configuration.sampling
        samples = sampling.samples if samples is None else samples
        if steps is None:
            steps = measured_steps(folder, "chosen" if samples == 1 else "chosen_for_samples") or sampling.steps
        models = [load_network(folder, fold, chosen) for fold in folder.folds]
        batch = folder.configuration.inference.tile_batch if tile_batch is None else tile_batch
        return cls(folder, models, chosen, steps, samples, seed, batch)

    @property
    def description(self) -> Description:
        """The dataset.json that the model was trained with."""
        return self.folder.description

    def predict_array(self, image: np.ndarray, spacing: Sequence[float], case: str) -> np.ndarray:
        """Label indices (z, y, x) int16 of a canonical image `(c, z, y, x)` with `spacing` (z, y, x) in mm.

        Args:
            case: names the noise; the same name, seed and image give the same mask.

        Raises:
            InputError: the number of channels is not the model's.
        """
        wanted = self.folder.configuration.channels
        if image.shape[0] != wanted:
            raise InputError(f"case {case}: the image has {image.shape[0]} channels, the model was trained with {wanted}.")
        labels = self.description.labels
        data, properties = preprocess_array(image, spacing, self.folder.plans, self.folder.configuration)
        scores = self.window.probabilities(self.models, data, case, self.seed, self.steps, self.samples, labels.has_regions)
        return scores_to_indices(scores - 0.5 if labels.has_regions else scores, properties, self.folder.plans, labels)

    def predict_folder(self, inputs: Path, output: Path, *, overwrite: bool = False, progress: Progress = silent) -> list[CaseStatus]:
        """Predicts every case of `inputs` (a folder or one file) into `output` as CASE.EXT, and writes manifest.json there.

        One case failing does not stop the others.

        Raises:
            InputError: no cases, missing channels, `output` is not empty and not to be overwritten, or holds the inputs.
        """
        cases = find_input_cases(Path(inputs), self.description)
        output = Path(output)
        if any(p.resolve().parent == output.resolve() for c in cases for p in c.images):
            raise InputError(f"output folder {output} holds the input images, which predictions could replace. Choose another.")
        if output.exists() and not output.is_dir():
            raise InputError(f"output {output} is a file; name a folder.")
        if output.is_dir() and any(output.iterdir()) and not overwrite:
            raise InputError(
                f"output folder {output} is not empty; nothing was changed. Choose another, or --overwrite to replace predictions there."
            )
        output.mkdir(parents=True, exist_ok=True)
        manifest, statuses = self._manifest(len(cases)), []
        for case in progress(cases, "predicting", total=len(cases)):
            status = self._predict_case(case, output)
            statuses.append(status)
            read = {p.name: hash_file(p) for p in case.images if p.exists()}
            manifest["cases"][case.identifier] = {**asdict(status), "inputs": read}
            write_json(output / "manifest.json", manifest)
        return statuses

    def _predict_case(self, case: Case, output: Path) -> CaseStatus:
        start = time.monotonic()
        try:
            image = read_image(case.images)
            indices = self.predict_array(image.array, image.spacing, case.identifier)
            target = output / f"{case.identifier}{label_ending(self.description.file_ending)}"
            write_label(target, self.description.labels.decode(indices), image.geometry)
        except Exception as cause:  # whatever it is, the other cases go on; status, manifest and exit code tell
            logger.error("case %s failed: %s", case.identifier, cause, exc_info=logger.isEnabledFor(logging.DEBUG))
            return CaseStatus(case.identifier, "failed", str(cause) or type(cause).__name__, round(time.monotonic() - start, 3))
        return CaseStatus(case.identifier, "done", "", round(time.monotonic() - start, 3))

    def _manifest(self, expected: int) -> dict[str, Any]:
        """What is known before the first case."""
        return {
            "ldseg_auto": ldseg_auto.__version__, "torch": torch.__version__, "python": platform.python_version(),
            "device": str(self.device), "model": {fold: hash_file(path) for fold, path in self.folder.folds.items()},
            "dataset": self.folder.plans.dataset_name, "steps": self.steps, "samples": self.samples, "seed": self.seed,
            "expected": expected, "cases": {},
        }  # fmt: skip
