"""Fingerprint, plan and preprocess, all configurations: nnU-Net 2.8.1 and this project, alternating on the same machine.

    .venv/bin/python benchmarks/preprocess.py --output benchmarks/output --rounds 2
    .venv/bin/python benchmarks/preprocess.py --datasets ct --rounds 1
    .venv/bin/python benchmarks/preprocess.py --only nnunet --cases 5 --rounds 1      a try of one half
    .venv/bin/python benchmarks/preprocess.py --datasets ct --only ours --cases 1 --slices 700    one large volume

hippocampus: 200 cases, 2d and 3d_fullres. ct: 8 synthetic volumes of 512 x 512 x 200 with 5 organs (synthetic_ct.py; made at the first
call, 400 MB), 2d, 3d_fullres and 3d_lowres. Both tools run with 2 processes, from an empty preprocessed folder; hippocampus after a
warm-up on 4 cases that is not counted. The first call makes .venv-nnunet (about a minute). To expect on two idle cores: half a
minute for nnU-Net on hippocampus, 10 to 20 minutes and 8 GB on ct; this project a half and a fifth of the seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import synthetic_ct
from common import DATA, OURS, Measurement, machine, measure, nnunet_environment, table, versions, write_report

PROCESSES = "2"
HIPPOCAMPUS = "Dataset004_Hippocampus"
CONFIGURATIONS = {"hippocampus": ("2d", "3d_fullres"), "ct": ("2d", "3d_fullres", "3d_lowres")}  # what nnU-Net plans for each
PACKAGES = ("nnunetv2", "ldseg-auto", "torch", "numpy", "scipy", "scikit-image", "SimpleITK", "blosc2", "batchgenerators", "acvl-utils")
Run = Callable[[Path, Path, Path], Measurement]  # raw root with one dataset, empty preprocessed root, log


def nnunet(raw: Path, preprocessed: Path, log: Path) -> Measurement:
    """nnU-Net's default planner, as a user starts it."""
    variables = {"nnUNet_raw": str(raw), "nnUNet_preprocessed": str(preprocessed), "nnUNet_results": str(preprocessed / "results")}
    number, configurations = _dataset(raw)
    command = [str(nnunet_environment() / "nnUNetv2_plan_and_preprocess"), "-d", number, "-c", *configurations]
    return measure("nnunet", [*command, "-np", *[PROCESSES] * len(configurations), "-npfp", PROCESSES], log, variables)


def ours(raw: Path, preprocessed: Path, log: Path) -> Measurement:
    """This project, all configurations."""
    command = [str(OURS / "ldseg_plan_and_preprocess"), "-d", _dataset(raw)[0], "-np", PROCESSES, "--clean"]
    return measure("ours", [*command, "--raw", str(raw), "--preprocessed", str(preprocessed)], log)


def _dataset(raw: Path) -> tuple[str, tuple[str, ...]]:
    """Number and configurations of the one dataset in a raw root."""
    (folder,) = raw.iterdir()
    return str(int(folder.name[7:10])), CONFIGURATIONS["ct" if folder.name == synthetic_ct.DATASET else "hippocampus"]


TOOLS: dict[str, Run] = {"nnunet": nnunet, "ours": ours}


def copy_cases(data: Path, target: Path, number: int) -> Path:
    """A raw root with Hippocampus's first `number` cases."""
    source, folder = data / HIPPOCAMPUS, target / HIPPOCAMPUS
    shutil.rmtree(target, ignore_errors=True)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
        for path in sorted((source / name).glob("*.nii.gz"))[:number]:
            shutil.copy(path, folder / name)
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    content["numTraining"] = len(list((folder / "labelsTr").iterdir()))
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def prepare(dataset: str, args: argparse.Namespace) -> tuple[Path, int]:
    """The raw root that is measured and its number of cases."""
    if dataset == "hippocampus":
        count = min(args.cases or 200, 200)
        return copy_cases(args.data, args.work / "raw", count), count
    count = args.cases or len(synthetic_ct.SPACINGS)
    root = args.work / f"ct_{count}_{args.slices}"
    synthetic_ct.make_dataset(root, count, (args.slices, *synthetic_ct.SHAPE[1:]))
    return root, count


