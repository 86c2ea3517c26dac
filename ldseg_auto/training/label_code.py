"""How the label autoencoder begins: as the best linear code of the training labels' blocks, by which the planner chose the latent."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.block_code import Blocks, Code, cut, fit, joined, thinned
from ldseg_auto.training.patches import Patches
from ldseg_auto.training.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)
BLOCKS_PER_PATCH = 400  # mixed ones
ODDS = 27.0  # of the class that a voxel's code says, against all others together


@torch.no_grad()
def begin_as_block_code(models: Sequence[LDSeg], patches: Patches, labels: LabelSpec, ranks: Ranks = ALONE) -> None:
    """Sets the linear halves of label encoder and decoder to the code of the patches' labels; the encoder's other half then gives zero.

    With the leading components C `(n, heads x voxels)` of a block's heads y, their mean m, and R the first n columns of the discrete
    Hartley transform of the channels, an orthogonal matrix whose entries are about equally large:

        raw = R C y + constant,   logits = gain (m + C' R' s z),   s the channels' deviations, gain = log(ODDS (classes - 1))

    so that a latent decodes to what the planner's ceiling measures, and each channel holds about as much of it: a component in a channel
    of its own would, once standardised, make the detail that no image shows weigh as much as where the organ lies.

    Args:
        models: of one architecture, for one-hot labels.
        patches: of training cases.
        ranks: the first one's code is taken by all.
    """
    model = models[0]
    encoder, decoder = model.label_encoder, model.decoder
    if ranks.first:
        blocks = _blocks(patches, labels, model.factor)
        code = fit(blocks, labels.table[: len(labels.values)], model.channels)
        _begin(model, code, labels.has_regions)
        what = "label autoencoder: begins as the linear code of %d blocks, %d components in %d channels"
        logger.info(what, len(blocks.weight), len(code.components), model.channels)
    changed = [p for layer in (encoder.linear, encoder.layers[-1], decoder.linear) for p in layer.parameters()]
    for parameter in (*changed, decoder.head.bias):
        parameter.copy_(ranks.first_of(parameter))
    for other in models[1:]:
        other.load_state_dict(model.state_dict())


def _blocks(patches: Patches, labels: LabelSpec, factor: Sequence[int]) -> Blocks:
    """Blocks of `factor` voxels of the label indices `(b, *patch)`; what is to be ignored counts as background."""
    rng, three = np.random.default_rng(0), (*(1,) * (3 - len(factor)), *factor)
    found = []
    for _, batch in patches:
        indices = batch.numpy()
        known = np.where((indices < 0) | (indices == labels.ignore_index), 0, indices)
        for label in known.reshape(len(known), *(1,) * (4 - known.ndim), *known.shape[1:]):
            found.append(cut(label, three, len(labels.values), BLOCKS_PER_PATCH, rng))
    return thinned(joined(found), rng)


def _begin(model: LDSeg, code: Code, regions: bool) -> None:
    """Copies the code into the network. A region's logit is the difference of two classes', yes and no: gain (2 y - 1)."""
    n = np.arange(model.channels)
    angle = 2 * np.pi * np.outer(n, n) / model.channels
    hartley = ((np.cos(angle) + np.sin(angle)) / np.sqrt(model.channels))[:, : len(code.components)]
    mixed = np.tensordot(hartley, code.components, 1)  # (channels, heads, voxels)
    deviation = np.sqrt(hartley**2 @ code.variance)
    mean = code.mean.mean(1)
    gain, mean = (2 * math.log(ODDS), mean - 0.5) if regions else (math.log(ODDS * (len(mean) - 1)), mean)
    encoder, decoder = model.label_encoder, model.decoder
    _copy(mixed / 2, encoder.linear.weight)  # it reads 2 y - 1
    _copy(gain * deviation[:, None, None] * mixed, decoder.linear.weight)
    _copy(gain * mean, decoder.head.bias)
    for parameter in (encoder.linear.bias, *encoder.layers[-1].parameters()):
        parameter.zero_()


def _copy(values: np.ndarray, parameter: torch.Tensor) -> None:
    parameter.copy_(torch.from_numpy(values).view_as(parameter))
