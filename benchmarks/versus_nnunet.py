"""Cross-validation against nnU-Net 2.8.1: the same folds, the same time of training for each, both annealed fully within it.

    .venv/bin/python benchmarks/versus_nnunet.py --work /tmp/versus                   Hippocampus, 12 minutes per fold and tool (2.5 hours)
    .venv/bin/python benchmarks/versus_nnunet.py --work /tmp/versus --folds 0 1       two folds of it; what is done is not done again
    .venv/bin/python benchmarks/versus_nnunet.py --work /tmp/versus --report-only     the table of what is there
    .venv/bin/python benchmarks/versus_nnunet.py --work /tmp/versus --device cuda --minutes 5 --at-once 10      all trainings share a card

Both tools plan and preprocess the dataset and predict each fold's validation cases: nnU-Net as its training does at the end, with
mirroring; ours by ldseg_predict as planned, and once more with mirroring. Dice and NSD (tolerance 1 mm) are this project's; intervals are
bootstrapped over cases, the difference's over the same cases for both. It may be killed: finished folds are kept, a begun one begins anew.
`--set` changes our training, for instance `--set network.variant=direct`; give each setting a `--name` of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, OURS, environment, machine, nnunet_environment, table, versions, write_report

PACKAGES = ("nnunetv2", "ldseg-auto", "torch", "numpy", "dynamic-network-architectures")
HIPPOCAMPUS, CONFIGURATION = "Dataset004_Hippocampus", "3d_fullres"
FOLDS, NNUNET = 5, "nnU-Net"
METRICS = ("dice", "nsd")


def call(command: list[str], log: Path, variables: dict[str, str] | None = None) -> None:
    """Runs a command; its output goes to `log`, whose end an error shows."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as stream:
        status = subprocess.run(command, stdout=stream, stderr=stream, env=environment(variables or {}), check=False).returncode
    if status:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command)} ended with {status}; {log} ends with:\n{tail}")


def roots(args: argparse.Namespace) -> dict[str, str]:
    """nnU-Net's folders."""
    made = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "nnunet", "nnUNet_results": "nnunet_results"}
    return {name: str(args.work / folder) for name, folder in made.items()} | ({"nnUNet_compile": "f"} if args.device == "cpu" else {})


def prepare(args: argparse.Namespace) -> None:
    """Plans and preprocesses for both; nnU-Net gets our folds, which are its own where it makes any."""
    raw, ours, theirs = args.work / "raw", args.work / "ours" / HIPPOCAMPUS, args.work / "nnunet" / HIPPOCAMPUS
    raw.mkdir(parents=True, exist_ok=True)
    if not (raw / HIPPOCAMPUS).exists():
        (raw / HIPPOCAMPUS).symlink_to((args.data / HIPPOCAMPUS).resolve())
    if not (ours / "prepared.txt").exists():
        command = [str(OURS / "ldseg_plan_and_preprocess"), "-d", "4", "-c", CONFIGURATION, "--raw", str(raw)]
        call([*command, "--preprocessed", str(ours.parent)], args.work / "logs" / "ours_preprocess.txt")
        (ours / "prepared.txt").touch()
    if not (theirs / "prepared.txt").exists():
        command = [str(nnunet_environment() / "nnUNetv2_plan_and_preprocess"), "-d", "4", "-c", CONFIGURATION]
        call(command, args.work / "logs" / "nnunet_preprocess.txt", roots(args))
        shutil.copy(ours / "splits_final.json", theirs / "splits_final.json")
        (theirs / "prepared.txt").touch()


def train_nnunet(args: argparse.Namespace, fold: int) -> dict[str, Path]:
    """Trains and validates a fold of nnU-Net."""
    script = Path(__file__).with_name("versus_train.py")
    command = [str(nnunet_environment() / "python"), str(script), "4", CONFIGURATION, str(fold), str(60 * args.minutes), args.device]
    call(command, args.work / "logs" / f"nnunet_{fold}.txt", roots(args))
    folder = next((args.work / "nnunet_results" / HIPPOCAMPUS).glob(f"TimedTrainer__*/fold_{fold}"))
    return {NNUNET: folder / "validation", "record": folder / "timed.json"}


def train_ours(args: argparse.Namespace, fold: int) -> dict[str, Path]:
    """Trains a fold of ours and predicts its validation cases, as planned and mirrored."""
    results, preprocessed = args.work / args.name, args.work / "ours"
    model = results / HIPPOCAMPUS / f"ldsegPlans__{CONFIGURATION}"
    logs, settings = args.work / "logs", [part for setting in args.settings for part in ("--set", setting)]
    if not (model / f"fold_{fold}" / "checkpoint_final.pth").exists():
        shutil.rmtree(model / f"fold_{fold}", ignore_errors=True)
    command = [str(OURS / "ldseg_train"), "4", str(fold), "-c", CONFIGURATION, "--time-budget", f"{60 * args.minutes:g}s", *settings]
    command += ["--preprocessed", str(preprocessed), "--results", str(results), "--device", args.device]
    if not (model / f"fold_{fold}" / "validation" / "summary.json").exists():
        resume = ["--continue"] if (model / f"fold_{fold}" / "checkpoint_final.pth").exists() else []
        call([*command, *resume], logs / f"{args.name}_{fold}.txt")
    images, found = results / f"images_{fold}", {}
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    for case in json.loads((preprocessed / HIPPOCAMPUS / "splits_final.json").read_text(encoding="utf-8"))[fold]["val"]:
        (images / f"{case}_0000.nii.gz").symlink_to((args.data / HIPPOCAMPUS / "imagesTr" / f"{case}_0000.nii.gz").resolve())
    for name, flags in ((args.name, []), (f"{args.name}, mirroring", ["--tta", "mirror"])):
        found[name] = results / f"{name}_{fold}".replace(", ", "_")
        predict = [str(OURS / "ldseg_predict"), "-i", str(images), "-o", str(found[name]), "-m", str(model), "-f", str(fold)]
        call([*predict, "--device", args.device, "--overwrite", *flags], logs / f"{found[name].name}_predict.txt")
    return found


