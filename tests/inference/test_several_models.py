"""Several models and mirrored images: means of probabilities on the image's grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ldseg_auto.inference.predictor import Options, Predictor, Wanted
from ldseg_auto.planners.plans import Configuration

SETUP = {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "stage": 1, "patch": (4, 16, 16)}


def test_two_configurations_are_averaged_on_the_images_grid(
    make_configuration: Callable[..., Configuration], make_dataset: Callable[..., Path], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """A 3D model on a grid of its own and a 2D one: probabilities are the mean of those predicted by each."""
    raw = make_dataset(tmp_path / "raw", n_cases=1, shape=(6, 24, 20))
    coarse = replace(make_configuration(**SETUP), spacing=(4.0, 1.5, 1.5))
    models = [
        make_model(tmp_path / "r", raw, "3d", coarse),
        make_model(tmp_path / "r", raw, "2d", make_configuration(patch=(16, 16)), (5, 6)),
    ]
    image, wanted = np.random.default_rng(0).normal(size=(6, 24, 20)).astype(np.float32), Wanted(probabilities=True, samples=True)
    one, two, both = (
        Predictor.from_folder(m, device="cpu").predict(image, (3.0, 1.0, 1.0), "x", wanted) for m in (models[0], models[1], models)
    )
    assert (one.score.draws, two.score.draws, both.score.draws) == (1, 2, 3)
    np.testing.assert_allclose(both.probabilities, (one.probabilities + 2.0 * two.probabilities) / 3, atol=2e-3)
    np.testing.assert_array_equal(both.samples, np.concatenate([one.samples, two.samples]))


def test_mirroring_is_along_the_axes_of_the_plans(model: Path) -> None:
    predictor = Predictor.from_folder(model, device="cpu", options=Options(mirror=True))
    assert len(predictor.members[0].window.flips) == 8
    assert Predictor.from_folder(model, device="cpu").members[0].window.flips == ((),)
    plain, unturned = (Predictor.from_folder(model, device="cpu", samples=2, options=Options(mirror_samples=m)) for m in (True, False))
    assert (len(plain.members[0].window.turns), unturned.members[0].window.turns) == (8, ((),))
    assert [p.settings()["tta"] for p in (plain, unturned, predictor)] == ["samples", "none", "mirror"]
    assert Predictor.from_folder(model, device="cpu").settings()["tta"] == "none"  # one sample is not mirrored
    content = json.loads((model / "plans.json").read_text())
    content["configurations"]["3d_fullres"]["training"]["mirror_axes"] = [2]
    (model / "plans.json").write_text(json.dumps(content))
    assert Predictor.from_folder(model, device="cpu", options=Options(mirror=True)).members[0].window.flips == ((), (2,))
