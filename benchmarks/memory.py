"""Estimated against measured memory of training and of prediction, over twelve plans.

    .venv/bin/python benchmarks/memory.py --output /tmp/memory                    # CPU: about 4 minutes, up to 4 GiB
    python benchmarks/memory.py --device cuda --output /tmp/memory                # a graphics card: under a minute, up to 24 GiB

Estimated: planners/rules/memory.py, for the device's precision and without the reserve of a card. Measured: random tensors through the
project's objective, AdamW, clipping and EMA, a few iterations of each plan; then one network call of the sliding window.

CUDA: torch.cuda.max_memory_allocated from before the model is built, under autocast to bfloat16 as in training. The context and what the
allocator holds without using it come on top on the card; the column `reserved` says what the allocator took from it.
CPU: each plan in a process of its own, float32; the largest resident size (VmHWM, which /proc/self/clear_refs sets back) less the resident
size before the model is built. glibc is told (MALLOC_MMAP_THRESHOLD_) to map every block of 64 KiB or more by itself and to give it back
when it is freed, so that the resident size follows what is in use; ldseg_train lets it keep freed blocks, which is faster and takes more.
To expect: ratios of training within 15% of 1; of prediction too, but for plans below 0.2 GiB on a CPU, where oneDNN holds as much again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import machine, table, write_report

ITERATIONS = 2
PRIVATE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
GIB = 2**30
TOLERANCE = 0.15
MAX_WIDTH = {2: 512, 3: 320}  # planner.MAX_WIDTH, whose module needs packages that a bare GPU machine lacks


@dataclass(frozen=True)
class Row:
    """One plan: what the planner would be given."""

    name: str
    spacing: tuple[float, ...]  # mm
    patch: tuple[int, ...]  # voxels
    batch: int
    heads: int = 3
    channels: int = 1  # of the image
    raters: int = 1
    variant: str = "auto"
    factor: int = 0  # index among the candidates of the latent rule, finest first
    latent: int = 32  # channels
    width: int = 32  # of the first stage
    regions: bool = False


CUBE, COARSE, PLANE = (1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (1.0, 1.0)
CUDA = (
    Row("2D", PLANE, (512, 512), 8),
    Row("2D, large patch, colour", PLANE, (1024, 1024), 4, heads=2, channels=3),
    Row("2D, small patch, batch 48", PLANE, (128, 160), 48, heads=4, latent=8, factor=1),
    Row("2D, 4 raters", PLANE, (384, 384), 12, heads=2, raters=4, latent=4),
    Row("2D, direct", PLANE, (512, 448), 12, variant="direct"),
    Row("3D, batch 2", CUBE, (128, 128, 128), 2),
    Row("3D, large patch", CUBE, (160, 192, 160), 2, heads=2, latent=4, factor=1),
    Row("3D, small patch, batch 9", CUBE, (40, 56, 40), 9),
    Row("3D, 16 heads, regions", CUBE, (96, 128, 96), 3, heads=16, regions=True),
    Row("3D, 4 channels, coarse axis", COARSE, (32, 192, 160), 3, channels=4, heads=4),
    Row("3D, 4 raters", CUBE, (96, 96, 96), 4, heads=2, raters=4, latent=16),
    Row("3D, direct, odd batch", CUBE, (112, 128, 96), 5, variant="direct", heads=5),
)
CPU = (
    Row("2D", PLANE, (256, 256), 4),
    Row("2D, large patch, colour", PLANE, (512, 448), 2, heads=2, channels=3, width=16),
    Row("2D, small patch, batch 16", PLANE, (96, 128), 16, heads=4, latent=8, factor=1, width=16),
    Row("2D, 4 raters", PLANE, (192, 192), 6, heads=2, raters=4, latent=4),
    Row("2D, direct", PLANE, (256, 224), 6, variant="direct", width=16),
    Row("3D, batch 2", CUBE, (48, 48, 48), 2),
    Row("3D, large patch", CUBE, (96, 80, 64), 2, heads=2, latent=4, factor=1, width=16),
    Row("3D, small patch, batch 9", CUBE, (24, 32, 24), 9, width=16),
    Row("3D, 16 heads, regions", CUBE, (48, 64, 48), 3, heads=16, regions=True, width=16),
    Row("3D, 4 channels, coarse axis", COARSE, (16, 80, 80), 3, channels=4, heads=4, width=16),
    Row("3D, 4 raters", CUBE, (40, 40, 40), 4, heads=2, raters=4, latent=16, width=16),
    Row("3D, direct, odd batch", CUBE, (56, 64, 48), 5, variant="direct", heads=5, width=16),
)
ROWS = {"cpu": CPU, "cuda": CUDA}


def configuration_of(row: Row) -> Any:
    """The Configuration of a row: the planner's own strides, kernels and widths for its patch."""
    from ldseg_auto.planners.plans import Configuration, Latent, Network, Sampling
    from ldseg_auto.planners.rules.latent import candidate_factors
    from ldseg_auto.planners.rules.topology import topology

    shape = topology(row.spacing, row.patch)
    widths = tuple(min(row.width * 2**i, MAX_WIDTH[len(row.patch)]) for i in range(len(shape.strides)))
    network = Network(row.variant, widths, shape.strides, shape.kernel_sizes)
    factors = candidate_factors(network.cumulative_strides[1:])
    return Configuration(
        "memory", row.spacing, shape.patch_size, row.batch, (1.0, 1.0, 1.0), ("zscore",) * row.channels, (False,) * row.channels,
        network, Latent(factors[min(row.factor, len(factors) - 1)], row.latent), Sampling(3), raters=row.raters,
    )  # fmt: skip


