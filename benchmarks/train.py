"""Training throughput: nnU-Net 2.8.1 and this project's `direct` and `auto`, alternating on the same machine and the same cases.

    .venv/bin/python benchmarks/train.py                                    Hippocampus, 3d_fullres, on the CPU (10 minutes on two cores)
    .venv/bin/python benchmarks/train.py --rounds 1 --iterations 4          a try
    .venv/bin/python benchmarks/train.py --device cuda --iterations 200 --workers 12
    .venv/bin/python benchmarks/train.py --device cuda --only direct auto auto-compiled --set training.augment_on=cpu
    .venv/bin/python benchmarks/train.py --device cuda --only auto auto-no-graphs     what CUDA graphs save (training.graphs)

All train fold 0 of Hippocampus with nnU-Net's planned patch, widths and strides of the encoder, and `--batch` samples, augmented with the
same probabilities, by `--workers` processes each. A run is a process of its own: one epoch of `--iterations` to warm up, then one that is
measured; rounds alternate, and the median counts. On a shared machine CPU time (of the training process, with `--threads 1`) says more.

What remains different: ours has residual blocks (two convolutions each, as nnU-Net's stages), a label encoder and a denoiser, AdamW and an
average of the weights; nnU-Net has deep supervision, and compiles itself on CUDA. Waiting is the share of the epoch without work because
the next batch was not there. `--device cuda` adds the card's memory and the share of its bf16 peak, from the operations that
torch.utils.flop_counter counts. To expect: direct no slower than nnU-Net, auto at most 1.25 times direct's time, waiting below 5 % where
there are cores enough.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common import DATA, OURS, ROOT, machine, measure, nnunet_environment, table, versions, write_report

T = TypeVar("T")
HIPPOCAMPUS, CONFIGURATION = "Dataset004_Hippocampus", "3d_fullres"
ROWS = ("nnunet", "direct", "auto", "direct-compiled", "auto-compiled", "direct-no-graphs", "auto-no-graphs")
PACKAGES = ("nnunetv2", "ldseg-auto", "torch", "numpy", "batchgenerators", "batchgeneratorsv2", "dynamic-network-architectures")
BF16_PEAK = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}  # operations a second, without sparsity
RESULT = "result.json"


@dataclass(frozen=True)
class Run:
    """One measured epoch."""

    seconds: float  # per iteration
    cpu_seconds: float  # of the training process per iteration, which a busy machine changes least; workers not counted
    waiting: float  # share of the epoch
    memory_mib: float  # of all processes, largest sum
    device_mib: float | None = None  # largest allocation on the card
    operations: float | None = None  # floating-point, per iteration


class Untracked(contextlib.nullcontext):
    """For torch's counter of operations: all of them count for the whole."""

    parents = {"Global"}


class Enough(Exception):
    """The measured epoch is over."""


