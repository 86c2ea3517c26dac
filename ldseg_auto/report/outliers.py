"""Cases that stand out, by rules on the fingerprint alone.

A measure of n cases stands out where its distance to the median exceeds `max(5 (1 + 10 / n) s, floor)`, with s = 1.4826 times the median
absolute deviation (Hampel 1974; Leys et al. 2013), which a few odd cases cannot move. The factor covers that s is often too small by chance
where cases are few: of 5 to 20 Gaussian values one stands out in about one dataset of a hundred or fewer (simulated). The floor keeps
harmless differences out where nearly all cases are equal. What more than a tenth of the cases have is no oddity: it becomes one remark
about the dataset.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ldseg_auto.planners.fingerprint import CaseFingerprint, Fingerprint, IntensityRange
from ldseg_auto.report.units import AXES, axes_of, length_unit, short, volume_unit, volume_word, voxel_volume

DEVIATIONS, FEW_DEVIATIONS = 5.0, 3.0
CHANCE = 10.0  # cases; what a small dataset adds to the deviations
CONSISTENT = 1.4826  # median absolute deviation to standard deviation of a Gaussian
COMMON = 0.1  # share of the cases above which something is usual; of fewer than 20 cases a fifth, or two
FEWEST = 4  # cases, to compare at all
SPACING_RATIO, SIZE_RATIO, RANGE_RATIO, VOLUME_RATIO = 1.5, 2.0, 3.0, 4.0  # floors: smaller ratios to the median never stand out
LEVEL_SHIFT = 0.3  # floor, as a share of the usual intensity range
OBLIQUE_DEGREES = 5.0  # floor
ARBITRARY = 0.2  # spread of the logarithm of the intensity range above which intensities have no common unit
NAMED = 3  # cases in a remark
TINY = 8.0  # voxels of a class: a cube of two
CERTAIN, LIKELY = 100.0, 2.0  # severity of what is not measured


@dataclass(frozen=True)
class Finding:
    """One thing about one case that stands out."""

    case: str
    what: str  # for instance "spacing along z"; the same text for all cases of one rule
    value: str  # of this case, with its unit
    usual: str  # in the dataset
    severity: float  # distance to the median over the limit; above 1

    @property
    def text(self) -> str:
        """One line."""
        return f"{self.case}: {self.what} {self.value}, usual {self.usual}"


@dataclass(frozen=True)
class Findings:
    """All that stands out, worst first, and what many cases share."""

    cases: tuple[Finding, ...]
    remarks: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The cases that stand out, each once, worst first."""
        return tuple(dict.fromkeys(f.case for f in self.cases))

    def summary(self, most: int) -> list[str]:
        """Lines for a terminal: at most `most` findings, each case with its worst, then the remarks."""
        worst = [next(f for f in self.cases if f.case == name) for name in self.names]
        count = "1 case that stands out:" if len(worst) == 1 else f"{len(worst)} cases that stand out:"
        lines = [count] if worst else ["No case stands out."]
        lines += [f"  {f.text}" for f in worst[:most]]
        lines += [f"  and {len(worst) - most} more"] if len(worst) > most else []
        return [*lines, *(f"Many cases share: {r}" for r in self.remarks)]


@dataclass(frozen=True)
class Measure:
    """A number per case."""

    what: str
    values: Mapping[str, float]  # case -> number to compare
    shown: Mapping[str, float]  # case -> number to show
    unit: str
    floor: float  # distance below which nothing stands out
    upward: bool = False  # only high values matter


def find_outliers(fingerprint: Fingerprint) -> Findings:
    """Applies all rules; the same for any order of the cases."""
    cases = sorted(fingerprint.cases, key=lambda c: c.identifier)
    found = [
        *_duplicates(cases),
        *_geometry(cases),
        *_missing(cases, fingerprint),
        *_tiny(cases, fingerprint),
        *_border(cases, fingerprint),
    ]
    measures = [*_grid_measures(cases, fingerprint), *_volume_measures(cases, fingerprint)]
    found += [f for measure in measures for f in standing_out(measure)]
    found += [f for channel, name in enumerate(fingerprint.channel_names) for f in _intensities(cases, channel, name)]
    by_rule: dict[str, list[Finding]] = defaultdict(list)
    for finding in found:
        by_rule[finding.what].append(finding)
    few = [f for group in by_rule.values() if not is_common(len(group), len(cases)) for f in group]
    remarks = [_remark(group, len(cases)) for group in by_rule.values() if is_common(len(group), len(cases))]
    return Findings(tuple(sorted(_without_repeats(few), key=lambda f: (-f.severity, f.case, f.what))), tuple(remarks))