def job(args: argparse.Namespace, tool: str, fold: int) -> None:
    """Trains and measures a fold of one tool, unless it is done: its record comes last."""
    path = args.work / "records" / f"{tool}_{fold}.json"
    if path.exists():
        return
    from ldseg_auto.data.dataset import Description
    from ldseg_auto.evaluation.folders import evaluate_folder
    from ldseg_auto.files import read_json, write_json

    masks = train_nnunet(args, fold) if tool == NNUNET else train_ours(args, fold)
    record = masks.pop("record", None)
    description = Description.from_dict(read_json(args.data / HIPPOCAMPUS / "dataset.json"), "dataset.json")
    content: dict[str, Any] = {"minutes": args.minutes, "device": args.device, "settings": args.settings, "rows": {}}
    content["training"] = read_json(record) if record else {}
    for name, folder in masks.items():
        found = evaluate_folder(args.data / HIPPOCAMPUS / "labelsTr", folder, description, allow_missing=True)
        content["rows"][name] = {case: {m: [c[m] for c in of.values()] for m in METRICS} for case, of in found["cases"].items()}
    write_json(path, content)
    print(f"{tool}, fold {fold}: done", flush=True)


def rows_of(args: argparse.Namespace, folds: list[int]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Name -> case -> metric -> value per class, over the folds that are done."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for fold in folds:
        for path in sorted((args.work / "records").glob(f"*_{fold}.json")):
            for name, cases in json.loads(path.read_text(encoding="utf-8"))["rows"].items():
                found.setdefault(name, {}).update(cases)
    return found


def lines(found: dict[str, dict[str, dict[str, list[float]]]]) -> Iterator[list[str]]:
    """Rows of the table: means with intervals, and differences from nnU-Net over the cases of both, in points."""
    from ldseg_auto.evaluation.bootstrap import mean_interval, paired_difference

    for name, cases in found.items():
        row = [name, str(len(cases))]
        both = sorted(cases.keys() & found.get(NNUNET, {}).keys())
        for metric in METRICS:
            values = 100 * np.array([cases[c][metric] for c in sorted(cases)])
            row += ["{:.2f} [{:.2f}, {:.2f}]".format(*mean_interval(values.mean(1))), " / ".join(f"{v:.2f}" for v in values.mean(0))]
            mine, theirs = (100 * np.array([of[c][metric] for c in both]) for of in (cases, found.get(NNUNET, {})))
            row.append(
                "" if name == NNUNET or not both else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*paired_difference(mine.mean(1), theirs.mean(1)))
            )
        yield row


def report(args: argparse.Namespace, folds: list[int]) -> None:
    """Writes the table of what is there."""
    found = rows_of(args, folds)
    header = ["", "cases"]
    for metric in ("Dice", "NSD at 1 mm"):
        header += [f"{metric}, points", "per class", "less nnU-Net"]
    text = f"{HIPPOCAMPUS}, {CONFIGURATION}, folds {' '.join(map(str, folds))}, {args.minutes:g} minutes per training, {args.device}\n\n"
    records = {p.stem: json.loads(p.read_text(encoding="utf-8"))["training"] for p in sorted((args.work / "records").glob("*.json"))}
    content = {"machine": machine(), "ours": versions(OURS / "python", PACKAGES), "rows": found, "training": records}
    write_report(args.output, "versus_nnunet", text + table(header, list(lines(found))), content)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report (default: benchmarks/output)")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder that holds {HIPPOCAMPUS} (default: {DATA})")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--minutes", type=float, default=12, help="of each training (default: 12)")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)), help="default: all five")
    parser.add_argument("--tools", nargs="+", choices=(NNUNET, "ours"), default=[NNUNET, "ours"], help="default: both")
    parser.add_argument("--name", default="ours", help="of our row and folder (default: ours)")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help="of our training")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: cpu")
    parser.add_argument("--at-once", type=int, default=1, help="trainings that run at the same time (default: 1)")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    return parser.parse_args()


def main() -> None:
    """Runs what is missing and reports."""
    args = arguments()
    args.work, args.output, args.data = args.work.resolve(), args.output.resolve(), args.data.resolve()
    failures = []
    if not args.report_only:
        prepare(args)
        with ThreadPoolExecutor(args.at_once) as pool:
            jobs = [pool.submit(job, args, args.name if t == "ours" else t, f) for f in args.folds for t in args.tools]
            failures = [str(cause) for done in jobs if (cause := done.exception())]
    report(args, args.folds)
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
