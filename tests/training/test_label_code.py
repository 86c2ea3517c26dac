"""The label autoencoder's beginning, against principal components by dense linear algebra."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration, Latent
from ldseg_auto.training.label_code import ODDS, begin_as_block_code
from ldseg_auto.training.patches import Patches, calibrate_latent, reconstruction_dice

Make = Callable[..., Configuration]
CPU = torch.device("cpu")
CLASSES = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 2})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, [1, 2])


def discs(dimensions: int, number: int = 6, size: int = 16) -> Patches:
    """Discs (balls) within each other, somewhere, of some size; two samples a batch."""
    rng, grid = np.random.default_rng(0), np.indices((size,) * dimensions)
    out = []
    for _ in range(number):
        pair = []
        for _ in range(2):
            centre, radius = rng.uniform(5, size - 5, dimensions), rng.uniform(3, 6)
            distance = np.sqrt(((grid.T - centre).T ** 2).sum(0))
            pair.append((distance < radius).astype(np.int64) + (distance < radius / 2))
        label = torch.from_numpy(np.stack(pair))
        out.append((torch.zeros(2, 1, *label.shape[1:]), label))
    return out


def network(configuration: Configuration, labels: LabelSpec, channels: int, seed: int = 0) -> LDSeg:
    torch.manual_seed(seed)
    return LDSeg(replace(configuration, latent=Latent(configuration.latent.factor, channels)), labels.num_heads)


def blocks_of(patches: Patches, labels: LabelSpec, dimensions: int) -> np.ndarray:
    """All blocks of two voxels along each axis, in heads: (n, heads x voxels)."""
    found = []
    for _, batch in patches:
        for label in batch.numpy():
            onehot = labels.table[label]
            for corner in np.ndindex(*(n // 2 for n in label.shape)):
                block = onehot[tuple(slice(2 * c, 2 * c + 2) for c in corner)]
                found.append(np.moveaxis(block, -1, 0).reshape(-1))
    return np.array(found)


@pytest.mark.parametrize("labels", [CLASSES, REGIONS])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_latent_and_logits_are_those_of_the_principal_components(make_configuration: Make, dimensions: int, labels: LabelSpec) -> None:
    """The latent spans the leading components and no other; the logits are the best linear guess of the one-hot labels, scaled."""
    channels, patches = 4, discs(dimensions)
    model = network(make_configuration(patch=(16,) * dimensions), labels, channels)
    begin_as_block_code([model], patches, labels)
    calibrate_latent(model, patches, labels, CPU)
    torch.nn.init.zeros_(model.decoder.head.weight)
    label = patches[0][1]
    onehot = torch.from_numpy(labels.table)[label].movedim(-1, 1).contiguous()
    with torch.no_grad():
        z0 = model.eval().encode_label(onehot)
        logits = model.decode(z0, None)

    everything, these = blocks_of(patches, labels, dimensions), blocks_of(patches[:1], labels, dimensions)
    mean = everything.mean(0)
    vectors = np.linalg.svd(everything - mean, full_matrices=False)[2][:channels]
    coefficients = (these - mean) @ vectors.T
    latents = z0.movedim(1, -1).reshape(-1, channels).numpy()
    fit, residual = np.linalg.lstsq(np.c_[coefficients, np.ones(len(these))], latents, rcond=None)[:2]
    assert np.allclose(residual, 0, atol=1e-3) and np.linalg.matrix_rank(fit[:-1]) == channels

    guess = coefficients @ vectors
    average = mean.reshape(labels.num_heads, -1).mean(1).repeat(2**dimensions)  # the bias is one number per head
    gain = math.log(ODDS * (1 if labels.has_regions else labels.num_heads - 1))
    expected = gain * (2 * (guess + average) - 1 if labels.has_regions else guess + average)
    found = blocks_of_logits(logits, dimensions)
    assert np.allclose(found, expected, atol=0.02 * gain)


def blocks_of_logits(logits: torch.Tensor, dimensions: int) -> np.ndarray:
    found = []
    for sample in logits.numpy():
        for corner in np.ndindex(*(n // 2 for n in sample.shape[1:])):
            found.append(sample[(slice(None), *(slice(2 * c, 2 * c + 2) for c in corner))].reshape(-1))
    return np.array(found)


@pytest.mark.parametrize("labels", [CLASSES, REGIONS])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_code_that_is_large_enough_reconstructs_the_labels(make_configuration: Make, dimensions: int, labels: LabelSpec) -> None:
    patches, others = discs(dimensions, 8)[:4], discs(dimensions, 8)[4:]
    model = network(make_configuration(patch=(16,) * dimensions), labels, 16)
    before = reconstruction_dice(model, others, labels, CPU)
    begin_as_block_code([model], patches, labels)
    calibrate_latent(model, patches, labels, CPU)
    torch.nn.init.zeros_(model.decoder.head.weight)
    after = reconstruction_dice(model.eval(), others, labels, CPU)
    assert min(after.values()) > (0.99 if dimensions == 2 else 0.95) and min(before.values()) < 0.6


def test_channels_share_the_deviation(make_configuration: Make) -> None:
    """No channel is a rare detail blown up to unit variance."""
    patches = discs(2)
    model = network(make_configuration(), CLASSES, 8)
    begin_as_block_code([model], patches, CLASSES)
    calibrate_latent(model, patches, CLASSES, CPU)
    variance = model.standardise.variance
    assert variance.min() > 0.25 * variance.mean()


def test_all_models_begin_alike_and_nothing_else_changes(make_configuration: Make) -> None:
    """Of the others the same, from whatever they were; patches that hold nothing but background give no code, and no not-a-number."""
    one, two = network(make_configuration(), CLASSES, 4), network(make_configuration(), CLASSES, 4, seed=1)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    begin_as_block_code([one, two], discs(2), CLASSES)
    torch.testing.assert_close(two.state_dict(), one.state_dict(), rtol=0, atol=0)
    changed = {name for name, value in one.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {
        *(f"label_encoder.{layer}.{p}" for layer in ("linear", "layers.4") for p in ("weight", "bias")),
        "decoder.linear.weight", "decoder.head.bias",
    }  # fmt: skip
    empty = [(image, torch.zeros_like(label)) for image, label in discs(2)]
    begin_as_block_code([one], empty, CLASSES)
    assert all(value.isfinite().all() for value in one.state_dict().values())


def test_what_is_ignored_counts_as_background(make_configuration: Make) -> None:
    patches = discs(2)
    ignored = [(image, torch.where(label == 0, REGIONS.ignore_index, label)) for image, label in patches]
    models = [network(make_configuration(), REGIONS, 4) for _ in range(2)]
    for model, given in zip(models, (patches, ignored), strict=True):
        begin_as_block_code([model], given, REGIONS)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
