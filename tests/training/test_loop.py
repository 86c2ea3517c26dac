"""The training loop on tiny arrays."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldseg_auto.errors import LdsegError
from ldseg_auto.planners.method import Method, preset
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.progress import silent
from ldseg_auto.training import checkpoint, log, loop
from ldseg_auto.training.loop import Trainer
from ldseg_auto.training.state import Limits

Make = Callable[..., Configuration]
MakeBench = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """To draw them takes most of the time here (tests/training/test_log.py does)."""
    monkeypatch.setattr(log, "_draw", lambda path, rows: None)


@pytest.mark.parametrize(
    ("variant", "method"), [("auto", Method()), ("auto", Method(**preset("auto", 4))), ("direct", Method()), ("paper", Method())]
)
def test_a_few_iterations_reduce_the_loss(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make, variant: str, method: Method
) -> None:
    configuration = make_configuration(variant, batch=4, method=method, iterations_per_epoch=10, learning_rate=1e-2)
    bench = make_bench(tmp_path, configuration)
    trainer = bench.trainer("fold_0")
    trainer.fit(bench.batches(30), bench.patches, bench.patches, Limits(30), silent)
    rows = trainer.state.rows
    assert [r["iteration"] for r in rows] == [10, 20, 30]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert {"loss", "loss_segmentation", "dice_mean", "dice_organ", "dice_lesion", "learning_rate", "seconds"} <= set(rows[0])
    assert {p.name for p in (tmp_path / "fold_0").iterdir()} >= {
        "checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_final.pth", "training_log.csv",
    }  # fmt: skip


def test_the_final_checkpoints_latent_is_standardised_on_the_statistics_patches(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make
) -> None:
    """On those of training cases, not on the validation's, by the averaged weights' own encoder; the latest keeps the average."""
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=3))
    label = torch.randint(3, (4, 16, 16), generator=torch.Generator().manual_seed(0))
    trainer = bench.trainer("fold_0")
    trainer.fit(bench.batches(3), bench.patches, [(torch.zeros(4, 1, 16, 16), label)], Limits(3), silent)
    raw = trainer.ema.model.raw_latent(torch.eye(3)[label].movedim(-1, 1))
    final, latest = (checkpoint.load(tmp_path / "fold_0" / f"checkpoint_{n}.pth")["ema"] for n in ("final", "latest"))
    torch.testing.assert_close(final["standardise.mean"], raw.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(final["standardise.variance"], raw.var((0, 2, 3), unbiased=False), rtol=1e-3, atol=1e-4)
    changed = {k for k in final if not torch.equal(final[k], latest[k])}
    assert changed == {"standardise.mean", "standardise.variance"}


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path, make_bench: MakeBench, make_configuration: Make) -> None:
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=2))
    trainer = bench.trainer("fold_0")
    with torch.no_grad():
        trainer.model.decoder.head.bias.fill_(float("nan"))
    with pytest.raises(LdsegError, match="loss is not finite in epoch 1.*lower training.learning_rate"):
        trainer.fit(bench.batches(4), bench.patches, bench.patches, Limits(4), silent)
    assert not (tmp_path / "fold_0" / "checkpoint_latest.pth").exists()


@pytest.mark.parametrize("variant", ["auto", "paper", "direct"])
def test_bfloat16_autocast(tmp_path: Path, make_bench: MakeBench, make_configuration: Make, variant: str) -> None:
    bench = make_bench(tmp_path, make_configuration(variant, iterations_per_epoch=2))
    trainer = bench.trainer("fold_0", precision="bf16-mixed")
    seen: list[torch.dtype] = []
    hook = lambda module, inputs, output: seen.append(output.dtype)  # noqa: E731
    trainer.model.decoder.head.register_forward_hook(hook)
    trainer.ema.model.decoder.head.register_forward_hook(hook)
    trainer.fit(bench.batches(2), bench.patches, bench.patches, Limits(2), silent)
    assert set(seen) == {torch.bfloat16}  # in training and in validation
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trainer.model.parameters())


def test_a_time_budget_is_kept_and_annealed_over(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own: an iteration takes 10 s, validation 20 s; 1200 s are given for what could take for ever."""
    configuration = make_configuration(iterations_per_epoch=1000, warmup=0.0)
    bench = make_bench(tmp_path, configuration)
    trainer = bench.trainer("fold_0")
    now = [0.0]

    def spend(seconds: float, result: object) -> object:
        now[0] += seconds
        return result

    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop, "write_log", lambda folder, rows: None)
    monkeypatch.setattr(loop, "patch_dice", lambda *args: spend(20, torch.zeros(2).numpy()))
    rates: list[float] = []

    def step(batch: object, rate: float) -> dict[str, torch.Tensor]:
        rates.append(rate)
        trainer.state.iteration += 1
        spend(10, None)
        return {"loss": torch.zeros(())}

    monkeypatch.setattr(trainer, "_step", step)
    trainer.fit(bench.batches(10**6), bench.patches, bench.patches, Limits(10**6, 1200.0), silent)
    assert 1200 <= now[0] <= 1200 + 10 + 20
    assert trainer.state.elapsed == now[0]
    validation = 20 * len(trainer.state.rows)
    assert len(trainer.state.rows) >= 5 and validation <= 0.15 * 1200
    assert rates[0] == configuration.training.learning_rate and rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.05 * rates[0]


