"""What stands out: cases with one planted oddity each, and datasets without any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ldseg_auto.planners.fingerprint import CaseFingerprint, IntensityRange
from ldseg_auto.report.outliers import Measure, find_outliers, is_common, limit, spread, standing_out

ODD = 7  # number of the case that is changed
Change = Callable[[CaseFingerprint], CaseFingerprint]


def scaled(ranges: tuple[IntensityRange, ...], factor: float = 1.0, shift: float = 0.0) -> tuple[IntensityRange, ...]:
    """The first channel changed."""
    r = ranges[0]
    first = IntensityRange(*(v * factor + shift for v in (r.mean, r.percentile_00_5, r.median, r.percentile_99_5)))
    return (first, *ranges[1:])


def with_intensities(factor: float = 1.0, shift: float = 0.0) -> Change:
    return lambda c: replace(
        c,
        image_intensities=scaled(c.image_intensities, factor, shift),
        foreground_intensities=scaled(c.foreground_intensities, factor, shift),
    )


PLANTED: dict[str, tuple[Change, set[str]]] = {
    "odd spacing": (lambda c: replace(c, spacing=(12.0, *c.spacing[1:])), {"spacing along z", "size along z"}),
    "half the plane": (lambda c: replace(c, spacing=(c.spacing[0], 0.4, c.spacing[2])), {"spacing along y", "size along y"}),
    "many slices": (lambda c: replace(c, shape=(200, *c.shape[1:])), {"size along z"}),
    "another orientation": (lambda c: replace(c, orientation="RAS"), {"orientation"}),
    "mirrored": (lambda c: replace(c, orientation="RPS", mirrored=True), {"handedness"}),
    "tilted": (lambda c: replace(c, oblique_degrees=25.0), {"tilt against the axes of space"}),
    "tiny lesion": (lambda c: replace(c, volumes={**c.volumes, "lesion": 2 * 3 / 1000}), {"voxels of lesion"}),
    "small organ": (lambda c: replace(c, volumes={**c.volumes, "organ": 1.0}), {"volume of organ"}),
    "large organ": (lambda c: replace(c, volumes={**c.volumes, "organ": 2500.0}), {"volume of organ"}),
    "no lesion": (lambda c: replace(c, volumes={**c.volumes, "lesion": 0.0}), {"class lesion"}),
    "no foreground": (lambda c: replace(c, volumes=dict.fromkeys(c.volumes, 0.0), foreground_intensities=()), {"foreground"}),
    "at the border": (lambda c: replace(c, at_border=("organ",)), {"mask of organ"}),
    "a thousand times brighter": (with_intensities(1000), {"intensity range of CT"}),
    "shifted by 1024": (with_intensities(shift=1024), {"median intensity of CT"}),
    "the same files": (lambda c: replace(c, input_hash="hash 2"), {"image and label files"}),
    "mask elsewhere": (
        lambda c: replace(c, foreground_intensities=scaled(c.foreground_intensities, shift=-900)), {"median foreground intensity of CT"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("count", [9, 60])
def test_a_planted_oddity_is_found_and_nothing_else(case_of, fingerprint_of, name: str, count: int) -> None:
    change, expected = PLANTED[name]
    cases = [case_of(i) for i in range(count)]
    cases[ODD] = change(cases[ODD])
    found = find_outliers(fingerprint_of(cases))
    assert {(f.case, f.what) for f in found.cases} == {(cases[ODD].identifier, what) for what in expected}
    assert found.remarks == () and found.names == (cases[ODD].identifier,)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mr", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 150])
def test_nothing_stands_out_of_a_homogeneous_dataset(case_of, fingerprint_of, seed: int, mr: bool, count: int) -> None:
    """CT with one scale, and MR whose scale varies freely between cases (factor e^0.8 per deviation)."""
    found = find_outliers(fingerprint_of([case_of(i, seed, mr) for i in range(count)]))
    assert found.cases == () and found.remarks == ()


def test_the_limit_by_hand() -> None:
    """Of 1 2 3 4 100 the median is 3, the absolute deviations are 2 1 0 1 97 and their median is 1; five values count threefold."""
    values = np.array([1.0, 2, 3, 4, 100])
    assert spread(values) == pytest.approx(1.4826)
    assert limit(values, 0.0) == pytest.approx(22.239) and limit(values, 23.0) == 23.0
    names = dict(zip("abcde", values, strict=True))
    (finding,) = standing_out(Measure("length", names, names, "mm", 0.0))
    assert (finding.case, finding.value, finding.usual) == ("e", "100 mm", "3 (1.2 to 80.8) mm")
    assert finding.severity == pytest.approx(97 / 22.239)
    assert standing_out(Measure("length", names, names, "mm", 98.0)) == []


def test_what_many_cases_have_is_a_remark(case_of, fingerprint_of) -> None:
    """3 of 10 are more than a fifth, 2 are not."""
    for odd, remarks in ((2, 0), (3, 1)):
        cases = [replace(case_of(i), at_border=("organ",) if i < odd else ()) for i in range(10)]
        found = find_outliers(fingerprint_of(cases))
        assert (len(found.cases), len(found.remarks)) == (0 if remarks else odd, remarks)
    assert found.remarks[0] == (
        "mask of organ: 3 of 10 cases differ from the others, for instance case_000, case_001, case_002 (reaches the image border);"
        " usual inside (7 of 10 cases)"
    )


@pytest.mark.parametrize(("cases", "most"), [(3, 1), (9, 1), (10, 2), (20, 2), (29, 2), (30, 3), (200, 20)])
def test_how_many_are_common(cases: int, most: int) -> None:
    """A tenth; of few cases a fifth, at most two; one always stands out."""
    assert not is_common(most, cases) and is_common(most + 1, cases)


def test_the_order_of_the_cases_means_nothing(case_of, fingerprint_of) -> None:
    cases = [PLANTED[name][0](case_of(i)) if i % 10 == 0 else case_of(i) for i, name in enumerate([*PLANTED] * 3)]
    assert find_outliers(fingerprint_of(cases)) == find_outliers(fingerprint_of(cases[::-1]))
    assert len(find_outliers(fingerprint_of(cases)).cases) >= 3


def test_small_lesions_that_are_usual_do_not_stand_out(case_of, fingerprint_of) -> None:
    """Volumes over four orders of magnitude: lesions of a few voxels are the lower end, not an oddity."""
    rng = np.random.default_rng(0)
    cases = [replace(case_of(i), volumes={"organ": 50.0, "lesion": float(np.exp(rng.normal(-3.5, 1.8)))}) for i in range(200)]
    assert sum(c.volumes["lesion"] < 0.02 for c in cases) > 20
    assert find_outliers(fingerprint_of(cases)).cases == ()


def test_summary_for_a_terminal(case_of, fingerprint_of) -> None:
    cases = [case_of(i) for i in range(50)]
    assert find_outliers(fingerprint_of(cases)).summary(3) == ["No case stands out."]
    for i in range(5):
        cases[i] = replace(cases[i], spacing=(8.0 + i, 1.0, 1.0))
    lines = find_outliers(fingerprint_of(cases)).summary(3)
    assert lines[0] == "5 cases that stand out:" and lines[-1] == "  and 2 more" and len(lines) == 5
    assert lines[1].startswith("  case_004: spacing along z 12 mm, usual 3")
