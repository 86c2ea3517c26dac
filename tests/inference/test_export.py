"""The streamed prediction against the plain one, which holds everything; and what neither room nor order may change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.agreement import pairwise_dice
from ldseg_auto.inference.export import Export, Maps, values_of
from ldseg_auto.inference.noise import case_noise, sample_numbers
from ldseg_auto.inference.prediction import Wanted
from ldseg_auto.inference.tiles import gaussian, tile_starts
from ldseg_auto.inference.uncertainty import entropy, mutual_information
from ldseg_auto.inference.window import Draws, SlidingWindow
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration, Intensities, Plans
from ldseg_auto.preprocessing import streaming
from ldseg_auto.preprocessing.case import preprocess_array, scores_to_indices
from ldseg_auto.preprocessing.resample import resample_score
from ldseg_auto.preprocessing.store import Properties
from ldseg_auto.preprocessing.streaming import ScoreStream
from ldseg_auto.scratch import Room

Make = Callable[..., Configuration]
CPU = torch.device("cpu")
MEMORY, FILE = Room(), Room(limit=0)
CLASSES = LabelSpec(("a", "b"), (0, 1, 2))
REGIONS = LabelSpec(("whole", "core"), (0, 1, 2), None, ((1, 2), (2,)), (1, 2))
SETUPS = {"2d": {"patch": (16, 16)}, "3d": {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "stage": 2, "patch": (4, 8, 8)}}
SHAPES = ((7, 19, 17), (3, 40, 9), (1, 5, 4))
FULL = Wanted(probabilities=True, uncertainty=True, samples=True)


def build(configuration: Configuration, heads: int, seed: int = 0) -> LDSeg:
    """A network whose latent matters."""
    torch.manual_seed(seed)
    model = LDSeg(configuration, heads).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(model.decoder.head.weight, std=1.0)
    return model


def plain_draws(configuration: Configuration, models: list[LDSeg], image: np.ndarray, draws: Draws) -> np.ndarray:
    """Probabilities (draws, heads, z, y, x) of whole volumes: every tile by itself, mirrored by its sample, through LDSeg.predict."""
    flat, spatial = configuration.dimensions == 2, range(-configuration.dimensions, 0)
    subsets = [axes for n in range(len(spatial) + 1) for axes in combinations(spatial, n)]
    turns = [side for i in range(len(subsets) // 2) for side in (subsets[i], subsets[-1 - i])]  # each before its complement
    patch = (1, *configuration.patch_size) if flat else configuration.patch_size
    factor = (1, *configuration.latent.factor) if flat else configuration.latent.factor
    wanted = [max(p, ceil(s / f) * f) for s, p, f in zip(image.shape[1:], patch, factor, strict=True)]
    before = [(w - s) // 2 for w, s in zip(wanted, image.shape[1:], strict=True)]
    padded = np.pad(image, [(0, 0), *((b, w - s - b) for b, w, s in zip(before, wanted, image.shape[1:], strict=True))])
    starts = [tile_starts(w, p, configuration.inference.step, f) for w, p, f in zip(wanted, patch, factor, strict=True)]
    found = []
    for model, number in product(models, draws.numbers):
        noise = case_noise(draws.seed, draws.case, number, (model.channels, *(w // f for w, f in zip(wanted, factor, strict=True))))
        total, weight = torch.zeros(model.heads, *wanted), torch.zeros(*wanted)
        for first in product(*starts):
            box = tuple(slice(a, a + p) for a, p in zip(first, patch, strict=True))
            cut = tuple(slice(b.start // f, b.stop // f) for b, f in zip(box, factor, strict=True))
            tile, part = torch.from_numpy(padded[(slice(None), *box)].copy())[None], noise[(slice(None), *cut)][None]
            axes = turns[max(number, 0) % len(turns)]
            seen, start = (x[:, :, 0].flip(axes) if flat else x.flip(axes) for x in (tile, part))
            with torch.inference_mode():
                logits = model.predict(seen, start, draws.steps)[0].flip(axes)
            total[(slice(None), *box)] += logits.view(model.heads, *patch) * gaussian(configuration.patch_size).view(patch)
            weight[box] += gaussian(configuration.patch_size).view(patch)
        inner = tuple(slice(b, b + s) for b, s in zip(before, image.shape[1:], strict=True))
        logits = (total / weight)[(slice(None), *inner)]
        found.append((logits.sigmoid() if draws.regions else logits.softmax(0)).numpy())
    return np.stack(found)


def case(configuration: Configuration, shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[Plans, np.ndarray, Properties]:
    """Plans that transpose, and a preprocessed image with a crop."""
    intensities = Intensities(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    plans = Plans("Dataset001_Toy", "ldsegPlans", "abc", ".nii.gz", (1, 0, 2), (intensities,), {"c": configuration}, "c")
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    image[:, :, :1], image[:, :, :, -1:] = 0, 0
    return plans, *preprocess_array(image, spacing, plans, configuration)


def streamed(
    configuration: Configuration, models: list[LDSeg], plans: Plans, data: np.ndarray, properties: Properties, draws: Draws, wanted: Wanted,
    labels: LabelSpec, room: Room = MEMORY,
) -> Maps:  # fmt: skip
    planes = SlidingWindow(configuration, CPU, 1, room=room).planes(models, data, draws)
    scores = (p - np.float32(0.5) for p in planes) if draws.regions else planes
    count = len(models) * len(draws.numbers)
    stream = ScoreStream(
        scores, (count, labels.num_heads), properties.preprocessed_shape, properties.cropped_shape, properties.separate_axis
    )
    return Export(labels, properties, plans.transpose_forward, count, wanted).run([stream])


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize(("shape", "spacing"), zip(SHAPES, [(1.0, 1.3, 0.8), (4.0, 1.0, 1.0), (1.0, 1.0, 1.0)], strict=True))
def test_labels_are_those_of_the_plain_path(
    make_configuration: Make, setup: str, labels: LabelSpec, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    configuration = make_configuration(**SETUPS[setup])
    models = [build(configuration, labels.num_heads)]
    plans, data, properties = case(configuration, shape, spacing)
    draws = Draws("a", 0, 1, tuple(sample_numbers(configuration, 1, 1)), labels.has_regions)
    (whole,) = plain_draws(configuration, models, data, draws)
    expected = scores_to_indices(whole - np.float32(0.5) if labels.has_regions else whole, properties, plans, labels)
    for room in (Room(), FILE):
        found = streamed(configuration, models, plans, data, properties, draws, Wanted(), labels, room)
        np.testing.assert_array_equal(found.indices, expected)
    assert shape == SHAPES[-1] or len(np.unique(expected)) > 1


def on_the_image(values: np.ndarray, properties: Properties, plans: Plans, outside: float) -> np.ndarray:
    """A volume on the network's grid, resampled whole and put back, canonical."""
    full = np.full([properties.shape[a] for a in plans.transpose_forward], outside, np.float32)
    full[tuple(slice(*b) for b in properties.box)] = resample_score(values, properties.cropped_shape, properties.separate_axis)
    return full.transpose(plans.transpose_backward)


