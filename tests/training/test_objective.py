"""The one loss that trains the four parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ldseg_auto.networks.ldseg import LAST_TIME, Condition, LDSeg
from ldseg_auto.planners.method import OF_DIRECT, Method, preset
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.training.draw import share
from ldseg_auto.training.objective import TINY, Objective, _latent_energy, _squared_error
from ldseg_auto.training.ranks import Held

Make = Callable[..., Configuration]
PARTS = ("image_encoder", "label_encoder", "denoiser", "decoder")
REGRESSION = {"segmentation", "regression"}
LATER, REBUILT = {"regression_later"}, {"reconstruction"}
ENERGY = {"energy", "entropy", "latent_energy"}
AIMS = [Method(**preset("auto", raters)) for raters in (1, 4)]  # at the best mask, and at the raters' distribution
ALL_PURE = Method(pure_noise=1.0, later_steps=0.0, recycling=0.0, reconstruction_share=1.0)


def build(configuration: Configuration) -> Objective:
    """In training mode, with no layer left at its initial zero."""
    torch.manual_seed(0)
    model = LDSeg(configuration, 3)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Objective(model, configuration, regions=False).train()


def batch(b: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (b, 16, 16), generator=generator)
    return torch.randn(b, 1, 16, 16, generator=generator), torch.eye(3)[label].movedim(-1, 1), torch.ones(b, 1, 16, 16)


def seeded(objective: Objective, *data: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return objective(*(data or batch()))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("variant", "method", "keys", "trained"),
    [
        ("auto", Method(reconstruction_share=0.5), REGRESSION | LATER | REBUILT, PARTS),  # a sixteenth of 4 samples may be none
        ("auto", replace(ALL_PURE, later_steps=1.0, recycling=1.0), REGRESSION | LATER | REBUILT, PARTS),
        ("auto", replace(ALL_PURE, pure_noise=0.0, recycling=1.0), REGRESSION | REBUILT, PARTS),
        ("auto", ALL_PURE, REGRESSION | REBUILT, PARTS),
        ("auto", AIMS[1], REGRESSION | ENERGY | REBUILT, PARTS),
        ("auto", replace(ALL_PURE, diversity=1.0), ENERGY | REBUILT, PARTS),
        ("auto", replace(ALL_PURE, diversity=1.0, later_steps=1.0, recycling=0.5), ENERGY | LATER | REBUILT, PARTS),
        ("paper", Method(), REGRESSION, PARTS),
        ("direct", Method(), {"segmentation"}, ("image_encoder", "denoiser", "decoder")),
    ],
)
def test_gradients_reach_the_parts(
    make_configuration: Make, variant: str, method: Method, keys: set[str], trained: tuple[str, ...], precision: torch.dtype
) -> None:
    """Also where recycling has run the same layers without gradient under the same autocast before."""
    objective = build(make_configuration(variant, method=method))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        losses = seeded(objective)
    assert set(losses) == {"loss", *keys}
    assert float(losses["loss"].detach()) == pytest.approx(sum(float(losses[k]) for k in keys), rel=1e-5)
    assert not any(losses[k].requires_grad for k in keys)
    losses["loss"].backward()
    for name in PARTS:
        gradients = [p.grad for p in getattr(objective.model, name).parameters()]
        assert all(g is None or g.isfinite().all() for g in gradients)
        if name in trained:
            assert all(g is not None for g in gradients), name
            assert any(g.any() for g in gradients), name


# field -> what else must be set for it to matter, and a value that is not the variant's own
CHANGES: dict[str, dict[str, tuple[dict[str, Any], Any]]] = {
    "auto": {
        "prediction": ({}, "eps"), "label_input": ({}, "integer"), "skips": ({}, False), "denoiser": ({}, "attention"),
        "signal_gate": ({}, False),
        "standardisation": ({}, "sample"),
        "stop_gradient": ({}, False), "pure_noise": ({}, 0.0), "later_steps": ({"recycling": 0.0}, 0.0),
        "recycling": ({"later_steps": 1.0}, 0.0),
        "reconstruction_weight": ({"reconstruction_share": 1.0}, 1.0), "reconstruction_share": ({}, 1.0), "regression_weight": ({}, 0.3),
        "diversity": ({}, 1.0), "dice_weight": ({}, 2.0), "input_scale": ({}, 0.5),
    },
    "paper": {
        "prediction": ({}, "z0"), "label_input": ({}, "onehot"), "skips": ({}, True), "denoiser": ({}, "unet"),
        "signal_gate": ({}, True),
        "standardisation": ({}, "running"), "stop_gradient": ({"prediction": "z0"}, True), "pure_noise": ({}, 0.5),
        "later_steps": ({}, 1.0), "recycling": ({}, 1.0),
        "reconstruction_weight": ({"reconstruction_share": 1.0}, 0.5),
        "reconstruction_share": ({"reconstruction_weight": 0.5}, 1.0), "regression_weight": ({}, 0.3),
        "diversity": ({"prediction": "z0", "pure_noise": 1.0}, 0.5), "dice_weight": ({}, 1.0), "input_scale": ({}, 0.5),
    },
    "direct": {"dice_weight": ({}, 2.0)},
}  # fmt: skip


def step(configuration: Configuration) -> dict[str, torch.Tensor]:
    """The loss and the gradient of every parameter."""
    objective = build(configuration)
    loss = seeded(objective)["loss"]
    loss.backward()
    gradients = {n: p.grad for n, p in objective.model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


@pytest.mark.parametrize(("variant", "name"), [(v, n) for v, changes in CHANGES.items() for n in changes])
def test_no_part_is_read_and_ignored(make_configuration: Make, variant: str, name: str) -> None:
    others, value = CHANGES[variant][name]
    assert value != getattr(Method(**others).resolved(variant, 1), name)
    base = step(make_configuration(variant, method=Method(**others)))
    changed = step(make_configuration(variant, method=Method(**others, **{name: value})))
    same = base.keys() == changed.keys() and all(
        base[k].shape == changed[k].shape and torch.allclose(base[k], changed[k], rtol=1e-4, atol=1e-7) for k in base
    )
    assert not same


def test_every_part_is_among_the_changes() -> None:
    elsewhere = {"block_code", "average_steps", "mirror_samples"}  # no part of the loss: test_run.py, test_ldseg.py, test_window.py
    names = {f.name for f in fields(Method)} - elsewhere
    assert set(CHANGES["auto"]) == set(CHANGES["paper"]) == names and set(CHANGES["direct"]) == set(OF_DIRECT)


@pytest.mark.parametrize("diversity", [0.0, 1.0])
@pytest.mark.parametrize("stop", [True, False])
def test_the_latents_error_does_not_pull_the_label_to_the_prediction(make_configuration: Make, diversity: float, stop: bool) -> None:
    """With pure noise only (zt holds no label) the target is the label encoder's only way into the loss."""
    method = replace(ALL_PURE, reconstruction_weight=0.0, diversity=diversity, stop_gradient=stop)
    objective = build(make_configuration("auto", method=method))
    seeded(objective)["loss"].backward()
    gradients = [p.grad for p in objective.model.label_encoder.parameters() if p.grad is not None]
    largest = max((float(g.abs().max()) for g in gradients), default=0.0)
    assert largest < 1e-6 if stop else largest > 1e-4