class Stopwatch:
    """A `progress` of training that times its second epoch."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds, self.cpu_seconds = device, 0.0, 0.0

    def __call__(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        epoch = description.startswith("epoch")
        if epoch and self.seconds:
            raise Enough
        self._wait()
        start, cpu, count = time.perf_counter(), time.process_time(), 0
        for item in items:
            yield item
            count += 1
        self._wait()
        if epoch and not description.endswith(" 1"):
            self.seconds, self.cpu_seconds = (time.perf_counter() - start) / count, (time.process_time() - cpu) / count

    def _wait(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()


def our_run(args: argparse.Namespace, row: str) -> None:
    """In a process of its own: trains two epochs and writes what it measured."""
    import torch

    from ldseg_auto.cli.common import keep_freed_memory
    from ldseg_auto.training.options import Options
    from ldseg_auto.training.run import train_fold

    keep_freed_memory()
    torch.set_num_threads(args.threads)
    results = args.work / "ours_results"
    shutil.rmtree(results, ignore_errors=True)
    watch = Stopwatch(args.device)
    options = Options(CONFIGURATION, our_settings(args, row), device=args.device, validate=False)
    with contextlib.suppress(Enough):
        train_fold(args.work / "ours" / HIPPOCAMPUS, results, 0, options, watch)
    with open(next(results.glob("*/*/fold_0/training_log.csv")), encoding="utf-8") as stream:
        waiting = float(list(csv.DictReader(stream))[-1]["waiting"])
    found: dict[str, Any] = {"seconds": watch.seconds, "cpu_seconds": watch.cpu_seconds, "waiting": waiting}
    if args.device == "cuda":
        found["device_mib"] = torch.cuda.max_memory_allocated() / 2**20
        found["operations"] = our_operations(next(results.glob("*/*/fold_0/plans.json")))
    (args.work / RESULT).write_text(json.dumps(found), encoding="utf-8")


def our_settings(args: argparse.Namespace, row: str) -> list[str]:
    """`--set` values of a row."""
    theirs = nnunet_configuration(args)
    widths = theirs["architecture"]["arch_kwargs"]["features_per_stage"]
    return [
        f"network.variant={row.split('-')[0]}", f"network.features_per_stage={json.dumps(widths)}",
        f"patch_size={json.dumps(theirs['patch_size'])}", f"batch_size={args.batch}", f"training.workers={args.workers}",
        f"training.iterations_per_epoch={args.iterations}", "training.epochs=3", "training.validation_patches=1",
        f"training.compile={str(row.endswith('-compiled')).lower()}",
        f"training.graphs={'off' if row.endswith('-no-graphs') else 'auto'}", *args.settings,
    ]  # fmt: skip


def our_operations(plans: Path) -> float:
    """Floating-point operations of one training step on CUDA, mean of eight (shares of a batch are drawn)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ldseg_auto.networks.ldseg import LDSeg
    from ldseg_auto.planners.plans import Plans
    from ldseg_auto.training.objective import Objective

    configuration = Plans.load(plans).configuration(CONFIGURATION)
    objective = Objective(LDSeg(configuration, 3), configuration, regions=False).cuda().train()
    image = torch.randn(configuration.batch_size, configuration.channels, *configuration.patch_size, device="cuda")
    onehot = torch.nn.functional.one_hot(torch.zeros_like(image[:, 0], dtype=torch.int64), 3).movedim(-1, 1).float().contiguous()
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = Untracked()  # its own fails on modules that run without gradient, as recycling does
    with counter, torch.autocast("cuda", torch.bfloat16):
        for _ in range(8):
            objective(image, onehot, torch.ones_like(onehot[:, :1]))["loss"].backward()
    return counter.get_total_flops() / 8


def nnunet_configuration(args: argparse.Namespace) -> dict[str, Any]:
    """nnU-Net's plan of the configuration."""
    plans = json.loads((args.work / "nnunet" / HIPPOCAMPUS / "nnUNetPlans.json").read_text(encoding="utf-8"))
    return plans["configurations"][CONFIGURATION]


def prepare(args: argparse.Namespace) -> None:
    """Both tools' preprocessed cases, and nnU-Net's plans with the batch that is measured."""
    raw = args.work / "raw"
    if not (raw / HIPPOCAMPUS).exists():
        shutil.copytree(args.data / HIPPOCAMPUS, raw / HIPPOCAMPUS)
    if not (args.work / "nnunet" / HIPPOCAMPUS / f"nnUNetPlans_{CONFIGURATION}").exists():
        command = [str(nnunet_environment() / "nnUNetv2_plan_and_preprocess"), "-d", "4", "-c", CONFIGURATION, "-np", "2", "-npfp", "2"]
        measure("nnunet", command, args.work / "logs" / "nnunet_preprocess.txt", nnunet_roots(args))
    if not (args.work / "ours" / HIPPOCAMPUS / "splits_final.json").exists():
        command = [str(OURS / "ldseg_plan_and_preprocess"), "-d", "4", "-c", CONFIGURATION, "--raw", str(raw)]
        measure("ours", [*command, "--preprocessed", str(args.work / "ours")], args.work / "logs" / "our_preprocess.txt")
    path = args.work / "nnunet" / HIPPOCAMPUS / "nnUNetPlans.json"
    plans = json.loads(path.read_text(encoding="utf-8"))
    plans["configurations"][CONFIGURATION]["batch_size"] = args.batch
    plans["plans_name"] = "benchmarkPlans"
    path.with_name("benchmarkPlans.json").write_text(json.dumps(plans), encoding="utf-8")


def nnunet_roots(args: argparse.Namespace) -> dict[str, str]:
    """Its environment variables."""
    names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "nnunet", "nnUNet_results": "nnunet_results"}
    return {k: str(args.work / v) for k, v in names.items()} | {"nnUNet_n_proc_DA": str(args.workers)}


