"""Tables and gates of `method.py` from the models' results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from common import table

from ldseg_auto.evaluation.bootstrap import mean_interval, paired_difference, statistic_interval
from ldseg_auto.evaluation.calibration import Reliability
from ldseg_auto.evaluation.risk import augrc, augrc_bounds

BASE = "direct"
STEPS = ("1", "2", "3", "5", "10")
PLANNED = "planned"
SIGMAS = ("0.25", "0.5", "1")
NOISE = ("0", *SIGMAS)
NOTES = (
    "All metrics are on the preprocessed grid. Dice: mean over the classes and raters of a case. Square brackets: 95 % bootstrap "
    "interval over cases. 5 x planned: mean probability of 5 samples at the plans' steps; with one rater each sees another mirroring. "
    "5 mirrored: direct's mean over the same mirrorings. HD95: mm (pixels of 2D images), mean where it "
    "is finite; in brackets how often it is not. Network evaluations: denoiser + decoder calls per case. Sigma: in standard deviations "
    "of the preprocessed image. AUGRC: clean and noisy images mixed. ECE: within 3 voxels of the foreground. "
    "A true volume that is one more draw lies within that of 5 samples in 67 % of cases."
)
AREA_DRAWS = 1000  # bootstrap resamples of an area under a curve
Result = Mapping[str, Any]  # a result.json
Arms = Mapping[str, Sequence[Result]]  # arm -> its seeds, all on the same cases
Interval = tuple[float, float, float]  # value, low, high
MASKS: dict[str, Callable[[Result], Any]] = {
    "1 step": lambda case: case["one"]["1"]["mean"],
    "5 x 1": lambda case: case["ensemble"]["1"]["mean"],
    "5 x planned": lambda case: case["ensemble"][PLANNED]["mean"],
}


def group(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Arm -> results by seed, in the order given, each cut to the cases that all results have.

    Raises:
        ValueError: there is no such case.
    """
    common = sorted(set.intersection(*(set(r["cases"]) for r in results)))
    if not common:
        raise ValueError(f"the {len(results)} results share no case: measure all arms and seeds with one --fold and one --cases.")
    arms: dict[str, list[Result]] = {}
    for result in results:
        arms.setdefault(result["request"]["arm"], []).append({**result, "cases": {c: result["cases"][c] for c in common}})
    return arms


def values(results: Sequence[Result], pick: Callable[[Result], Any]) -> np.ndarray:
    """A number of each case `(seeds, cases)`; NaN where it has none."""
    return np.array([[np.nan if (v := pick(case)) is None else v for case in r["cases"].values()] for r in results], float)


def interval(numbers: np.ndarray) -> Interval:
    """Mean over seeds and cases with its bootstrap interval; NaN without a case."""
    usable = not np.isnan(numbers).any(0).all()
    return mean_interval(numbers) if usable else (np.nan, np.nan, np.nan)


def difference(a: np.ndarray, b: np.ndarray) -> Interval:
    """Mean over cases of a - b `(seeds, cases)` with its interval; each averaged over its own seeds first."""
    a, b = a.mean(0), b.mean(0)
    usable = not np.isnan(a - b).all()
    return paired_difference(a, b) if usable else (np.nan, np.nan, np.nan)


def area(confidence: np.ndarray, loss: np.ndarray, against: np.ndarray | None = None) -> Interval:
    """AUGRC, mean over seeds, with its interval over cases; a case's versions stay together.

    Args:
        confidence, loss: `(seeds, cases, versions)`; a case without a loss in any version is left out.
        against: another confidence, whose AUGRC is subtracted.
    """
    keep = ~np.isnan(loss).any((0, 2))
    if not keep.any():
        return np.nan, np.nan, np.nan
    confidence, loss = confidence[:, keep], loss[:, keep]
    other = None if against is None else against[:, keep]

    def statistic(cases: np.ndarray) -> float:
        found = [augrc(c[cases].ravel(), x[cases].ravel()) for c, x in zip(confidence, loss, strict=True)]
        if other is None:
            return float(np.mean(found))
        return float(np.mean(found) - np.mean([augrc(c[cases].ravel(), x[cases].ravel()) for c, x in zip(other, loss, strict=True)]))

    return statistic_interval(statistic, loss.shape[1], draws=AREA_DRAWS)


def versions_of(results: Sequence[Result], key: str, levels: Sequence[str] = NOISE) -> np.ndarray:
    """A number of each case and noise level `(seeds, cases, levels)`."""
    return np.stack([values(results, lambda case, level=level: case["noise"][level][key]) for level in levels], axis=-1)


