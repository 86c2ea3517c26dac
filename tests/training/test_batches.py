"""Batches: a pure function of (seed, index), with the right share of foreground, in 2D and 3D."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ldseg_auto.errors import InputError, LdsegError
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.preprocessing.store import Properties, load_case, save_case
from ldseg_auto.training.batches import Batches, read_box, stream

Make = Callable[..., Configuration]
Store = Callable[..., list[str]]


def items_equal(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize("patch", [(8, 12), (4, 8, 12), (32, 8, 40)])  # the last one is larger than the image
@pytest.mark.parametrize("augment", [False, True])
def test_a_pure_function_of_seed_and_index(tmp_path: Path, store: Store, make_configuration: Make, patch: tuple, augment: bool) -> None:
    names = store(tmp_path, (6, 20, 24), number=3)
    configuration = make_configuration(patch=patch, batch=3)
    a, b, c = (Batches(tmp_path, names, configuration, seed, 10, augment) for seed in (1, 1, 2))
    first = [a[i] for i in (0, 1, 7)]
    image, label = first[0]
    assert image.shape == (3, 1, *patch) and image.dtype == torch.float32
    assert label.shape == (3, *patch) and label.dtype == torch.int64
    assert {int(v) for _, y in first for v in y.unique()} <= {0, 1, 2}
    np.random.seed(3)
    assert all(items_equal(b[i], x) for i, x in zip((7, 1, 0), reversed(first), strict=True))
    assert not items_equal(c[0], first[0]) and not items_equal(first[1], first[0])


def test_image_belongs_to_its_label(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    names = store(tmp_path, (6, 20, 24))
    image, label = Batches(tmp_path, names, make_configuration(patch=(4, 8, 8), batch=4), 0, 1, False)[0]
    assert (image[:, 0] - label).abs().max() < 0.6


@pytest.mark.parametrize(("batch", "share", "expected"), [(9, 0.33, 3), (2, 0.33, 1), (4, 0.0, 0), (4, 1.0, 4), (12, 0.1, 1)])
def test_share_of_foreground(
    tmp_path: Path, store: Store, make_configuration: Make, monkeypatch: pytest.MonkeyPatch, batch: int, share: float, expected: int
) -> None:
    names = store(tmp_path, (6, 20, 24))
    batches = Batches(tmp_path, names, make_configuration(patch=(2, 4, 4), batch=batch, oversample_foreground=share), 0, 1, False)
    seen: list[bool] = []
    original = batches._sample
    monkeypatch.setattr(batches, "_sample", lambda rng, forced: seen.append(forced) or original(rng, forced))
    batches[0]
    assert seen == [False] * (batch - expected) + [True] * expected


def test_forced_patches_hold_foreground_of_every_class_equally(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    """Class 2 is one voxel, class 1 hundreds; both are the centre of half of the forced patches."""
    names = store(tmp_path, (8, 24, 24), number=1)
    batches = Batches(tmp_path, names, make_configuration(patch=(2, 2, 4), batch=100, oversample_foreground=1.0), 0, 1, False)
    _, label = batches[0]
    centre = label[:, 1, 1, 2]
    assert (centre > 0).all()
    assert 30 < int((centre == 2).sum()) < 70


def test_a_case_without_foreground_gives_patches_all_the_same(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    names = store(tmp_path, (6, 20, 24), number=1, empty=[0])
    _, label = Batches(tmp_path, names, make_configuration(patch=(4, 8, 8), batch=3), 0, 1, False)[0]
    assert not label.any()


def test_unforced_patches_lie_within_the_image_and_reach_its_edges(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    names = store(tmp_path, (6, 20, 24), number=1)
    batches = Batches(tmp_path, names, make_configuration(patch=(4, 8, 8), batch=2, oversample_foreground=0), 0, 1, False)
    case = load_case(tmp_path, names[0])
    rng = np.random.default_rng(0)
    centres = np.array([batches._centre(rng, case, (4, 8, 8), False) for _ in range(300)])
    assert centres.min(0).tolist() == [2, 4, 4]
    assert centres.max(0).tolist() == [6 - 2, 20 - 4, 24 - 4]


def test_a_small_image_is_centred_in_its_patch(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    names = store(tmp_path, (4, 8, 8), number=1)
    image, _ = Batches(tmp_path, names, make_configuration(patch=(8, 16, 16), batch=1), 0, 1, False)[0]
    inside = image[0, 0, 2:6, 4:12, 4:12]
    assert inside.all() and int((image != 0).sum()) == inside.numel()


def test_two_dimensional_patches_are_single_slices(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    """Slices are told apart by their intensity; over many patches every slice comes up."""
    ramp = np.broadcast_to(np.arange(1, 6, dtype=np.float32)[None, :, None, None], (1, 5, 16, 16))
    box = ((0, 5), (0, 16), (0, 16))
    save_case(
        tmp_path, "ramp", ramp, np.zeros((1, 5, 16, 16), np.int16), Properties((1.0,) * 3, (5, 16, 16), box, (5, 16, 16), (5, 16, 16))
    )
    image, _ = Batches(tmp_path, ["ramp"], make_configuration(patch=(8, 8), batch=60), 0, 1, False)[0]
    slices = image.flatten(1)
    assert (slices == slices[:, :1]).all()
    assert set(slices[:, 0].tolist()) == {1, 2, 3, 4, 5}


def test_raters_take_turns(tmp_path: Path, make_configuration: Make) -> None:
    labels = np.stack([np.full((1, 8, 8), r, np.int16) for r in range(3)])
    box = ((0, 1), (0, 8), (0, 8))
    save_case(tmp_path, "many", np.zeros((1, 1, 8, 8), np.float32), labels, Properties((1.0,) * 3, (1, 8, 8), box, (1, 8, 8), (1, 8, 8)))
    _, label = Batches(tmp_path, ["many"], make_configuration(patch=(8, 8), batch=30), 0, 1, False)[0]
    assert sorted(label.flatten(1).unique().tolist()) == [0, 1, 2]
    assert (label.flatten(1) == label.flatten(1)[:, :1]).all()


@pytest.mark.parametrize("augment", [False, True])
def test_one_raters_patches_are_those_of_all_with_his_labels(tmp_path: Path, make_configuration: Make, augment: bool) -> None:
    """Cases of three and of two raters; of the latter the third one's labels are the first one's again."""
    rng, box = np.random.default_rng(0), ((0, 1), (0, 20), (0, 20))
    properties = Properties((1.0,) * 3, (1, 20, 20), box, (1, 20, 20), (1, 20, 20))
    for name, raters in (("three", 3), ("two", 2)):
        labels = np.stack([np.full((1, 20, 20), r, np.int16) for r in range(raters)])
        save_case(tmp_path, name, rng.normal(size=(1, 1, 20, 20)).astype(np.float32) + 10 * raters, labels, properties)
    configuration = make_configuration(patch=(8, 8), batch=12)
    drawn, *each = (Batches(tmp_path, ["three", "two"], configuration, 0, 2, augment, rater)[1] for rater in (None, 0, 1, 2))
    for rater, (image, label) in enumerate(each):
        assert torch.equal(image, drawn[0])
        if not augment:  # which would change the intensity that tells the cases apart
            of_two = (image.flatten(1).mean(1) < 25).tolist()
            assert set(of_two) == {True, False}
            assert label.flatten(1).amin(1).tolist() == label.flatten(1).amax(1).tolist() == [rater % 2 if two else rater for two in of_two]
        assert label.max() == rater


@pytest.mark.parametrize("start", [(0, 0, 0), (-1, 2, 3), (3, -2, 5), (9, 9, 9), (-9, 0, 0)])
def test_read_box_is_a_crop_of_the_padded_array(start: tuple[int, ...]) -> None:
    array = np.arange(1, 2 * 4 * 5 * 6 + 1).reshape(2, 4, 5, 6)
    padded = np.pad(array, [(0, 0)] + [(10, 20)] * 3)
    inner = tuple(slice(10 + s, 10 + s + n) for s, n in zip(start, (3, 4, 2), strict=True))
    np.testing.assert_array_equal(read_box(array, start, (3, 4, 2)), padded[(slice(None), *inner)])
    np.testing.assert_array_equal(read_box(array, start, (3, 4, 2), slice(1, 2)), padded[(slice(1, 2), *inner)])


def test_workers_change_nothing(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    batches = Batches(tmp_path, store(tmp_path, (6, 20, 24)), make_configuration(patch=(4, 8, 8)), 0, 6, True)
    alone, together = (list(stream(batches, 2, workers, False)) for workers in (0, 2))
    assert len(alone) == 4
    assert all(items_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert items_equal(alone[0], batches[2])


class Killed(Batches):
    """Its worker dies, as one does that the kernel kills for memory."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_killed_worker_is_explained(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    batches = Killed(tmp_path, store(tmp_path, (6, 20, 24)), make_configuration(patch=(4, 8, 8)), 0, 6, False)
    with pytest.raises(LdsegError, match=r"makes training batches ended unexpectedly .*try --set training.workers=0"):
        next(stream(batches, 0, 1, False))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_case_is_named(tmp_path: Path, store: Store, make_configuration: Make, workers: int) -> None:
    names = store(tmp_path, (6, 20, 24), number=1)
    (tmp_path / f"{names[0]}.b2nd").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"^[^\n]*case0.b2nd cannot be read[^\n]*$"):
        next(stream(Batches(tmp_path, names, make_configuration(patch=(4, 8, 8)), 0, 6, False), 0, workers, False))
