"""CUDA graphs. Without a card a tape stands for them: it writes down every operation that torch runs, and runs the list again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.method import Method, preset
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.training import graphs
from ldseg_auto.training.draw import Draw, draw_step
from ldseg_auto.training.graphs import Graphs, wanted
from ldseg_auto.training.objective import Objective

Make = Callable[..., Configuration]
STEPS = 18
NAMES = ("auto", "raters", "mixed", "paper", "direct")
METHODS = {
    "raters": Method(**preset("auto", 4)),
    "mixed": Method(diversity=1.0, pure_noise=0.5, later_steps=0.5, recycling=0.5, reconstruction_share=0.3, stop_gradient=False),
}


class Tape(TorchDispatchMode):
    """A recorded sequence: reads and writes the same tensors at each start, as a graph does; `replay` and `pool` are CUDAGraph's."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = function(*args, **(kwargs or {}))
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        fresh = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        fresh = [t for t in fresh if t.untyped_storage()._cdata not in before]
        if fresh or function._schema.is_mutable:  # not views
            self.operations.append((function, args, kwargs or {}, fresh))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, kept in self.operations:
            new = [t for t in tree_leaves(function(*args, **kwargs)) if isinstance(t, torch.Tensor)]
            for tensor, value in zip(kept, new[: len(kept)], strict=True):
                tensor.copy_(value)

    def pool(self) -> tuple[int, int]:
        return 0, 0


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[Objective]:
    """Tapes in place of graphs; writing one down changes neither the latent's statistics of the objectives listed nor random numbers."""
    changed: list[Objective] = []

    @contextlib.contextmanager
    def writing(tape: Tape, **_: Any) -> Iterator[None]:
        kept = [{k: v.clone() for k, v in o.state_dict().items()} for o in changed]
        with torch.random.fork_rng(devices=[]), tape:
            yield
        for objective, state in zip(changed, kept, strict=True):
            objective.load_state_dict(state)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", writing)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(graphs, "_new_random_state", lambda device: None)
    return changed


def build(make: Make, name: str, device: str = "cpu") -> Objective:
    """In training mode, with no layer left at its initial zero."""
    variant = name if name in ("auto", "paper", "direct") else "auto"
    configuration = make(variant, batch=5, **({"method": METHODS[name]} if name in METHODS else {}))
    torch.manual_seed(0)
    model = LDSeg(configuration, 3)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Objective(model, configuration, regions=False).to(device).train()


def plain(objective: Objective) -> graphs.Compute:
    """A step as the trainer takes it."""

    def compute(image: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, draw: Draw) -> graphs.Losses:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=image.device.type == "cuda"):
            losses = objective(image, onehot, valid, draw)
        losses["loss"].backward()
        return {k: v.detach() for k, v in losses.items()}

    return compute


def steps(objective: Objective, compute: graphs.Compute, number: int = STEPS) -> list[dict[str, torch.Tensor | None]]:
    """Losses, gradients, statistics and the next random number of each step; the weights follow the gradient."""
    out = []
    device = next(objective.parameters()).device
    for step in range(number):
        torch.manual_seed(step)
        label = torch.randint(3, (5, 16, 16)).to(device)
        image, valid = torch.randn(5, 1, 16, 16).to(device), (torch.rand(5, 1, 16, 16) < 0.9).float().to(device)
        onehot = torch.eye(3, device=device)[label].movedim(-1, 1).contiguous()
        objective.zero_grad(set_to_none=True)
        found: dict[str, torch.Tensor | None] = dict(compute(image, onehot, valid, objective.draw(5)))
        with torch.no_grad():
            for name, weight in objective.named_parameters():
                found[f"gradient {name}"] = None if weight.grad is None else weight.grad.clone()
                if weight.grad is not None:
                    weight -= 0.01 * weight.grad
        found |= {f"statistics {k}": v.clone() for k, v in objective.named_buffers()}
        out.append(found | {"next": torch.rand(2, device=device)})
    return out