def is_common(count: int, cases: int) -> bool:
    """Whether `count` of `cases` are too many to stand out."""
    return count > max(1, COMMON * cases, min(2, 2 * COMMON * cases))


def limit(values: np.ndarray, floor: float) -> float:
    """`max(5 (1 + 10 / n) s, floor)` of values (n,), s the robust standard deviation."""
    return max(DEVIATIONS * (1 + CHANCE / len(values)) * spread(values), floor)


def spread(values: np.ndarray) -> float:
    """1.4826 times the median absolute deviation of values (n,)."""
    return CONSISTENT * float(np.median(np.abs(values - np.median(values))))


def standing_out(measure: Measure) -> list[Finding]:
    """The cases whose value is beyond the limit; none where fewer than four have one."""
    values = np.array(list(measure.values.values()), dtype=float)
    if len(values) < FEWEST:
        return []
    far = (values - np.median(values)) / limit(values, measure.floor)
    usual = usual_range(list(measure.shown.values()), measure.unit)
    chosen = far > 1 if measure.upward else np.abs(far) > 1
    names = list(measure.values)
    return [
        Finding(names[i], measure.what, _with_unit(short(measure.shown[names[i]]), measure.unit), usual, abs(float(far[i])))
        for i in np.flatnonzero(chosen)
    ]


def usual_range(values: Sequence[float], unit: str) -> str:
    """Median, and percentiles 5 and 95 where they differ."""
    low, middle, high = (short(float(v)) for v in np.percentile(values, (5, 50, 95)))
    return _with_unit(middle if low == high else f"{middle} ({low} to {high})", unit)


def _with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}".rstrip()


def _remark(group: Sequence[Finding], cases: int) -> str:
    worst = sorted(group, key=lambda f: (-f.severity, f.case))[:NAMED]
    same = len({f.value for f in group}) == 1
    examples = ", ".join(f.case if same else f"{f.case} ({f.value})" for f in worst) + (f" ({worst[0].value})" if same else "")
    return f"{worst[0].what}: {len(group)} of {cases} cases differ from the others, for instance {examples}; usual {worst[0].usual}"


def _without_repeats(found: Sequence[Finding]) -> list[Finding]:
    """A class of a few voxels is not also named for its small volume, a mirrored case not also for its orientation."""
    tiny = {(f.case, f.what.removeprefix("voxels of ")) for f in found if f.what.startswith("voxels of ")}
    mirrored = {f.case for f in found if f.what == "handedness"}
    repeats = {(case, f"{word} of {name}") for case, name in tiny for word in ("volume", "area")}
    repeats |= {(case, "orientation") for case in mirrored}
    return [f for f in found if (f.case, f.what) not in repeats]


def _log_measure(what: str, values: Mapping[str, float], unit: str, ratio: float) -> Measure:
    """Compared as ratios."""
    positive = {k: v for k, v in values.items() if v > 0}
    return Measure(what, {k: math.log(v) for k, v in positive.items()}, positive, unit, math.log(ratio))


def _grid_measures(cases: Sequence[CaseFingerprint], fingerprint: Fingerprint) -> Iterator[Measure]:
    for axis in axes_of(fingerprint):
        yield _log_measure(f"spacing along {AXES[axis]}", {c.identifier: c.spacing[axis] for c in cases}, "mm", SPACING_RATIO)
        extent = {c.identifier: c.shape[axis] * c.spacing[axis] for c in cases}
        yield _log_measure(f"size along {AXES[axis]}", extent, length_unit(fingerprint), SIZE_RATIO)
    tilt = {c.identifier: c.oblique_degrees for c in cases}
    yield Measure("tilt against the axes of space", tilt, tilt, "degrees", OBLIQUE_DEGREES, upward=True)


def _volume_measures(cases: Sequence[CaseFingerprint], fingerprint: Fingerprint) -> Iterator[Measure]:
    for name in fingerprint.class_names:
        what, values = f"{volume_word(fingerprint)} of {name}", {c.identifier: c.volumes[name] for c in cases}
        yield _log_measure(what, values, volume_unit(fingerprint), VOLUME_RATIO)


