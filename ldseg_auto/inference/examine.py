"""A validation case predicted anew, on the network's grid: the slice that shows most of it, and how well its confidence is calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.calibration import Reliability, near_foreground, reliability_of
from ldseg_auto.evaluation.cut import Cut, cut
from ldseg_auto.inference.fallback import Way, adapted, within_memory
from ldseg_auto.inference.model_folder import ModelFolder, load_network, measured_steps
from ldseg_auto.inference.noise import sample_numbers
from ldseg_auto.inference.window import Draws, SlidingWindow
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.preprocessing.store import load_case

MARGIN = 2  # steps around either foreground within which voxels count for calibration


@dataclass(frozen=True, eq=False)
class Examined:
    """One case; its Cut holds the labels of every rater, then the prediction."""

    case: str
    fold: str
    cut: Cut
    reliability: Reliability


class Examiner:
    """Predicts cases of one model folder with one sample, as the validation at the end of training does.

    Args:
        cases: folder of the preprocessed cases.
    """

    def __init__(self, model: ModelFolder, cases: Path, device: torch.device) -> None:
        self.model, self.cases, self.device = model, cases, device
        self.steps = measured_steps(model) or model.configuration.sampling.steps
        self.window = SlidingWindow(model.configuration, device, model.configuration.inference.tile_batch)
        self._network: tuple[str, LDSeg] | None = None

    def __call__(self, fold: str, case: str, seed: int = 0) -> Examined:
        """One case by the network of one fold.

        Raises:
            InputError: the case is not preprocessed, or damaged; ModelError: so is the checkpoint.
        """
        if self._network is None or self._network[0] != fold:
            self._network = fold, load_network(self.model, fold, self.device)
        configuration, labels = self.model.configuration, self.model.description.labels
        stored = load_case(self.cases, case)
        numbers = tuple(sample_numbers(configuration, self.steps, 1))
        draws = Draws(case, seed, self.steps, numbers, labels.has_regions)
        image, truths = stored.image[:], stored.labels[:].astype(np.int16)
        network = self._network[1]

        def attempt(way: Way) -> tuple[np.ndarray, np.ndarray]:
            (chosen,), window = adapted(way, [network], self.window, configuration)
            return _collect(window, chosen, image, draws, labels)

        (predicted, confidence), _ = within_memory([self.window], case, attempt)
        found = _reliability(predicted, confidence, truths[0], labels)
        transpose = self.model.plans.transpose_backward
        across = stored.properties.spacing[self.model.plans.transpose_forward[0]]  # of slices, which 2d does not resample
        own = configuration.spacing if len(configuration.spacing) == 3 else (across, *configuration.spacing)
        spacing = [own[axis] for axis in transpose]
        masks = [m.transpose(transpose) for m in (*truths, predicted)]
        canonical = image.transpose(0, *(axis + 1 for axis in transpose))
        return Examined(case, fold, cut(canonical, masks, spacing, labels), found)


def _collect(
    window: SlidingWindow, network: LDSeg, image: np.ndarray, draws: Draws, labels: LabelSpec
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Label indices `(z, y, x)`, and the probability of the chosen class `(1, z, y, x)`, of regions of each `(regions, z, y, x)`."""
    indices, confidence = [], []
    for planes in window.planes([network], image, draws):
        scores = planes[0]
        indices.append(labels.assign(iter(scores - np.float32(0.5) if labels.has_regions else scores)))
        confidence.append(scores.astype(np.float16) if labels.has_regions else scores.max(0, keepdims=True))
    return np.concatenate(indices), np.concatenate(confidence, 1)


def _reliability(predicted: np.ndarray, confidence: np.ndarray, truth: np.ndarray, labels: LabelSpec) -> Reliability:
    """Over the voxels near either foreground that are not ignored; regions count one by one, each as present or absent."""
    valid = truth != labels.ignore_index if labels.ignore_index is not None else np.ones(truth.shape, bool)
    mask = near_foreground(predicted * valid, truth * valid, MARGIN) & valid
    if not labels.has_regions:
        return reliability_of(confidence[0][mask], (predicted == truth)[mask])
    present = labels.table[truth[mask]].T > 0  # (regions, voxels)
    each: Sequence[Reliability] = [
        reliability_of(np.maximum(p, 1 - p), (p > 0.5) == there)
        for p, there in zip((c[mask].astype(np.float32) for c in confidence), present, strict=True)
    ]
    return sum(each[1:], each[0])