@pytest.mark.parametrize(("part", "count"), [(0.0, 5), (0.25, 2), (0.3, 4), (0.5, 3), (0.7, 10), (0.1, 30), (0.99, 1), (1.0, 3)])
def test_share_has_the_exact_mean(monkeypatch: pytest.MonkeyPatch, part: float, count: int) -> None:
    """Over evenly spread uniform numbers; and it never leaves the whole numbers beside the mean."""
    number = 1000
    uniform = iter([(i + 0.5) / number for i in range(number)])
    monkeypatch.setattr(torch, "rand", lambda shape: torch.tensor(next(uniform), dtype=torch.float64))
    drawn = [share(part, count) for _ in range(number)]
    assert sum(drawn) / number == pytest.approx(part * count, abs=1 / number)
    assert all(abs(n - part * count) < 1 and 0 <= n <= count for n in drawn)


def test_every_iteration_has_the_same_terms(make_configuration: Make) -> None:
    """Also where a share of a small batch is no sample at all: such a term is 0 then, and never all of the time."""
    method = Method(diversity=1.0, pure_noise=0.5, later_steps=0.5, recycling=0.0, reconstruction_share=0.5)
    objective = build(make_configuration("auto", method=method))
    image, onehot, valid = batch(1)
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = [objective(image, onehot, valid) for _ in range(40)]
    keys = {"loss", *REBUILT, *LATER, *REGRESSION, *ENERGY}
    assert all(set(losses) == keys for losses in drawn)
    for name in keys - {"loss"}:
        assert {float(losses[name]) == 0 for losses in drawn} == {True, False}, name