def estimate(row: Row, device: str) -> dict[str, float]:
    """GiB of one training step and of one network call of prediction, for the device's precision; seconds that it took."""
    from ldseg_auto.planners.rules.memory import prediction_gib, training_gib
    from ldseg_auto.training.memory import CARD, HOST

    kernels = CARD if device == "cuda" else HOST
    configuration, start = configuration_of(row), time.perf_counter()
    training = training_gib(configuration, row.heads, row.regions, kernels)
    prediction = prediction_gib(configuration, row.heads, kernels)
    return {"training": training, "prediction": prediction, "seconds": time.perf_counter() - start}


class Meter:
    """Peak memory in GiB since `restart`, above what was in use when the meter was made."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.before = self._now()

    def _now(self) -> int:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
            return torch.cuda.memory_allocated()
        return _status("VmRSS")

    def restart(self) -> None:
        """Forgets the peak so far."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float:
        """GiB."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
            return (torch.cuda.max_memory_allocated() - self.before) / GIB
        return (_status("VmHWM") - self.before) / GIB


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def measure(row: Row, device: str) -> dict[str, float]:
    """Peak GiB of training and of prediction, of their forward and backward passes, and of what CUDA's allocator reserved."""
    import torch

    torch.manual_seed(0)
    small = configuration_of(replace(row, width=8, batch=2)).network.cumulative_strides[-1]
    tiny = replace(row, width=8, batch=2, patch=tuple(max(16, 2 * s) for s in small))
    _train(tiny, device)  # what the first operations of a process hold for good: libraries, their caches, cuBLAS's workspace
    _predict(tiny, device)
    found = _train(row, device)
    if device == "cuda":
        found["reserved"] = torch.cuda.max_memory_reserved() / GIB
        torch.cuda.empty_cache()
    return {**found, "prediction": _predict(row, device)}


def _train(row: Row, device: str) -> dict[str, float]:
    """Peak GiB of some iterations, and of the parts of an iteration."""
    import torch

    from ldseg_auto.networks.ldseg import LDSeg
    from ldseg_auto.training.ema import EMA
    from ldseg_auto.training.objective import Objective

    configuration = configuration_of(row)
    meter = Meter(device)
    meter.restart()
    objective = Objective(LDSeg(configuration, row.heads), configuration, row.regions).to(device)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=1e-4)
    ema = EMA(objective.model, configuration.training.ema_decay)
    found = {"forward": 0.0, "backward": 0.0, "update": 0.0}
    for _ in range(ITERATIONS):
        for name, peak in _iterate(row, configuration, objective, optimiser, ema, meter).items():
            found[name] = max(found[name], peak)
    return {"training": max(found.values()), **found}


