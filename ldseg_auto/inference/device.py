"""Which device, and which precision is fast there."""

from __future__ import annotations

import torch

from ldseg_auto.errors import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bf16", "float16")


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


def training_precision(device: torch.device, wanted: str = "auto") -> str:
    """Lightning Fabric's name for `wanted` (auto, float32, bf16 or float16; plans: training.precision) on `device`.

    `auto`: bf16 where the hardware multiplies matrices of it (CUDA, AMX), else float16 on CUDA and float32 elsewhere. A CPU with
    AVX2 alone emulates bf16: a 3D convolution was measured 20 to 40 times slower there than in float32. One with AVX512-BF16 but
    without AMX was measured 1.3 times slower: its dot product does no more per cycle than two float32 units, and conversions come on top.

    Raises:
        InputError: float16 where only CUDA multiplies it.
    """
    if wanted == "float16" and device.type != "cuda":
        raise InputError(f"training.precision = float16 needs CUDA, the device is {device.type}. Use bf16, float32 or auto there.")
    if wanted != "auto":
        return {"float32": "32-true", "bf16": "bf16-mixed", "float16": "16-mixed"}[wanted]
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else "32-true"


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
