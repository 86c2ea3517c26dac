"""Batches: a pure function of (seed, index), with the right share of foreground, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.preprocessing.case import class_locations
from ldseg_auto.preprocessing.store import Properties, load_case, save_case
from ldseg_auto.training.batches import NOBODY, Batches, read_box
from ldseg_auto.training.classes import Centres

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


def test_forced_patches_by_the_shares_of_classes(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    """Three of four patches on class 2, which is one voxel; a share of 0 leaves all to the other class."""
    names = store(tmp_path, (8, 24, 24), number=1)
    configuration = make_configuration(patch=(2, 2, 4), batch=200, oversample_foreground=1.0)
    counts = []
    for shares in ((1.0, 3.0), (0.0, 0.2), (5.0, 0.0)):
        _, label = Batches(tmp_path, names, configuration, 0, 1, False, centres=Centres(((1,), (2,)), shares))[0]
        centre = label[:, 1, 1, 2]
        assert (centre > 0).all()
        counts.append(int((centre == 2).sum()))
    assert 125 < counts[0] < 175 and counts[1:] == [200, 0]  # 150 +- 4 standard deviations of 6.1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_patches_lie_where_somebody_annotated(tmp_path: Path, make_configuration: Make, share: float) -> None:
    """One slice in sixteen is annotated, and holds no foreground: with or without forcing every 2D patch is cut from it."""
    labels = np.full((1, 16, 12, 12), 3, np.int16)
    labels[:, 5] = 0
    box = ((0, 16), (0, 12), (0, 12))
    spec = LabelSpec.from_dict({"background": 0, "a": 1, "b": 2, "ignore": 3})
    known = Properties((1.0,) * 3, (16, 12, 12), box, (16, 12, 12), (16, 12, 12), class_locations=class_locations(labels, spec, "sparse"))
    save_case(tmp_path, "sparse", np.zeros((1, 16, 12, 12), np.float32), labels, known)
    configuration = make_configuration(patch=(8, 8), batch=20, oversample_foreground=share)
    _, label = Batches(tmp_path, ["sparse"], configuration, 0, 1, False)[0]
    assert not label.any()


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
    """Cases of three and of two raters; the latter was not drawn by rater 1."""
    rng, box = np.random.default_rng(0), ((0, 1), (0, 20), (0, 20))
    properties = Properties((1.0,) * 3, (1, 20, 20), box, (1, 20, 20), (1, 20, 20))
    for name, who in (("three", ()), ("two", (0, 2))):
        labels = np.stack([np.full((1, 20, 20), r, np.int16) for r in who or range(3)])
        image = rng.normal(size=(1, 1, 20, 20)).astype(np.float32) + 10 * len(labels)
        save_case(tmp_path, name, image, labels, replace(properties, raters=who))
    configuration = make_configuration(patch=(8, 8), batch=12)
    drawn, *each = (Batches(tmp_path, ["three", "two"], configuration, 0, 2, augment, rater)[1] for rater in (None, 0, 1, 2))
    for rater, (image, label) in enumerate(each):
        assert torch.equal(image, drawn[0])
        if not augment:  # which would change the intensity that tells the cases apart
            of_two = (image.flatten(1).mean(1) < 25).tolist()
            assert set(of_two) == {True, False}
            expected = [NOBODY if two and rater == 1 else rater for two in of_two]
            assert label.flatten(1).amin(1).tolist() == label.flatten(1).amax(1).tolist() == expected
        assert label.max() == rater


@pytest.mark.parametrize("start", [(0, 0, 0), (-1, 2, 3), (3, -2, 5), (9, 9, 9), (-9, 0, 0)])
def test_read_box_is_a_crop_of_the_padded_array(start: tuple[int, ...]) -> None:
    array = np.arange(1, 2 * 4 * 5 * 6 + 1).reshape(2, 4, 5, 6)
    padded = np.pad(array, [(0, 0)] + [(10, 20)] * 3)
    inner = tuple(slice(10 + s, 10 + s + n) for s, n in zip(start, (3, 4, 2), strict=True))
    np.testing.assert_array_equal(read_box(array, start, (3, 4, 2)), padded[(slice(None), *inner)])
    np.testing.assert_array_equal(read_box(array, start, (3, 4, 2), slice(1, 2)), padded[(slice(1, 2), *inner)])


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_ranks_make_their_own_samples_of_the_same_batch(
    tmp_path: Path, store: Store, make_configuration: Make, augment: bool, ranks: int
) -> None:
    """Sample j of rank r is sample r + j x ranks of the whole, with its share of foreground; a rank may have more than another."""
    batches = Batches(tmp_path, store(tmp_path, (6, 20, 24)), make_configuration(patch=(4, 8, 8), batch=5), 0, 6, augment)
    image, label = batches[3]
    for rank in range(ranks):
        mine = batches.of_rank(rank, ranks)[3]
        assert items_equal(mine, (image[rank::ranks], label[rank::ranks]))


def test_threads_change_nothing(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    """Sums over patches large enough for torch to share them among threads."""
    batches = Batches(tmp_path, store(tmp_path, (40, 60, 60)), make_configuration(patch=(32, 48, 48), batch=4), 0, 6, True)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(batches[1])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert items_equal(found[0], found[1]) and items_equal(found[0], found[2])


def test_small_cases_are_kept_in_memory_while_there_is_room(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    """The patches are the same either way."""
    names = store(tmp_path, (6, 20, 24), number=4)
    batches, frugal = (Batches(tmp_path, names, make_configuration(patch=(4, 8, 8), batch=8), 0, 6, True) for _ in range(2))
    size = 6 * 20 * 24 * (4 + 1)  # float32 image, uint8 labels
    frugal.room = 2 * size
    for i in range(6):
        assert items_equal(batches[i], frugal[i])
    assert all(isinstance(c.image, np.ndarray) for c in batches.cases.values())
    assert sum(isinstance(c.image, np.ndarray) for c in frugal.cases.values()) == 2 and frugal.room == 0
