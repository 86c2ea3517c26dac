"""The default configuration, and the Dice loss of each (nnU-Net's rule, ../shared/nnunet.md 1.8)."""

from __future__ import annotations

import pytest

from ldseg_auto.planners.rules.default import batch_dice, default_configuration


@pytest.mark.parametrize(
    ("available", "name", "why"),
    [
        (["2d"], "2d", "one slice"),
        (["3d_fullres", "2d"], "3d_fullres", "40 slices of 3 mm"),
        (["3d_fullres", "3d_lowres", "2d"], "3d_fullres", "3d_lowres sees more of the image"),
        (["2d", "3d_lowres", "3d_fullres"], "3d_fullres", "40 slices"),  # the order does not matter
    ],
)
def test_default(available: list[str], name: str, why: str) -> None:
    found, reason = default_configuration(available, (40, 200, 200), (3, 1, 1))
    assert found == name and why in reason and reason.startswith(name)


@pytest.mark.parametrize(
    ("name", "lowres", "expected"),
    [("2d", False, True), ("2d", True, True), ("3d_fullres", False, False), ("3d_fullres", True, True), ("3d_lowres", True, False)],
)
def test_batch_dice(name: str, lowres: bool, expected: bool) -> None:
    available = ["2d", "3d_fullres", *(["3d_lowres"] if lowres else [])]
    chosen, why = batch_dice(name, available)
    assert chosen == expected and why.startswith("Dice over the batch" if expected else "Dice per sample")
