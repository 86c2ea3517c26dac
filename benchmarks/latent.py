"""Seconds and memory of measuring the label latent on large CT cases, and their share of preprocessing a dataset of 1000 of them.

    .venv/bin/python benchmarks/latent.py --output benchmarks/output
    .venv/bin/python benchmarks/latent.py --cases 1 --shape 60 160 160      a try
    .venv/bin/python benchmarks/latent.py --targets PREPROCESSED/Dataset*   what other targets would plan (seconds)

Synthetic volumes (synthetic_ct.py: 200 x 512 x 512, five organs) go through ldseg_plan_and_preprocess with one process. Then the same
labels are measured alone, on the grids of all configurations: `labels` reads them and cuts blocks, case by case, as a worker does;
`code` fits the codes to 64 such cases (copies), the most that the planner takes. To expect on one core: 2 minutes a case for the command,
labels about 3 s a case, and under 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from common import OURS, Measurement, machine, measure, table, write_report
from synthetic_ct import SHAPE, make_dataset

LARGE = 1000  # cases of the dataset that is extrapolated to
LIMIT_MIB, LIMIT_SHARE = 1024, 0.02
TARGETS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # shares of the deviation that the steps retain


class Copies(Executor):
    """Computes nothing: gives `stored` in turn, a fresh copy each time, as if another process had sent it."""

    def __init__(self, stored: list[bytes]) -> None:
        self.stored, self.next = stored, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """See concurrent.futures.Executor."""
        future: Future = Future()
        future.set_result(pickle.loads(self.stored[self.next % len(self.stored)]))
        self.next += 1
        return future


def part(name: str, folder: Path, stored: Path) -> None:
    """One half of the measurement, in a process of its own; leaves seconds and the largest memory of the process in NAME.json."""
    from ldseg_auto.data.dataset import open_dataset
    from ldseg_auto.planners.fingerprint import Fingerprint
    from ldseg_auto.planners.planner import label_grid, layouts
    from ldseg_auto.planners.spectrum import MAX_CASES, case_labels, measure_latents

    dataset = open_dataset(folder)
    fingerprint = Fingerprint.load(stored / "dataset_fingerprint.json")
    order, found = layouts(fingerprint, dataset.description.labels.num_heads)
    grids = [label_grid(layout, order) for layout in found.values()]
    files = [stored / f"labels_{i}.bin" for i in range(len(dataset.cases))]
    pool = Copies([f.read_bytes() for f in files if f.exists()])
    start = time.perf_counter()
    if name == "labels":
        for case, file in zip(dataset.cases, files, strict=True):
            file.write_bytes(pickle.dumps(case_labels(case, dataset.description, grids)))
    else:
        measure_latents([dataset.cases[i % len(files)] for i in range(MAX_CASES)], dataset.description, grids, pool)
    seconds = time.perf_counter() - start
    content = {"seconds": seconds, "grids": [g.key for g in grids], "cases": MAX_CASES}
    (stored / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def run(cases: int, shape: tuple[int, int, int], work: Path) -> dict[str, Any]:
    """Measures the command and both parts; seconds are those of the work, without starting Python for the parts."""
    folder = make_dataset(work / "raw", cases, shape)
    target = work / "preprocessed"
    command = [str(OURS / "ldseg_plan_and_preprocess"), "-d", folder.name[7:10], "-np", "1", "--clean", "--raw", str(work / "raw")]
    whole = measure("ours", [*command, "--preprocessed", str(target)], work / "logs" / "command.txt")
    parts: dict[str, Measurement] = {}
    stored = target / folder.name
    for name in ("labels", "code"):
        run_part = [sys.executable, str(Path(__file__)), "--part", name, "--folder", str(folder), "--stored", str(stored)]
        parts[name] = measure(name, run_part, work / "logs" / f"{name}.txt")
    inner = {name: json.loads((stored / f"{name}.json").read_text(encoding="utf-8")) for name in parts}
    sample = inner["code"]["cases"]
    latent = inner["labels"]["seconds"] / cases * sample + inner["code"]["seconds"]
    here = inner["labels"]["seconds"] + inner["code"]["seconds"] * cases / sample
    per_case = (whole.seconds - here) / cases
    return {
        "cases": cases, "shape": shape, "command": whole, "parts": parts, "grids": inner["labels"]["grids"], "sample": sample,
        "labels_per_case": inner["labels"]["seconds"] / cases, "code": inner["code"]["seconds"], "latent": latent,
        "rest_per_case": per_case, "share": latent / (LARGE * per_case), "peak_mib": max(p.peak_mib for p in parts.values()),
    }  # fmt: skip


def report(found: dict[str, Any]) -> str:
    """A Markdown table, and whether both limits hold."""
    about, parts = machine(), found["parts"]
    rows = [
        ["plan and preprocess, all else, per case", f"{found['rest_per_case']:.1f}", f"{found['command'].peak_mib:.0f}"],
        ["labels: read and cut, per case", f"{found['labels_per_case']:.2f}", f"{parts['labels'].peak_mib:.0f}"],
        [f"code: fit on {found['sample']} cases", f"{found['code']:.1f}", f"{parts['code'].peak_mib:.0f}"],
        [f"latent of {LARGE} cases ({found['sample']} measured)", f"{found['latent']:.0f}", f"{found['peak_mib']:.0f}"],
    ]
    share = (
        f"{found['share']:.2%} of {LARGE} cases' preprocessing (limit {LIMIT_SHARE:.0%}), {found['peak_mib']:.0f} MiB (limit {LIMIT_MIB})"
    )
    holds = "holds" if found["share"] < LIMIT_SHARE and found["peak_mib"] <= LIMIT_MIB else "does NOT hold"
    volumes = f"{found['cases']} volumes of {'x'.join(map(str, found['shape']))}, one process"
    title = f"{volumes}; {about['processor']}; grids: {'; '.join(found['grids'])}"
    return f"{title}\n\n" + table(["", "seconds", "peak memory, MiB"], rows) + f"\n\n{share}: {holds}"


def targets(folders: list[Path]) -> str:
    """Latent and sampling steps of planned datasets, and the steps that other targets of the step rule would give: a Markdown table."""
    from ldseg_auto.planners.fingerprint import Fingerprint
    from ldseg_auto.planners.rules.latent import by_factor, choose_latent, latent_curve
    from ldseg_auto.planners.rules.steps import sampling_steps

    rows = []
    for folder in folders:
        for grid, candidates in Fingerprint.load(folder / "dataset_fingerprint.json").latent.items():
            latent = choose_latent(by_factor(candidates))
            point = next(p for p in latent_curve(by_factor(candidates), latent.factor, latent.channels) if p.chosen)
            modes = next(c.modes for c in candidates if c.factor == latent.factor)[str(latent.channels)]
            steps = [sampling_steps(modes, target=target) for target in TARGETS]
            shown = [f"{count}{' (not reached)' if 'out of reach' in why else ''}" for count, why in steps]
            rows.append([folder.name, grid.partition(":")[0], point.name, f"{point.size:.3g}", f"{point.ceiling:.3f}", *shown])
    return table(["dataset", "configuration", "latent", "numbers per voxel", "ceiling", *map(str, TARGETS)], rows)


def main() -> None:
    """Measures and writes latent.md and latent.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report (default: benchmarks/output)")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/output/latent"), help="folder for data and logs")
    parser.add_argument("--cases", type=int, default=3, help="volumes to make (default: 3)")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, metavar=("Z", "Y", "X"), help="voxels of a volume")
    parser.add_argument("--targets", type=Path, nargs="+", metavar="FOLDER", help="preprocessed datasets: print their table and end")
    parser.add_argument("--part", choices=("labels", "code"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stored", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.targets:
        print(targets(args.targets))
        return
    if args.part:
        part(args.part, args.folder, args.stored)
        return
    found = run(args.cases, tuple(args.shape), args.work)
    write_report(args.output, "latent", report(found), found)


if __name__ == "__main__":
    main()
