"""Validation on whole cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.predicted_dice import Evidence, Pair
from ldseg_auto.inference.window import Draws, SlidingWindow
from ldseg_auto.planners.plans import Configuration, Intensities, Plans
from ldseg_auto.preprocessing.store import load_case, save_reference
from ldseg_auto.training.validation import pairs_of, validate_cases

CPU = torch.device("cpu")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_whole_cases_against_every_rater(
    tmp_path: Path, store: Callable[..., list[str]], make_configuration: Callable[..., Configuration], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window that returns the stored labels scores 1, or what the second rater's shift by one voxel leaves."""
    configuration = make_configuration(patch=(4, 8, 8))
    names = store(tmp_path / "data", (4, 12, 12))
    spec = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 2})
    truth = {n: load_case(tmp_path / "data", n).labels[:] for n in names}
    for name, label in truth.items():
        save_reference(tmp_path / "gt_segmentations", name, np.concatenate([label, np.roll(label, 1, -1)]), (1.0, 1.0, 1.0))
    order = iter(names)

    def planes(self: SlidingWindow, models: list, image: np.ndarray, draws: Draws) -> Iterator[np.ndarray]:
        assert image.shape == (1, 4, 12, 12) and draws == Draws(next(order), 0, 2, (0,), False)
        yield np.moveaxis(spec.table[truth[draws.case][0]], -1, 0)[None]

    monkeypatch.setattr(SlidingWindow, "planes", planes)
    intensities = Intensities(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    plans = Plans("Dataset001_Toy", "ldsegPlans", "abc", ".nii.gz", (0, 1, 2), (intensities,), {"3d": configuration}, "3d")
    result = validate_cases(None, names, tmp_path, plans, configuration, spec, 2, CPU, 0)  # type: ignore[arg-type]
    organ = (truth[names[0]][0] == 1, np.roll(truth[names[0]][0] == 1, 1, -1))
    first = result["cases"][names[0]]
    assert set(result["cases"]) == set(names) and set(first) == {"0", "1"}
    assert first["0"]["organ"]["dice"] == 1 and first["0"]["lesion"]["dice"] == 1
    assert first["1"]["organ"]["dice"] == pytest.approx(dice(*organ)) and first["1"]["lesion"]["dice"] == 0
    assert result["per_rater"] == {"0": 1, "1": pytest.approx(dice(*organ) / 2)}
    assert result["per_class"] == {"organ": pytest.approx((1 + dice(*organ)) / 2), "lesion": 0.5}
    assert result["mean"] == pytest.approx((result["per_class"]["organ"] + 0.5) / 2) and result["steps"] == 2
    evidence = result["evidence"][names[0]]
    voxels = int((truth[names[0]] > 0).sum())
    assert evidence == {"softmax": 1.0, "foreground": pytest.approx(voxels / 1000), "agreement": None, "soft_dice": 1.0}
    assert [p.case for p in pairs_of(result)] == names and set(result["volumes"]) == set(names)
    sizes = {name: float((truth[names[0]] == value).sum()) / 1000 for name, value in (("organ", 1), ("lesion", 2))}
    assert result["volumes"][names[0]] == {name: [pytest.approx([v] * 3)] * 2 for name, v in sizes.items()}  # rolled: as large
    assert pairs_of(result)[0].dice == pytest.approx((1 + 1 + dice(*organ) + 0) / 4)


def test_pairs_leave_out_cases_without_a_dice() -> None:
    nothing, seen = {"dice": math.nan}, {"dice": 0.5}
    evidence = {"softmax": 0.9, "foreground": 2.0, "agreement": 0.8}
    cases = {"a": {"0": {"x": nothing}, "1": {"x": nothing}}, "b": {"0": {"x": nothing}, "1": {"x": seen}}}
    assert pairs_of({"cases": cases, "evidence": {"a": evidence, "b": evidence}}) == [Pair("b", Evidence(0.9, 2.0, 0.8), 0.5)]


@pytest.mark.parametrize("regions", [False, True])
def test_several_samples_are_averaged_and_compared(
    tmp_path: Path, store: Callable[..., list[str]], make_configuration: Callable[..., Configuration], monkeypatch: pytest.MonkeyPatch,
    regions: bool,
) -> None:  # fmt: skip
    """Two draws of one class, one of them shifted by a voxel: the pairwise Dice is theirs."""
    configuration = make_configuration(patch=(4, 8, 8))
    names = store(tmp_path / "data", (4, 12, 12), number=1)
    labels = {"background": 0, "both": [1, 2], "lesion": 2} if regions else {"background": 0, "organ": 1, "lesion": 2}
    spec = LabelSpec.from_dict(labels, [1, 2] if regions else None)
    truth = load_case(tmp_path / "data", names[0]).labels[:]
    save_reference(tmp_path / "gt_segmentations", names[0], truth, (1.0, 1.0, 1.0))
    draws = np.stack([np.moveaxis(spec.table[np.roll(truth[0], k, -1)], -1, 0) for k in (0, 1)])
    monkeypatch.setattr(SlidingWindow, "planes", lambda self, models, image, wanted: iter([draws[:, :, :1], draws[:, :, 1:]]))
    intensities = Intensities(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    plans = Plans("Dataset001_Toy", "ldsegPlans", "abc", ".nii.gz", (0, 1, 2), (intensities,), {"3d": configuration}, "3d")
    result = validate_cases(None, names, tmp_path, plans, configuration, spec, 2, CPU, 0, samples=2)  # type: ignore[arg-type]
    first = truth[0] > 0 if regions else truth[0] == 1
    expected = (dice(first, np.roll(first, 1, -1)) + dice(truth[0] == 2, np.roll(truth[0] == 2, 1, -1))) / 2
    assert result["evidence"][names[0]]["agreement"] == pytest.approx(expected)
    voxels = [int(first.sum()), int((truth[0] == 2).sum())]  # rolled masks are as large: low, high and reference agree
    assert list(result["volumes"][names[0]]) == list(spec.foreground_names)
    np.testing.assert_allclose(list(result["volumes"][names[0]].values()), [[[v / 1000] * 3] for v in voxels])
    if not regions:
        ignoring = LabelSpec.from_dict({**labels, "ignore": 3}, None)
        again = validate_cases(None, names, tmp_path, plans, configuration, ignoring, 2, CPU, 0, samples=2)  # type: ignore[arg-type]
        assert again["volumes"] == {}
