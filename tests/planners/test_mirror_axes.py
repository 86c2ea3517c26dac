"""Which axes training mirrors, and prediction may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ldseg_auto.errors import PlansError
from ldseg_auto.planners.plans import Configuration, Training
from ldseg_auto.planners.serialise import from_dict, to_dict

Make = Callable[..., Configuration]


@pytest.mark.parametrize(
    ("training", "axes"),
    [
        (Training(), (0, 1)),
        (Training(mirror_axes=(1,)), (1,)),
        (Training(mirror_axes=()), ()),
        (Training(augmentation=False), ()),
        (Training(augmentation=False, mirror_axes=(0, 1)), ()),
    ],
)
def test_axes(make_configuration: Make, training: Training, axes: tuple[int, ...]) -> None:
    configuration = replace(make_configuration(), training=training)
    assert configuration.mirror_axes == axes
    assert from_dict(Configuration, to_dict(configuration), "plans").mirror_axes == axes


@pytest.mark.parametrize(
    ("axes", "match"), [((0, 0), "different axes"), ((3,), "different axes"), ((2,), "axes below 2"), ((-1,), "different axes")]
)
def test_impossible_axes(make_configuration: Make, axes: tuple[int, ...], match: str) -> None:
    content = to_dict(make_configuration())
    content["training"]["mirror_axes"] = list(axes)
    with pytest.raises(PlansError, match=f"training.mirror_axes = .* is not possible: expected .*{match}"):
        from_dict(Configuration, content, "plans")