def same(found: list[dict[str, torch.Tensor | None]], expected: list[dict[str, torch.Tensor | None]], **tolerance: float) -> None:
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert list(one) == list(other)
        for name, value in other.items():
            if value is None:
                assert one[name] is None, (step, name)
            else:
                torch.testing.assert_close(one[name], value, msg=lambda m, at=(step, name): f"{at}: {m}", **tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_recorded_steps_are_plain_steps(taped: list[Objective], make_configuration: Make, name: str) -> None:
    """Losses, which weights have a gradient and what it is, the latent's statistics, and random numbers, over steps of several kinds."""
    own, other = build(make_configuration, name), build(make_configuration, name)
    taped.append(own)
    recorder = Graphs(plain(own), own.parameters())
    same(steps(own, recorder), steps(other, plain(other)), rtol=0, atol=0)
    kinds = []
    for step in range(STEPS):
        torch.manual_seed(step)
        torch.randint(3, (5, 16, 16)), torch.randn(5, 1, 16, 16), torch.rand(5, 1, 16, 16)
        kinds.append(own.draw(5).kind)
    assert {key[2] for key in recorder._recorded} == {k for k in kinds if kinds.count(k) > 1}
    assert len(recorder._recorded) > (name not in ("paper", "direct"))


def test_only_so_many_kinds_are_recorded(taped: list[Objective], make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 1)
    own, other = build(make_configuration, "mixed"), build(make_configuration, "mixed")
    taped.append(own)
    recorder = Graphs(plain(own), own.parameters())
    same(steps(own, recorder, 12), steps(other, plain(other), 12), rtol=0, atol=0)
    assert len(recorder._recorded) == 1


def test_where_recording_fails_training_goes_on_without(
    taped: list[Objective], make_configuration: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def broken(*_: Any, **__: Any) -> Any:
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", broken)
    own, other = build(make_configuration, "auto"), build(make_configuration, "auto")
    recorder = Graphs(plain(own), own.parameters())
    with caplog.at_level(logging.WARNING):
        same(steps(own, recorder, 6), steps(other, plain(other), 6), rtol=0, atol=0)
    assert len(tries) == 1 and not recorder.on
    assert [r.getMessage() for r in caplog.records] == [
        "training goes on without CUDA graphs: operation not permitted when stream is capturing"
    ]


def test_memory_that_recorded_steps_hold_is_given_up_where_a_plain_step_needs_it(taped: list[Objective], make_configuration: Make) -> None:
    own, other = build(make_configuration, "mixed"), build(make_configuration, "mixed")
    taped.append(own)
    compute = plain(own)

    def tight(*args: Any) -> graphs.Losses:
        if recorder._recorded and not isinstance(torch.utils._python_dispatch._get_current_dispatch_mode(), Tape):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return compute(*args)

    recorder = Graphs(tight, own.parameters())
    same(steps(own, recorder, 12), steps(other, plain(other), 12), rtol=0, atol=0)
    assert not recorder.on and not recorder._recorded

    def always(*_: Any) -> graphs.Losses:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        steps(own, Graphs(always, own.parameters()), 1)


def test_a_draw_holds_each_part_of_the_batch(make_configuration: Make) -> None:
    method = make_configuration("auto", method=METHODS["mixed"]).parts
    for seed in range(30):
        torch.manual_seed(seed)
        draw = draw_step(method, 5)
        assert sorted(draw.order.tolist()) == list(range(5)) and len(set(draw.rebuilt.tolist())) == len(draw.rebuilt)
        assert draw.kind == (5, draw.pure, draw.later, *draw.recycled, len(draw.rebuilt))
        assert draw.pure in (2, 3) and draw.later in (2, 3) and len(draw.rebuilt) in (1, 2)
        assert abs(draw.recycled[0] - (5 - draw.pure) / 2) < 1 and abs(draw.recycled[1] - draw.later / 2) < 1


@pytest.mark.parametrize(
    ("expected", "change"),
    [
        (True, {}), (True, {"graphs": "on"}), (False, {"graphs": "off"}), (False, {"compile": True}),
        (True, {"graphs": "on", "compile": True}), (False, {"device": "cpu", "graphs": "on"}), (False, {"processes": 2}),
        (False, {"precision": "16-mixed"}), (False, {"free": 3.9}), (True, {"graphs": "on", "free": 3.9}),
    ],
)  # fmt: skip
def test_when_graphs_are_used(make_configuration: Make, monkeypatch: pytest.MonkeyPatch, expected: bool, change: dict[str, Any]) -> None:
    values = {"device": "cuda", "precision": "bf16-mixed", "processes": 1, "free": 4.0, "graphs": "auto", "compile": False, **change}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(values["free"] * 2**30), 8 * 2**30))
    configuration = make_configuration("auto")
    training = replace(configuration.training, graphs=values["graphs"], compile=values["compile"])
    configuration = replace(configuration, memory_gib=2.0, training=training)
    assert wanted(configuration, torch.device(values["device"]), values["precision"], values["processes"]) == expected


needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_card
@pytest.mark.parametrize("name", NAMES)
def test_on_a_card_recorded_steps_are_plain_steps(make_configuration: Make, name: str) -> None:
    """Up to the order in which the card adds."""
    own, other = build(make_configuration, name, "cuda"), build(make_configuration, name, "cuda")
    recorder = Graphs(plain(own), own.parameters())
    same(steps(own, recorder), steps(other, plain(other)), rtol=2e-2, atol=2e-3)
    assert recorder.on and recorder._recorded


@needs_card
def test_on_a_card_training_goes_on_where_recording_fails(make_configuration: Make) -> None:
    """Also the random numbers, whose generator a failed recording leaves in between."""
    own, other = build(make_configuration, "auto", "cuda"), build(make_configuration, "auto", "cuda")
    compute = plain(own)

    def asking(*args: Any) -> graphs.Losses:
        losses = compute(*args)
        float(losses["loss"])  # of the host: not permitted while a graph is recorded
        return losses

    recorder = Graphs(asking, own.parameters())
    same(steps(own, recorder), steps(other, plain(other)), rtol=2e-2, atol=2e-3)
    assert not recorder.on
