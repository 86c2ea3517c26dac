"""Names that become files and folders."""

from __future__ import annotations

import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.planners.names import TAKEN, check_plans_name, is_name


@pytest.mark.parametrize("name", ["ldsegPlans", "large", "a-b_c", "3d_fullres", "ldsegPlans_from004", "x" * 60])
def test_possible(name: str) -> None:
    assert is_name(name) and check_plans_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "a b", "a__b", "a.b", "_a", "a_", "-a", "ä", "a\n", *TAKEN])
def test_impossible(name: str) -> None:
    with pytest.raises(InputError, match=r"(?s)--plans-name .*: expected letters, digits, single _ and -, and none of dataset"):
        check_plans_name(name)
