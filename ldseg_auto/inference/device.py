"""Which device, and which precision is fast there."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import torch

from ldseg_auto.errors import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bf16", "float16")
NAMES = {"float32": "32-true", "bf16": "bf16-mixed", "float16": "16-mixed"}  # Lightning Fabric's
TRIALS, TRIAL_CHANNELS, TRIAL_SHAPE, TRIAL_GAIN = 6, 32, (8, 16, 16), 0.8  # of bf16_pays


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: unknown name, or a device that this machine lacks.
    """
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if have[d]))
    if name not in have:
        raise InputError(f"--device {name}: expected one of {', '.join(DEVICES)}.")
    if not have[name]:
        raise InputError(f"--device {name}: this machine, or this build of torch, has none. Use --device auto.")
    return torch.device(name)


def training_precision(device: torch.device, wanted: str = "auto", processes: int = 1, thin: Sequence[int] = ()) -> str:
    """Lightning Fabric's name for `wanted` (auto, float32, bf16 or float16; plans: training.precision) on `device`.

    `auto`: bf16 where the hardware multiplies matrices of it (CUDA, AMX), else float16 on CUDA. A CPU with AVX512-BF16 but without AMX
    is tried out (`bf16_pays`), unless `processes` train together, which must choose alike. All else computes in float32: a CPU with AVX2
    alone emulates bf16, a 3D convolution was measured 20 to 40 times slower there.

    On a CPU bf16 is not for volumes of 2 planes: oneDNN 3.12 (torch 2.13, AVX512-BF16) leaves a part of the weights' gradient as the
    memory happened to be where a kernel of 3 meets such a volume; of 1, 3 to 10 planes, of stride 2 and in 2D it was right (2560
    convolutions against float32, 26 November 2026).

    Args:
        thin: planes of the grids that have fewer than the kernel on them (networks/depths.py).

    Raises:
        InputError: float16 where only CUDA multiplies it, bf16 where its gradients would be wrong.
    """
    unsafe = device.type == "cpu" and bool(thin)
    if wanted == "float16" and device.type != "cuda":
        raise InputError(f"training.precision = float16 needs CUDA, the device is {device.type}. Use bf16, float32 or auto there.")
    if wanted == "bf16" and unsafe:
        grids = f"the network has 3D grids of {', '.join(map(str, thin))} planes, fewer than the kernels on them"
        raise InputError(f"training.precision = bf16: {grids}, whose gradients a CPU gets wrong in bf16. Use float32 or auto.")
    if wanted != "auto":
        return NAMES[wanted]
    if device.type == "cuda":
        return NAMES["bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"]
    if device.type != "cpu" or unsafe:
        return NAMES["float32"]
    tried = processes == 1 and torch.cpu._is_avx512_bf16_supported()
    return NAMES["bf16" if torch.cpu._is_amx_tile_supported() or (tried and bf16_pays()) else "float32"]


@functools.cache
def bf16_pays() -> bool:
    """Whether a 3D convolution, forward and backward, takes at least a fifth less time in bf16 than in float32 on this CPU: the fastest of
    some alternating trials, a tenth to a fifth of a second.

    The dot product of AVX512-BF16 does twice a float32 unit's work on some processors (measured: training 1.9 times as fast on a Zen 4),
    and no more than two of its units on others, where conversions come on top (measured: 1.3 times slower).
    """
    image = torch.ones(1, TRIAL_CHANNELS, *TRIAL_SHAPE, requires_grad=True)
    weight = torch.ones(TRIAL_CHANNELS, TRIAL_CHANNELS, 3, 3, 3, requires_grad=True)
    fastest = {True: float("inf"), False: float("inf")}
    for _ in range(TRIALS):
        for lowered in fastest:
            start = time.perf_counter()
            with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=lowered):
                loss = torch.nn.functional.conv3d(image, weight, padding=1).sum()
            loss.backward()
            fastest[lowered] = min(fastest[lowered], time.perf_counter() - start)
    return fastest[True] < TRIAL_GAIN * fastest[False]


def inference_type(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """What networks compute in at prediction: `auto` is float16 on CUDA and float32 elsewhere; other names are taken as they are.

    float16 has three bits more than bf16: on an H100 its masks of 12 hippocampi differed in a seventh of the voxels from float32's
    (documentation/benchmarks.md). Where its range does not suffice, the case is predicted in float32 (fallback.py).
    """
    if wanted != "auto":
        return {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}[wanted]
    return torch.float16 if device.type == "cuda" else torch.float32


def make_deterministic() -> None:
    """Tells torch, for this whole process, to use algorithms on CUDA that give the same bits each time; slower there.

    cuBLAS asks for the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8 besides, which torch names in its error.
    """
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
