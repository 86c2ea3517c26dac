"""Augmentation: sizes, integers stay integers, and the seed decides everything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from ldseg_auto.training import augmentation

PATCHES = [(16, 24), (8, 32), (12, 16, 10), (4, 20, 16)]


@pytest.mark.parametrize(
    ("patch", "degrees", "flat"),
    [((64, 64), 180, False), ((64, 128), 15, False), ((32, 64, 64), 30, False), ((16, 64, 64), 180, True), ((8, 32, 64), 15, True)],
)
def test_rotation_limits_are_nnunets(patch: Sequence[int], degrees: float, flat: bool) -> None:
    assert augmentation.rotation_limit(patch) == pytest.approx(math.radians(degrees))
    assert augmentation.in_slices(patch) is flat


@pytest.mark.parametrize("patch", PATCHES)
def test_a_rotated_patch_lies_within_what_is_read(patch: Sequence[int]) -> None:
    source = augmentation.source_size(patch)
    flat = 1 if augmentation.in_slices(patch) else 0
    assert source[:flat] == tuple(patch[:flat])
    for angle in np.linspace(0, min(augmentation.rotation_limit(patch), math.pi / 4), 7):
        for a in range(flat, len(patch)):
            for b in range(flat, len(patch)):
                if a != b:
                    assert math.cos(angle) * patch[a] + math.sin(angle) * patch[b] <= source[a]
    assert all((s - p) % 2 == 0 for s, p in zip(source, patch, strict=True))


def batch(patch: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    source = augmentation.source_size(patch)
    seg = np.zeros((6, 1, *source), np.float32)
    seg[(slice(None), 0, *(slice(s // 4, 3 * s // 4) for s in source))] = 3
    seg[(slice(None), 0, *(slice(s // 3, s // 2) for s in source))] = 1
    return rng.normal(size=(6, 2, *source)).astype(np.float32), seg


@pytest.mark.parametrize("patch", PATCHES)
def test_size_labels_and_seed(patch: Sequence[int]) -> None:
    transform = augmentation.build(patch)
    runs = []
    for seed in (5, 5, 6):
        data, seg = batch(patch)
        np.random.seed(int(np.random.randint(1000)))  # whatever the generator's state was
        runs.append(augmentation.seeded(transform, seed, data, seg))
    for data, seg in runs:
        assert data.shape == (6, 2, *patch) and data.dtype == np.float32 and np.isfinite(data).all()
        assert seg.shape == (6, 1, *patch)
        assert set(np.unique(seg)) <= {0, 1, 3}
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert not np.array_equal(runs[0][0], runs[2][0])


def test_image_and_label_move_together() -> None:
    """An image that is its own label stays aligned with it, whatever the transform did to intensities."""
    patch = (48, 48)
    source = augmentation.source_size(patch)
    seg = np.zeros((24, 1, *source), np.float32)
    seg[:, :, source[0] // 2 - 6 : source[0] // 2 + 20, source[1] // 2 - 20 : source[1] // 2 + 4] = 1
    data, seg = augmentation.seeded(augmentation.build(patch), 0, 4 * seg.copy(), seg)
    inside = [np.corrcoef(d.ravel(), s.ravel())[0, 1] for d, s in zip(data, seg, strict=True)]
    assert np.median(inside) > 0.95 and min(inside) > 0.7
    assert len({s.tobytes() for s in seg}) > 4  # and move they did


@pytest.mark.parametrize("axes", [None, (), (0,), (1,), (0, 1)])
def test_only_allowed_axes_are_mirrored(axes: tuple[int, ...] | None) -> None:
    """Of the transforms the mirroring alone: a corner lands in as many corners as the axes give."""
    mirror = augmentation._mirror(range(2) if axes is None else axes)
    seg = np.zeros((32, 1, 6, 8), np.float32)
    seg[:, :, 0, 0] = 1
    for transform in mirror:
        _, seg = augmentation.seeded(transform, 0, seg.copy(), seg)
    corners = {tuple(int(i) for i in np.argwhere(s[0])[0]) for s in seg}
    rows, columns = ({0, 5} if axes is None or 0 in axes else {0}), ({0, 7} if axes is None or 1 in axes else {0})
    assert corners == {(r, c) for r in rows for c in columns}
    assert len(augmentation.build((16, 24), axes).transforms) == len(augmentation.build((16, 24)).transforms) - (axes == ())