def merged_reliability(results: Sequence[Result]) -> Reliability:
    """All seeds' voxels in one diagram."""
    found = [Reliability(*(np.array(r["reliability"][k], float) for k in ("confidence", "accuracy", "count"))) for r in results]
    return sum(found[1:], found[0])


def summarise(name: str, arms: Arms) -> dict[str, Any]:
    """Numbers, tables and gates of a dataset, as plain JSON."""
    first = next(iter(arms.values()))[0]
    numbers = {arm: arm_numbers(results) for arm, results in arms.items()}
    base, passed = arms.get(BASE), gates(name, arms, numbers)
    tables = {
        "Accuracy and cost": main_table(arms, numbers), "Difference to direct": difference_table(arms, base),
        "Dice of one sample over steps": steps_table(numbers), "Dice lost to noise in the image": noise_table(numbers),
        "Uncertainty": uncertainty_table(numbers), "Gates": gate_table(passed),
    }  # fmt: skip
    if "ged" in next(iter(numbers.values())):
        tables["Samples against raters"] = raters_table(numbers)
    budgets = sorted({budget_text(r) for results in arms.values() for r in results})
    return {
        "settings": {arm: results[0]["request"]["settings"] for arm, results in arms.items()},
        "cases": list(first["cases"]), "classes": first["classes"], "budgets": budgets, "numbers": numbers,
        "gates": passed, "tables": {k: {"header": h, "rows": rows} for k, (h, rows) in tables.items()},
    }  # fmt: skip


def budget_text(result: Result) -> str:
    """What a result was made with, less the arm and the seed."""
    request = result["request"]
    length = f"{request['minutes']:g} minutes" if request["minutes"] else f"{request['iterations']} iterations"
    return f"fold {request['fold']}, {length}, {result['training']['precision']}, {result['evaluation']['device']}"


def arm_numbers(results: Sequence[Result]) -> dict[str, Any]:
    """Everything that the tables show of one arm: means over seeds and cases, `(value, low, high)` where there is an interval."""
    classes, cases = results[0]["classes"], [c for r in results for c in r["cases"].values()]
    loss, agreement = versions_of(results, "loss"), versions_of(results, "agreement")
    soft = {k: area(versions_of(results, k), loss) for k in ("softmax", "softmax_foreground")}
    better = min(soft, key=lambda k: soft[k][0])
    bounds = [augrc_bounds(x[~np.isnan(x).any(1)].ravel()) for x in loss if (~np.isnan(x).any(1)).any()]
    out: dict[str, Any] = {
        "seeds": [r["request"]["seed"] for r in results], "planned_steps": mean_of(results, lambda r: r["planned_steps"]),
        "dice": {k: interval(values(results, pick)) for k, pick in MASKS.items()},
        "per_class": {n: interval(values(results, lambda case, n=n: case["one"]["1"]["dice"][n])) for n in classes},
        "hd95": {"1 step": surface(cases, "one", "1"), "5 x 1": surface(cases, "ensemble", "1"),
                 "5 x planned": surface(cases, "ensemble", PLANNED)},
        "steps": {s: interval(values(results, lambda case, s=s: case["one"][s]["mean"])) for s in (*STEPS, PLANNED)},
        "agreement": {s: interval(values(results, lambda case, s=s: case["agreement"][s])) for s in ("1", PLANNED)},
        "swap": interval(values(results, lambda case: case["swap"])),
        "noise": {kind: {level: interval(values(results, lambda case, k=kind, v=level: case["noise"][v][k])) for level in NOISE}
                  for kind in ("one", "ensemble")},
        "mirrored": {v: interval(values(results, lambda case, v=v: case["noise"][v].get("mirrored"))) for v in NOISE},
        "noise_agreement": {v: interval(agreement[:, :, i]) for i, v in enumerate(NOISE)},
        "augrc": {"agreement": area(agreement, loss), **soft, "better": better, "soft_dice": area(versions_of(results, "soft_dice"), loss),
                  "difference": area(agreement, loss, versions_of(results, better)),
                  "best": finite([b[0] for b in bounds]), "random": finite([b[1] for b in bounds]),
                  "cases_without_loss": int(np.isnan(loss).any((0, 2)).sum())},
        "volume": {k: interval(values(results, lambda case, k=k: case["volume"][k])) for k in ("inside", "width")},
        "ece": finite([merged_reliability([r]).ece for r in results]),
        "reconstruction": {n: mean_of(results, lambda r, n=n: (r["reconstruction"] or {}).get(n)) for n in classes},
        "tiles": mean_of(results, lambda r: r["tiles"]), "seconds": float(np.median([c["seconds"] for c in cases])),
        "iterations": mean_of(results, lambda r: r["training"]["iterations"]),
        "training_minutes": mean_of(results, lambda r: r["training"]["seconds"]) / 60,
        "training_mib": max(r["training"]["peak_mib"] for r in results),
        "evaluation_mib": max(r["evaluation"]["peak_mib"] for r in results),
    }  # fmt: skip
    return out | rater_numbers(results)


