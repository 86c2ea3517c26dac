"""The sections on the dataset: what stands out, pictures, distributions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.report.charts import Row, histogram_chart, ranges_chart, strip_chart
from ldseg_auto.report.html import Section, charts, figure, key, paragraph, table, tiles
from ldseg_auto.report.outliers import Finding, Findings
from ldseg_auto.report.pictures import Thumbnail, gallery
from ldseg_auto.report.units import AXES, axes_of, is_flat, length_unit, short, volume_unit, volume_word

PER_RULE = 12  # findings of one rule that the table shows
CHANNELS = 8  # drawn


def lead(fingerprint: Fingerprint, findings: Findings) -> str:
    """The dataset in a few numbers."""
    cases, flat = fingerprint.cases, all(is_flat(c) for c in fingerprint.cases)
    channels, classes = fingerprint.channel_names, fingerprint.class_names
    numbers = [
        (str(len(cases)), "training cases"),
        ("2D" if flat else "3D", f"images, {fingerprint.file_ending}"),
        (str(len(channels)), f"channel{'s' * (len(channels) != 1)}: {', '.join(channels)}"),
        (str(len(classes)), f"class{'es' * (len(classes) != 1)}: {', '.join(classes)}"),
        *([(str(fingerprint.raters), "raters")] if fingerprint.raters > 1 else []),
        (str(len(findings.names)), "cases that stand out"),
    ]
    warning = "This page shows images of the training cases. Keep it where the data may be. It needs no network."
    return tiles(numbers) + paragraph(warning, "muted")


def outlier_section(findings: Findings, cases: int) -> Section:
    """A table of the findings, worst first, at most twelve of each rule; then the remarks."""
    how = (
        f"Measured against the median of all {cases} cases; documentation/report.md has the rules. A finding is a hint to look, no verdict."
    )
    shown, seen = [], Counter[str]()
    for finding in findings.cases:
        seen[finding.what] += 1
        if seen[finding.what] <= PER_RULE:
            shown.append((finding.case, finding.what, finding.value, finding.usual))
    more = [f"{what}: {count - PER_RULE} more" for what, count in seen.items() if count > PER_RULE]
    parts = [paragraph(how, "muted")]
    parts.append(table(("case", "what", "this case", "usual"), shown) if shown else paragraph("No case stands out."))
    parts += [paragraph("Not in the table: " + "; ".join(more) + ".")] if more else []
    if findings.remarks:
        parts.append("<h3>What many cases share</h3><ul>" + "".join(f"<li>{escape(r)}</li>" for r in findings.remarks) + "</ul>")
    return Section("stand-out", "Cases that stand out", "".join(parts))


def picture_section(
    fingerprint: Fingerprint, findings: Findings, odd: Sequence[Thumbnail], others: Sequence[Thumbnail], missing: str
) -> Section:
    """Pictures of cases that stand out, and of cases evenly over the dataset.

    Args:
        missing: why there are none, or not all.
    """
    why = {name: "; ".join(_brief(f) for f in findings.cases if f.case == name) for name in findings.names}
    raters = "Lines: one for each rater; filled where all agree. " if fingerprint.raters > 1 else ""
    text = f"The slice that shows most of all classes. {raters}Point at a picture to see it without the labels."
    parts = [paragraph(text, "muted"), key(fingerprint.class_names)] if odd or others else []
    parts += [paragraph(missing, "warning")] if missing else []
    if odd:
        parts.append("<h3>Of those that stand out</h3>" + gallery(odd, why))
    if others:
        parts.append("<h3>Evenly over all cases</h3>" + gallery(others, why))
    return Section("pictures", "Cases", "".join(parts))


def distribution_section(fingerprint: Fingerprint, findings: Findings) -> Section:
    """Intensities, geometry and classes over the cases."""
    return Section("distributions", "Distributions", "".join((
        "<h3>Intensities</h3>", _intensities(fingerprint, findings),
        "<h3>Voxels</h3>", _geometry(fingerprint, findings),
        "<h3>Classes</h3>", _classes(fingerprint, findings),
    )))  # fmt: skip


def _brief(finding: Finding) -> str:
    return f"{finding.what} {finding.value}"


def _odd(findings: Findings, *rules: str) -> frozenset[str]:
    """Cases with a finding of one of the rules."""
    return frozenset(f.case for f in findings.cases if f.what in rules)


def _intensities(fingerprint: Fingerprint, findings: Findings) -> str:
    figures = []
    for channel, name in list(enumerate(fingerprint.channel_names))[:CHANNELS]:
        odd = frozenset(f.case for f in findings.cases if f.what.endswith(f"intensity of {name}") or f.what == f"intensity range of {name}")
        if str(channel) in fingerprint.histograms:
            histogram = fingerprint.histograms[str(channel)]
            caption = "Filled: image, cropped, without zeros. Line: foreground. Each to its own height; every case weighs the same."
            caption += f" {histogram.outside:.1%} of the image lie beyond the axis."
            figures.append(figure(f"{name}: histogram", histogram_chart(histogram, f"histogram of {name}"), caption))
        ranges = [
            (c.identifier, r.percentile_00_5, r.median, r.percentile_99_5)
            for c in fingerprint.cases if c.image_intensities and (r := c.image_intensities[channel])
        ]  # fmt: skip
        if ranges:
            caption = "From percentile 0.5 to 99.5 of the image, the point at the median."
            caption += " Red: stands out, and may reach beyond the axis." if odd else ""
            figures.append(figure(f"{name}: each case", ranges_chart(ranges, sorted(odd), f"intensity ranges of {name}"), caption))
    rest = len(fingerprint.channel_names) - CHANNELS
    return charts(figures) + (paragraph(f"{rest} more channels are in dataset_fingerprint.json.") if rest > 0 else "")


def _geometry(fingerprint: Fingerprint, findings: Findings) -> str:
    axes = axes_of(fingerprint)
    cases, unit = fingerprint.cases, length_unit(fingerprint)

    def rows(values: dict[int, list[float]], of: str, rule: str) -> list[Row]:
        names = [c.identifier for c in cases]
        return [Row(AXES[a], tuple(zip(names, values[a], strict=True)), of, _odd(findings, f"{rule} along {AXES[a]}")) for a in axes]

    figures = []
    spacing = {a: [c.spacing[a] for c in cases] for a in axes}
    if unit == "mm":
        chart = strip_chart(rows(spacing, "mm", "spacing"), "spacing of each case", shared=True)
        figures.append(figure("Spacing, mm", chart, "A point for each case, a bar at the median."))
    voxels = {a: [float(c.shape[a]) for c in cases] for a in axes}
    chart = strip_chart(rows(voxels, "voxels", "size"), "size of each case", shared=True)
    figures.append(figure("Size, voxels" if unit == "mm" else "Size, pixels", chart, "Before cropping."))
    if unit == "mm":
        extent = {a: [s * v for s, v in zip(spacing[a], voxels[a], strict=True)] for a in axes}
        chart = strip_chart(rows(extent, "mm", "size"), "extent of each case", shared=True)
        figures.append(figure("Extent, mm", chart, "Size times spacing."))
    return charts(figures) + _facts(fingerprint)


def _facts(fingerprint: Fingerprint) -> str:
    """Orientations, handedness, tilt, and what cropping leaves, in words."""
    cases = fingerprint.cases
    left = f"Cropping to non-zero leaves {fingerprint.median_relative_size_after_cropping:.0%} of the median image."
    if all(is_flat(c) for c in cases):
        return paragraph(left)
    codes = Counter(c.orientation for c in cases)
    shown = ", ".join(f"{code} {count}" for code, count in sorted(codes.items(), key=lambda i: (-i[1], i[0])))
    tilted = sum(c.oblique_degrees >= 1 for c in cases)
    most = max(c.oblique_degrees for c in cases)
    tilt = f"{tilted} cases are tilted by a degree or more, at most by {most:g}." if tilted else "No case is tilted by a degree or more."
    return paragraph(f"Orientation of the files (where x, y and z grow to): {shown}. All are turned to LPS when read. {tilt} {left}")


def _classes(fingerprint: Fingerprint, findings: Findings) -> str:
    unit, word = volume_unit(fingerprint), volume_word(fingerprint)
    rows = []
    for name in fingerprint.class_names:
        having = tuple((c.identifier, c.volumes[name]) for c in fingerprint.cases if c.volumes[name] > 0)
        rows += [Row(name, having, unit, _odd(findings, f"{word} of {name}", f"voxels of {name}"))] if having else []
    reaching = {name: sum(name in c.at_border for c in fingerprint.cases) for name in fingerprint.class_names}
    body = []
    for name, s in fingerprint.classes.items():
        border = f"{reaching[name] / len(fingerprint.cases):.0%}"
        body.append((name, f"{s.prevalence:.0%}", f"{short(s.median_volume)} {unit}", short(s.median_components), border))
    head = ("class", "cases that have it", f"median {word}", "pieces", "reaches the border")
    chart = figure(f"{word.capitalize()}, {unit}", strip_chart(rows, f"{word} of each class"), "Cases that have the class.")
    return table(head, body, (1, 2, 3, 4)) + charts([chart])
