"""The memory rule: what a plan needs, and that no plan needs more than its target."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.planners.fingerprint import CaseFingerprint, Fingerprint
from ldseg_auto.planners.planner import layouts
from ldseg_auto.planners.plans import Intensities, Latent, Network
from ldseg_auto.planners.rules.memory import (
    GIB,
    RESERVE,
    Linear,
    Plan,
    Traced,
    positions_of,
    prediction_gib,
    training_demand,
    training_gib,
)  # fmt: skip
from ldseg_auto.planners.rules.topology import topology

SMALL = Network("auto", (8, 16, 32), ((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3)
TARGETS = (6.0, 11.0, 24.0, 80.0)
CHECKED = 11.0  # where the planned batch is traced itself
DATASETS = {
    "hippocampus": ((36, 50, 35), (1.0, 1.0, 1.0), 1, 3, 1),
    "four channels": ((155, 240, 240), (1.0, 1.0, 1.0), 4, 4, 1),
    "coarse axis": ((24, 320, 320), (3.6, 0.6, 0.6), 2, 3, 1),
    "thumbnails": ((1, 64, 64), (999.0, 1.0, 1.0), 1, 2, 1),
    "natural images, two raters": ((1, 960, 999), (999.0, 1.0, 1.0), 3, 2, 2),
}


def fingerprint(name: str) -> tuple[Fingerprint, int]:
    """40 equal cases, and heads."""
    shape, spacing, channels, heads, raters = DATASETS[name]
    names = tuple(f"c{i}" for i in range(1, heads))
    case = CaseFingerprint("c", shape, shape, spacing, "RAS", "", dict.fromkeys(names, 1.0), dict.fromkeys(names, 1.0))
    intensities = {str(i): Intensities(0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 1.0) for i in range(channels)}
    return Fingerprint("D", ("MRI",) * channels, names, ".nii.gz", (case,) * 40, 1.0, intensities, {}, raters=raters), heads


def plan(raters: int = 1, heads: int = 3, variant: str = "auto") -> Plan:
    network = Network(variant, SMALL.features_per_stage, SMALL.strides, SMALL.kernel_sizes)
    return Plan(network, Latent((2, 2), 4), heads, False, 1, raters)


@pytest.mark.parametrize("name", DATASETS)
def test_no_plan_needs_more_than_its_target_and_more_memory_never_gives_less(name: str) -> None:
    """The need is taken from a trace of the planned batch itself; the work of a step is patch voxels x batch."""
    measured, heads = fingerprint(name)
    work: dict[str, int] = {}
    for target in TARGETS:
        for key, layout in layouts(measured, heads, target)[1].items():
            choice = layout.patch
            demand = choice.demand
            assert isinstance(demand, Traced)
            patch, batch = choice.topology.patch_size, choice.batch_size
            assert demand.gib(batch) <= target
            if target == CHECKED:
                plan = Plan(layout.network, Latent(layout.factors[0], 32), heads, False, len(measured.channel_names), measured.raters)
                exact = RESERVE + training_gib(replace(plan.configuration(batch), patch_size=patch), heads, False)
                assert 0.95 * demand.gib(batch) <= exact <= target
            if key != "3d_lowres":  # whose grid changes with the target
                assert prod(patch) * batch >= work.get(key, 0)
                work[key] = prod(patch) * batch


@pytest.mark.parametrize("raters", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 6, 7, 9, 14, 31])
def test_periods_and_rest_are_a_close_upper_bound_of_the_trace_of_the_batch(raters: int, batch: int) -> None:
    """One trace of that very batch is the independent value."""
    one = plan(raters)
    exact = training_gib(replace(one.configuration(batch), patch_size=(128, 160)), 3, False)
    found = training_demand(one, (128, 160)).gib(batch) - RESERVE
    assert exact * (1 - 1e-3) <= found <= 1.1 * exact


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (9.0, 1.0, 1.0), (1.0, 1.0)])
def test_regular_strides_give_the_bytes_of_other_strides(spacing: tuple[float, ...]) -> None:
    """The own strides and kernels, traced, are the independent value; kernels of 1 have fewer weights, feature maps are the same."""
    own = topology(spacing, (48, 64, 64)[-len(spacing) :])
    network = Network("auto", tuple(4 * 2**i for i in range(len(own.strides))), own.strides, own.kernel_sizes)
    one = Plan(network, Latent(network.cumulative_strides[2], 4), 3, False, 1, 1)
    large = tuple(8 * p for p in own.patch_size)
    exact = training_gib(replace(one.configuration(2), patch_size=large), 3, False)
    assert exact <= training_demand(one, large).gib(2) - RESERVE <= 1.01 * exact


@pytest.mark.parametrize(("raters", "variant", "period"), [(1, "auto", 16), (4, "auto", 8), (1, "direct", 1)])
def test_period_divides_every_share(raters: int, variant: str, period: int) -> None:
    assert plan(raters, variant=variant).period == period


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 13, 50])
def test_largest_batch_is_the_last_that_fits(batch: int) -> None:
    """The definition, by counting up."""
    demand = training_demand(plan(), (128, 128))
    target = demand.gib(batch)
    counted = max(b for b in range(1, 2 * batch + 4) if demand.gib(b) <= target)
    assert demand.largest_batch(target) == counted >= batch
    assert demand.largest_batch(RESERVE) == 0


def test_linear_demand() -> None:
    demand = Linear(GIB, GIB / 2)
    assert demand.gib(4) == 3.0 and demand.largest_batch(3.0) == 4 and demand.largest_batch(2.99) == 3


def test_prediction_is_one_network_call() -> None:
    def sized(n: int) -> float:
        return prediction_gib(replace(plan().configuration(2), patch_size=(n, n)), 3)

    assert 0 < sized(128) < sized(512) < training_demand(plan(), (512, 512)).gib(1)


def test_positions() -> None:
    assert positions_of(SMALL, (16, 24)) == (16 * 24, 8 * 12, 4 * 6)


def test_a_target_too_small_for_the_smallest_patch_says_the_minimum_and_the_minimum_works() -> None:
    measured, heads = fingerprint("thumbnails")
    with pytest.raises(InputError, match=r"--gpu-memory 0\.5: the smallest patch .* needs \d+\.\d+ GiB") as error:
        layouts(measured, heads, 0.5)
    least = float(str(error.value).split(" needs ")[1].split()[0])
    assert layouts(measured, heads, least)[1]
