"""What augmentation draws: nnU-Net's chances and ranges, and sizes that hold what is drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from ldseg_auto.training import augmentation
from ldseg_auto.training.augmentation import Draw, draw, source_size

PATCHES = [(16, 24), (9, 32), (12, 17, 10), (4, 20, 16)]
MANY = 4000


def draws(patch: Sequence[int], channels: int = 2, number: int = MANY, mirror_axes: Sequence[int] | None = None) -> list[Draw]:
    return [draw(np.random.default_rng([1, i]), patch, channels, mirror_axes) for i in range(number)]


@pytest.mark.parametrize(
    ("patch", "degrees", "flat"),
    [((64, 64), 180, False), ((64, 128), 15, False), ((32, 64, 64), 30, False), ((16, 64, 64), 180, True), ((8, 32, 64), 15, True)],
)
def test_rotation_limits_are_nnunets(patch: Sequence[int], degrees: float, flat: bool) -> None:
    assert augmentation.rotation_limit(patch) == pytest.approx(math.radians(degrees))
    assert augmentation.in_slices(patch) is flat


@pytest.mark.parametrize("patch", PATCHES)
def test_what_is_read_holds_every_corner_of_the_patch(patch: Sequence[int]) -> None:
    """And a voxel beyond it for interpolation; both have the same centre."""
    for affine in (d.affine for d in draws(patch, 1, 200)):
        size = source_size(patch, affine)
        assert all((s - p) % 2 == 0 for s, p in zip(size, patch, strict=True))
        if affine is None:
            assert size == tuple(patch)
            continue
        corners = np.array(list(itertools.product(*(((1 - p) / 2, (p - 1) / 2) for p in patch))))
        reach = np.abs(corners @ affine.T).max(0)
        still = (affine == np.eye(len(patch))).all(1)
        assert (reach + np.where(still, 0, 1) <= (np.array(size) - 1) / 2 + 1e-9).all()
        assert (np.array(size) <= 2 * reach + 6).all()


@pytest.mark.parametrize("patch", [(16, 16), (16, 16, 16), (4, 16, 16)])
def test_the_matrix_is_a_rotation_times_one_scale_within_limits(patch: Sequence[int]) -> None:
    flat = 2 if patch == (4, 16, 16) else len(patch)
    scales, turned = [], []
    for affine in (d.affine for d in draws(patch, 1)):
        if affine is not None:
            inner = affine[-flat:, -flat:]
            scale = np.linalg.det(inner) ** (1 / flat)
            np.testing.assert_allclose(inner @ inner.T, scale**2 * np.eye(flat), atol=1e-9)
            if flat < len(patch):
                np.testing.assert_array_equal(affine[0], [1, 0, 0])
                np.testing.assert_array_equal(affine[:, 0], [1, 0, 0])
            scales.append(scale)
            turned.append(not np.allclose(inner, scale * np.eye(flat)))
    assert 0.7 <= min(scales) < 0.71 and 1.39 < max(scales) <= 1.4
    assert len(scales) / MANY == pytest.approx(1 - 0.8 * 0.8, abs=0.03)
    assert sum(turned) / MANY == pytest.approx(0.2, abs=0.025)
    assert sum(not math.isclose(s, 1) for s in scales) / MANY == pytest.approx(0.2, abs=0.025)


def test_chances_and_ranges_are_nnunets() -> None:
    """nnU-Net 2.8.1, nnUNetTrainer.get_training_transforms; tolerances are four standard deviations of a share of 4000."""
    found = draws((16, 16))

    def share(name: str) -> float:
        return sum(getattr(d, name) is not None for d in found) / MANY

    def values(name: str) -> np.ndarray:
        return np.concatenate([np.ravel(getattr(d, name)) for d in found if getattr(d, name) is not None])

    one_of_two = 1 - 0.5**2  # where each of two channels is drawn with 0.5, the sample changes with this chance
    chances = {
        "noise": 0.1, "blur": 0.2 * one_of_two, "brightness": 0.15, "contrast": 0.15, "resolution": 0.25 * one_of_two,
        "gamma_inverted": 0.1, "gamma": 0.3,
    }  # fmt: skip
    assert {name: share(name) for name in chances} == {name: pytest.approx(c, abs=0.03) for name, c in chances.items()}
    limits = {"noise": (0, 0.1), "brightness": (0.75, 1.25), "contrast": (0.75, 1.25), "gamma": (0.7, 1.5), "gamma_inverted": (0.7, 1.5)}
    for name, (low, high) in limits.items():
        v, near = values(name), 0.02 * (high - low)
        assert low <= v.min() < low + near and high - near < v.max() <= high
    for name in ("brightness", "contrast", "gamma", "gamma_inverted"):
        assert (values(name) < 1).mean() == pytest.approx(0.5, abs=0.08)
    for name, unchanged, low, high in (("blur", 0, 0.5, 1.0), ("resolution", 1, 0.5, 1.0)):
        v = values(name)
        v = v[v != unchanged]
        assert low <= v.min() < low + 0.02 and high - 0.02 < v.max() <= high
    assert len({d.seed for d in found}) > MANY - 20


def test_channels_are_drawn_apart_and_noise_for_all() -> None:
    found = draws((16, 16), channels=3)
    assert all(d.gamma.shape == (3,) and len(set(d.gamma)) == 3 for d in found if d.gamma is not None)
    assert all(d.blur.shape == (3, 2) for d in found if d.blur is not None)
    assert {int((d.resolution < 1).sum()) for d in found if d.resolution is not None} == {1, 2, 3}


@pytest.mark.parametrize("axes", [None, (), (0,), (1,), (0, 1)])
def test_only_allowed_axes_are_mirrored(axes: tuple[int, ...] | None) -> None:
    found = [d.mirror for d in draws((16, 24), 1, 400, axes)]
    allowed = (0, 1) if axes is None else axes
    wanted = {c for n in range(len(allowed) + 1) for c in itertools.combinations(allowed, n)}
    assert set(found) == wanted
    assert all(found.count(w) / 400 == pytest.approx(1 / len(wanted), abs=0.1) for w in wanted)
