"""An evaluation on disk (JSON and CSV) and as a table for people."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from ldseg_auto.evaluation.evaluate import SCORES
from ldseg_auto.files import write_json, write_text


def write_summary(path: Path, summary: dict[str, Any]) -> tuple[Path, Path]:
    """Writes `path` (JSON) and the same name with .csv, each atomically.

    In the JSON, what has no value (NaN, infinite) is null: an infinite HD95 is one whose class the reference or the prediction lacks, and
    `per_class` counts them as `n_infinite`. In the CSV, one row per case and class, NaN is an empty field and infinity is `inf`.

    Returns:
        The two paths.
    """
    table = path.with_suffix(".csv")
    write_json(path, without_nan(summary))
    write_text(table, to_csv(summary["cases"]))
    return path, table


def to_csv(cases: dict[str, dict[str, dict[str, float]]]) -> str:
    """A row for each case and class: `case,class,` and one column per metric."""
    rows = [{"case": case, "class": name, **values} for case, classes in cases.items() for name, values in classes.items()]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ["case", "class"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows)
    return stream.getvalue()


def without_nan(content: Any) -> Any:
    """JSON-ready: not-a-number and infinity become None, at any depth."""
    if isinstance(content, dict):
        return {k: without_nan(v) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(v) for v in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def to_table(summary: dict[str, Any]) -> str:
    """The means as text: a line per class, the foreground mean last."""
    unit = summary["unit"]
    titles = ("Dice", "IoU", f"HD95 ({unit})", f"NSD at {summary['tolerance']:g} {unit}", "cases")
    names = [*summary["per_class"], "foreground mean"]
    width = max(len(name) for name in names)
    lines = ["  ".join([" " * width, *titles])]
    for name in names:
        scores = summary["per_class"].get(name)
        values = [summary["foreground_mean"][m] if scores is None else scores[m]["mean"] for m in SCORES]
        count = len(summary["cases"]) if scores is None else scores["dice"]["n"]
        cells = [_cell(v, 2 if m == "hd95" else 4) for v, m in zip(values, SCORES, strict=True)] + [str(count)]
        lines.append("  ".join([name.ljust(width), *(c.rjust(len(t)) for c, t in zip(cells, titles, strict=True))]))
    return "\n".join(lines)


def _cell(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