def run(args: argparse.Namespace, row: str, number: int) -> Run:
    """One row in a process of its own."""
    log = args.work / "logs" / f"{row}_{number}.txt"
    (args.work / RESULT).unlink(missing_ok=True)
    if row == "nnunet":
        script = [str(nnunet_environment() / "python"), str(ROOT / "benchmarks" / "train_nnunet.py"), HIPPOCAMPUS, CONFIGURATION]
        command, variables = [*script, args.device, str(args.threads), str(args.iterations), str(args.work / RESULT)], nnunet_roots(args)
    else:
        command, variables = [sys.executable, *sys.argv, "--row", row], {}
    measured = measure(row, command, log, variables)
    return Run(memory_mib=measured.peak_mib, **json.loads((args.work / RESULT).read_text(encoding="utf-8")))


def report(found: dict[str, list[Run]], batch: int, peak: float | None) -> str:
    """The Markdown table."""
    seconds = {row: statistics.median(r.seconds for r in runs) for row, runs in found.items()}
    cpu = {row: statistics.median(r.cpu_seconds for r in runs) for row, runs in found.items()}
    rows = []
    for row, runs in found.items():
        waiting, memory = statistics.median(r.waiting for r in runs), max(r.memory_mib for r in runs)
        ratios = [f"{of[row] / of[base]:.2f}" if base in of else "-" for of in (seconds, cpu) for base in ("nnunet", "direct")]
        line = [row, f"{seconds[row]:.3f}", f"{batch / seconds[row]:.2f}", *ratios, f"{waiting:.1%}", f"{memory:.0f}"]
        if peak:
            reached = f"{runs[0].operations / seconds[row] / peak:.1%}" if runs[0].operations else "-"
            line += [f"{runs[0].device_mib or 0:.0f}", reached]
        rows.append(line)
    header = ["", "seconds per iteration", "samples per second", "time / nnU-Net's", "time / direct's"]
    header += ["CPU time / nnU-Net's", "CPU time / direct's", "waiting", "memory, MiB"]
    return table(header + (["on the card, MiB", "of its bf16 peak"] if peak else []), rows)


def card_peak() -> float | None:
    """bf16 operations per second of this machine's card, by its name; None where it is not known."""
    done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True)
    return next((peak for name, peak in BF16_PEAK.items() if name in done.stdout), None)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report (default: benchmarks/output)")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder that holds {HIPPOCAMPUS} (default: {DATA})")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/output/train"), help="folder for preprocessed data, models and logs")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each row (default: 2)")
    parser.add_argument("--iterations", type=int, default=12, help="of the measured epoch, and of the warm-up (default: 12)")
    parser.add_argument("--batch", type=int, default=7, help="samples per iteration (default: 7, as both plan)")
    parser.add_argument("--workers", type=int, default=2, help="processes that augment (default: 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the training on the CPU (default: one per CPU)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS[:3]), help="rows (default: nnunet direct auto)")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help="of our rows, as of ldseg_train")
    parser.add_argument("--row", choices=ROWS[1:], help=argparse.SUPPRESS)  # measure this row in this process
    args = parser.parse_args(argv)
    args.work, args.output = args.work.resolve(), args.output.resolve()
    return args


def main() -> None:
    """Runs and reports."""
    args = arguments()
    if args.row:
        our_run(args, args.row)
        return
    prepare(args)
    found: dict[str, list[Run]] = {row: [] for row in args.only}
    for number in range(args.rounds):
        for row in args.only:
            found[row].append(run(args, row, number))
            print(f"round {number}: {row} {found[row][-1]}", flush=True)
    peak = card_peak() if args.device == "cuda" else None
    text = f"Hippocampus, {CONFIGURATION}, patch {nnunet_configuration(args)['patch_size']}, batch {args.batch}, {args.device}, "
    text += f"{args.workers} workers, {args.iterations} iterations\n\n" + report(found, args.batch, peak)
    known = {"ours": versions(OURS / "python", PACKAGES)}
    if "nnunet" in args.only:
        known["nnunet"] = versions(nnunet_environment() / "python", PACKAGES)
    content = {"machine": machine(), **known, "settings": vars(args), "runs": {row: [vars(r) for r in runs] for row, runs in found.items()}}
    write_report(args.output, f"train_{args.device}", text, content)


if __name__ == "__main__":
    main()
