"""What a prediction holds, and what a caller may ask for beyond the label map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ldseg_auto.data.geometry import Geometry
from ldseg_auto.inference.case_score import CaseScore


@dataclass(frozen=True)
class Wanted:
    """What to keep beyond the label map; each costs memory and time."""

    probabilities: bool = False  # the mean probabilities of all heads
    uncertainty: bool = False  # predictive entropy and mutual information
    samples: bool = False  # the label map of every draw


@dataclass(frozen=True, eq=False)
class Prediction:
    """One case, predicted. All maps lie on the image's own grid in canonical orientation (z, y, x).

    A draw is one sample of one model: two folds with three samples each make six draws, in this order of models, then samples.
    """

    case: str
    label: np.ndarray
    """(z, y, x) int16, values as dataset.json has them."""
    geometry: Geometry | None
    """of the image that was read or given; None for a bare array."""
    spacing: tuple[float, ...]
    """mm (z, y, x)."""
    probabilities: np.ndarray | None
    """(heads, z, y, x) float16, the mean over draws: classes with the background, or regions."""
    entropy: np.ndarray | None
    """(z, y, x) float32, predictive entropy in nats; with regions the sum of their binary entropies."""
    mutual_information: np.ndarray | None
    """(z, y, x) float32, nats: entropy of the mean less the mean entropy of the draws; 0 for one draw."""
    samples: np.ndarray | None
    """(draws, z, y, x) int16, values as dataset.json has them."""
    score: CaseScore
    seconds: float
    """wall clock of preprocessing, networks and export."""
    notes: tuple[str, ...] = ()
    """what went otherwise than planned, in words: a fallback for want of memory (fallback.py)."""
