"""Plans without a planner: one 3D configuration whose every preprocessing setting can be chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from ldseg_auto.planners.plans import Configuration, Intensities, Latent, Network, Plans, Resampling, Sampling


@pytest.fixture(scope="session")
def make_plans() -> Callable[..., Plans]:
    """See `plans`."""
    return plans


def plans(
    spacing: Sequence[float] = (1.0, 1.0, 1.0), schemes: Sequence[str] = ("zscore",), masks: Sequence[bool] | None = None,
    transpose: tuple[int, int, int] = (0, 1, 2), resampling: Resampling | None = None,
) -> Plans:  # fmt: skip
    """Configuration `3d` at `spacing` (mm, transposed; two numbers make it a 2D one), one channel per scheme."""
    n = len(spacing)
    configuration = Configuration(
        data_identifier="data", spacing=tuple(spacing), patch_size=(8,) * n, batch_size=2, median_shape=(8.0,) * 3,
        normalisation=tuple(schemes), use_mask_for_norm=tuple(masks or (False,) * len(schemes)),
        network=Network("auto", (4, 8), ((1,) * n, (2,) * n), ((3,) * n, (3,) * n)),
        latent=Latent((2,) * n, 1), sampling=Sampling(1), resampling=resampling or Resampling(),
    )  # fmt: skip
    ct = Intensities(mean=40.0, median=38.0, std=20.0, min=-500.0, max=900.0, percentile_00_5=-10.0, percentile_99_5=120.0)
    channels = tuple(replace(ct, mean=40.0 + c) for c in range(len(schemes)))
    return Plans("Dataset001_Toy", "ldsegPlans", "0" * 64, ".nii.gz", transpose, channels, {"3d": configuration}, "3d")
