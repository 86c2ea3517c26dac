"""Two processes against one, with the same batch.

Run as a script (`test_ranks.py FOLDER`, in an environment as cli/ranks.py makes it) this file is one of the two.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import InputError, LostRank, Stopped
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.networks.standardise import Running
from ldseg_auto.planners.method import Method, preset
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.progress import silent
from ldseg_auto.training.batches import Batches
from ldseg_auto.training.connect import _check_devices, launch, make_fabric
from ldseg_auto.training.loop import Trainer
from ldseg_auto.training.objective import Objective
from ldseg_auto.training.ranks import ALONE, Held, Ranks
from ldseg_auto.training.state import Limits
from ldseg_auto.training.stop import never

Make = Callable[..., Configuration]
LABELS = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 2})
RATERS = Method(**preset("auto", 4))
# variant, batch size, method, changes of the training section; each rank holds few samples, often none of a kind, or an uneven share
CASES: dict[str, tuple[str, int, Method, dict[str, Any]]] = {
    "auto": ("auto", 4, Method(), {}),
    "uneven": ("auto", 5, Method(), {}),
    "one sample each": ("auto", 2, Method(), {}),
    "raters": ("auto", 2, RATERS, {}),
    "all pure": ("auto", 3, replace(RATERS, pure_noise=1.0), {}),
    "whole latent differentiated": ("auto", 3, Method(stop_gradient=False, later_steps=1.0, recycling=0.5), {}),
    "sample Dice": ("auto", 3, Method(), {"batch_dice": False}),
    "class weights": ("auto", 3, RATERS, {"class_weights": (1.0, 3.0)}),
    "paper": ("paper", 3, Method(), {}),
    "direct": ("direct", 3, Method(), {}),
}
SEEDS = range(4)
ITERATIONS = 6


def gradients(name: str, make: Make, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Of SEEDS: the losses, the gradient of every parameter summed over ranks, and the latent's statistics after the last one."""
    variant, size, method, changes = CASES[name]
    configuration = make(variant, batch=size, method=method, **changes)
    torch.manual_seed(0)
    model = LDSeg(configuration, 3)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    objective = Objective(model, configuration, False, ranks).train()
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (size, 16, 16), generator=generator)
    onehot, valid = torch.eye(3)[label].movedim(-1, 1).contiguous(), (torch.rand(size, 1, 16, 16, generator=generator) < 0.9).float()
    image = onehot[:, 1:2] + 0.3 * torch.randn(size, 1, 16, 16, generator=generator)
    mine = list(ranks.mine(size))
    out = {}
    for seed in SEEDS:
        objective.zero_grad()
        torch.manual_seed(seed)
        losses = objective(image[mine], onehot[mine], valid[mine])
        losses["loss"].backward()
        ranks.add_gradients(objective.parameters())
        out |= {f"{seed} {k}": v.detach() for k, v in losses.items()}
        out |= {f"{seed} gradient {k}": p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
        out[f"{seed} next random number"] = torch.rand(1)
    return out | {k: v for k, v in model.state_dict().items() if k.startswith("standardise.")}


def training(folder: Path, make: Make, fabric: Fabric) -> dict[str, Any]:
    """A short training on the cases in `folder`: its log, and what the averaged weights give.

    Adam divides a gradient by its size, so that rounding errors of gradients that are 0 (of a bias before a norm) become steps of
    full length; with a large epsilon it does not, and two trainings stay together.
    """
    configuration = make("auto", batch=3, iterations_per_epoch=3, validation_patches=9, learning_rate=0.3, augmentation=True)
    names = [f"case{i}" for i in range(3)]
    few = Batches(folder, names, configuration, 1, 3, False)
    trainer = Trainer(configuration, LABELS, folder / "fold_0", fabric, 3, {"dataset_name": "Dataset001_Toy", "fingerprint_hash": "abc"})
    for group in trainer.optimiser.param_groups:
        group["eps"] = 1.0
    seen: list[float] = []
    step = trainer._step
    trainer._step = lambda batch, rate: seen.append(float(step(batch, rate)["loss"])) or {"loss": torch.tensor(seen[-1])}  # type: ignore[method-assign]
    patches = [few[i] for i in range(3)]
    trainer.fit(Batches(folder, names, configuration, 3, ITERATIONS, True), patches, patches, Limits(ITERATIONS), silent)
    averaged = trainer.ema.model
    with torch.inference_mode():
        logits = averaged.predict(patches[0][0], torch.zeros(3, 4, 8, 8), 1)
    rows = [[r["loss"], *(r[f"dice_{n}"] for n in ("mean", "organ", "lesion"))] for r in trainer.state.rows]
    statistics = torch.stack([averaged.standardise.mean, averaged.standardise.variance])
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    return {"losses": seen, "rows": rows, "statistics": statistics, "logits": logits, "weights": weights}


def member(folder: Path) -> None:
    """One of the two processes: writes what it finds to FOLDER/RANK.pt."""
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import configuration

    torch.set_num_threads(1)
    fabric = make_fabric(torch.device("cpu"), "32-true", 2)
    ranks = launch(fabric, 2)
    found: dict[str, Any] = {name: gradients(name, configuration, ranks) for name in CASES}
    found["training"] = training(folder, configuration, fabric)
    found["said"] = {
        "gathered": ranks.gathered({"rank": ranks.rank, "text": "é" * (1 + 5 * ranks.rank), "nothing": float("nan")}),
        "told": ranks.told(["the first"] if ranks.first else None),
        "agree": [ranks.agree(False, 1.0 + ranks.rank, 2.0), ranks.agree(ranks.rank == 1, 0.0)],
        "stacked": ranks.stacked(torch.tensor([float(ranks.rank)])).tolist(),
    }
    torch.save(found, folder / f"{ranks.rank}.pt")
    ranks.leave()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, store: Callable[..., list[str]]) -> list[dict[str, Any]]:
    """What each of two processes finds."""
    folder = tmp_path_factory.mktemp("two")
    store(folder, (4, 20, 20), number=3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    running = [
        subprocess.Popen(command, env=os.environ | place | {"LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True) for r in (0, 1)
    ]
    errors = [p.communicate(timeout=120)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in (0, 1)]


def close(found: torch.Tensor, expected: torch.Tensor, scale: float) -> None:
    """Within what adding up float32 in another order makes of numbers of size `scale`."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6 * max(1.0, scale))


@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_statistics_are_those_of_one_process(two: list[dict], make_configuration: Make, name: str) -> None:
    """For every kind of loss, however its samples fall on the ranks; float32 sums in another order are all that may differ."""
    alone = gradients(name, make_configuration, ALONE)
    largest = max(float(v.abs().max()) for k, v in alone.items() if "gradient" in k)
    for rank in two:
        assert set(rank[name]) == set(alone)  # a parameter without gradient has none with two processes, too
        for key, value in alone.items():
            close(rank[name][key], value, largest)
    for key in alone:
        assert torch.equal(two[0][name][key], two[1][name][key]), key  # to the bit: the ranks' weights never part


def test_training_is_that_of_one_process(
    two: list[dict], tmp_path: Path, store: Callable[..., list[str]], make_configuration: Make
) -> None:
    store(tmp_path, (4, 20, 20), number=3)
    alone = training(tmp_path, make_configuration, Fabric(accelerator="cpu", devices=1))
    found = [rank["training"] for rank in two]
    assert torch.equal(found[0]["weights"], found[1]["weights"])
    for rank in found:
        assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        np.testing.assert_allclose(rank["rows"], alone["rows"], rtol=1e-5)
        torch.testing.assert_close(rank["statistics"], alone["statistics"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rank["logits"], alone["logits"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(rank["weights"], alone["weights"], rtol=1e-4, atol=1e-5)
    assert alone["losses"][-1] != pytest.approx(alone["losses"][0], rel=1e-2)  # it has learnt something meanwhile


def test_the_first_rank_alone_writes(two: list[dict], tmp_path_factory: pytest.TempPathFactory) -> None:
    folders = sorted(tmp_path_factory.getbasetemp().glob("two*"))
    assert {p.name for p in (folders[-1] / "fold_0").glob("*.pth")} >= {"checkpoint_final.pth", "checkpoint_latest.pth"}
    assert two[0]["training"]["rows"] == two[1]["training"]["rows"]


def test_what_ranks_tell_each_other(two: list[dict]) -> None:
    for rank in two:
        said = rank["said"]
        assert [(g["rank"], g["text"]) for g in said["gathered"]] == [(0, "é"), (1, "é" * 6)]
        assert all(np.isnan(g["nothing"]) for g in said["gathered"])
        assert said["told"] == ["the first"]
        assert said["agree"] == [(False, [1.0, 2.0]), (True, [0.0])]
        assert said["stacked"] == [[0.0], [1.0]]


def test_alone_each_method_is_a_formality() -> None:
    x = torch.ones(3, requires_grad=True)
    assert ALONE.total(x) is x and torch.equal(ALONE.stacked(x), x[None])
    assert ALONE.told("a") == "a" and ALONE.gathered("a") == ["a"] and ALONE.agree(True, 2.0) == (True, [2.0])
    assert list(ALONE.mine(3)) == [0, 1, 2] and ALONE.first
    ALONE.leave()


def of(rank: int, size: int) -> Ranks:
    ranks = Ranks()
    ranks.rank, ranks.size = rank, size
    return ranks


@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 2), (2, 5), (3, 7), (4, 4)])
def test_the_ranks_places_partition_the_batch_through_every_shuffle_and_part(size: int, count: int) -> None:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    samples: list[int] = []
    noise = torch.zeros(count, 2)
    drawn = []
    for rank in range(size):
        mine = list(of(rank, size).mine(count))
        held, own = of(rank, size).held(len(mine), count).shuffled(order)
        for place, sample in zip(held.rows.tolist(), own.tolist(), strict=True):
            assert order[place] == mine[sample]
        samples += [mine[i] for i in own]
        for first, last in ((0, count // 2), (count // 2, count), (0, 0), (1, count)):
            chosen, part = held.within(first, last)
            assert (held.rows[chosen] - first).tolist() == part.rows.tolist()
            assert all(0 <= p < last - first for p in part.rows.tolist()) and part.size == last - first
        wanted = torch.arange(count).flip(0)[: count // 2 + 1]
        assert held.rows[held.find(wanted)].tolist() == [p for p in wanted.tolist() if p in held.rows.tolist()]
        torch.manual_seed(7)
        noise[held.rows] = held.randn(torch.zeros(len(held), 2))
        drawn.append(torch.rand(1))
    assert sorted(samples) == list(range(count))
    torch.manual_seed(7)
    assert torch.equal(noise, torch.randn(count, 2))  # what one process draws
    assert len({float(d) for d in drawn}) == 1  # and all generators stand where its own does


def test_twice_is_the_part_followed_by_itself() -> None:
    assert Held(torch.tensor([0, 2]), 3).twice().rows.tolist() == [0, 2, 3, 5]


def test_statistics_of_uneven_parts_are_those_of_the_whole() -> None:
    z = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 5.0]).view(1, 3, 1, 1) + 1
    parts = [z[[0, 2, 4]], z[[1, 3]]]
    said: list[torch.Tensor] = []
    Running(3).train()(parts[0], lambda x: said.append(x) or x[None])
    Running(3).train()(parts[1], lambda x: said.append(x) or x[None])
    whole, split = Running(3).train(), Running(3).train()
    expected = whole(z)
    torch.testing.assert_close(split(parts[0], lambda x: torch.stack(said)), expected[[0, 2, 4]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(split.mean, whole.mean)
    torch.testing.assert_close(split.variance, whole.variance)


def test_fewer_samples_than_devices_is_refused() -> None:
    fabric = type("Three", (), {"world_size": 3})
    with pytest.raises(InputError, match="batch_size 2 is smaller than the 3 devices that share it.*--set batch_size=3 or more"):
        launch(fabric, 2)  # type: ignore[arg-type]


def test_more_devices_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="--devices 4: this process sees 2 GPUs"):
        _check_devices(torch.device("cuda"), 4)
    with pytest.raises(InputError, match="--devices 2: a machine with MPS has one device"):
        _check_devices(torch.device("mps"), 2)


def test_a_lost_rank_is_told_from_other_errors() -> None:
    ranks = of(1, 2)
    with pytest.raises(LostRank, match="rank 1 of 2 has lost another process of this training.*--continue"), ranks.explained(never):
        raise RuntimeError("[enforce fail at /gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    with pytest.raises(Stopped), ranks.explained(lambda: True):
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(RuntimeError, match="shape"), ranks.explained(never):
        raise RuntimeError("shape mismatch")
    with pytest.raises(RuntimeError, match="Connection"), ALONE.explained(never):
        raise RuntimeError("Connection closed by peer")


if __name__ == "__main__":
    member(Path(sys.argv[1]))
