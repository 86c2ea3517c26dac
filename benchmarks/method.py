"""Train and measure arms of the method on datasets: one command, several seeds, tables (Markdown, JSON) and plots.

    .venv/bin/python benchmarks/method.py --datasets hippocampus hc18 --arms direct auto --seeds 0 1 2 --minutes 20 --jobs 2 --work W
    .venv/bin/python benchmarks/method.py --datasets lidc --arms direct auto --iterations 800 --planned --device cuda --work W
    .venv/bin/python benchmarks/method.py --report-only --work W        tables and plots again, of what is there

Each (dataset, arm, seed) trains in a process of its own and leaves W/DATASET/ARM/seed_S/result.json: the command can be stopped and
started again, and what is there with the same budget and settings is not done again. Fold 1 is for reporting; choose on fold 0.
To expect: minutes x datasets x arms x seeds / jobs, and 1 to 20 minutes a model on two cores to measure it (--cases 20 for less).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import DATA, OURS, environment, machine, versions, write_report
from first_results import PACKAGES, SETUPS, Setup, link_dataset, without
from first_results import run as run_command

DATASETS = SETUPS | {
    "lidc": Setup(
        "Dataset101_LIDC", 10, r"^(LIDCIDRI\d+)_", ("network.features_per_stage=[16,32,64,128,128,128]", "batch_size=16")
    ),
}  # fmt: skip
# What an arm changes against the plans; direct is what the others are compared with.
ALIVE = ("method.stop_gradient=true", "method.reconstruction_weight=0.5", "method.reconstruction_share=0.125")
CHAIN = {  # from paper to auto, one change on top of the other
    "z0": ("method.prediction=z0",),
    "onehot": ("method.label_input=onehot",),
    "running": ("method.standardisation=running",),
    "skips": ("method.skips=true",),
    "unet": ("method.denoiser=unet",),
    "alive": ALIVE,
    "first-step": ("method.pure_noise=1", "method.later_steps=1", "method.dice_weight=1"),
    "gate": ("method.signal_gate=true",),
    "block-code": ("method.block_code=true",),
}
WITHOUT = {  # auto with one part changed
    "no-recycling": ("method.recycling=0",),
    "no-later-steps": ("method.later_steps=0", "method.recycling=0"),
    "no-gate": ("method.signal_gate=false",),
    "no-block-code": ("method.block_code=false",),
    "no-reconstruction": ("method.reconstruction_weight=0",),
    "no-stop-gradient": ("method.stop_gradient=false",),
    "no-ema": ("training.ema_decay=0",),
    "half-pure-noise": ("method.pure_noise=0.5", "method.later_steps=0"),
    "most-pure-noise": ("method.pure_noise=0.75",),
    "input-scale-0.5": ("method.input_scale=0.5",),
    "attention": ("method.denoiser=attention",),
    "small-latent": ("latent.channels=4",),
    "best-mask": ("method.diversity=0",),  # with several raters: what one rater gets,
    "draws": ("method.diversity=1",),  # and their distribution: the plan chooses by their agreement
    "half-recycling": ("method.recycling=0.5",),
    "last-prediction": ("method.average_steps=false",),
    "same-view": ("method.mirror_samples=false",),
}


def _chained() -> dict[str, tuple[str, ...]]:
    """The arms of `CHAIN`, each with all changes before it."""
    out, so_far = {}, ("network.variant=paper",)
    for name, changes in CHAIN.items():
        so_far += changes
        out[f"paper+{name}"] = so_far
    return out


ARMS: dict[str, tuple[str, ...]] = {
    "direct": ("network.variant=direct",),
    "paper": ("network.variant=paper",),
    **_chained(),
    "auto": ("network.variant=auto",),
    **{f"auto-{name}": ("network.variant=auto", *changes) for name, changes in WITHOUT.items()},
}
Request = dict[str, Any]


def requests(args: argparse.Namespace) -> dict[Path, Request]:
    """Folder -> what its result must have been made with, seed by seed, so that a stopped run has compared all arms on some seeds."""
    out = {}
    for seed in args.seeds:
        for dataset in args.datasets:
            for arm in args.arms:
                own = () if args.planned else DATASETS[dataset].settings
                settings = [*without(own, args.settings), *args.settings, *without(ARMS[arm], args.settings)]
                training = {
                    "dataset": dataset, "arm": arm, "seed": seed, "fold": args.fold, "iterations": args.iterations, "minutes": args.minutes,
                    "configuration": args.configuration, "settings": settings,
                }  # fmt: skip
                out[args.work / dataset / arm / f"seed_{seed}"] = {**training, "cases": args.cases, "samples": args.samples}
    return out


def preprocess(args: argparse.Namespace) -> Path:
    """Plans and preprocesses the chosen datasets; returns the preprocessed root."""
    if args.preprocessed:
        return args.preprocessed
    raw, root = args.work / "raw", args.work / "preprocessed"
    for setup in (DATASETS[name] for name in args.datasets):
        link_dataset(setup, args.data, raw)
        run_command("ldseg_plan_and_preprocess", "-d", setup.number, "-np", 2, *setup.planning, "--raw", raw, "--preprocessed", root)
    return root


def run_all(wanted: dict[Path, Request], preprocessed: Path, args: argparse.Namespace) -> list[Path]:
    """Runs what is not there yet, `args.jobs` at a time; returns the folders that failed."""
    threads = max(1, len(os.sched_getaffinity(0)) // args.jobs)
    todo = {f: r for f, r in wanted.items() if not same_request(f / "result.json", r)}
    print(f"{len(wanted)} models, {len(wanted) - len(todo)} of them are there", flush=True)

    def run_one(item: tuple[Path, Request]) -> Path | None:
        folder, request = item
        folder.mkdir(parents=True, exist_ok=True)
        place = {"preprocessed": str(preprocessed / DATASETS[request["dataset"]].folder), "device": args.device, "threads": threads}
        (folder / "result.json").unlink(missing_ok=True)  # of another request: it must not be reported as this one's
        (folder / "job.json").write_text(json.dumps({"request": request, **place}, indent=2), encoding="utf-8")
        start, log = time.monotonic(), folder / "log.txt"
        command = [sys.executable, __file__, "--job", str(folder / "job.json")]
        with open(log, "w", encoding="utf-8") as stream:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=environment({})
            ).returncode  # fmt: skip
        spent = time.monotonic() - start
        tail = "\n".join(["", *log.read_text(encoding="utf-8").splitlines()[-4:]]) if status else ""
        print(f"{folder.relative_to(args.work)}: {f'FAILED with {status}' if status else 'done'}, {spent:.0f} s{tail}", flush=True)
        return folder if status else None

    with ThreadPoolExecutor(args.jobs) as pool:
        return [folder for folder in pool.map(run_one, todo.items()) if folder]


def same_request(path: Path, request: Mapping[str, Any]) -> bool:
    """Whether the JSON file at `path` was made for this request."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("request") == request


