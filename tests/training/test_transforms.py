"""Transforms against scipy and numpy, and the laws that hold for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from batchgenerators.augmentations import color_augmentations
from scipy import ndimage

from ldseg_auto.training import transforms
from ldseg_auto.training.augmentation import Draw, draw, source_size
from ldseg_auto.training.transforms import Raw, apply, collate, resample

PATCHES = [(16, 24), (9, 12, 10), (4, 20, 16)]


def raw(patch: Sequence[int], drawn: Draw, seed: int = 0, channels: int = 2) -> Raw:
    """A sample of noise with labels 0 to 3 in blocks."""
    rng = np.random.default_rng(seed)
    size = source_size(patch, drawn.affine)
    image = torch.from_numpy(rng.normal(size=(channels, *size)).astype(np.float32))
    label = torch.from_numpy(blocks(rng, size))
    if drawn.affine is None:
        return Raw(image[None], label[None].long(), torch.zeros(0), torch.zeros(0, dtype=torch.int16), [drawn])
    empty = torch.full((1, channels, *patch), torch.nan), torch.full((1, *patch), 99)
    return Raw(*empty, image.flatten(), label.flatten(), [drawn])


def blocks(rng: np.random.Generator, size: Sequence[int]) -> np.ndarray:
    coarse = rng.integers(0, 4, [s // 4 + 1 for s in size])
    return coarse[np.ix_(*(np.arange(s) // 4 for s in size))].astype(np.int16)


def affines(patch: Sequence[int], number: int) -> list[np.ndarray]:
    found = (draw(np.random.default_rng([3, i]), patch, 1).affine for i in itertools.count())
    return list(itertools.islice((a for a in found if a is not None), number))


@pytest.mark.parametrize("patch", PATCHES)
def test_interpolation_is_scipys(patch: Sequence[int]) -> None:
    """The image by map_coordinates of order 1; the label by the largest of the labels' interpolated indicators, at their own grid."""
    for affine in affines(patch, 5):
        sample = raw(patch, Draw(affine), channels=2)
        _, source, labels = next(sample.wide())
        offsets = np.stack(np.meshgrid(*(np.arange(p) - (p - 1) / 2 for p in patch), indexing="ij"))
        centre = (np.array(labels.shape) - 1) / 2
        points = np.tensordot(affine, offsets, 1) + centre.reshape(-1, *[1] * len(patch))
        image, label = resample(source, labels, affine, patch)
        for c in range(2):
            expected = ndimage.map_coordinates(source[c].numpy(), points, order=1, mode="grid-constant")
            np.testing.assert_allclose(image[c].numpy(), expected, atol=1e-3)
        scores = [ndimage.map_coordinates((labels.numpy() == k).astype(float), points, order=1, mode="grid-constant") for k in range(4)]
        scores = np.sort(scores, 0), np.argmax(scores, 0)
        clear = scores[0][-1] - scores[0][-2] > 1e-3
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(label.numpy()[clear], scores[1][clear])


@pytest.mark.parametrize("patch", [(8, 8), (6, 8, 8), (7, 7, 7)])
def test_no_rotation_and_a_quarter_turn_move_voxels_only(patch: Sequence[int]) -> None:
    image = torch.randn(1, *patch)
    label = torch.randint(0, 5, tuple(patch), dtype=torch.int16)
    turn = np.eye(len(patch))
    turn[-2:, -2:] = [[0, -1], [1, 0]]
    for affine, k in ((None, 0), (turn, -1)):
        moved, labels = resample(image, label, affine, patch)
        np.testing.assert_allclose(moved[0].numpy(), np.rot90(image[0].numpy(), k, axes=(-2, -1)), atol=1e-5)
        np.testing.assert_array_equal(labels.numpy(), np.rot90(label.numpy(), k, axes=(-2, -1)))


def test_many_labels_are_interpolated_in_several_calls_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    affine = affines((20, 20), 1)[0]
    label = torch.from_numpy(blocks(np.random.default_rng(0), source_size((20, 20), affine))) * 5
    image = torch.zeros(1, *label.shape)
    whole = resample(image, label, affine, (20, 20))[1]
    monkeypatch.setattr(transforms, "LABELS_AT_ONCE", 1)
    assert torch.equal(resample(image, label, affine, (20, 20))[1], whole)
    assert set(whole.unique().tolist()) == {0, 5, 10, 15}


@pytest.mark.parametrize("patch", PATCHES)
def test_a_batch_at_once_is_each_sample_alone(patch: Sequence[int]) -> None:
    """What the device does with a batch equals what workers do with samples, up to rounding; labels exactly."""
    drawn = [draw(np.random.default_rng([7, i]), patch, 2) for i in range(40)]
    assert all(any(getattr(d, name) is not None for d in drawn) for name in ("affine", "noise", "blur", "contrast", "resolution", "gamma"))
    alone = [apply(raw(patch, d, i)) for i, d in enumerate(drawn)]
    image, label = apply(collate([raw(patch, d, i) for i, d in enumerate(drawn)]))
    assert image.shape == (40, 2, *patch) and image.dtype == torch.float32 and image.isfinite().all()
    assert label.shape == (40, *patch) and label.dtype == torch.int64
    torch.testing.assert_close(image, torch.cat([i for i, _ in alone]), rtol=1e-5, atol=1e-5)
    assert torch.equal(label, torch.cat([y for _, y in alone]))


