"""Normalisation by channel name, by a table of cases (nnU-Net's names, ../shared/nnunet.md 1.3)."""

from __future__ import annotations

import pytest

from ldseg_auto.planners.plans import NORMALISATIONS
from ldseg_auto.planners.rules.normalisation import normalisation


@pytest.mark.parametrize(
    ("name", "scheme", "masked"),
    [
        ("CT", "ct", False), ("ct", "ct", False), ("Ct", "ct", False),
        ("noNorm", "none", False), ("NONORM", "none", False),
        ("zscore", "zscore", True), ("ZScore", "zscore", True),
        ("rescale_to_0_1", "rescale_to_0_1", False), ("Rescale_To_0_1", "rescale_to_0_1", False),
        ("rgb_to_0_1", "rgb_to_0_1", False), ("RGB_to_0_1", "rgb_to_0_1", False),
        ("T1", "zscore", True), ("R", "zscore", True), ("PET", "zscore", True), ("none", "zscore", True), ("CT ", "zscore", True),
        ("CTA", "zscore", True), ("", "zscore", True),
    ],
)  # fmt: skip
def test_table(name: str, scheme: str, masked: bool) -> None:
    """`masked`: statistics over non-zero voxels where cropping leaves little. nnU-Net does so for z-score alone."""
    assert normalisation([name], 0.5)[:2] == ((scheme,), (masked,))
    assert normalisation([name], 0.75)[:2] == ((scheme,), (False,))  # 75 % is not below 75 %
    assert scheme in NORMALISATIONS


def test_each_channel_by_its_own_name() -> None:
    schemes, mask, why = normalisation(["CT", "T1", "noNorm", "T2"], 0.749)
    assert schemes == ("ct", "zscore", "none", "zscore") and mask == (False, True, False, True)
    assert why.startswith("by channel name (ct: CT; zscore: T1, T2; none: noNorm); cropping leaves 74.9% of the image")
    assert why.endswith("statistics over non-zero voxels")


def test_many_channels_are_not_all_named() -> None:
    why = normalisation([f"band{i}" for i in range(60)], 1.0)[2]
    assert "zscore: band0, band1, band2, band3 and 56 more" in why and "whole image" in why


@pytest.mark.parametrize(
    ("name", "hint"), [("CT scan", True), ("PET-CT", True), ("ct_0", True), ("CT", False), ("Active", False), ("CTA", False)]
)
def test_what_looks_like_ct_but_is_not_named_so_is_said(name: str, hint: bool) -> None:
    assert ("only under the name CT in dataset.json" in normalisation([name], 1.0)[2]) == hint