def run_job(path: Path) -> None:
    """Trains and measures one model in this process, as its job.json says, and writes result.json."""
    import torch
    from method_cases import evaluate_model

    from ldseg_auto.cli.common import keep_freed_memory
    from ldseg_auto.evaluation.report import without_nan
    from ldseg_auto.files import write_json
    from ldseg_auto.inference.device import choose_device

    job = json.loads(path.read_text(encoding="utf-8"))
    request, folder, device = job["request"], path.parent, choose_device(job["device"])
    torch.set_num_threads(job["threads"])
    if device.type == "cpu":
        keep_freed_memory()
    training = train(request, Path(job["preprocessed"]), folder, str(device.type))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    measured = evaluate_model(
        Path(training["fold"]), Path(job["preprocessed"]), request["settings"], request["seed"], request["cases"], request["samples"],
        device,
    )  # fmt: skip
    about = {"seconds": round(time.monotonic() - start, 1), "peak_mib": peak_mib(), "device": device_name(device)}
    write_json(folder / "result.json", without_nan({"request": request, "training": training, "evaluation": about, **measured}))


def train(request: Request, preprocessed: Path, folder: Path, device: str) -> dict[str, Any]:
    """Trains, or continues, or finds the training done; returns its record, which training.json keeps."""
    from ldseg_auto.files import write_json
    from ldseg_auto.training.options import Options
    from ldseg_auto.training.run import train_fold

    # What the measurement alone depends on does not make a training another one.
    request = {k: v for k, v in request.items() if k not in ("cases", "samples")}
    record, begun, results = folder / "training.json", folder / "training_request.json", folder / "results"
    if same_request(record, request):
        return json.loads(record.read_text(encoding="utf-8"))
    resume = same_request(begun, request) and bool(list(results.glob("*/*/fold_*/checkpoint_latest.pth")))
    if not resume:
        shutil.rmtree(results, ignore_errors=True)
        write_json(begun, {"request": request})
    options = Options(
        configuration=request["configuration"], settings=request["settings"], device=device, seed=request["seed"], resume=resume,
        validate=False, time_budget=request["minutes"] and request["minutes"] * 60,
        iterations=None if request["minutes"] else request["iterations"],
    )  # fmt: skip
    fold = train_fold(preprocessed, results, request["fold"], options)
    with open(fold / "training_log.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    manifest = json.loads((fold / "manifest.json").read_text(encoding="utf-8"))
    content = {
        "request": request, "fold": str(fold), "iterations": int(rows[-1]["iteration"]), "precision": manifest["precision"],
        "seconds": round(sum(float(r["seconds"]) for r in rows), 1), "peak_mib": peak_mib(),
    }  # fmt: skip
    write_json(record, content)
    return content


def peak_mib() -> float:
    """Of the GPU since the last reset, where one is used; else this process's largest resident memory since its start."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def device_name(device: Any) -> str:
    """The accelerator's name, or the processor's."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}: {machine()['processor']}"


def report(args: argparse.Namespace) -> None:
    """Writes method.md, method.json and the plots into the work folder, of the chosen results that are there."""
    from method_plots import draw_all
    from method_report import dataset_text, group, summarise

    from ldseg_auto.evaluation.report import without_nan

    texts, content = [], {}
    for name in args.datasets:
        found = [args.work / name / arm / f"seed_{seed}" / "result.json" for arm in args.arms for seed in args.seeds]
        results = [json.loads(p.read_text(encoding="utf-8")) for p in found if p.exists()]
        if not results:
            continue
        arms = group(results)
        content[name] = summarise(name, arms)
        plots = draw_all(args.work, name, arms)
        texts.append(dataset_text(name, content[name]) + "\n\n" + "\n".join(f"![{p.stem}]({p.name})" for p in plots))
    if not texts:
        sys.exit(f"error: {args.work} holds no result of {', '.join(args.datasets)} for {', '.join(args.arms)}.")
    about = {"machine": machine(), "versions": versions(OURS / "python", PACKAGES), "arms": {a: ARMS[a] for a in args.arms}}
    write_report(args.work, "method", "\n\n".join(texts), {**about, "datasets": without_nan(content)})


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", choices=list(DATASETS), nargs="+", default=list(DATASETS), help="(default: all)")
    parser.add_argument("--arms", choices=list(ARMS), nargs="+", help="(default: direct paper auto; with --report-only all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--fold", type=int, default=1, help="0 to choose, 1 to report (default: 1)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="of each training")
    budget.add_argument("--iterations", type=int, help="of each training")
    parser.add_argument("-c", "--configuration", help="passed to training (default: the plans' choice)")
    parser.add_argument("--planned", action="store_true", help="the plans' own widths and batches, not those that two cores can train")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help="for every arm, over its own")
    parser.add_argument("--cases", type=int, help="measure at most so many validation cases, evenly spaced (default: all)")
    parser.add_argument("--samples", type=int, default=16, help="per case that several raters drew (default: 16)")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time; the cores are shared among them (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder that holds the datasets (default: {DATA})")
    parser.add_argument("--preprocessed", type=Path, help="a preprocessed root: neither plan nor preprocess")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/output/method"), help="folder for data, models and the report")
    parser.add_argument("--report-only", action="store_true", help="make tables and plots again")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)  # train and measure what this file says, in this process
    args = parser.parse_args()
    args.arms = args.arms or (list(ARMS) if args.report_only else ["direct", "paper", "auto"])
    if not (args.job or args.report_only or args.minutes or args.iterations):
        parser.error("give the length of a training: --minutes or --iterations")
    if args.samples < 2 or args.jobs < 1 or (args.cases is not None and args.cases < 1):
        parser.error("expected --samples 2 or more, --jobs and --cases 1 or more")
    return args


def main() -> None:
    """Trains and measures what is missing, then reports; exits with 1 when a model failed."""
    args = parse()
    if args.job:
        run_job(args.job)
        return
    failed = [] if args.report_only else run_all(requests(args), preprocess(args), args)
    report(args)
    if failed:
        sys.exit(f"failed: {', '.join(str(f.relative_to(args.work)) for f in failed)}; see their log.txt and run the command again")


if __name__ == "__main__":
    main()