@pytest.mark.parametrize("patch", PATCHES)
def test_image_and_label_move_together(patch: Sequence[int]) -> None:
    """An image that is its own label still is, up to interpolation, wherever intensities stay: in turned and mirrored samples too."""
    for i, affine in enumerate([None, *affines(patch, 6)]):
        drawn = Draw(affine, mirror=tuple(range(i % (len(patch) + 1))))
        sample = raw(patch, drawn, i, channels=1)
        label, source = (sample.label == 1).long(), (sample.source_labels == 1).short()
        image, label = apply(Raw(label[:, None].float(), label, source.float(), source, [drawn]))
        wrong = ((image[:, 0] > 0.5) != (label == 1)) & ((image[:, 0] - 0.5).abs() > 1e-4)
        assert not wrong.any()
        assert (label == 1).any() and (label != 1).any()


@pytest.mark.parametrize("name", ["noise", "blur", "brightness", "contrast", "resolution", "gamma_inverted", "gamma"])
@pytest.mark.parametrize("patch", PATCHES)
def test_intensities_leave_the_label_alone_and_other_samples_too(patch: Sequence[int], name: str) -> None:
    value = next(v for i in itertools.count() if (v := getattr(draw(np.random.default_rng(i), patch, 2), name)) is not None)
    before = collate([raw(patch, Draw(), 0), raw(patch, Draw(), 1), raw(patch, Draw(), 2)])
    image, label = before.image.clone(), before.label.clone()
    after, labels = apply(before._replace(draws=[Draw(), replace(Draw(), **{name: value}), Draw()]))
    assert torch.equal(labels, label)
    assert torch.equal(after[[0, 2]], image[[0, 2]])
    assert not torch.equal(after[1], image[1])


def test_blur_is_scipys() -> None:
    x = torch.randn(2, 3, 9, 12, 7)
    sigma = torch.rand(2, 3, 3) / 2 + 0.5
    sigma[1, 2] = 0
    out = transforms.blur(x, sigma)
    for n, c in itertools.product(range(2), range(3)):
        expected = x[n, c].numpy()
        for axis in range(3):
            if sigma[n, c, axis]:
                s = float(sigma[n, c, axis])
                expected = ndimage.gaussian_filter1d(expected, s, axis, mode="nearest", radius=4)
        np.testing.assert_allclose(out[n, c].numpy(), expected, atol=1e-5)


def test_contrast_and_gamma_are_their_formulas() -> None:
    x = torch.randn(2, 2, 8, 9)
    factors = torch.tensor([[0.8, 1.2], [1.0, 0.75]])
    out, powered = transforms.contrast(x, factors), transforms.gamma(x, factors)
    for n, c in itertools.product(range(2), range(2)):
        v, f = x[n, c].double().numpy(), float(factors[n, c])
        np.testing.assert_allclose(out[n, c].numpy(), np.clip((v - v.mean()) * f + v.mean(), v.min(), v.max()), atol=1e-5)
        p = ((v - v.min()) / np.ptp(v)) ** f
        np.testing.assert_allclose(powered[n, c].numpy(), (p - p.mean()) / p.std() * v.std() + v.mean(), atol=1e-4)


@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "gamma_inverted", "mirror"])
def test_what_batchgenerators_has_too(name: str) -> None:
    """With one factor for all channels, which its functions draw from a range of one value."""
    patch, f = (9, 12, 10), 1.25
    sample = raw(patch, Draw(**{name: (0, 2) if name == "mirror" else np.array([f, f])}))
    x = sample.image[0].numpy().copy()
    expected = {
        "brightness": lambda: color_augmentations.augment_brightness_multiplicative(x, (f, f)),
        "contrast": lambda: color_augmentations.augment_contrast(x, (f, f)),
        "gamma": lambda: color_augmentations.augment_gamma(x, (f, f), per_channel=True, retain_stats=True),
        "gamma_inverted": lambda: color_augmentations.augment_gamma(x, (f, f), invert_image=True, per_channel=True, retain_stats=True),
        "mirror": lambda: np.flip(x, (1, 3)),
    }[name]()
    np.testing.assert_allclose(apply(sample)[0][0].numpy(), expected, atol=2e-5)


def test_a_constant_image_stays_finite_and_constant() -> None:
    """Of one channel nothing varies: no transform may divide by that."""
    x = torch.full((1, 1, 8, 8), 3.0)
    value = torch.tensor([[0.8]])
    blurred = transforms.blur(x, value[..., None].repeat(1, 1, 2))
    for out in (transforms.contrast(x, value), transforms.gamma(x, value), -transforms.gamma(-x, value), blurred):
        torch.testing.assert_close(out, x)
    torch.testing.assert_close(transforms.coarse(x[0, 0], 0.5), x[0, 0])


def test_coarse_keeps_every_second_voxel_and_the_first_axis_of_slices() -> None:
    """Half of a ramp's voxels, interpolated: the ramp again but at the ends; slices far apart are not mixed."""
    ramp = torch.arange(16.0).repeat(16, 1)
    np.testing.assert_allclose(transforms.coarse(ramp, 0.5)[:, 2:-2].numpy(), ramp[:, 2:-2].numpy() + 0.5)
    stack = torch.arange(4.0).view(4, 1, 1).expand(4, 16, 16).contiguous()
    torch.testing.assert_close(transforms.coarse(stack, 0.5), stack)


def test_noise_has_its_deviation_and_depends_on_its_seed_alone() -> None:
    patch, seen = (64, 64), []
    for seed in (1, 1, 2):
        np.random.seed(int(np.random.randint(100)))
        torch.manual_seed(int(torch.randint(100, ())))
        sample = raw(patch, Draw(noise=0.05, seed=seed))
        before = sample.image.clone()
        seen.append(apply(sample)[0] - before)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert float(seen[0].std()) == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("labels", [[0, 3, 7], [-1, 2], [5], [0]])
def test_present(labels: list[int]) -> None:
    label = torch.tensor(labels, dtype=torch.int16).repeat(3, 2)
    assert transforms.present(label) == sorted(set(labels))
