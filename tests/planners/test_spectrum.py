"""The measurement of the latent: one reading per case, and the spectrum against a transform of everything at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.data.dataset import open_dataset
from ldseg_auto.parallel import executor
from ldseg_auto.planners import spectrum
from ldseg_auto.planners.block_code import cut, fit, joined
from ldseg_auto.planners.rules.latent import CHANNELS
from ldseg_auto.planners.spectrum import LabelGrid, _modes, measure_latent, measure_latents

FULL = LabelGrid("3d", (0, 1, 2), (3.0, 1.0, 1.0), (8, 32, 32), ((1, 4, 4), (2, 8, 8)))
COARSE = LabelGrid("low", (0, 1, 2), (3.0, 2.0, 2.0), (8, 16, 16), ((2, 4, 4),))
PLANE = LabelGrid("2d", (0, 1, 2), (1.5, 1.0), (32, 32), ((4, 4), (8, 8)))


@pytest.fixture(scope="module")
def folder(make_dataset, tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("raw"), n_cases=4, shape=(10, 40, 36), spacing=(3.0, 1.0, 1.0))


def test_grids_together_are_as_each_alone_and_every_label_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, read = open_dataset(folder), []
    original = spectrum.read_label
    monkeypatch.setattr(spectrum, "read_label", lambda path: read.append(path) or original(path))
    with executor(1) as pool:
        together = measure_latents(dataset.cases, dataset.description, (FULL, COARSE, PLANE), pool)
        assert len(read) == len(dataset.cases)
        alone = {g.key: measure_latent(dataset.cases, dataset.description, g, pool) for g in (FULL, COARSE, PLANE)}
    assert together == alone
    assert {key: [c.factor for c in found] for key, found in together.items()} == {
        "3d": [(1, 4, 4), (2, 8, 8)], "low": [(2, 4, 4)], "2d": [(4, 4), (8, 8)],
    }  # fmt: skip
    for candidates in together.values():
        for candidate in candidates:
            assert candidate.ceilings["32"] and all(0 <= d <= 1 for d in candidate.ceilings["32"].values())


def test_spectrum_is_the_transform_of_standardised_codes() -> None:
    """All codes at once, standardised over cases and positions, then transformed: the modes are gathered in the same bins."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :24]
    patches = [((np.hypot(y - rng.uniform(8, 24), x - rng.uniform(6, 18)) < rng.uniform(4, 9))[None]).astype(np.uint8) for _ in range(5)]
    code = fit(joined([cut(p, (1, 4, 4), 2, 1000, rng) for p in patches]), np.eye(2), max(CHANNELS))
    blocks = np.stack(patches).reshape(5, 8, 4, 6, 4).transpose(0, 1, 3, 2, 4).reshape(5 * 48, 16)
    z = code.encode(blocks).reshape(5, 8, 6, -1).transpose(0, 3, 1, 2).astype(np.float64)
    z = (z - z.mean((0, 2, 3), keepdims=True)) / z.std((0, 2, 3), keepdims=True)
    power = (np.abs(np.fft.fft2(z, norm="ortho")) ** 2).mean(0)
    found = _modes(patches, code, (1, 4, 4))
    for k in (1, 2, 4):
        modes = np.array(found[str(k)])
        assert modes[:, 1].sum() == pytest.approx(power[:k].sum(), rel=1e-3)
        assert (modes[:, 1] / modes[:, 0]).sum() == pytest.approx(k * 48, rel=1e-2)  # as many modes as positions and channels
        assert modes[-1, 0] == pytest.approx(_top_bin(power[:k]), rel=2e-3)
    assert np.array(found["1"])[:, 1].sum() == pytest.approx(48, rel=1e-3)  # unit variance


def _top_bin(power: np.ndarray) -> float:
    """Mean of the modes in the highest tenth of a decade."""
    bins = np.floor(np.log10(power.reshape(-1)) * 10)
    return float(power.reshape(-1)[bins == bins.max()].mean())
