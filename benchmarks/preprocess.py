"""Plan and preprocess Hippocampus (200 cases, 2d and 3d_fullres), nnU-Net 2.8.1 and this project, alternating on the same machine.

    .venv/bin/python benchmarks/preprocess.py --output benchmarks/output
    .venv/bin/python benchmarks/preprocess.py --only nnunet --cases 5 --rounds 1      a try of one half

The first call makes .venv-nnunet (about a minute). Both run with 2 processes, from an empty preprocessed folder, after a warm-up on 4
cases that is not counted. To expect on two cores: 20 to 35 s and 1.7 to 1.9 GB for nnU-Net a round, 0.4 times the seconds and half the
memory for this project.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

from common import DATA, OURS, Measurement, machine, measure, nnunet_environment, table, versions, write_report

PROCESSES = "2"
DATASET = "Dataset004_Hippocampus"
PACKAGES = ("nnunetv2", "ldseg-auto", "torch", "numpy", "scipy", "scikit-image", "SimpleITK", "blosc2", "batchgenerators", "acvl-utils")
Run = Callable[[Path, Path, Path], Measurement]  # raw root, empty preprocessed root, log


def nnunet(raw: Path, preprocessed: Path, log: Path) -> Measurement:
    """nnU-Net's default planner, as a user starts it."""
    variables = {"nnUNet_raw": str(raw), "nnUNet_preprocessed": str(preprocessed), "nnUNet_results": str(preprocessed / "results")}
    command = [str(nnunet_environment() / "nnUNetv2_plan_and_preprocess"), "-d", "4", "-c", "2d", "3d_fullres"]
    return measure("nnunet", [*command, "-np", PROCESSES, PROCESSES, "-npfp", PROCESSES], log, variables)


def ours(raw: Path, preprocessed: Path, log: Path) -> Measurement:
    """This project, all configurations."""
    command = [str(OURS / "ldseg_plan_and_preprocess"), "-d", "4", "-np", PROCESSES, "--clean"]
    return measure("ours", [*command, "--raw", str(raw), "--preprocessed", str(preprocessed)], log)


TOOLS: dict[str, Run] = {"nnunet": nnunet, "ours": ours}


def copy_cases(data: Path, target: Path, number: int) -> Path:
    """A raw root with the dataset's first `number` cases."""
    source, folder = data / DATASET, target / DATASET
    shutil.rmtree(target, ignore_errors=True)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
        for path in sorted((source / name).glob("*.nii.gz"))[:number]:
            shutil.copy(path, folder / name)
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    content["numTraining"] = len(list((folder / "labelsTr").iterdir()))
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def run_all(tools: list[str], data: Path, cases: int, rounds: int, work: Path) -> list[Measurement]:
    """A warm-up of each tool, then `rounds` times one after the other."""
    raw, few = copy_cases(data, work / "raw", cases), copy_cases(data, work / "raw_few", 4)
    measured = []
    for number in range(rounds + 1):
        for tool in tools:
            preprocessed = work / "preprocessed" / tool
            shutil.rmtree(preprocessed, ignore_errors=True)
            preprocessed.mkdir(parents=True)
            result = TOOLS[tool](raw if number else few, preprocessed, work / "logs" / f"{tool}_{number}.txt")
            if number:
                print(f"round {number}: {tool} {result.seconds} s, {result.peak_mib} MiB", flush=True)
                measured.append(result)
    return measured


def report(measured: list[Measurement], cases: int) -> str:
    """The Markdown table: medians over the rounds, and the ratio of ours to nnU-Net's."""
    seconds = {t: statistics.median(m.seconds for m in measured if m.tool == t) for t in TOOLS if any(m.tool == t for m in measured)}
    peak = {t: max(m.peak_mib for m in measured if m.tool == t) for t in seconds}
    rows = [[t, f"{s:.1f}", f"{cases / s:.2f}", f"{peak[t]:.0f}"] for t, s in seconds.items()]
    if len(seconds) == len(TOOLS):
        slower, memory = seconds["ours"] / seconds["nnunet"], peak["ours"] / peak["nnunet"]
        rows.append(["ours / nnunet", f"{slower:.2f}", f"{1 / slower:.2f}", f"{memory:.2f}"])
    about = machine()
    title = f"{DATASET}, {cases} cases, 2d + 3d_fullres, {PROCESSES} processes; {about['processor']}, {about['cores']} cores"
    return f"{title}\n\n" + table(["tool", "seconds (median)", "cases/s", "peak memory, MiB"], rows)


def main() -> None:
    """Measures and writes preprocess.md and preprocess.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report (default: benchmarks/output)")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder that holds {DATASET} (default: {DATA})")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/output/work"), help="folder for data and logs")
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each tool (default: 3)")
    parser.add_argument("--cases", type=int, default=200, help="how many of the 200 cases (default: all)")
    parser.add_argument("--only", choices=list(TOOLS), help="one half of the comparison")
    args = parser.parse_args()
    tools = [args.only] if args.only else list(TOOLS)
    measured = run_all(tools, args.data, args.cases, args.rounds, args.work)
    folders = {tool: nnunet_environment() if tool == "nnunet" else OURS for tool in tools}
    content = {
        "machine": machine(), "cases": args.cases, "processes": PROCESSES, "runs": measured,
        "versions": {tool: versions(folder / "python", PACKAGES) for tool, folder in folders.items()},
    }  # fmt: skip
    write_report(args.output, "preprocess", report(measured, args.cases), content)


if __name__ == "__main__":
    main()
