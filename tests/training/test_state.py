"""Where a training stands, and how far along the schedule that is."""

from __future__ import annotations

import pytest
import torch

from ldseg_auto.training.state import Cooldown, Limits, Partial, State


def test_progress_of_limits() -> None:
    state = State(iteration=25, elapsed=30.0)
    assert Limits(100).progress(state, 1e9) == 0.25
    assert Limits(100, 60.0).progress(state, 30) == 0.5
    assert Limits(100, 60.0).progress(state, 60) == 1
    assert Limits(50, 600.0).progress(state, 30) == 0.5
    assert Limits(100).epoch_seconds(5) == float("inf")
    assert Limits(100, 200.0).epoch_seconds(0) == 10
    assert Limits(100, 200.0).epoch_seconds(5) == 45


def test_half_the_iterations_go_through_the_whole_schedule() -> None:
    whole = [Limits(100).progress(State(iteration=i), 0) for i in range(0, 101, 2)]
    half = [Limits(50).progress(State(iteration=i), 0) for i in range(51)]
    assert half == pytest.approx(whole) and half[0] == 0 and half[-1] == 1


def test_a_cooldown_goes_through_the_rest_of_the_schedule() -> None:
    """Linearly from 0.3 to 1 in ten iterations; where the planned end is nearer, it stays the end."""
    cooldown = Cooldown(start=300, length=10, position=0.3)
    positions = [Limits(1000).progress(State(iteration=i, cooldown=cooldown), 0) for i in (300, 301, 305, 309, 310, 400)]
    assert positions == pytest.approx([0.3, 0.37, 0.65, 0.93, 1.0, 1.0]) and positions[-2] == 1
    assert Limits(302).progress(State(iteration=302, cooldown=cooldown), 0) == 1


@pytest.mark.parametrize("position", [0.1 * i for i in range(11)])
def test_every_cooldown_ends(position: float) -> None:
    assert Cooldown(7, 3, position).progress(10) == 1.0


def test_state_survives_a_checkpoint() -> None:
    part = Partial()
    for value in (1.0, 2.0):
        part.add({"loss": torch.tensor(value)}, 0.1 * value)
    state = State(7, 2, 3.5, 0.4, [{"loss": 1.0, "dice_organ": None}], part, Cooldown(5, 2, 0.25))
    content = state.to_dict()
    again = State.from_dict(content)
    assert again == state and again.partial.means == {"loss": 1.5} and again.partial.rate == 0.2
    part.add({"loss": torch.tensor(9.0)}, 0.3)
    assert State.from_dict(content).partial.count == 2  # the content is no view of the state


def test_checkpoints_of_earlier_versions_were_written_between_epochs() -> None:
    old = {"iteration": 6, "epoch": 2, "elapsed": 1.0, "best": 0.5, "rows": [], "model": {}}
    assert State.from_dict(old) == State(6, 2, 1.0, 0.5)
    with pytest.raises(KeyError, match="rows"):
        State.from_dict({k: v for k, v in old.items() if k != "rows"})
