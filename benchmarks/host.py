"""What prediction costs beside the networks, which a constant replaces: reading, tiles and noise, blending, export, figures, writing.

    .venv/bin/python benchmarks/host.py                                  Hippocampus, 5 cases of 27 times as many voxels, 1, 2 and 5 samples
    .venv/bin/python benchmarks/host.py --repeat 1 --cases 60            the images as they are

On a graphics card the host does this work beside the networks, but for blending and softmax, which the card does; where it takes longer
than they do, it decides the speed. Everything runs on one thread of the CPU, tile by tile; the second of two runs counts. The constant
is a ball of both classes in every tile, a tenth of its voxels.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from common import DATA, machine, table, write_report
from predict import HIPPOCAMPUS, copy_images, write_model

SAMPLES = (1, 2, 5)
FOREGROUND = 0.1  # of a tile


def without_networks() -> None:
    """Replaces what LDSeg computes, in this process, by one ball per tile; its shapes stay."""
    import torch

    from ldseg_auto.networks.ldseg import Condition, LDSeg

    known: dict[tuple[int, ...], torch.Tensor] = {}

    def decode(self: LDSeg, z: torch.Tensor, condition: Condition | None) -> torch.Tensor:
        shape = (len(z), *(s * f for s, f in zip(z.shape[2:], self.factor, strict=True)))
        if shape not in known:
            axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape[1:]), indexing="ij")
            distance = sum(a.square() for a in axes)
            inside = distance < distance.flatten().kthvalue(round(FOREGROUND * distance.numel())).values
            heads = [(~inside).float(), *((inside & (axes[0] * sign >= 0)).float() for sign in (1, -1))]
            known[shape] = 4 * torch.stack(heads).expand(len(z), *([-1] * (len(shape)))).contiguous()
        return known[shape]

    LDSeg.condition = lambda self, image: Condition([], [])  # type: ignore[method-assign]
    LDSeg.sample = lambda self, noise, condition, steps, fresh=None: noise  # type: ignore[method-assign]
    LDSeg.decode = decode  # type: ignore[method-assign]


def model_of(args: argparse.Namespace) -> Path:
    """A model folder of this project's plan for Hippocampus, with random weights."""
    from first_results import run as run_command

    from ldseg_auto.planners.plans import Plans

    if not (args.work / "raw" / HIPPOCAMPUS).exists():
        shutil.copytree(args.data / HIPPOCAMPUS, args.work / "raw" / HIPPOCAMPUS)
    if not (args.work / "preprocessed" / HIPPOCAMPUS / "ldsegPlans.json").exists():
        run_command("ldseg_plan", "-d", 4, "--raw", args.work / "raw", "--preprocessed", args.work / "preprocessed")
    plans = Plans.load(args.work / "preprocessed" / HIPPOCAMPUS / "ldsegPlans.json")
    return write_model(args.work / "results", plans, (args.work / "raw" / HIPPOCAMPUS / "dataset.json").read_text(encoding="utf-8"))


def measure(model: Path, images: Path, output: Path, samples: int) -> dict[str, float]:
    """Wall clock and CPU seconds of the second of two runs over a folder."""
    from ldseg_auto.inference.predictor import Predictor

    with Predictor.from_folder(model, device="cpu", steps=1, samples=samples) as predictor:
        for _ in range(2):
            shutil.rmtree(output, ignore_errors=True)
            start, cpu = time.perf_counter(), time.process_time()
            statuses = predictor.predict_folder(images, output)
            spent = time.perf_counter() - start, time.process_time() - cpu
    if failed := [s for s in statuses if s.status != "done"]:
        sys.exit(f"failed: {failed}")
    return {"seconds": spent[0] / len(statuses), "cpu_seconds": spent[1] / len(statuses)}


def main() -> None:
    """Runs and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report (default: benchmarks/output)")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder that holds {HIPPOCAMPUS} (default: {DATA})")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/output/host"), help="folder for images, model and predictions")
    parser.add_argument("--cases", type=int, default=5, help="default: 5")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="images N times side by side along each axis (default: 3)")
    args = parser.parse_args()
    args.work = args.work.resolve()
    import torch

    from ldseg_auto.cli.common import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    model = model_of(args)
    images = copy_images(args.work / "raw" / HIPPOCAMPUS / "imagesTr", args.work / "images", args.cases, args.repeat)
    without_networks()
    found: dict[int, Any] = {samples: measure(model, images, args.work / "predicted", samples) for samples in SAMPLES}
    rows = [[n, f"{f['seconds']:.3f}", f"{f['cpu_seconds']:.3f}"] for n, f in found.items()]
    text = f"Hippocampus, {args.cases} cases, each {args.repeat} times along each axis, networks replaced by a constant\n\n"
    text += table(["samples", "seconds per case", "CPU seconds per case"], rows)
    write_report(args.output, "host", text, {"machine": machine(), "settings": vars(args), "measured": found})


if __name__ == "__main__":
    main()