def _duplicates(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for case in cases:
        other = first.setdefault(case.input_hash, case.identifier)
        if other != case.identifier:
            yield Finding(case.identifier, "image and label files", f"the same bytes as {other}", "each case its own", CERTAIN)


def _geometry(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """Codes unlike the majority's. Whether the voxels of a file are mirrored against its header cannot be known."""
    codes = Counter(c.orientation for c in cases)
    usual = min(codes, key=lambda code: (-codes[code], code))
    left = sum(c.mirrored for c in cases) * 2 > len(cases)
    for case in cases:
        if case.mirrored != left:
            names = ("right-handed", "left-handed (mirrored)")
            yield Finding(case.identifier, "handedness", names[case.mirrored], names[left], CERTAIN)
        if case.orientation != usual:
            yield Finding(case.identifier, "orientation", case.orientation, usual, LIKELY)


def _missing(cases: Sequence[CaseFingerprint], fingerprint: Fingerprint) -> Iterator[Finding]:
    """Cases without a class that nearly all have; without any class, that alone is said."""
    empty = {c.identifier for c in cases if not any(c.volumes.values())}
    for name in sorted(empty):
        yield Finding(name, "foreground", "none", f"{len(cases) - len(empty)} of {len(cases)} cases have some", CERTAIN)
    for name in fingerprint.class_names:
        lacking = [c.identifier for c in cases if c.identifier not in empty and not c.volumes[name]]
        if is_common(len(lacking) + len(empty), len(cases)):
            continue
        for case in lacking:
            yield Finding(case, f"class {name}", "absent", f"{fingerprint.classes[name].prevalence:.0%} of the cases have it", LIKELY)


def _tiny(cases: Sequence[CaseFingerprint], fingerprint: Fingerprint) -> Iterator[Finding]:
    """Classes of fewer than 8 voxels, where that is little for the class: more than three deviations and a factor of 4 below its median."""
    for name in fingerprint.class_names:
        having = [c for c in cases if c.volumes[name] > 0]
        voxels = np.array([c.volumes[name] / voxel_volume(c) for c in having])
        if len(having) < FEWEST:
            continue
        below = np.log(np.median(voxels)) - np.log(voxels)
        least = max(FEW_DEVIATIONS * spread(np.log(voxels)), math.log(VOLUME_RATIO))
        for i in np.flatnonzero((voxels < TINY - 1e-6) & (below > least)):
            usual = usual_range(voxels.tolist(), "voxels")
            yield Finding(having[i].identifier, f"voxels of {name}", short(float(voxels[i])), usual, float(below[i]) / least)


def _border(cases: Sequence[CaseFingerprint], fingerprint: Fingerprint) -> Iterator[Finding]:
    for name in fingerprint.class_names:
        touching = [c.identifier for c in cases if name in c.at_border]
        for case in touching:
            yield Finding(
                case, f"mask of {name}", "reaches the image border", f"inside ({len(cases) - len(touching)} of {len(cases)} cases)", LIKELY
            )


def _intensities(cases: Sequence[CaseFingerprint], channel: int, name: str) -> list[Finding]:
    """Range, then levels where the range is usual.

    Where intensities have a unit (CT, photographs: ranges are alike) levels are compared as they are; else (MR) as shares of the case's
    own range. The level of the foreground tells a mask that lies elsewhere.
    """
    image = {c.identifier: c.image_intensities[channel] for c in cases if c.image_intensities}
    width = {k: r.width for k, r in image.items()}
    wide = _log_measure(f"intensity range of {name}", width, "", RANGE_RATIO)
    found = standing_out(wide)
    usual = {k: r for k, r in image.items() if r.width > 0 and k not in {f.case for f in found}}
    found += [Finding(k, wide.what, "0", usual_range(list(width.values()), ""), CERTAIN) for k, w in width.items() if w <= 0]
    if not usual:
        return found
    typical = float(np.median([r.width for r in usual.values()]))
    arbitrary = spread(np.array(list(wide.values.values()))) > ARBITRARY
    levels = {"median": {k: r.median for k, r in usual.items()}}
    levels["median foreground"] = {c.identifier: c.foreground_intensities[channel].median for c in cases if c.foreground_intensities}
    if not arbitrary:
        levels["darkest"] = {k: r.percentile_00_5 for k, r in usual.items()}
        levels["brightest"] = {k: r.percentile_99_5 for k, r in usual.items()}
    shifted: dict[str, Finding] = {}
    for what, values in levels.items():
        shown = {k: v for k, v in values.items() if k in usual}
        scaled = {k: _place(v, usual[k]) if arbitrary else v / typical for k, v in shown.items()}
        for finding in standing_out(Measure(f"{what} intensity of {name}", scaled, shown, "", LEVEL_SHIFT)):
            first = shifted.setdefault(finding.case, finding)
            shifted[finding.case] = max(first, finding, key=lambda f: round(f.severity, 1))  # one of them says it: the first of equals
    return [*found, *shifted.values()]


def _place(value: float, within: IntensityRange) -> float:
    """0 at the case's percentile 0.5, 1 at its percentile 99.5."""
    return (value - within.percentile_00_5) / within.width