def run_all(tools: list[str], dataset: str, raw: Path, args: argparse.Namespace) -> list[Measurement]:
    """A warm-up of each tool (hippocampus only), then `rounds` times one after the other."""
    few = copy_cases(args.data, args.work / "raw_few", 4) if dataset == "hippocampus" else None
    measured = []
    for number in range(0 if few else 1, args.rounds + 1):
        for tool in tools:
            preprocessed = args.work / "preprocessed" / tool
            shutil.rmtree(preprocessed, ignore_errors=True)
            preprocessed.mkdir(parents=True)
            result = TOOLS[tool](raw if number or few is None else few, preprocessed, args.work / "logs" / f"{dataset}_{tool}_{number}.txt")
            if number:
                print(f"{dataset}, round {number}: {tool} {result.seconds} s, {result.peak_mib} MiB", flush=True)
                measured.append(result)
    return measured


def report(measured: list[Measurement], dataset: str, cases: int) -> str:
    """The Markdown table: medians over the rounds, and the ratio of ours to nnU-Net's."""
    there = [t for t in TOOLS if any(m.tool == t for m in measured)]
    seconds = {t: statistics.median(m.seconds for m in measured if m.tool == t) for t in there}
    cpu = {t: statistics.median(m.cpu_seconds for m in measured if m.tool == t) for t in there}
    peak = {t: max(m.peak_mib for m in measured if m.tool == t) for t in there}
    rows = [[t, f"{seconds[t]:.1f}", f"{cases / seconds[t]:.3g}", f"{cpu[t]:.1f}", f"{peak[t]:.0f}"] for t in there]
    if len(there) == len(TOOLS):
        slower, work, memory = (of["ours"] / of["nnunet"] for of in (seconds, cpu, peak))
        rows.append(["ours / nnunet", f"{slower:.2f}", f"{1 / slower:.2f}", f"{work:.2f}", f"{memory:.2f}"])
    title = f"{dataset}, {cases} cases, {' + '.join(CONFIGURATIONS[dataset])}"
    return f"{title}\n\n" + table(["tool", "seconds (median)", "cases/s", "CPU seconds (median)", "peak memory, MiB"], rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report (default: benchmarks/output)")
    parser.add_argument("--datasets", nargs="+", choices=list(CONFIGURATIONS), default=list(CONFIGURATIONS), help="default: both")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder that holds {HIPPOCAMPUS} (default: {DATA})")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/output/work"), help="folder for data and logs")
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each tool (default: 3)")
    parser.add_argument("--cases", type=int, help="fewer cases than 200 and 8")
    parser.add_argument("--slices", type=int, default=synthetic_ct.SHAPE[0], help="of a CT volume (default: 200)")
    parser.add_argument("--only", choices=list(TOOLS), help="one half of the comparison")
    return parser.parse_args()


def main() -> None:
    """Measures and writes preprocess.md and preprocess.json."""
    args = arguments()
    tools = [args.only] if args.only else list(TOOLS)
    runs: dict[str, list[Measurement]] = {}
    tables = []
    for dataset in args.datasets:
        raw, cases = prepare(dataset, args)
        runs[dataset] = run_all(tools, dataset, raw, args)
        tables.append(report(runs[dataset], dataset, cases))
    folders = {tool: nnunet_environment() if tool == "nnunet" else OURS for tool in tools}
    plain = {dataset: [asdict(m) for m in measured] for dataset, measured in runs.items()}
    found = {tool: versions(folder / "python", PACKAGES) for tool, folder in folders.items()}
    about = machine()
    title = f"{PROCESSES} processes; {about['processor']}, {about['cores']} cores"
    content = {"machine": about, "processes": PROCESSES, "runs": plain, "versions": found}
    write_report(args.output, "preprocess", "\n\n".join([title, *tables]), content)


if __name__ == "__main__":
    main()
