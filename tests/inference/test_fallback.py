"""Out of memory: smaller batches of tiles, then the CPU; the masks are the same, and manifest and log say so."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from ldseg_auto.inference.fallback import out_of_memory, within_memory
from ldseg_auto.inference.predictor import Predictor
from ldseg_auto.inference.window import NotFinite, SlidingWindow

FULL = "CUDA out of memory. Tried to allocate 20.00 GiB"


def run(predictor: Predictor, images: Path, out: Path) -> tuple[list[str], list[list[str]]]:
    statuses = [s.status for s in predictor.predict_folder(images, out)]
    return statuses, [c["notes"] for c in json.loads((out / "manifest.json").read_text())["cases"].values()]


def test_batches_are_halved_until_they_fit_and_stay_so(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = Predictor.from_folder(model, device="cpu")
    run(predictor, images, tmp_path / "one")
    window, sizes = predictor.members[0].window, []
    window.tile_batch = 8
    real = window._network

    def network(of: Any, tiles: torch.Tensor, *more: Any) -> Any:
        sizes.append(len(tiles))
        if len(tiles) > 2:
            raise torch.cuda.OutOfMemoryError(FULL)
        return real(of, tiles, *more)

    monkeypatch.setattr(window, "_network", network)
    caplog.set_level(logging.WARNING, "ldseg_auto")
    statuses, notes = run(predictor, images, tmp_path / "out")
    assert statuses == ["done"] * 3
    expected = [f"out of memory with {n} tiles at a time: tried again with {n // 2}" for n in (8, 4)]
    assert notes == [expected, [], []] and caplog.messages == [f"case toy_000: {n}" for n in expected]
    assert max(sizes[2:]) == 2 and len([s for s in sizes if s > 2]) == 2


def test_the_cpu_takes_a_case_that_no_batch_fits(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A window that says it is on CUDA, where its networks find no memory for toy_001."""
    predictor = Predictor.from_folder(model, device="cpu")
    run(predictor, images, tmp_path / "cpu")
    real, devices = SlidingWindow.planes, []

    def planes(self: SlidingWindow, models: Any, image: Any, draws: Any, *stops: Any) -> Any:
        devices.append(self.device.type)
        if self.device.type == "cuda" and draws.case == "toy_001":
            raise torch.cuda.OutOfMemoryError(FULL)
        there, self.device = self.device, torch.device("cpu")
        yield from real(self, models, image, draws, *stops)
        self.device = there

    monkeypatch.setattr(SlidingWindow, "planes", planes)
    predictor.members[0].window.device, predictor.members[0].window.tile_batch = torch.device("cuda"), 2
    caplog.set_level(logging.WARNING, "ldseg_auto")
    statuses, notes = run(predictor, images, tmp_path / "out")
    expected = ["out of memory with 2 tiles at a time: tried again with 1", "out of memory with one tile at a time: predicted on the CPU"]
    assert statuses == ["done"] * 3 and notes == [[], expected, []]
    assert caplog.messages == [f"case toy_001: {n}" for n in expected]
    assert devices == ["cuda", "cuda", "cuda", "cpu", "cuda"]  # the next case is on the GPU again
    assert (tmp_path / "out" / "toy_001.nii.gz").read_bytes() == (tmp_path / "cpu" / "toy_001.nii.gz").read_bytes()


def test_nothing_left_to_change(model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.from_folder(model, device="cpu")

    def network(*args: Any) -> Any:
        raise torch.cuda.OutOfMemoryError(FULL)

    monkeypatch.setattr(predictor.members[0].window, "_network", network)
    statuses, notes = run(predictor, images, tmp_path / "out")
    assert statuses == ["failed"] * 3 and notes == [[], [], []]


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (torch.cuda.OutOfMemoryError(FULL), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),  # as an H100 gave it
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(cause: Exception, expected: bool) -> None:
    assert out_of_memory(cause) is expected
    if not expected:
        with pytest.raises(type(cause)):
            within_memory([], "a", lambda way: (_ for _ in ()).throw(cause))


def test_float16_out_of_range_is_float32(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Networks whose logits for toy_001 leave float16's range: that case alone is predicted in float32, as if asked for."""
    plain = Predictor.from_folder(model, device="cpu")
    run(plain, images, tmp_path / "float32")
    predictor = Predictor.from_folder(model, device="cpu")
    window, types = predictor.members[0].window, []
    window.type = torch.float16
    real_planes, real_network = SlidingWindow.planes, SlidingWindow._network

    def planes(self: SlidingWindow, models: Any, image: Any, draws: Any, *stops: Any) -> Any:
        types.append((draws.case, self.type))
        yield from real_planes(self, models, image, draws, *stops)

    def network(self: SlidingWindow, of: Any, tiles: Any, noises: Any, draws: Any) -> Any:
        factor = 1e6 if self.type == torch.float16 and draws.case == "toy_001" else 1.0
        for place, logits in real_network(self, of, tiles, noises, draws):
            yield place, (logits * factor).to(self.type).float()

    monkeypatch.setattr(SlidingWindow, "planes", planes)
    monkeypatch.setattr(SlidingWindow, "_network", network)
    monkeypatch.setattr(SlidingWindow, "autocast", lambda self: torch.autocast("cpu", torch.bfloat16, enabled=False))
    caplog.set_level(logging.WARNING, "ldseg_auto")
    statuses, notes = run(predictor, images, tmp_path / "out")
    note = "an activation left the range of float16: predicted in float32"
    assert statuses == ["done"] * 3 and notes == [[], [note], []] and caplog.messages == [f"case toy_001: {note}"]
    half, single = torch.float16, torch.float32
    assert types == [("toy_000", half), ("toy_001", half), ("toy_001", single), ("toy_002", half)]
    assert (tmp_path / "out" / "toy_001.nii.gz").read_bytes() == (tmp_path / "float32" / "toy_001.nii.gz").read_bytes()
    with pytest.raises(NotFinite):
        within_memory([window], "a", lambda way: (_ for _ in ()).throw(NotFinite("no numbers")))


def test_networks_that_find_no_memory_are_on_the_cpu(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ldseg_auto.inference import predictor as module

    run(Predictor.from_folder(model, device="cpu"), images, tmp_path / "cpu")
    real = module.load_member

    def load(folder: Any, device: torch.device, *more: Any) -> Any:
        if device.type == "cuda":
            raise torch.cuda.OutOfMemoryError(FULL)
        return real(folder, device, *more)

    monkeypatch.setattr(module, "load_member", load)
    monkeypatch.setattr(module, "choose_device", lambda name: torch.device("cuda"))
    predictor = Predictor.from_folder(model)
    assert predictor.device.type == "cpu" and caplog.messages == [
        "cuda has no memory for the networks: everything is predicted on the CPU."
    ]
    run(predictor, images, tmp_path / "out")
    assert (tmp_path / "out" / "toy_001.nii.gz").read_bytes() == (tmp_path / "cpu" / "toy_001.nii.gz").read_bytes()
