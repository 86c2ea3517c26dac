"""torch.compile for training (plans: training.compile)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ldseg_auto.errors import LdsegError
from ldseg_auto.networks.ldseg import LDSeg

COMPILERS = ("torch._dynamo", "torch._inductor", "triton")


def compile_parts(model: LDSeg) -> None:
    """Compiles the four parts in place, at their first call each.

    The loss around them, whose shares of a batch are drawn, stays as it is. The names of the weights do not change, so that checkpoints
    are those of a model that is not compiled.
    """
    for part in (model.image_encoder, model.label_encoder, model.denoiser, model.decoder):
        part.compile()


@contextlib.contextmanager
def compiling(on: bool) -> Iterator[None]:
    """Explains what goes wrong in the compiler.

    Raises:
        LdsegError: the compiler failed.
    """
    try:
        yield
    except Exception as cause:
        if not on or not _of_compiler(cause):
            raise
        what = " ".join(str(cause).strip().splitlines()[:2])
        raise LdsegError(
            f"torch.compile failed ({type(cause).__name__}: {what}). It needs a C++ compiler (g++) on the CPU and Triton on CUDA. "
            "Train without it: --set training.compile=false."
        ) from cause


def _of_compiler(cause: BaseException) -> bool:
    return any(c.__module__.startswith(COMPILERS) for c in type(cause).__mro__)
