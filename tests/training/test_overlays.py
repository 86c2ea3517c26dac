"""Overlays of fixed validation patches: what they show, when they are drawn, and that they never end a training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.picture import COLOURS
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.training.overlays import Overlays, fixed_patches

LABELS = LabelSpec(("organ", "spot"), (0, 1, 2))
PATCHES = [((4, 16, 16), (16, 16)), ((12, 20, 24), (8, 16, 16))]


def make(folder: Path, store: Callable, make_configuration: Callable, patch: Sequence[int], shape: Sequence[int], variant: str = "auto"):
    """Overlays of five stored cases, and a network with random weights."""
    names = store(folder / "data", shape, number=5)
    configuration = make_configuration(variant, patch)
    torch.manual_seed(0)
    model = LDSeg(configuration, LABELS.num_heads).eval()
    return Overlays(fixed_patches(folder / "data", names, configuration), configuration, LABELS, (0, 1, 2), folder / "fold_0"), model


@pytest.mark.parametrize(("shape", "patch"), PATCHES)
def test_patches_are_three_cases_and_hold_foreground(
    tmp_path: Path, store: Callable, make_configuration: Callable, shape: Sequence[int], patch: Sequence[int]
) -> None:
    names = store(tmp_path, shape, number=5)
    found = fixed_patches(tmp_path, names[::-1], make_configuration(patch=patch))
    assert [p.case for p in found] == ["case0", "case2", "case4"]
    for p in found:
        assert p.image.shape == (1, 1, *patch) and p.label.shape == tuple(patch)
        middle = p.label[tuple(slice(n // 4, -(n // 4)) for n in patch)]
        assert (middle > 0).mean() > 0.5  # the foreground fills the middle half of each axis of the case


def test_cases_smaller_than_the_patch_and_without_foreground(tmp_path: Path, store: Callable, make_configuration: Callable) -> None:
    names = store(tmp_path, (4, 10, 12), number=1, empty=[0])
    (patch,) = fixed_patches(tmp_path, names, make_configuration())
    assert patch.image.shape == (1, 1, 16, 16) and not patch.label.any()
    assert fixed_patches(tmp_path, [], make_configuration()) == []


@pytest.mark.parametrize(("shape", "patch"), PATCHES)
def test_a_picture_shows_contours_and_does_not_depend_on_the_global_seed(
    tmp_path: Path, store: Callable, make_configuration: Callable, shape: Sequence[int], patch: Sequence[int]
) -> None:
    overlays, model = make(tmp_path, store, make_configuration, patch, shape)
    torch.manual_seed(1)
    first = overlays.draw(model, 8, 2000)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    pixels = np.asarray(overlays.picture(model, "epoch 8, iteration 2000"))
    assert torch.equal(torch.get_rng_state(), state)  # the training's random numbers are as they were
    assert first == tmp_path / "fold_0" / "overlays" / "epoch_0008.png"
    assert np.array_equal(np.asarray(Image.open(first)), pixels)
    colour = tuple(int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))
    drawn = (pixels == colour).all(-1)
    assert drawn[:-40, :280].sum() > 100  # the reference's outline in the first column, legend left out


def test_direct_has_no_draw(tmp_path: Path, store: Callable, make_configuration: Callable) -> None:
    auto, model = make(tmp_path / "a", store, make_configuration, (16, 16), (4, 16, 16))
    direct, other = make(tmp_path / "d", store, make_configuration, (16, 16), (4, 16, 16), "direct")
    assert auto.picture(model, "").width - direct.picture(other, "").width == 266


def test_drawn_at_powers_of_two(tmp_path: Path, store: Callable, make_configuration: Callable) -> None:
    overlays, _ = make(tmp_path, store, make_configuration, (16, 16), (4, 16, 16))
    assert [e for e in range(1, 1001) if overlays.due(e)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_pictures_take_a_fiftieth_of_the_time_at_most(
    tmp_path: Path, store: Callable, make_configuration: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of a second, pictures of four: the second one comes after 200 seconds."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    overlays, model = make(tmp_path, store, make_configuration, (16, 16), (4, 16, 16))
    monkeypatch.setattr(Overlays, "picture", lambda *_: clock.__setitem__(0, clock[0] + 4) or Image.new("L", (1, 1)))
    drawn = []
    for epoch in range(1, 1001):
        clock[0] += 1
        if overlays.due(epoch):
            drawn.append(epoch)
            overlays.draw(model, epoch, epoch)
    assert drawn == [1, 256, 512]


def test_a_failure_is_said_once_and_ends_nothing(
    tmp_path: Path, store: Callable, make_configuration: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    overlays, model = make(tmp_path, store, make_configuration, (16, 16), (4, 16, 16))
    (tmp_path / "fold_0").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "ldseg_auto"):
        assert overlays.draw(model, 1, 1) is overlays.draw(model, 2, 2) is None
    assert len(caplog.records) == 1 and "no more overlays of this training" in caplog.text
