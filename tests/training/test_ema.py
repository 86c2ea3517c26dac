"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ldseg_auto.training.ema import EMA


class Toy(nn.Module):
    """One weight, one float buffer, one counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.995])
def test_against_the_formula(decay: float) -> None:
    model = Toy()
    ema = EMA(model, decay)
    weight = mean = 0.0
    for n in range(40):
        with torch.no_grad():
            model.weight.fill_(float(n))
            model.mean.fill_(-2.0 * n)
            model.updates += 1
        ema.update(model)
        d = min(decay, (1 + n) / (10 + n))
        weight, mean = d * weight + (1 - d) * n, d * mean - (1 - d) * 2 * n
    assert ema.model.weight.tolist() == pytest.approx([weight] * 2, rel=1e-4)
    assert ema.model.mean.tolist() == pytest.approx([mean] * 2, rel=1e-4)
    assert int(ema.model.updates) == 40 and ema.updates == 40


def test_the_copy_is_frozen_and_apart() -> None:
    model = Toy().train()
    ema = EMA(model, 0.9)
    assert not ema.model.training and not ema.model.weight.requires_grad
    with torch.no_grad():
        model.weight.fill_(5)
    assert ema.model.weight.tolist() == [0, 0]