def with_rates(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of each iteration to come; nothing is computed."""
    rates: list[float] = []

    def step(batch: object, rate: float) -> dict[str, torch.Tensor]:
        rates.append(rate)
        trainer.state.iteration += 1
        return {"loss": torch.zeros(())}

    monkeypatch.setattr(trainer, "_step", step)
    return rates


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_half_the_epochs_anneal_fully(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """The same rates, every second one: from the peak to a last step below 5 % of it."""
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=10, warmup=0.1, schedule=schedule))
    found = []
    for epochs in (4, 8):
        trainer = bench.trainer(f"fold_{epochs}")
        found.append(with_rates(trainer, monkeypatch))
        trainer.fit(bench.batches(10 * epochs), bench.patches, bench.patches, Limits(10 * epochs), silent)
    half, whole = found
    assert half == pytest.approx(whole[::2]) and max(half) == bench.configuration.training.learning_rate
    assert half[-1] < 0.05 * max(half)


def test_early_stopping_anneals_and_ends(
    tmp_path: Path, make_bench: MakeBench, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dice rises for 4 epochs of 10 and then never: after 3 more the rest of the schedule is run through in a tenth of 70 iterations."""
    bench = make_bench(tmp_path, make_configuration(iterations_per_epoch=10, epochs=1000, early_stopping=3, warmup=0.0))
    dice = lambda state: min(state.epoch, 3) / 10  # noqa: E731
    trainer = bench.trainer("fold_0")
    monkeypatch.setattr(loop, "patch_dice", lambda *args: np.full(2, dice(trainer.state)))
    monkeypatch.setattr(loop, "epochs_without_better", lambda values: len(values) - 1 - int(np.argmax(values)))  # without smoothing
    rates = with_rates(trainer, monkeypatch)
    trainer.fit(bench.batches(10_000), bench.patches, bench.patches, Limits(10_000), silent)
    assert trainer.state.iteration == 77 and [r["iteration"] for r in trainer.state.rows] == [10, 20, 30, 40, 50, 60, 70, 77]
    peak = bench.configuration.training.learning_rate
    assert min(rates[:71]) > 0.99 * peak  # as planned for 10 000
    assert rates[70:] == pytest.approx([peak * ((1 - 0.007) * (1 - i / 7)) ** 0.9 for i in range(7)])
    assert (tmp_path / "fold_0" / "checkpoint_final.pth").exists()
