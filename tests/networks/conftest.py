"""Tiny configurations for networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from ldseg_auto.planners.plans import Configuration, Latent, Network, Sampling


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny networks are many times slower on two threads than on one where other work shares the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_configuration() -> Callable[..., Configuration]:
    """See `configuration`."""
    return configuration


def configuration(
    variant: str = "auto", strides: Sequence[Sequence[int]] = ((1, 1), (2, 2), (2, 2)), stage: int = 1, patch: Sequence[int] = (16, 24),
    channels: int = 1, sampling: Sampling | None = None,
) -> Configuration:  # fmt: skip
    """Widths 8, 16, 32, ..., three latent channels on the grid of `stage`; kernels are 1 where an axis has not been halved yet."""
    moved = tuple(tuple(s) for s in strides)
    kernels = tuple(tuple(3 if moved[i][a] == 2 or i == len(moved) - 1 else 1 for a in range(len(patch))) for i in range(len(moved)))
    network = Network(variant, tuple(8 * 2**i for i in range(len(moved))), moved, kernels)
    return Configuration(
        data_identifier="data", spacing=(1.0,) * len(patch), patch_size=tuple(patch), batch_size=2, median_shape=(16.0, 24.0, 24.0),
        normalisation=("zscore",) * channels, use_mask_for_norm=(False,) * channels, network=network,
        latent=Latent(network.cumulative_strides[stage], 3), sampling=sampling or Sampling(2),
    )  # fmt: skip