def rater_numbers(results: Sequence[Result]) -> dict[str, Any]:
    """Samples against raters, over the cases that have several; nothing without such a case."""
    those = [{**r, "cases": {k: c for k, c in r["cases"].items() if "raters" in c}} for r in results]
    if not those[0]["cases"]:
        return {}
    many = max(len(c["raters"]["dice"]) for c in those[0]["cases"].values())
    return {
        "samples": results[0]["samples"],
        **{key: {s: interval(values(those, lambda case, s=s, k=key: case["raters"][k][s])) for s in (*STEPS, PLANNED)}
           for key in ("ged", "pairwise", "empty")},
        "rater_agreement": interval(values(those, lambda case: case["raters"]["agreement"])),
        "empty_raters": interval(values(those, lambda case: case["raters"]["empty_raters"])),
        "per_rater": [interval(values(those, lambda case, i=i: dict(enumerate(case["raters"]["dice"])).get(i))) for i in range(many)],
    }  # fmt: skip


def surface(cases: Sequence[Result], kind: str, steps: str) -> dict[str, float]:
    """Mean HD95 (mm) over cases and classes where it is finite, and how many have none."""
    found = [v for case in cases for v in case[kind][steps]["hd95"].values()]
    return {"mean": finite(found), "without": sum(v is None for v in found)}


def finite(numbers: Sequence[float | None]) -> float:
    """Mean of the numbers that are there; NaN of none."""
    there = [n for n in numbers if n is not None and np.isfinite(n)]
    return float(np.mean(there)) if there else float("nan")


def mean_of(results: Sequence[Result], pick: Callable[[Result], Any]) -> float:
    """Mean over seeds."""
    return finite([pick(r) for r in results])


def cell(value: Any, digits: int = 4, sign: bool = False) -> str:
    """A number, or one with its interval; `-` for what is not there."""
    if isinstance(value, tuple):
        number, low, high = (cell(v, digits, sign) for v in value)
        return number if low == high else f"{number} [{low}, {high}]"
    return "-" if value is None or not np.isfinite(value) else f"{value:{'+' if sign else ''}.{digits}f}"


Table = tuple[list[str], list[list[str]]]  # header, rows


def main_table(arms: Arms, numbers: Mapping[str, Any]) -> Table:
    """One row per arm."""
    evaluations, memory = "network evaluations: 1 step / 5 x planned", "peak MiB: training / measuring"
    costs = ("iterations", "training, minutes", evaluations, "s per case, 1 step", memory)
    accuracy = (*(f"Dice, {k}" for k in MASKS), "Dice, 5 mirrored", "per class, 1 step", "HD95 1 step / 5 x planned (without)")
    rows = []
    for arm, n in numbers.items():
        calls = [n["tiles"] * k for k in (1, 1, 5 * n["planned_steps"], 5)] if arm != BASE else [n["tiles"]] * 4
        rows.append([
            arm, str(len(arms[arm])), *(cell(v) for v in n["dice"].values()), cell(n["mirrored"]["0"]),
            ", ".join(f"{k} {v[0]:.4f}" for k, v in n["per_class"].items()),
            " / ".join(f"{cell(n['hd95'][k]['mean'], 2)} ({n['hd95'][k]['without']})" for k in ("1 step", "5 x planned")),
            cell(n["iterations"], 0), cell(n["training_minutes"], 1), "{:.1f} + {:.1f} / {:.1f} + {:.1f}".format(*calls),
            cell(n["seconds"], 3), f"{n['training_mib']:.0f} / {n['evaluation_mib']:.0f}",
        ])  # fmt: skip
    return ["arm", "seeds", *accuracy, *costs], rows


def difference_table(arms: Arms, base: Sequence[Result] | None) -> Table:
    """Dice of each arm's masks less direct's, case by case."""
    rows = []
    for arm, results in arms.items():
        if base and arm != BASE:
            rows.append([arm, *(cell(difference(values(results, p), values(base, MASKS["1 step"])), sign=True) for p in MASKS.values())])
            mirrored = values(base, lambda case: case["noise"]["0"].get("mirrored"))
            rows[-1].append(cell(difference(values(results, MASKS["5 x planned"]), mirrored), sign=True))
    return ["arm - direct", *MASKS, "5 x planned - direct's 5 mirrored"], rows