def _iterate(row: Row, configuration: Any, objective: Any, optimiser: Any, ema: Any, meter: Meter) -> dict[str, float]:
    """One step as training/loop.py takes it; the peak of each of its parts."""
    import torch

    device, shape = meter.device, (row.batch, *configuration.patch_size)
    table_of_heads = torch.cat([torch.eye(row.heads), torch.zeros(1, row.heads)]).to(device)
    meter.restart()
    image = torch.randn(row.batch, row.channels, *configuration.patch_size).to(device)
    label = torch.randint(0, row.heads, shape).to(device)
    valid = torch.ones_like(label[:, None], dtype=torch.float32)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        losses = objective.train()(image, table_of_heads[label].movedim(-1, 1).contiguous(), valid)
    found = {"forward": meter.peak()}
    meter.restart()
    optimiser.zero_grad(set_to_none=True)
    losses["loss"].backward()
    found["backward"] = meter.peak()
    meter.restart()
    torch.nn.utils.clip_grad_norm_(objective.parameters(), configuration.training.gradient_clip)
    optimiser.step()
    ema.update(objective.model)
    return found | {"update": meter.peak()}


def _predict(row: Row, device: str) -> float:
    """Peak GiB of one network call as inference/window.py makes it."""
    import torch

    from ldseg_auto.networks.ldseg import LDSeg

    configuration, meter = configuration_of(row), Meter(device)
    meter.restart()
    model = LDSeg(configuration, row.heads).eval().requires_grad_(False).to(device)
    size = configuration.inference.tile_batch
    tiles = torch.randn(size, row.channels, *configuration.patch_size).to(device)
    noise = torch.randn(size, *model.latent_shape(configuration.patch_size)).to(device)
    meter.restart()
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        condition = model.condition(tiles)
        scores = model.decode(model.sample(noise, condition, configuration.sampling.steps), condition)
        scores = scores.float()
    return meter.peak()


def compare(row: Row, device: str) -> dict[str, Any]:
    """Estimate and measurement of a row."""
    measured = measure(row, device)  # first: the estimate imports and allocates
    return {"plan": asdict(row), "estimated": estimate(row, device), "measured": measured}


def _in_own_process(index: int, device: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--device", device, "--row", str(index)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **PRIVATE})
    return json.loads(done.stdout.splitlines()[-1])


def report(found: list[dict[str, Any]]) -> str:
    """The Markdown table, with the largest deviation below it."""
    rows, ratios = [], []
    for one in found:
        plan, estimated, measured = one["plan"], one["estimated"], one["measured"]
        pairs = [(estimated[k], measured[k]) for k in ("training", "prediction")]
        ratios.append([e / m for e, m in pairs])
        cells = [cell for (e, m), r in zip(pairs, ratios[-1], strict=True) for cell in (f"{e:.3f}", f"{m:.3f}", f"{r:.3f}")]
        reserved = f"{measured['reserved']:.2f}" if "reserved" in measured else "-"
        rows.append([plan["name"], " x ".join(map(str, plan["patch"])), plan["batch"], *cells, reserved])
    header = ["plan", "patch", "batch", *(f"{k}: {c}" for k in ("training", "prediction") for c in ("estimated", "measured", "ratio"))]
    worst = [max(abs(r[i] - 1) for r in ratios) for i in range(2)]
    inside = [sum(abs(r[i] - 1) <= TOLERANCE for r in ratios) for i in range(2)]
    within = f"{TOLERANCE:.0%} in {inside[0]} of {len(ratios)}"
    summary = f"Training: largest deviation {worst[0]:.1%}, within {within}; prediction: {worst[1]:.1%}, {inside[1]} of {len(ratios)}. GiB."
    return table([*header, "reserved"], rows) + "\n\n" + summary


def main() -> None:
    """Compares all rows and writes memory_DEVICE.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=sorted(ROWS), default="cpu")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)  # compare this row in this process
    args = parser.parse_args()
    rows = ROWS[args.device]
    if args.row is not None:
        print(json.dumps(compare(rows[args.row], args.device)))
        return
    start = time.perf_counter()
    own = args.device == "cpu"  # the resident size of a process has a history, CUDA's count of bytes has none
    found = []
    for i, row in enumerate(rows):
        found.append(_in_own_process(i, args.device) if own else compare(row, args.device))
        print(row.name, found[-1]["estimated"], found[-1]["measured"], flush=True)
    about = {"machine": machine(), "device": _name(args.device), "seconds": time.perf_counter() - start, "rows": found}
    write_report(args.output, f"memory_{args.device}", report(found), about)


def _name(device: str) -> str:
    import torch

    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}" if device == "cuda" else f"CPU, torch {torch.__version__}"


if __name__ == "__main__":
    main()
