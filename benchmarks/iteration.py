"""Seconds per training iteration on random tensors: variants, precision, and freed memory kept or given back.

    .venv/bin/python benchmarks/iteration.py /tmp/results/preprocessed/Dataset004_Hippocampus/ldsegPlans.json \\
        --set "network.features_per_stage=[16,32,64,128]" --set batch_size=2

Each row is a process of its own; rows alternate over the rounds and the fastest process counts. To expect on two cores: auto 1.2 to 1.4
times direct, bf16 between half of float32's time and 1.3 times it, as the processor goes, memory given back slower than kept. About 2
minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from common import machine, table, versions, write_report

ROWS = (("direct", "float32", "kept"), ("auto", "float32", "kept"), ("auto", "bf16", "kept"), ("auto", "float32", "given back"))
HEADS = 3
ITERATIONS = 16  # shares of a small batch are whole samples: iterations differ in what they train


def measure(plans: Path, settings: list[str], variant: str, precision: str, memory: str) -> dict[str, float]:
    """Mean seconds of some iterations (forward, backward), and page faults per iteration."""
    from ldseg_auto.cli.common import keep_freed_memory

    if memory == "kept":
        keep_freed_memory()
    import torch

    from ldseg_auto.networks.ldseg import LDSeg
    from ldseg_auto.planners.overrides import override
    from ldseg_auto.planners.plans import Plans
    from ldseg_auto.training.objective import Objective

    torch.manual_seed(0)
    configuration = override(Plans.load(plans).configuration(), [*settings, f"network.variant={variant}"])
    objective = Objective(LDSeg(configuration, HEADS), configuration, regions=False).train()
    image = torch.randn(configuration.batch_size, configuration.channels, *configuration.patch_size)
    label = torch.randint(0, HEADS, (configuration.batch_size, *configuration.patch_size))
    onehot = torch.nn.functional.one_hot(label, HEADS).movedim(-1, 1).float().contiguous()
    seconds = []
    for i in range(ITERATIONS + 1):
        if i == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt  # the first iteration warms up
        start = time.perf_counter()
        objective.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(image, onehot, torch.ones_like(onehot[:, :1]))["loss"]
        loss.backward()
        seconds.append(time.perf_counter() - start)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {"seconds": sum(seconds[1:]) / ITERATIONS, "faults": faults / ITERATIONS}


def main() -> None:
    """Runs all rows in alternating rounds and writes iteration.md and iteration.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", type=Path, help="ldsegPlans.json of a preprocessed dataset")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help="as of ldseg_train")
    parser.add_argument("--rounds", type=int, default=2, help="processes per row (default: 2)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)  # measure this row in this process
    args = parser.parse_args()
    if args.row is not None:
        print(json.dumps(measure(args.plans, args.settings, *ROWS[args.row])))
        return
    settings = [word for value in args.settings for word in ("--set", value)]
    found: dict[int, list[dict[str, float]]] = {i: [] for i in range(len(ROWS))}
    for _ in range(args.rounds):
        for i in found:
            command = [sys.executable, __file__, str(args.plans), *settings, "--row", str(i)]
            found[i].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))
    best = {i: min(runs, key=lambda run: run["seconds"]) for i, runs in found.items()}
    base = best[ROWS.index(("auto", "float32", "kept"))]["seconds"]
    rows = [[*ROWS[i], f"{b['seconds']:.2f}", f"{b['seconds'] / base:.2f}", f"{b['faults']:.0f}"] for i, b in best.items()]
    header = ("variant", "precision", "freed memory", "s per iteration", "against auto", "page faults")
    known = versions(Path(sys.executable), ("torch", "ldseg-auto"))
    about = {"machine": machine(), "versions": known, "settings": args.settings, "runs": found}
    write_report(args.output, "iteration", table(header, rows), about)


if __name__ == "__main__":
    main()