def test_terms_weigh_as_much_as_their_samples(make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of 1 for every sample sums to 1, whatever part of the batch it is computed on; later steps are added to that."""
    for pure, later in ((0.25, 0.0), (0.75, 0.5), (1.0, 0.25), (1.0, 1.0)):
        method = replace(ALL_PURE, pure_noise=pure, later_steps=later, diversity=1.0, reconstruction_weight=0.0, regression_weight=0.5)
        objective = build(make_configuration("auto", method=method))
        monkeypatch.setattr(objective, "_denoised", lambda *args: (None, None, torch.ones(())))
        monkeypatch.setattr(objective, "_energy", lambda *args: {"energy": torch.ones(())})
        monkeypatch.setattr(objective, "_regress", lambda *args: ({"segmentation": torch.ones(())}, torch.ones(())))
        losses = seeded(objective)
        assert float(losses["loss"].detach()) == 1 + 0.5 * later and float(losses["energy"]) == pure
        assert float(losses.get("regression_later", 0)) == 0.5 * later


@pytest.mark.parametrize("variant", ["auto", "paper"])
def test_recycling_replaces_the_truth_by_the_own_prediction_without_gradient(make_configuration: Make, variant: str) -> None:
    image, onehot, _ = batch()
    for first, mine in ((1, [False, True, True, True]), (2, [False, False, True, False]), (0, [False] * 4)):
        objective = build(make_configuration(variant, method=Method(pure_noise=0.5)))
        condition = objective.model.condition(image)
        z0 = objective.model.encode_label(onehot)
        torch.manual_seed(1)
        mixed = objective._recycled(z0, condition, Held(torch.arange(4), 4), first, sum(mine))
        assert [not torch.equal(a, b) for a, b in zip(mixed, z0, strict=True)] == mine
        (gradient, *others) = torch.autograd.grad(mixed.sum(), [z0, *objective.model.denoiser.parameters()], allow_unused=True)
        assert [bool(g.any()) for g in gradient] == [not m for m in mine]
        assert all(g is None for g in others)
        if any(mine):
            torch.manual_seed(1)
            noise = torch.randn_like(z0[first : first + sum(mine)])
            own = objective.model.clean(noise, torch.ones(sum(mine)), condition.select(torch.tensor(mine).nonzero()[:, 0]))
            torch.testing.assert_close(mixed[mine], own, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("change", "calls"), [({}, 2), ({"signal_gate": False}, 3), ({"pure_noise": 0.5}, 4)])
def test_what_the_first_step_drew_is_recycled_where_noise_cannot_change_it(
    make_configuration: Make, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], calls: int
) -> None:
    """The denoiser runs for the first step and the later one; before either where what is recycled must be drawn."""
    objective = build(make_configuration("auto", method=replace(AIMS[0], later_steps=1.0, **change)))
    denoise, recycled, seen, drawn, held = objective.model.denoise, objective._recycled, [], [], []
    monkeypatch.setattr(objective.model, "denoise", lambda *args: (seen.append(args), denoise(*args))[1])
    monkeypatch.setattr(objective, "_recycled", lambda *args: (held.append(args), drawn.append(recycled(*args)), drawn[-1])[2])
    seeded(objective)
    assert len(seen) == calls
    condition, zr = held[-1][1], drawn[-1]
    if calls == 2:
        one, other = (objective.model.clean(torch.randn_like(zr), torch.ones(len(zr)), condition).detach() for _ in range(2))
        assert torch.equal(one, other)
        torch.testing.assert_close(zr.detach(), one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("part", "decoded"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_the_autoencoder_decodes_a_part_of_the_samples(
    make_configuration: Make, monkeypatch: pytest.MonkeyPatch, part: float, decoded: int
) -> None:
    """Each decoded latent is that of one sample, drawn without return, and is compared with this sample's label."""
    objective = build(make_configuration("auto", method=Method(reconstruction_share=part, reconstruction_weight=0.7)))
    model, (image, onehot, valid) = objective.model, batch()
    seen: list[torch.Tensor] = []
    original = model.decode
    monkeypatch.setattr(model, "decode", lambda z, c: (seen.append(z) if c is None else None) or original(z, c))
    losses = seeded(objective, image, onehot, valid)
    assert [len(z) for z in seen] == ([decoded] if decoded else [])
    assert ("reconstruction" in losses) == (decoded > 0)
    if decoded:
        z0 = model.eval().encode_label(onehot)  # the first batch's statistics are the running ones
        far = (seen[0][:, None] - z0[None]).flatten(2).abs().amax(2)
        chosen = far.argmin(1)
        assert len(set(chosen.tolist())) == decoded and far.amin(1).max() < 1e-3
        logits = original(z0[chosen], None)
        expected = 0.7 * plain_loss(logits, onehot[chosen], dice_weight=1.0)
        assert float(losses["reconstruction"]) == pytest.approx(expected, rel=1e-3)


def test_reconstruction_leaves_out_what_is_ignored_in_its_own_samples(make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randperm", torch.arange)  # the first two samples
    objective = build(make_configuration("auto", method=Method(reconstruction_share=0.5, reconstruction_weight=1.0)))
    image, onehot, valid = batch()
    valid[0] = 0
    found = float(seeded(objective, image, onehot, valid)["reconstruction"])
    model = objective.model.eval()
    logits = model.decode(model.encode_label(onehot)[1:2], None)
    assert found == pytest.approx(plain_loss(logits, onehot[1:2], dice_weight=1.0), rel=1e-3)


def test_both_draws_of_a_sample_see_its_own_image(make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same noise everywhere they are equal, and what the sample's image alone gives."""
    objective = build(make_configuration("auto", method=Method(diversity=1.0)))
    model, (image, onehot, valid) = objective.model, batch(3)
    condition, z0 = model.condition(image), model.encode_label(onehot)
    decoded: list[torch.Tensor] = []
    original = model.decode
    monkeypatch.setattr(torch, "randn", lambda shape, **where: torch.ones(shape))
    monkeypatch.setattr(model, "decode", lambda z, c: decoded.append(z) or original(z, c))
    losses = objective._energy(z0, onehot, valid, condition, Held(torch.arange(3), 3))
    alone = torch.cat([model.denoise(torch.ones_like(z0[:1]), torch.ones(1), model.condition(image[i : i + 1])) for i in range(3)])
    torch.testing.assert_close(decoded[0], torch.cat([alone, alone]), rtol=1e-3, atol=1e-4)
    to_truth = ((alone - z0).square().flatten(1).mean(1) + TINY).sqrt().mean()
    assert float(losses["latent_energy"].detach()) == pytest.approx(float(to_truth.detach()) - TINY**0.5 / 2, rel=1e-3)


def plain_loss(logits: torch.Tensor, onehot: torch.Tensor, dice_weight: float) -> float:
    """CE + w (1 - Dice) over the batch as one volume, of classes without ignored voxels."""
    p, y = logits.softmax(1)[:, 1:], onehot[:, 1:]
    dice = 2 * (p * y).sum((0, 2, 3)) / (p + y).sum((0, 2, 3))
    return float((F.cross_entropy(logits, onehot.argmax(1)) + dice_weight * (1 - dice.mean())).detach())


@pytest.mark.parametrize("diversity", [0.0, 1.0])
@pytest.mark.parametrize("skips", [True, False])
def test_without_skips_the_loss_does_not_read_the_decoders_image_features(
    make_configuration: Make, monkeypatch: pytest.MonkeyPatch, diversity: float, skips: bool
) -> None:
    objective = build(make_configuration("auto", method=Method(skips=skips, diversity=diversity)))
    before = seeded(objective)
    objective = build(make_configuration("auto", method=Method(skips=skips, diversity=diversity)))
    original = objective.model.condition

    def other(image: torch.Tensor) -> Condition:
        condition = original(image)
        return Condition(condition.denoiser, [5 - f for f in condition.decoder])

    monkeypatch.setattr(objective.model, "condition", other)
    after = seeded(objective)
    assert torch.allclose(after["loss"], before["loss"], rtol=1e-5) != skips
    torch.testing.assert_close(after["reconstruction"], before["reconstruction"])  # switched off there in any case


@pytest.mark.parametrize("aim", AIMS)
@pytest.mark.parametrize("ignored", [True, False])
def test_what_the_network_says_on_ignored_voxels_does_not_count(
    make_configuration: Make, monkeypatch: pytest.MonkeyPatch, aim: Method, ignored: bool
) -> None:
    """Garbage in the right half of logits, then of latents, moves no term that reads it unless the half is annotated."""
    image, onehot, valid = batch()
    if ignored:
        valid[..., 8:], onehot[..., 8:] = 0, 0
    method, latents = replace(aim, recycling=0.0, reconstruction_share=0.5), {"regression", "regression_later", "latent_energy"}
    before = seeded(build(make_configuration("auto", method=method)), image, onehot, valid)

    def spoil(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        garbage = torch.linspace(-3, 7, x[..., half:].numel()).view_as(x[..., half:])
        return torch.cat([x[..., :half], x[..., half:] + garbage], -1)

    for name, terms in (("decode", set(before)), ("denoise", latents & set(before))):
        objective = build(make_configuration("auto", method=method))
        original = getattr(objective.model, name)
        monkeypatch.setattr(objective.model, name, lambda *args, original=original: spoil(original(*args)))
        after = seeded(objective, image, onehot, valid)
        for term in terms - (latents if name == "decode" else set()):
            assert torch.allclose(after[term], before[term], rtol=1e-5) == ignored, (name, term)


def test_what_is_labelled_on_ignored_voxels_does_not_count(make_configuration: Make) -> None:
    image, onehot, valid = batch()
    valid[..., 8:] = 0
    objective = build(make_configuration("direct"))
    loss = objective(image, onehot, valid)["loss"]
    other = onehot.clone()
    other[..., 8:] = onehot[..., 8:].roll(1, 1)
    torch.testing.assert_close(objective(image, other, valid)["loss"], loss)


def test_errors_of_the_latent() -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 2, 3, 4, 4)
    every, left = torch.ones(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    left[..., 4:] = 0
    torch.testing.assert_close(_squared_error(a, b, every), F.mse_loss(a, b))
    torch.testing.assert_close(_squared_error(a, b, left), F.mse_loss(a[..., :2], b[..., :2]))
    assert float(_squared_error(a, b, torch.zeros(2, 1, 8, 8))) == 0
    for valid, end in ((every, 4), (left, 2)):

        def rms(i: int, x: torch.Tensor, y: torch.Tensor, end: int = end) -> float:
            return float(((x - y)[i, ..., :end].square().mean() + TINY).sqrt())

        for diversity in (0.0, 0.4, 1.0):
            expected = sum(rms(i, a, c) + rms(i, b, c) - diversity * rms(i, a, b) for i in range(2)) / 4
            assert float(_latent_energy(a, b, c, valid, diversity)) == pytest.approx(expected, rel=1e-5)
    same = torch.zeros(2, 3, 4, 4, requires_grad=True)
    _latent_energy(same, same * 1, same.detach(), every, 1.0).backward()
    assert same.grad.isfinite().all()  # of a root at zero


def test_paper_decodes_what_is_left_of_zt_and_regresses_the_noise(make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = build(make_configuration("paper"))
    model, data = objective.model, batch(64)
    monkeypatch.setattr(torch, "randperm", torch.arange)
    noised: list[tuple[torch.Tensor, torch.Tensor]] = []
    decoded: list[torch.Tensor] = []
    monkeypatch.setattr(model, "denoise", lambda zt, t, condition: noised.append((zt, t)) or 0.3 * torch.ones_like(zt))
    original = model.decode
    monkeypatch.setattr(model, "decode", lambda z, condition: decoded.append(z) or original(z, condition))
    losses = seeded(objective, *data)
    ((zt, t),) = noised
    assert float(t.min()) >= 0 and 0.9 < float(t.max()) <= LAST_TIME and len(t.unique()) == 64
    torch.testing.assert_close(decoded[0], zt - 0.3)
    assert float(losses["segmentation"]) == pytest.approx(plain_loss(original(zt - 0.3, None), data[1], dice_weight=2.0), rel=1e-4)
    assert float(losses["regression"]) == pytest.approx(1 + 0.3**2, abs=0.05)  # of eps against 0.3
    assert float(zt.detach().var()) == pytest.approx(1, abs=0.05)  # signal and noise together


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("variant", "method"), [("direct", Method()), ("paper", Method()), *(("auto", aim) for aim in AIMS)])
def test_no_mask_is_pulled_where_the_label_is_ignored(make_configuration: Make, variant: str, method: Method, regions: bool) -> None:
    """The gradient on every decoded logit is exactly zero there, and not elsewhere; with class weights, too."""
    torch.manual_seed(0)
    configuration = make_configuration(variant, method=method, class_weights=(1.0, 3.0))
    model, decoded = LDSeg(configuration, 2 if regions else 3), []
    torch.nn.init.normal_(model.decoder.head.weight)
    original = model.decode

    def decode(z: torch.Tensor, condition: Condition | None) -> torch.Tensor:
        logits = original(z, condition)
        if logits.requires_grad:
            logits.retain_grad()
            decoded.append(logits)
        return logits

    model.decode = decode  # type: ignore[method-assign]
    image, onehot, valid = batch()
    valid[..., :9] = 0
    onehot = onehot[:, 1:] if regions else onehot
    Objective(model, configuration, regions).train()(image, onehot * valid, valid)["loss"].backward()
    assert decoded
    for logits in decoded:
        assert logits.grad is not None
        assert not logits.grad[..., :9].any() and logits.grad[..., 9:].any(1).float().mean() > 0.4


def test_class_weights_change_the_loss_of_every_variant(make_configuration: Make) -> None:
    whole = [replace(aim, reconstruction_share=1.0) for aim in AIMS]  # of a small batch else perhaps nothing
    for variant, method in (("direct", Method()), *(("auto", aim) for aim in whole)):
        heavy = {"class_weights": (1.0, 9.0)}
        first, second = (seeded(build(make_configuration(variant, method=method, **more))) for more in ({}, heavy))
        changed = {name for name in first if float(first[name].detach()) != float(second[name].detach())}
        assert changed == {"loss", *({"energy", "entropy"} & set(first)), *({"segmentation", "reconstruction"} & set(first))}
