"""The sliding window: tiles, weights, and what the result may not depend on."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldseg_auto.inference import window as module
from ldseg_auto.inference.noise import CENTRE, case_noise
from ldseg_auto.inference.tiles import Layout
from ldseg_auto.inference.window import Draws, SlidingWindow, gaussian, tile_starts
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.method import Method
from ldseg_auto.planners.plans import Configuration, Sampling
from ldseg_auto.planners.training_section import Training

Make = Callable[..., Configuration]
CPU = torch.device("cpu")
SETUPS = {
    "2d": {"patch": (16, 16)},
    "3d": {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "stage": 2, "patch": (4, 8, 8)},
}


@given(
    multiple=st.sampled_from([1, 2, 4, 8, 16]), patch=st.integers(1, 20), more=st.integers(0, 60), step=st.floats(0.05, 1)
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_tiles_cover_on_the_latent_grid_in_bounded_steps(multiple: int, patch: int, more: int, step: float) -> None:
    patch, size = patch * multiple, (patch + more) * multiple
    starts = tile_starts(size, patch, step, multiple)
    assert starts[0] == 0 and starts[-1] == size - patch
    assert all(a % multiple == 0 for a in starts)
    assert all(0 < b - a <= max(multiple, step * patch) for a, b in pairwise(starts))
    assert len(starts) == len(set(starts))


def test_tiles_by_hand() -> None:
    assert tile_starts(16, 16, 0.5, 4) == [0]
    assert tile_starts(32, 16, 0.5, 4) == [0, 8, 16]
    assert tile_starts(20, 16, 0.5, 4) == [0, 4]
    assert tile_starts(32, 16, 1.0, 4) == [0, 16]


def test_gaussian_weights() -> None:
    weights = gaussian((9, 17))
    assert weights.shape == (9, 17)
    assert weights[4, 8] == 1 == weights.max()
    torch.testing.assert_close(weights, weights.flip(0, 1))
    assert float(weights[4, 10]) == pytest.approx(math.exp(-((2 / (17 / 8)) ** 2) / 2))
    assert float(weights[0, 0]) == pytest.approx(1e-3)
    assert weights.min() >= 1e-3


def build(configuration: Configuration, seed: int = 0) -> LDSeg:
    """A network whose latent matters."""
    torch.manual_seed(seed)
    model = LDSeg(configuration, 3).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(model.decoder.head.weight, std=1.0)
    return model


def image_of(setup: str, seed: int = 0) -> np.ndarray:
    shape = (1, 2, 30, 37) if setup == "2d" else (1, 9, 17, 14)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("setup", SETUPS)
def test_probabilities_and_their_independence(make_configuration: Make, setup: str) -> None:
    configuration = make_configuration(**SETUPS[setup])
    model, image = build(configuration), image_of(setup)
    window = SlidingWindow(configuration, CPU, tile_batch=4)
    assert window.tile_batch == 1
    first = window.probabilities([model], image, "a", 0, 2, 1, False)
    assert first.shape == (3, *image.shape[1:]) and first.dtype == np.float32
    np.testing.assert_allclose(first.sum(0), 1, rtol=1e-5)
    window.probabilities([model], image_of(setup, 1), "b", 0, 2, 1, False)
    np.testing.assert_array_equal(window.probabilities([model], image, "a", 0, 2, 1, False), first)
    window.tile_batch = 4
    np.testing.assert_allclose(window.probabilities([model], image, "a", 0, 2, 1, False), first, atol=1e-3)
    for case, seed in (("c", 0), ("a", 1)):
        assert np.abs(window.probabilities([model], image, case, seed, 2, 1, False) - first).max() > 1e-3


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_runs_with_two_threads_are_identical(make_configuration: Make, two_threads: None) -> None:
    configuration = make_configuration(strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)), stage=1, patch=(8, 24, 24))
    model, image = build(configuration), np.random.default_rng(0).normal(size=(1, 8, 24, 36)).astype(np.float32)
    window = SlidingWindow(configuration, CPU, 1)
    runs = [window.probabilities([model], image, "a", 0, 1, 1, False) for _ in range(2)]
    np.testing.assert_array_equal(runs[1], runs[0])


def test_models_and_samples_are_averaged_as_probabilities(make_configuration: Make) -> None:
    configuration = make_configuration(patch=(16, 16))
    models, image = [build(configuration, s) for s in (0, 1)], image_of("2d")
    window = SlidingWindow(configuration, CPU, 1)
    one, two = (window.probabilities([m], image, "a", 0, 1, 1, False) for m in models)
    np.testing.assert_allclose(window.probabilities(models, image, "a", 0, 1, 1, False), (one + two) / 2, atol=1e-6)
    first = window.probabilities(models[:1], image, "a", 0, 2, 1, False)  # one step is the mean: samples differ from two on
    several = window.probabilities(models[:1], image, "a", 0, 2, 3, False)
    assert np.abs(several - first).max() > 1e-5
    np.testing.assert_allclose(several.sum(0), 1, rtol=1e-5)


def test_ddpm_draws_repeat(make_configuration: Make) -> None:
    configuration = make_configuration(patch=(16, 16), sampling=Sampling(3, sampler="ddpm"))
    window, model = SlidingWindow(configuration, CPU, 1), build(configuration)
    runs = [window.probabilities([model], image_of("2d"), "a", seed, 3, 1, False) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-3


class Stub:
    """Stands in for LDSeg: the logits are the image, one constant, or the latent's noise brought to full resolution."""

    def __init__(self, configuration: Configuration, kind: str) -> None:
        self.configuration, self.kind = configuration, kind
        self.channels, self.heads, self.sampler = configuration.latent.channels, 2, "ddim"

    def condition(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles

    def sample(self, noise: torch.Tensor, condition: torch.Tensor, steps: int, fresh: object) -> torch.Tensor:
        return noise

    def decode(self, z: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        if self.kind == "constant":
            return torch.tensor([0.3, -1.0]).view(1, 2, *[1] * (condition.ndim - 2)).expand(-1, -1, *condition.shape[2:])
        if self.kind == "noise":
            return torch.nn.functional.interpolate(z, size=condition.shape[2:], mode="nearest")[:, :2]
        return condition.expand(-1, 2, *[-1] * (condition.ndim - 2))


def run(configuration: Configuration, kind: str, image: np.ndarray) -> np.ndarray:
    return SlidingWindow(configuration, CPU, 1).probabilities([Stub(configuration, kind)], image, "a", 0, 1, 1, True)  # type: ignore[list-item]


@pytest.mark.parametrize("setup", SETUPS)
def test_a_constant_network_gives_a_constant(make_configuration: Make, setup: str) -> None:
    out = run(make_configuration(**SETUPS[setup]), "constant", image_of(setup))
    expected = 1 / (1 + np.exp(-np.array([0.3, -1.0])))
    np.testing.assert_allclose(out, np.broadcast_to(expected.reshape(2, 1, 1, 1), out.shape), rtol=1e-5)


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("shape", [None, (1, 1, 5, 3)])  # and an image smaller than the patch
def test_tiles_come_back_where_they_were_cut(make_configuration: Make, setup: str, shape: tuple[int, ...] | None) -> None:
    image = image_of(setup) if shape is None else np.random.default_rng(0).normal(size=shape).astype(np.float32)
    out = run(make_configuration(**SETUPS[setup]), "image", image)
    np.testing.assert_allclose(out[0], 1 / (1 + np.exp(-image[0])), rtol=1e-4)


def test_seams_agree_because_noise_is_drawn_for_the_whole_volume(make_configuration: Make) -> None:
    """The blended latent noise of all tiles is the case's own noise: overlapping tiles saw the same numbers."""
    configuration = make_configuration(**SETUPS["3d"], sampling=Sampling(1, centre=False))
    image = np.zeros((1, 8, 16, 16), np.float32)
    out = run(configuration, "noise", image)
    noise = case_noise(0, "a", 0, (3, 4, 4, 4))[:2]
    full = torch.nn.functional.interpolate(noise[None], size=(8, 16, 16), mode="nearest")[0]
    np.testing.assert_allclose(out, full.sigmoid().numpy(), rtol=1e-4)


class Even(Stub):
    """Logits that a mirrored image gives mirrored: nothing but the image, and the noise at full resolution."""

    def decode(self, z: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return condition + torch.nn.functional.interpolate(z, size=condition.shape[2:], mode="nearest")[:, :2]


@pytest.mark.parametrize("regions", [True, False])
@pytest.mark.parametrize("setup", SETUPS)
def test_mirroring_a_network_without_direction_changes_nothing(make_configuration: Make, setup: str, regions: bool) -> None:
    """Image and noise are mirrored together, and the logits back; in the mean of equal probabilities nothing is lost."""
    configuration, image = make_configuration(**SETUPS[setup], sampling=Sampling(1, centre=False)), image_of(setup)
    plain, mirrored = (
        SlidingWindow(configuration, CPU, 1, axes).probabilities([Even(configuration, "")], image, "a", 0, 1, 2, regions)  # type: ignore[list-item]
        for axes in ((), tuple(range(configuration.dimensions)))
    )
    np.testing.assert_allclose(mirrored, plain, atol=1e-5)


@pytest.mark.parametrize("regions", [True, False])
def test_mirroring_averages_probabilities(make_configuration: Make, regions: bool) -> None:
    """One tile: the mean over flips of what the network gives for the flipped image, by hand."""
    configuration = make_configuration(patch=(16, 16), sampling=Sampling(1))
    model, image = build(configuration), np.random.default_rng(0).normal(size=(1, 1, 16, 16)).astype(np.float32)
    found = SlidingWindow(configuration, CPU, 1, (0, 1)).probabilities([model], image, "a", 0, 1, 1, regions)
    expected = []
    for axes in ((), (2,), (3,), (2, 3)):
        with torch.inference_mode():
            logits = model.predict(torch.from_numpy(image).flip(axes), torch.zeros(1, *model.latent_shape((16, 16))), 1).flip(axes)
        expected.append((logits.sigmoid() if regions else logits.softmax(1))[0])
    np.testing.assert_allclose(found[:, 0], torch.stack(expected).mean(0).numpy(), atol=1e-5)
    assert max(float((e - expected[0]).abs().max()) for e in expected) > 1e-2


def test_the_image_encoder_runs_once_per_tile_for_all_samples(make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = replace(make_configuration(patch=(16, 16)), method=Method(mirror_samples=False))
    model, calls = build(configuration), {"condition": 0, "sample": 0, "decode": 0}
    for name in calls:
        plain = getattr(LDSeg, name)
        monkeypatch.setattr(LDSeg, name, lambda *given, name=name, plain=plain: [calls.update({name: calls[name] + 1}), plain(*given)][1])
    window, image = SlidingWindow(configuration, CPU, 1), image_of("2d")
    tiles = len(Layout.of(configuration, image.shape[1:]).boxes())
    window.probabilities([model], image, "a", 0, 2, 3, False)
    assert calls == {"condition": tiles, "sample": 3 * tiles, "decode": 3 * tiles} and tiles > 4
    calls.update(condition=0, sample=0)
    window = SlidingWindow(make_configuration(patch=(16, 16)), CPU, 1)  # and once per mirroring
    window.probabilities([model], image, "a", 0, 2, 6, False)
    assert (calls["condition"], calls["sample"]) == (4 * tiles, 6 * tiles)


@pytest.mark.parametrize("piece", [None, 2])  # heads together, or two at a time
@pytest.mark.parametrize("regions", [True, False])
@pytest.mark.parametrize("numbers", [(0, 1, 2, 3, 4, 5), (5, 1), (CENTRE,)])
def test_each_sample_sees_another_mirroring(
    make_configuration: Make, monkeypatch: pytest.MonkeyPatch, regions: bool, numbers: tuple[int, ...], piece: int | None
) -> None:
    """One tile: what the network gives for the mirrored image and noise, by hand; whatever samples stand beside it."""
    configuration = make_configuration(patch=(16, 16), sampling=Sampling(1))
    model, image = build(configuration), np.random.default_rng(0).normal(size=(1, 1, 16, 16)).astype(np.float32)
    window = SlidingWindow(configuration, CPU, 1)
    if piece:
        monkeypatch.setattr(module, "PIECE", 4 * piece * window.weights.numel())
    found = np.concatenate(list(window.planes([model, model], image, Draws("a", 3, 2, numbers, regions))), 2)
    shape, expected = model.latent_shape((16, 16)), []
    for number in numbers:
        axes = ((), (2, 3), (2,), (3,))[max(number, 0) % 4]
        noise = case_noise(3, "a", number, (shape[0], 1, *shape[1:]))[None, :, 0]
        with torch.inference_mode():
            logits = model.predict(torch.from_numpy(image).flip(axes), noise.flip(axes), 2).flip(axes)
        expected.append((logits.sigmoid() if regions else logits.softmax(1))[0].numpy())
    np.testing.assert_allclose(found[:, :, 0], np.stack([*expected, *expected]), atol=1e-5)
    assert len(numbers) == 1 or np.abs(expected[0] - expected[1]).max() > 1e-2


@pytest.mark.parametrize(
    ("method", "training", "options", "turned"),
    [
        ({}, {}, {}, True), ({"mirror_samples": False}, {}, {}, False), ({"diversity": 1.0}, {}, {}, False),
        ({}, {"augmentation": False}, {}, False), ({}, {"mirror_axes": ()}, {}, False), ({}, {}, {"turn": False}, False),
        ({"diversity": 1.0}, {}, {"turn": True}, True),
        ({}, {}, {"mirror": (0,)}, False),
    ],
)  # fmt: skip
def test_when_samples_are_mirrored(
    make_configuration: Make, method: dict[str, Any], training: dict[str, Any], options: dict[str, Any], turned: bool
) -> None:
    """With one rater, along what training mirrored, unless the caller wants none, or all of them averaged."""
    configuration = replace(make_configuration(patch=(16, 16)), method=Method(**method), training=Training(**training))
    assert SlidingWindow(configuration, CPU, 1, **options).turns == (((), (0, 1), (0,), (1,)) if turned else ((),))


@pytest.mark.parametrize("setup", SETUPS)
def test_each_axis_is_mirrored_in_half_of_an_even_number_of_samples(make_configuration: Make, setup: str) -> None:
    configuration = make_configuration(**SETUPS[setup])
    turns, n = SlidingWindow(configuration, CPU, 1).turns, configuration.dimensions
    assert len(set(turns)) == len(turns) == 2**n and turns[0] == ()
    for count in range(2, len(turns) + 1, 2):
        assert [sum(axis in turn for turn in turns[:count]) for axis in range(n)] == [count // 2] * n


def test_many_heads_come_in_parts(make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = make_configuration(**SETUPS["3d"])
    model, image, window = build(configuration), image_of("3d"), SlidingWindow(configuration, CPU, 1)
    whole = window.probabilities([model], image, "a", 0, 1, 2, False)
    monkeypatch.setattr(module, "PIECE", 4 * 2 * window.weights.numel())
    monkeypatch.setattr(LDSeg, "decode", None)
    np.testing.assert_allclose(window.probabilities([model], image, "a", 0, 1, 2, False), whole, atol=1e-5)


def test_stopped_between_tiles(make_configuration: Make) -> None:
    configuration = make_configuration(patch=(16, 16))
    stop, image = threading.Event(), np.zeros((1, 9, 16, 16), np.float32)
    planes = SlidingWindow(configuration, CPU, 1).planes([build(configuration)], image, Draws("a", 0, 1, (0,), False), stop)
    assert next(planes).shape == (1, 3, 1, 16, 16)
    stop.set()
    assert list(planes) == []
