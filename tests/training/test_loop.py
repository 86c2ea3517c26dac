"""The training loop on tiny arrays."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import LdsegError, ModelError
from ldseg_auto.planners.method import Method, preset
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.progress import T, silent
from ldseg_auto.training import checkpoint, loop
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.loop import Limits, State, Trainer

Make = Callable[..., Configuration]
Store = Callable[..., list[str]]
LABELS = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 2})
ORIGIN = {"dataset_name": "Dataset001_Toy", "fingerprint_hash": "abc"}


class Bench:
    """Cases on disk and trainers for them."""

    def __init__(self, folder: Path, store: Store, configuration: Configuration) -> None:
        self.folder, self.configuration = folder, configuration
        self.names = store(folder / "data", (4, 20, 20))
        few = Batches(folder / "data", self.names, configuration, 1, 2, False)
        self.patches = [few[i] for i in range(len(few))]

    def trainer(self, name: str, seed: int = 3, precision: str = "32-true") -> Trainer:
        return Trainer(
            self.configuration, LABELS, self.folder / name, Fabric(accelerator="cpu", devices=1, precision=precision), seed, ORIGIN
        )  # type: ignore[arg-type]

    def batches(self, length: int, seed: int = 3) -> Batches:
        return Batches(self.folder / "data", self.names, self.configuration, seed, length, False)


@pytest.mark.parametrize(
    ("variant", "method"), [("auto", Method()), ("auto", Method(**preset("auto", 4))), ("direct", Method()), ("paper", Method())]
)
def test_a_few_iterations_reduce_the_loss(tmp_path: Path, store: Store, make_configuration: Make, variant: str, method: Method) -> None:
    configuration = make_configuration(variant, batch=4, method=method, iterations_per_epoch=10, learning_rate=1e-2)
    bench = Bench(tmp_path, store, configuration)
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
    tmp_path: Path, store: Store, make_configuration: Make
) -> None:
    """On those of training cases, not on the validation's, by the averaged weights' own encoder; the latest keeps the average."""
    bench = Bench(tmp_path, store, make_configuration(iterations_per_epoch=3))
    label = torch.randint(3, (4, 16, 16), generator=torch.Generator().manual_seed(0))
    trainer = bench.trainer("fold_0")
    trainer.fit(bench.batches(3), bench.patches, [(torch.zeros(4, 1, 16, 16), label)], Limits(3), silent)
    raw = trainer.ema.model.raw_latent(torch.eye(3)[label].movedim(-1, 1))
    final, latest = (checkpoint.load(tmp_path / "fold_0" / f"checkpoint_{n}.pth")["ema"] for n in ("final", "latest"))
    torch.testing.assert_close(final["standardise.mean"], raw.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(final["standardise.variance"], raw.var((0, 2, 3), unbiased=False), rtol=1e-3, atol=1e-4)
    changed = {k for k in final if not torch.equal(final[k], latest[k])}
    assert changed == {"standardise.mean", "standardise.variance"}


def stopping(after: int) -> Callable[..., Iterator]:
    """Progress that is interrupted (Ctrl-C) after `after` iterations."""
    count = iter(range(after + 1))

    def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        for item in items:
            if next(count) == after:
                raise KeyboardInterrupt
            yield item

    return progress


def test_resuming_equals_not_stopping_to_the_bit(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    bench = Bench(tmp_path, store, make_configuration(iterations_per_epoch=3))
    whole = bench.trainer("whole")
    whole.fit(bench.batches(9), bench.patches, bench.patches, Limits(9), silent)
    stopped = bench.trainer("halves")
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(bench.batches(9), bench.patches, bench.patches, Limits(9), stopping(after=5))
    assert not (tmp_path / "halves" / "checkpoint_final.pth").exists()
    resumed = bench.trainer("halves", seed=99)
    resumed.resume(tmp_path / "halves" / "checkpoint_latest.pth")
    assert resumed.state.iteration == 3 and resumed.seed == 3
    resumed.fit(bench.batches(9, resumed.seed), bench.patches, bench.patches, Limits(9), silent)
    one, two = (checkpoint.load(tmp_path / name / "checkpoint_final.pth") for name in ("whole", "halves"))
    for key in ("model", "ema", "optimiser"):
        torch.testing.assert_close(two[key], one[key], rtol=0, atol=0)
    skip = {"seconds"}
    assert [{k: v for k, v in r.items() if k not in skip} for r in two["rows"]] == [
        {k: v for k, v in r.items() if k not in skip} for r in one["rows"]
    ]


def test_the_best_checkpoint_is_what_prediction_needs(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    bench = Bench(tmp_path, store, make_configuration())
    trainer = bench.trainer("fold_0")
    trainer.save("best")
    content = checkpoint.load(tmp_path / "fold_0" / "checkpoint_best.pth")
    assert set(content) == {"dataset_name", "fingerprint_hash", "seed", "ema", "iteration"}
    with pytest.raises(ModelError, match=r"checkpoint_best.pth does not fit this network \('model'\)"):
        trainer.resume(tmp_path / "fold_0" / "checkpoint_best.pth")


def test_resuming_another_network_is_refused(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    Bench(tmp_path / "a", store, make_configuration("auto")).trainer("fold_0").save("latest")
    other = Bench(tmp_path / "b", store, make_configuration("paper")).trainer("fold_0")
    with pytest.raises(ModelError, match="checkpoint_latest.pth does not fit this network"):
        other.resume(tmp_path / "a" / "fold_0" / "checkpoint_latest.pth")


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path, store: Store, make_configuration: Make) -> None:
    bench = Bench(tmp_path, store, make_configuration(iterations_per_epoch=2))
    trainer = bench.trainer("fold_0")
    with torch.no_grad():
        trainer.model.decoder.head.bias.fill_(float("nan"))
    with pytest.raises(LdsegError, match="loss is not finite in epoch 0.*lower training.learning_rate"):
        trainer.fit(bench.batches(4), bench.patches, bench.patches, Limits(4), silent)
    assert not (tmp_path / "fold_0" / "checkpoint_latest.pth").exists()


@pytest.mark.parametrize("variant", ["auto", "paper", "direct"])
def test_bfloat16_autocast(tmp_path: Path, store: Store, make_configuration: Make, variant: str) -> None:
    bench = Bench(tmp_path, store, make_configuration(variant, iterations_per_epoch=2))
    trainer = bench.trainer("fold_0", precision="bf16-mixed")
    seen: list[torch.dtype] = []
    hook = lambda module, inputs, output: seen.append(output.dtype)  # noqa: E731
    trainer.model.decoder.head.register_forward_hook(hook)
    trainer.ema.model.decoder.head.register_forward_hook(hook)
    trainer.fit(bench.batches(2), bench.patches, bench.patches, Limits(2), silent)
    assert set(seen) == {torch.bfloat16}  # in training and in validation
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trainer.model.parameters())


def test_progress_of_limits() -> None:
    state = State(iteration=25, elapsed=30.0)
    assert Limits(100).progress(state, 1e9) == 0.25
    assert Limits(100, 60.0).progress(state, 0) == 0.5
    assert Limits(100, 60.0).progress(state, 30) == 1
    assert Limits(50, 600.0).progress(state, 0) == 0.5
    assert Limits(100).epoch_seconds(5) == float("inf")
    assert Limits(100, 200.0).epoch_seconds(0) == 10
    assert Limits(100, 200.0).epoch_seconds(5) == 45


def test_a_time_budget_is_kept_and_annealed_over(
    tmp_path: Path, store: Store, make_configuration: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own: an iteration takes 10 s, validation 20 s; 1200 s are given for what could take for ever."""
    configuration = make_configuration(iterations_per_epoch=1000, warmup=0.0)
    bench = Bench(tmp_path, store, configuration)
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