@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("piece", [1, 2**26])
def test_maps_of_several_models_and_samples(
    make_configuration: Make, monkeypatch: pytest.MonkeyPatch, labels: LabelSpec, piece: int
) -> None:
    """Probabilities, samples, uncertainty and agreement against whole volumes, in slabs of one plane and in one slab."""
    monkeypatch.setattr(streaming, "SLAB_BYTES", piece)
    configuration = make_configuration(**SETUPS["3d"])
    models = [build(configuration, labels.num_heads, s) for s in (0, 1)]
    plans, data, properties = case(configuration, SHAPES[0], (1.0, 1.3, 0.8))
    draws = Draws("a", 0, 2, (0, 1, 2), labels.has_regions)
    found = streamed(configuration, models, plans, data, properties, draws, FULL, labels)
    whole = plain_draws(configuration, models, data, draws)
    maps = np.array([[on_the_image(h, properties, plans, h_out) for h, h_out in zip(d, _outside(labels), strict=True)] for d in whole])
    np.testing.assert_allclose(found.probabilities, maps.mean(0), atol=1e-3)
    total = entropy(maps.mean(0), labels.has_regions)
    information = mutual_information(total, np.mean([entropy(m, labels.has_regions) for m in maps], axis=0))
    np.testing.assert_allclose(found.entropy, total, atol=1e-4)
    np.testing.assert_allclose(found.mutual_information, information, atol=1e-4)
    samples = np.stack([labels.assign(m - 0.5 if labels.has_regions else m) for m in maps])
    assert found.samples is not None and found.samples.shape == (6, *SHAPES[0])
    assert (found.samples != samples).mean() < 1e-3  # rounding at ties
    members = labels.table.T if labels.has_regions else labels.table.T[1:]
    masks = np.stack([np.stack([m[s] > 0 for m in members]) for s in found.samples])
    assert found.score.agreement == pytest.approx(pairwise_dice(masks))
    assert found.score.soft_dice == pytest.approx(soft_dice(labels, maps.mean(0), found.indices), rel=1e-4)
    assert found.score.draws == 6
    plainly = streamed(configuration, models, plans, data, properties, draws, Wanted(), labels)
    np.testing.assert_array_equal(plainly.indices, found.indices)
    assert plainly.probabilities is plainly.entropy is plainly.samples is None and plainly.score == found.score


