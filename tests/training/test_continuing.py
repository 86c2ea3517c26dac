"""Trainings that are stopped and go on: the same weights and the same log as undisturbed ones. (With real kills: tests/end_to_end.)"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from ldseg_auto.errors import LdsegError, ModelError, Stopped
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.progress import T, silent
from ldseg_auto.training import checkpoint, log, loop
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.loop import Trainer
from ldseg_auto.training.state import Limits

Make = Callable[..., Configuration]
MakeBench = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """To draw them takes most of the time here (tests/training/test_log.py does)."""
    monkeypatch.setattr(log, "_draw", lambda path, rows: None)


def found(path: Path) -> checkpoint.Found:
    return checkpoint.Found(path, checkpoint.load(path))


def stopping(after: int) -> Callable[..., Iterator]:
    """Progress that is interrupted (Ctrl-C) after `after` iterations."""
    count = iter(range(after + 1))

    def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        for item in items:
            if next(count) == after:
                raise KeyboardInterrupt
            yield item

    return progress


def test_resuming_equals_not_stopping_to_the_bit(tmp_path: Path, make_bench: MakeBench, make_configuration: Make) -> None:
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=3))
    whole = bench.trainer("whole")
    whole.fit(bench.batches(9), bench.patches, bench.patches, Limits(9), silent)
    stopped = bench.trainer("halves")
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(bench.batches(9), bench.patches, bench.patches, Limits(9), stopping(after=5))
    assert not (tmp_path / "halves" / "checkpoint_final.pth").exists()
    resumed = bench.trainer("halves", seed=99)
    resumed.resume(found(tmp_path / "halves" / "checkpoint_latest.pth"))
    assert resumed.state.iteration == 3 and resumed.seed == 3
    resumed.fit(bench.batches(9, resumed.seed), bench.patches, bench.patches, Limits(9), silent)
    same(tmp_path / "whole", tmp_path / "halves")


def same(one: Path, two: Path) -> None:
    """The final checkpoints, to the bit; the rows of the log but for the clock."""
    first, second = (checkpoint.load(folder / "checkpoint_final.pth") for folder in (one, two))
    for key in ("model", "ema", "optimiser", "ema_updates", "iteration", "epoch", "best", "cooldown"):
        torch.testing.assert_close(second[key], first[key], rtol=0, atol=0)
    rows = [[{k: v for k, v in r.items() if k not in ("seconds", "waiting")} for r in c["rows"]] for c in (first, second)]
    assert rows[0] == rows[1]


class StopAfter:
    """Asks to stop from the n-th time that it is asked on."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_bench: MakeBench, make_configuration: Make) -> Any:
    """A training of two epochs of three iterations, in the folder `whole`."""
    bench = make_bench(tmp_path_factory.mktemp("whole"), make_configuration(iterations_per_epoch=3))
    bench.trainer("whole").fit(bench.batches(6), bench.patches, bench.patches, Limits(6), silent)
    return bench


