"""What a training sample costs the worker that makes it: CPU milliseconds of one thread for reading it, and for augmenting it.

    .venv/bin/python benchmarks/augmentation.py /tmp/results/preprocessed/Dataset004_Hippocampus
    .venv/bin/python benchmarks/augmentation.py /tmp/results/preprocessed/Dataset004_Hippocampus -c 2d --batch 48 --profile

A worker keeps up where milliseconds x batch / workers is less than an iteration's. `--device cuda` measures augmentation on the card, a
batch at a time, in wall-clock milliseconds. Half a minute.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import time
from dataclasses import replace
from pathlib import Path

from common import machine, table, write_report

WARM_UP = 10  # batches


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds per sample."""
    import torch

    from ldseg_auto.planners.plans import Plans
    from ldseg_auto.training.batches import Batches
    from ldseg_auto.training.transforms import apply, collate

    torch.set_num_threads(1)
    plans = Plans.load(args.preprocessed / "ldsegPlans.json")
    configuration = plans.configuration(args.configuration or plans.default_configuration)
    configuration = replace(configuration, batch_size=args.batch or configuration.batch_size)
    cases = json.loads((args.preprocessed / "splits_final.json").read_text(encoding="utf-8"))[0]["train"]
    batches = Batches(args.preprocessed / configuration.data_identifier, cases, configuration, 0, WARM_UP + args.batches, True)
    read = made = 0.0
    for i in range(len(batches)):
        start = time.process_time()
        raws = batches.raws(i)
        middle, wall = time.process_time(), time.perf_counter()
        if args.device == "cuda":
            torch.cuda.synchronize()
            wall = time.perf_counter()
            apply(collate(raws).to(torch.device("cuda")))
            torch.cuda.synchronize()
        else:
            for raw in raws:
                apply(raw)
        end = middle + time.perf_counter() - wall if args.device == "cuda" else time.process_time()
        if i >= WARM_UP:
            read, made = read + middle - start, made + end - middle
    samples = args.batches * configuration.batch_size
    return {"reading": 1000 * read / samples, "augmentation": 1000 * made / samples}


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preprocessed", type=Path, help="a preprocessed dataset")
    parser.add_argument("-c", "--configuration", help="default: the plans'")
    parser.add_argument("--batch", type=int, help="samples (default: the plans')")
    parser.add_argument("--batches", type=int, default=100, help="default: 100")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="that augments (default: cpu)")
    parser.add_argument("--profile", action="store_true", help="show where the time goes too")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report")
    args = parser.parse_args()
    with cProfile.Profile() as profile:
        if not args.profile:
            profile.disable()
        found = measure(args)
    text = table([f"ms per sample, {args.device}", *found], [[args.configuration or "default", *(f"{v:.2f}" for v in found.values())]])
    write_report(args.output, "augmentation", text, {"machine": machine(), "arguments": vars(args), "milliseconds": found})
    if args.profile:
        pstats.Stats(profile).sort_stats("cumtime").print_stats(40)


if __name__ == "__main__":
    main()