def soft_dice(labels: LabelSpec, mean: np.ndarray, indices: np.ndarray) -> float:
    """Of mean probabilities (heads, z, y, x), class by class."""
    values = []
    for number, p in enumerate(mean if labels.has_regions else mean[1:]):
        mask = p > 0.5 if labels.has_regions else indices == number + 1
        values += [2 * p[mask].sum() / (p[(p >= 0.1) | mask].sum() + mask.sum())] if mask.any() else []
    return float(np.mean(values))


def _outside(labels: LabelSpec) -> list[float]:
    """Probabilities outside the crop."""
    return [0.0] * labels.num_heads if labels.has_regions else [1.0] + [0.0] * (labels.num_heads - 1)


def scores_of(rng: np.random.Generator, shape: tuple[int, ...], sharp: float) -> np.ndarray:
    """Softmax of smooth random logits (2, 4, *shape): larger `sharp`, fewer heads above a quarter."""
    logits = rng.normal(size=(2, 4, *shape)) * sharp
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


@given(
    st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 12)] * 3), st.sampled_from([None, 0, 1, 2]), st.floats(0.1, 8),
    st.sampled_from([1, 4000, 2**26]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_slabs_and_left_out_heads_change_no_label(
    monkeypatch: pytest.MonkeyPatch, old: tuple[int, ...], new: tuple[int, ...], separate: int | None, sharp: float, size: int, seed: int
) -> None:
    monkeypatch.setattr(streaming, "SLAB_BYTES", size)
    labels = LabelSpec(("a", "b", "c"), (0, 1, 2, 3))
    properties = Properties((1.0, 1.0, 1.0), new, tuple((0, n) for n in new), new, old, separate)
    rng = np.random.default_rng(seed)
    scores = scores_of(rng, old, sharp)
    cuts = [0, *sorted(rng.integers(0, old[0] + 1, 2).tolist()), old[0]]
    planes = iter([scores[:, :, a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)])
    stream = ScoreStream(planes, (2, 4), old, new, separate)
    found = Export(labels, properties, (0, 1, 2), 2, Wanted(samples=True)).run([stream])
    each = np.stack([np.stack([resample_score(h, new, separate) for h in draw]) for draw in scores])
    assert found.samples is not None
    for sample, expected in zip(found.samples, each, strict=True):
        np.testing.assert_array_equal(sample, labels.assign(expected))
    mean = (each[0] + each[1]) / np.float32(2)
    np.testing.assert_array_equal(found.indices, labels.assign(mean))
    assert found.score.soft_dice == (pytest.approx(soft_dice(labels, mean, found.indices)) if found.indices.any() else 1)


def test_streams_of_two_grids_are_averaged_draw_by_draw() -> None:
    """One draw on the image's grid, two on a coarser one."""
    new, properties = (4, 6, 5), Properties((1.0, 1.0, 1.0), (4, 6, 5), ((0, 4), (0, 6), (0, 5)), (4, 6, 5), (4, 6, 5))
    labels, rng = LabelSpec(("a", "b", "c"), (0, 1, 2, 3)), np.random.default_rng(0)
    fine, coarse = scores_of(rng, new, 2)[:1], scores_of(rng, (2, 3, 4), 2)
    streams = [ScoreStream(iter([fine]), (1, 4), new, new, None), ScoreStream(iter([coarse]), (2, 4), (2, 3, 4), new, None)]
    found = Export(labels, properties, (0, 1, 2), 3, Wanted(probabilities=True)).run(streams)
    expected = (fine[0] + sum(np.stack([resample_score(h, new, None) for h in draw]) for draw in coarse)) / 3
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-3)


@pytest.mark.parametrize(("values", "dtype"), [((0, 1, 2), np.int16), ((0, 3, 9), np.int16), ((0, 4, 40000), np.int32)])
def test_values(values: tuple[int, ...], dtype: type) -> None:
    labels = LabelSpec(("a", "b"), values)
    indices = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.int16)
    expected = np.array(values)[indices]
    found = values_of(labels, indices)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype


def test_a_ring_in_a_file_gives_the_same_bits(make_configuration: Make) -> None:
    configuration = replace(make_configuration(**SETUPS["3d"]))
    model, image = build(configuration, 3), np.random.default_rng(0).normal(size=(1, 11, 20, 14)).astype(np.float32)
    runs = [SlidingWindow(configuration, CPU, 1, room=room).probabilities([model], image, "a", 0, 2, 2, False) for room in (Room(), FILE)]
    np.testing.assert_array_equal(*runs)
