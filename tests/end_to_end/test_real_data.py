"""What the planner decides on real datasets: six cases of each, measured and planned, none preprocessed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from ldseg_auto.data.dataset import find_dataset, open_dataset
from ldseg_auto.parallel import executor
from ldseg_auto.planners.extract import extract_fingerprint
from ldseg_auto.planners.overrides import override
from ldseg_auto.planners.planner import label_grid, layouts, make_plans
from ldseg_auto.planners.plans import Plans
from ldseg_auto.planners.spectrum import measure_latent, sample_cases

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import first_results

CASES = 6


@pytest.fixture(scope="module")
def planned(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Plans]:
    """Plans of the first six cases of a dataset, which are linked, not copied; made once."""

    @cache
    def plan(number: int) -> Plans:
        source = open_dataset(find_dataset(shared_data, number))
        folder = tmp_path_factory.mktemp("raw") / source.name
        for case in source.cases[:CASES]:
            for file in (*case.images, *case.labels):
                link = folder / file.relative_to(source.folder)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
        (folder / "dataset.json").write_text(json.dumps(source.description.content | {"numTraining": CASES}))
        dataset = open_dataset(folder)
        heads = dataset.description.labels.num_heads
        with executor(1) as pool:
            fingerprint = extract_fingerprint(dataset, pool)
            order, found = layouts(fingerprint, heads)
            grids = [label_grid(layout, order) for layout in found.values()]
            sample = sample_cases(dataset.cases, fingerprint)
            codes = {grid.key: measure_latent(sample, dataset.description, grid, pool) for grid in grids}
        return make_plans(replace(fingerprint, latent=codes), heads)

    return plan


def test_hippocampus(planned):
    """Isotropic volumes: one stride for all axes; no linear code of blocks reaches 0.99 for both halves, which the plans say."""
    plans = planned(4)
    assert list(plans.configurations) == ["3d_fullres", "2d"] and plans.default_configuration == "3d_fullres"
    full = plans.configurations["3d_fullres"]
    assert (full.spacing, full.median_shape, full.patch_size) == ((1, 1, 1), (39, 50.5, 36), (40, 56, 40))
    assert full.network.strides == ((1, 1, 1), *[(2, 2, 2)] * 3) and full.batch_size == 2
    assert (full.latent.factor, full.latent.channels) == ((4, 4, 4), 32) and 0.97 < full.latent.ceiling < 0.99
    assert "rior: no latent considered reconstructs it to 0.99" in full.reasons["warning"]  # anterior and posterior are about as hard
    flat = plans.configurations["2d"]
    assert (flat.patch_size, flat.latent.factor, flat.latent.channels) == ((56, 40), (4, 4), 16)
    assert "warning" not in flat.reasons and flat.data_identifier == full.data_identifier  # both at 1 mm: one folder serves both


def test_hc18(planned):
    """Grey pictures of one large smooth shape: few numbers suffice."""
    plans = planned(18)
    assert list(plans.configurations) == ["2d"]
    flat = plans.configurations["2d"]
    assert (flat.spacing, flat.patch_size, flat.batch_size) == ((1, 1), (640, 896), 2)
    assert (flat.latent.factor, flat.latent.channels) == ((16, 16), 4) and flat.latent.ceiling >= 0.99
    assert flat.normalisation == ("zscore",) and flat.memory_gib <= 8


def test_chase(planned):
    """Colour pictures of thin vessels, two raters: 32 times as many numbers per pixel as for a head."""
    plans = planned(28)
    flat = plans.configurations["2d"]
    assert flat.channels == 3 and flat.patch_size == (896, 896)  # at base width 32, 1024 x 1024 with 2 samples needs more than 8 GiB
    assert flat.raters == 2 and "2 raters agree to a Dice of 0.76" in flat.reasons["method"] and flat.parts.diversity == 0
    assert (flat.latent.factor, flat.latent.channels) == ((8, 8), 32) and flat.latent.ceiling >= 0.99
    assert plans.transpose_forward == (0, 1, 2) and flat.memory_gib <= 8


@pytest.mark.parametrize("name", [name for name, setup in first_results.SETUPS.items() if not setup.planning])
def test_the_benchmarks_settings_fit_the_plans(planned, name: str):
    """A network of as many stages as planned, narrower: a new rule of the planner must not break the benchmarks unseen."""
    setup = first_results.SETUPS[name]
    configuration = planned(int(setup.number)).configuration()
    assert override(configuration, setup.settings).network.features_per_stage[0] < configuration.network.features_per_stage[0]