@pytest.mark.parametrize("asked", [0, 1, 3, 4, 5, 7, 8, 10, 11])
def test_a_training_that_was_asked_to_stop_goes_on_to_the_same_end(whole: Any, asked: int) -> None:
    """It is asked 3 times in each of 2 epochs and before each of 2 validation patches, and before each of 2 statistics patches."""
    bench, name = whole, f"stopped_{asked}"
    stopped, folder = bench.trainer(name), bench.folder / name
    with pytest.raises(Stopped, match=r"stopped at iteration \d+, which checkpoint_latest.pth holds; go on with --continue"):
        stopped.fit(bench.batches(6), bench.patches, bench.patches, Limits(6), silent, StopAfter(asked))
    assert not (folder / "checkpoint_final.pth").exists()
    expected = min(6, 3 * (asked // 5) + min(3, asked % 5))
    assert checkpoint.load(folder / "checkpoint_latest.pth")["iteration"] == expected == stopped.state.iteration
    resumed = bench.trainer(name, seed=99)
    resumed.resume(found(folder / "checkpoint_latest.pth"))
    resumed.fit(bench.batches(6), bench.patches, bench.patches, Limits(6), silent)
    same(bench.folder / "whole", folder)


def test_nothing_depends_on_the_state_of_random_generators(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So none has to be in a checkpoint: they are thrown out of step before every iteration and every validation."""
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=3, augmentation=True))
    bench.trainer("whole").fit(bench.batches(6, augment=True), bench.patches, bench.patches, Limits(6), silent)

    def disturbed(real: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            seed = int.from_bytes(os.urandom(4), "little")
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            return real(*args, **kwargs)

        return call

    trainer = bench.trainer("disturbed")
    monkeypatch.setattr(trainer, "_step", disturbed(trainer._step))
    monkeypatch.setattr(loop, "patch_dice", disturbed(loop.patch_dice))
    monkeypatch.setattr(Batches, "__getitem__", disturbed(Batches.__getitem__))
    trainer.fit(bench.batches(6, augment=True), bench.patches, bench.patches, Limits(6), silent)
    same(tmp_path / "whole", tmp_path / "disturbed")


def test_long_epochs_have_checkpoints_within(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=3))
    saved: list[tuple[str, int]] = []
    trainer = bench.trainer("fold_0")
    real = trainer.save
    monkeypatch.setattr(trainer, "save", lambda name: (saved.append((name, trainer.state.iteration)), real(name)))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    trainer.fit(bench.batches(3), bench.patches, bench.patches, Limits(3), silent)
    assert [i for name, i in saved if name == "latest"] == [0, 1, 2, 3]
    saved.clear()
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 600.0)
    trainer.fit(bench.batches(6), bench.patches, bench.patches, Limits(6), silent)
    assert [i for name, i in saved if name == "latest"] == [6]


def test_the_latest_checkpoint_before_is_kept_until_the_end(tmp_path: Path, make_bench: MakeBench, make_configuration: Make) -> None:
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=3))
    trainer, folder = bench.trainer("fold_0"), tmp_path / "fold_0"
    with pytest.raises(Stopped):
        trainer.fit(bench.batches(9), bench.patches, bench.patches, Limits(9), silent, StopAfter(11))
    assert [checkpoint.load(folder / f"checkpoint_{n}.pth")["iteration"] for n in ("previous", "latest")] == [6, 7]
    trainer.fit(bench.batches(9), bench.patches, bench.patches, Limits(9), silent)
    assert {p.name for p in folder.glob("checkpoint_*")} == {f"checkpoint_{n}.pth" for n in ("latest", "best", "final")}


def test_the_scaler_of_float16_is_in_the_checkpoint(tmp_path: Path, make_bench: MakeBench, make_configuration: Make) -> None:
    """bfloat16 and float32 have none. It says with which scale gradients do not overflow, and when to raise it."""
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=3))

    def trainer(name: str) -> tuple[Trainer, torch.amp.GradScaler]:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", device="cpu", scaler=scaler))
        return Trainer(bench.configuration, bench.labels, tmp_path / name, fabric, 3, bench.origin), scaler

    whole, scaler = trainer("whole")
    whole.fit(bench.batches(6), bench.patches, bench.patches, Limits(6), silent)
    assert scaler.get_scale() == 8192.0  # doubled every two iterations
    stopped, _ = trainer("stopped")
    with pytest.raises(Stopped):
        stopped.fit(bench.batches(6), bench.patches, bench.patches, Limits(6), silent, StopAfter(6))
    resumed, after = trainer("stopped")
    resumed.resume(found(tmp_path / "stopped" / "checkpoint_latest.pth"))
    resumed.fit(bench.batches(6), bench.patches, bench.patches, Limits(6), silent)
    assert after.get_scale() == scaler.get_scale()
    same(tmp_path / "whole", tmp_path / "stopped")
    assert bench.trainer("plain", precision="bf16-mixed").fabric.strategy.precision.state_dict() == {}


def test_the_best_checkpoint_is_what_prediction_needs(tmp_path: Path, make_bench: MakeBench, make_configuration: Make) -> None:
    bench = make_bench(tmp_path, make_configuration())
    trainer = bench.trainer("fold_0")
    trainer.save("best")
    content = checkpoint.load(tmp_path / "fold_0" / "checkpoint_best.pth")
    assert set(content) == {"dataset_name", "fingerprint_hash", "seed", "ema", "iteration"}
    with pytest.raises(ModelError, match=r"checkpoint_best.pth does not fit this network \('model'\)"):
        trainer.resume(found(tmp_path / "fold_0" / "checkpoint_best.pth"))


def test_resuming_another_network_is_refused(tmp_path: Path, make_bench: MakeBench, make_configuration: Make) -> None:
    make_bench(tmp_path / "a", make_configuration("auto")).trainer("fold_0").save("latest")
    other = make_bench(tmp_path / "b", make_configuration("paper")).trainer("fold_0")
    with pytest.raises(ModelError, match="checkpoint_latest.pth does not fit this network"):
        other.resume(found(tmp_path / "a" / "fold_0" / "checkpoint_latest.pth"))


def test_no_checkpoint_of_a_loss_that_is_not_finite(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither within an epoch nor when asked to stop: the last good one stays."""
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=5))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    for name, stop in (("timed", StopAfter(100)), ("stopped", StopAfter(4))):
        trainer = bench.trainer(name)

        def step(batch: object, rate: float, trainer: Trainer = trainer) -> dict[str, torch.Tensor]:
            trainer.state.iteration += 1
            return {"loss": torch.tensor(float("nan") if trainer.state.iteration == 3 else 1.0)}

        monkeypatch.setattr(trainer, "_step", step)
        with pytest.raises(LdsegError, match="loss is not finite in epoch 1"):
            trainer.fit(bench.batches(5), bench.patches, bench.patches, Limits(5), silent, stop)
        assert checkpoint.load(tmp_path / name / "checkpoint_latest.pth")["iteration"] == 2


def test_a_training_that_stopped_early_can_be_continued_in_its_cooldown_or_beyond(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=10, epochs=1000, early_stopping=1))
    monkeypatch.setattr(loop, "patch_dice", lambda *args: np.zeros(2))
    bench.trainer("whole").fit(bench.batches(100), bench.patches, bench.patches, Limits(100), silent)
    stopped = bench.trainer("stopped")
    with pytest.raises(Stopped):
        stopped.fit(bench.batches(100), bench.patches, bench.patches, Limits(100), silent, StopAfter(21))
    assert stopped.state.iteration == 21 and stopped.state.cooldown
    resumed = bench.trainer("stopped")
    resumed.resume(found(tmp_path / "stopped" / "checkpoint_latest.pth"))
    resumed.fit(bench.batches(100), bench.patches, bench.patches, Limits(100), silent)
    assert resumed.state.iteration == 22
    same(tmp_path / "whole", tmp_path / "stopped")
    bench.configuration = make_configuration(iterations_per_epoch=10, epochs=1000)
    beyond = bench.trainer("stopped")
    beyond.resume(found(tmp_path / "stopped" / "checkpoint_final.pth"))
    beyond.fit(bench.batches(30), bench.patches, bench.patches, Limits(30), silent)
    assert beyond.state.iteration == 30


