"""The sections on the plan: the table with its reasons, the curves behind latent and steps, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from ldseg_auto.planners.fingerprint import Fingerprint, LatentCandidate
from ldseg_auto.planners.planner import grid_key
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.planners.rules.latent import MAX_SIZE, TARGET_CEILING, CurvePoint, by_factor, latent_curve
from ldseg_auto.planners.rules.steps import TARGET_SHARE, steps_curve
from ldseg_auto.report.axes import Axis, Nines
from ldseg_auto.report.charts import BOTTOM, HEIGHT, TOP, Line, Mark, line_chart
from ldseg_auto.report.html import Section, charts, figure, paragraph, table
from ldseg_auto.report.units import times


def plan_section(plans: Plans) -> Section:
    """What was decided for each configuration, and every reason."""
    configurations = list(plans.configurations.items())
    names = [f"{name} (default)" if name == plans.default_configuration else name for name, _ in configurations]
    rows = zip(*(_decisions(c) for _, c in configurations), strict=True)
    decided = table(("", *names), [(row[0][0], *(value for _, value in row)) for row in rows])
    chosen = _choices(plans)
    reasons = {"all configurations": plans.reasons} | {name: c.reasons for name, c in configurations}
    why = "".join(f"<h3>Why: {escape(name)}</h3>{_reasons(found)}" for name, found in reasons.items())
    warnings = "".join(paragraph(f"{n}: {c.reasons['warning']}", "warning") for n, c in configurations if "warning" in c.reasons)
    return Section("plan", "Plan", paragraph(chosen, "muted") + decided + warnings + why)


def curve_section(plans: Plans, fingerprint: Fingerprint) -> Section:
    """For each configuration what each latent can hold, and what each number of steps retains."""
    parts = []
    for name, configuration in plans.configurations.items():
        candidates = _candidates(name, configuration, plans, fingerprint)
        figures = [*_latent_figure(configuration, candidates), *_steps_figure(configuration, candidates)]
        parts.append(f"<h3>{escape(name)}</h3>" + (charts(figures) if figures else paragraph("Not measured for this grid.", "muted")))
    text = "The ring marks what the plan takes. Ceiling: how well a linear code of the labels reconstructs the worst class. "
    text += "Steps: how much of the labels' variety so many sampling steps keep."
    return Section("curves", "Latent and steps", paragraph(text, "muted") + "".join(parts))


def memory_section(plans: Plans) -> Section:
    """The estimates against the card that was planned for."""
    target = plans.choices.gpu_memory
    rows = []
    for name, c in plans.configurations.items():
        rows.append((name, f"training, batch {c.batch_size}", c.memory_gib))
        rows.append((name, f"prediction, {c.sampling.samples} sample{'s' * (c.sampling.samples != 1)}", c.prediction_memory_gib))
    body = "".join(_meter(*row, target) for row in rows)
    head = "<thead><tr><th>configuration</th><th>what</th><th class=num>GiB</th><th>of the card</th></tr></thead>"
    content = f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'
    return Section("memory", "Memory", paragraph(f"Estimated peak, planned for a card of {target:g} GiB.", "muted") + content)


def _reasons(found: Mapping[str, str]) -> str:
    return table(("decision", "reason"), [(key, text) for key, text in found.items() if key not in ("warning", "transpose")])


def _choices(plans: Plans) -> str:
    """What a person asked for, in a sentence."""
    c = plans.choices
    asked = [f"a card of {c.gpu_memory:g} GiB"]
    asked += [f"a target spacing of {times(c.target_spacing)}"] if c.target_spacing else []
    asked += [f"the settings {', '.join(c.settings)}"] if c.settings else []
    copied = f" Copied from {c.copied_from}." if c.copied_from else ""
    return f"{plans.plans_name}, made for {' and '.join(asked)}.{copied}"


def _decisions(c: Configuration) -> list[tuple[str, str]]:
    return [
        ("spacing, mm", times(c.spacing)),
        ("median shape, voxels", times([round(m) for m in c.median_shape])),
        ("patch, voxels", times(c.patch_size)),
        ("batch", str(c.batch_size)),
        ("normalisation", ", ".join(dict.fromkeys(c.normalisation))),
        ("widths of the stages", " ".join(map(str, c.network.features_per_stage))),
        ("latent", f"{c.latent.channels} channels at 1/({times(c.latent.factor)})"),
        ("latent dimension", str(c.latent_size)),
        ("ceiling of the worst class", f"{c.latent.ceiling:.3f}"),
        ("sampling steps", str(c.sampling.steps)),
        ("training memory, GiB", f"{c.memory_gib:.1f}"),
        ("prediction memory, GiB", f"{c.prediction_memory_gib:.1f}"),
    ]


def _candidates(name: str, c: Configuration, plans: Plans, fingerprint: Fingerprint) -> Sequence[LatentCandidate]:
    """What was measured on the configuration's grid; where its patch was changed since, on that of the same configuration."""
    names = [n for n in (name, c.inherits_from) if n]
    wanted = [grid_key(n, c.spacing, c.patch_size, plans.transpose_forward) for n in names]
    wanted += [key for n in names for key in sorted(fingerprint.latent) if key.startswith(f"{n}: ")]
    return next((fingerprint.latent[key] for key in wanted if fingerprint.latent.get(key)), ())