def steps_table(numbers: Mapping[str, Any]) -> Table:
    """Dice of one sample."""
    rows = [[arm, *(cell(v) for v in n["steps"].values()), cell(n["planned_steps"], 0)] for arm, n in numbers.items()]
    return ["arm", *STEPS, PLANNED, "planned steps"], rows


def noise_loss(n: Mapping[str, Any], kind: str) -> dict[str, float]:
    """Sigma -> Dice lost against the clean image; `kind` is one (1 step), ensemble (5 x planned) or mirrored (direct's)."""
    dice = n["mirrored"] if kind == "mirrored" else n["noise"][kind]
    return {s: dice["0"][0] - dice[s][0] for s in SIGMAS}


def noise_table(numbers: Mapping[str, Any]) -> Table:
    """Dice lost, and its ratio to direct's."""
    rows = []
    for arm, n in numbers.items():
        second = ("mirrored", "5 mirrored") if arm == BASE else ("ensemble", "5 x planned")
        for kind, mask in (("one", "1 step"), second):
            lost, base = noise_loss(n, kind), noise_loss(numbers[BASE], "one") if BASE in numbers else {}
            ratio = [lost[s] / base[s] if base.get(s, 0) > 0 else None for s in SIGMAS]
            rows.append([arm, mask, *(cell(v) for v in lost.values()), *(cell(r, 2) for r in ratio)])
    return ["arm", "mask", *(f"lost at sigma {s}" for s in SIGMAS), *(f"/ direct's, {s}" for s in SIGMAS)], rows


def uncertainty_table(numbers: Mapping[str, Any]) -> Table:
    """Agreement of samples, AUGRC over all noise levels, ECE."""
    keys = ("agreement", "softmax", "softmax_foreground", "soft_dice", "best", "random")
    rows = []
    for arm, n in numbers.items():
        areas = [*(cell(n["augrc"][k]) for k in keys), cell(n["augrc"]["difference"], sign=True)]
        volume = [cell(n["volume"][k]) for k in ("inside", "width")]
        rows.append([arm, cell(n["agreement"]["1"]), cell(n["agreement"][PLANNED]), *areas, cell(n["ece"]), *volume])
    header = ["arm", "pairwise Dice, 1 step", "pairwise Dice, planned", "AUGRC, pairwise Dice", "AUGRC, softmax response",
              "AUGRC, softmax response in foreground", "AUGRC, soft Dice", "AUGRC, oracle", "AUGRC, random",
              "AUGRC, pairwise Dice - better softmax response", "ECE",
              "true volume within that of 5 samples", "their span / mean volume"]  # fmt: skip
    return header, rows


def raters_table(numbers: Mapping[str, Any]) -> Table:
    """Samples against raters."""
    count = next(iter(numbers.values()))["samples"]
    rows = []
    for arm, n in numbers.items():
        agreements = (n["pairwise"]["1"][0], n["pairwise"][PLANNED][0], n["rater_agreement"][0])
        empty, dice = (n["empty"][PLANNED][0], n["empty_raters"][0]), ", ".join(cell(v[0]) for v in n["per_rater"])
        rows.append([arm, *(cell(v) for v in n["ged"].values()), *map(cell, agreements), *(cell(v, 3) for v in empty), dice])
    header = ["arm", *(f"GED{count}, {s}" for s in (*STEPS, PLANNED)), "pairwise Dice, 1", "pairwise Dice, planned", "between raters",
              "empty samples, planned", "empty raters", "Dice per rater, 5 x planned"]  # fmt: skip
    return header, rows


def gates(name: str, arms: Arms, numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The gates of every arm but direct: `gate, arm, threshold, measured` (text) and `met` (None where it cannot be said)."""
    from method_gates import arm_gates

    base = {k: values(arms[BASE], pick) for k, pick in MASKS.items()} if BASE in arms else None
    out = []
    for arm, results in arms.items():
        if arm != BASE:
            paired = {k: difference(values(results, p), base["1 step"])[0] for k, p in MASKS.items()} if base else {}
            out += [{"arm": arm, **gate} for gate in arm_gates(name, numbers[arm], numbers.get(BASE), paired)]
    return out


def gate_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """The gates as a table."""
    answer = {True: "yes", False: "no", None: "-"}
    return ["gate", "arm", "threshold", "measured", "met"], [
        [g["gate"], g["arm"], g["threshold"], g["measured"], answer[g["met"]]] for g in found
    ]


def dataset_text(name: str, content: Mapping[str, Any]) -> str:
    """A dataset's part of the report."""
    lines = [f"## {name}", f"{len(content['cases'])} cases; {'; '.join(content['budgets'])}. {NOTES}"]
    for title, part in content["tables"].items():
        if part["rows"]:
            lines += [f"### {title}", table(part["header"], part["rows"])]
    return "\n\n".join(lines)
