"""torch.compile in training; dynamo traces as ever, but the eager backend stands for the compiler, which takes a minute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import LdsegError
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.progress import silent
from ldseg_auto.training import checkpoint
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.compilation import compiling
from ldseg_auto.training.loop import Trainer
from ldseg_auto.training.state import Limits

Make = Callable[..., Configuration]
Store = Callable[..., list[str]]
LABELS = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 2})
ORIGIN = {"dataset_name": "Dataset001_Toy", "fingerprint_hash": "abc"}


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: object) -> None:
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: original(module, backend=backend))
    torch._dynamo.reset()


def trained(folder: Path, store: Store, configuration: Configuration) -> dict[str, torch.Tensor]:
    """The final weights after two iterations."""
    names = store(folder / "data", (4, 20, 20))
    batches = Batches(folder / "data", names, configuration, 3, 2, False)
    trainer = Trainer(configuration, LABELS, folder / "fold_0", Fabric(accelerator="cpu", devices=1), 3, ORIGIN)
    trainer.fit(batches, [batches[0]], [batches[0]], Limits(2), silent)
    return checkpoint.load(folder / "fold_0" / "checkpoint_final.pth")["model"]


def test_checkpoints_are_those_of_the_plain_network(
    tmp_path: Path, store: Store, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of the weights to the letter, and their values as without compilation."""
    seen = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        seen.append(graph)
        return graph.forward

    use_backend(monkeypatch, backend)
    plain = trained(tmp_path / "plain", store, make_configuration("direct", batch=4))
    assert not seen
    compiled = trained(tmp_path / "compiled", store, make_configuration("direct", batch=4, compile=True))
    assert len(seen) >= 3  # image encoder, denoiser, decoder
    assert list(compiled) == list(plain)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)


def test_a_compiler_that_fails_is_explained(
    tmp_path: Path, store: Store, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        raise OSError("no g++ here")

    use_backend(monkeypatch, broken)
    with pytest.raises(LdsegError, match=r"torch.compile failed \(.*no g\+\+ here.*--set training.compile=false"):
        trained(tmp_path, store, make_configuration("direct", compile=True))


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="^mine$"), compiling(True):
        raise ValueError("mine")
