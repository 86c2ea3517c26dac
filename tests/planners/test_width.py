"""Widths under the memory target: narrower only where no patch fits otherwise, and the plan says so."""

from __future__ import annotations

import math

import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.planners.planner import _widest, _width_reason, network_of
from ldseg_auto.planners.rules.memory import Demand, Linear
from ldseg_auto.planners.rules.patch import PatchChoice, choose_patch
from ldseg_auto.planners.rules.topology import Topology, topology


def choose(width: int, target: float) -> PatchChoice:
    """A network that needs 0.01 GiB a channel of its first stage, whatever the patch."""

    def demand(found: Topology) -> Demand:
        return Linear(0.01 * 2**30 * width, 1.0 * math.prod(found.patch_size))

    return choose_patch((1.0, 1.0), (64.0, 64.0), 1e6, demand, target)


@pytest.mark.parametrize(("target", "width"), [(8.0, 32), (0.33, 32), (0.31, 16), (0.17, 16), (0.15, 8), (0.09, 8)])
def test_the_widest_that_fits(target: float, width: int) -> None:
    chosen, found = _widest(lambda w: choose(w, target))
    assert found == width and chosen.demand.gib(2) <= target


def test_none_fits_and_the_error_names_what_the_narrowest_needs() -> None:
    with pytest.raises(InputError, match=r"--gpu-memory 0.07: the smallest patch .* needs 0\.09 GiB"):
        _widest(lambda w: choose(w, 0.07))


@pytest.mark.parametrize("width", [32, 16, 8])
def test_widths_double_up_to_the_limit_and_the_reason_says_why_they_are_narrow(width: int) -> None:
    network = network_of(topology((1.0, 1.0), (512, 512)), width)
    assert network.features_per_stage == tuple(min(512, width * 2**i) for i in range(len(network.strides)))
    reason = _width_reason(width, 2, 0.8)
    assert reason.startswith(f"base width {width}, doubled per stage up to 512")
    assert ("even the smallest patch needs more than 0.8 GiB" in reason) == (width < 32)