def test_a_worker_that_the_signal_killed_is_no_failure(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where SIGTERM goes to every process, the batches end before the training has looked whether it is to stop."""
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=5))
    asked = [False]

    def source(*args: object) -> Iterator:
        yield bench.batches(5)[0]
        asked[0] = True
        raise LdsegError("a process that makes training batches ended unexpectedly")

    monkeypatch.setattr(loop, "stream", source)
    with pytest.raises(Stopped, match="stopped at iteration 1,"):
        bench.trainer("fold_0").fit(bench.batches(5), bench.patches, bench.patches, Limits(5), silent, lambda: asked[0])
    with pytest.raises(LdsegError, match="ended unexpectedly"):
        bench.trainer("fold_1").fit(bench.batches(5), bench.patches, bench.patches, Limits(5), silent)


def test_half_an_iteration_is_not_saved(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle of a step, after the signal: the checkpoint before stays."""
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=5))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    trainer = bench.trainer("fold_0")
    real, asked = trainer.ema.update, [False]

    def update(model: torch.nn.Module) -> None:
        if trainer.state.iteration == 2:
            asked[0] = True
            raise RuntimeError("broken")
        real(model)

    monkeypatch.setattr(trainer.ema, "update", update)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(bench.batches(5), bench.patches, bench.patches, Limits(5), silent, lambda: asked[0])
    assert checkpoint.load(tmp_path / "fold_0" / "checkpoint_latest.pth")["iteration"] == 2
