"""Several models on one preprocessed case at once: the label maps are those of the predictor, model by model and averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ldseg_auto.inference.member import load_member
from ldseg_auto.inference.model_folder import read_model_folder
from ldseg_auto.inference.predictor import Predictor
from ldseg_auto.inference.together import predict_together
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.preprocessing.case import preprocess
from ldseg_auto.preprocessing.store import StoredCase
from ldseg_auto.scratch import Room

SETUP = {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "stage": 1, "patch": (4, 16, 16)}
GROUPS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2))


@pytest.mark.parametrize("samples", [1, 2])
def test_as_the_predictor(
    samples: int, make_configuration: Callable[..., Configuration], make_dataset: Callable[..., Path], make_model: Callable[..., Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Three configurations on grids of their own."""
    raw = make_dataset(tmp_path / "raw", n_cases=1, shape=(6, 24, 20))
    coarse = replace(make_configuration(**SETUP), spacing=(4.0, 1.5, 1.5))
    kinds = {"a": coarse, "b": make_configuration(patch=(16, 16)), "c": make_configuration(**SETUP)}
    models = [make_model(tmp_path / "r", raw, name, known, (n,)) for n, (name, known) in enumerate(kinds.items())]
    spacing, image = (3.0, 1.0, 1.0), np.random.default_rng(0).normal(size=(6, 24, 20)).astype(np.float32)
    members = [load_member(read_model_folder(m), torch.device("cpu"), 2, samples) for m in models]
    cases = []
    for member in members:
        grid, properties = preprocess(image[None], spacing, member.folder.plans, member.folder.configuration, Room())
        cases.append(StoredCase(np.array(grid.array), None, properties))
    found = predict_together(members, cases, "x", GROUPS, samples, 7)
    for group, indices in zip(GROUPS, found, strict=True):
        with Predictor.from_folder([models[m] for m in group], None, "cpu", 2, samples, 7) as predictor:
            np.testing.assert_array_equal(indices, predictor.predict_array(image, spacing, "x"))
    assert len({f.tobytes() for f in found}) == len(GROUPS)