def _latent_figure(c: Configuration, candidates: Sequence[LatentCandidate]) -> list[str]:
    points = latent_curve(by_factor(candidates), c.latent.factor, c.latent.channels)
    if not points:
        return []
    lines = []
    for factor, group in groupby(sorted(points, key=lambda p: (p.factor, p.channels)), key=lambda p: p.factor):
        lines.append(Line("1/" + times(factor), tuple(Mark(p.size, p.ceiling, _point_text(p), p.chosen) for p in group)))
    y = Nines(0.0, 1.0, HEIGHT - BOTTOM, TOP + 10)
    target = (TARGET_CEILING, f"target {TARGET_CEILING:g}")
    chart = line_chart(lines, y, target, ("latent curve", "numbers per voxel", "Dice of the worst class"))
    caption = f"Latents of more than {MAX_SIZE:g} number per voxel are not taken, where there are smaller ones."
    return [figure("Reconstruction ceiling", chart + _line_key([f"{line.name} voxels" for line in lines]), caption)]


def _steps_figure(c: Configuration, candidates: Sequence[LatentCandidate]) -> list[str]:
    modes = next((x.modes.get(str(c.latent.channels), ()) for x in candidates if x.factor == c.latent.factor), ())
    points = steps_curve(modes, c.sampling.steps)
    if not points:
        return []
    marks = tuple(Mark(p.steps, p.share, f"{p.steps} steps retain {p.share:.3f}", p.chosen) for p in points)
    target = (TARGET_SHARE, f"target {TARGET_SHARE:g}")
    names = ("steps curve", "sampling steps", "share of the standard deviation")
    chart = line_chart([Line("retained", marks)], Axis(0, 1, HEIGHT - BOTTOM, TOP + 10), target, names)
    caption = f"{c.raters} raters: the first step is trained to be a draw, so that one step retains all." if c.raters > 1 else ""
    return [figure("Steps", chart, caption)]


def _point_text(p: CurvePoint) -> str:
    classes = ", ".join(f"{name} {dice:.3f}" for name, dice in p.ceilings.items())
    return f"{p.name}, {p.size:.3g} numbers per voxel: {classes}"


def _line_key(names: Sequence[str]) -> str:
    colours = ("main", "other", "third")
    items = [f'<span><i style="background:var(--{colours[i % 3]})"></i>{escape(name)}</span>' for i, name in enumerate(names)]
    return f'<div class="key">{"".join(items)}</div>'


def _meter(name: str, what: str, gib: float, target: float) -> str:
    share = gib / target
    bar = f'<div class="meter"><i{" class=over" if share > 1 else ""} style="width:{min(share, 1):.1%}"></i></div>'
    cells = f"<td>{escape(name)}</td><td>{escape(what)}</td><td class=num>{gib:.1f}</td>"
    return f"<tr>{cells}<td>{bar}</td></tr>"
