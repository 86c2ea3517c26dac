"""The one loss that trains the four parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.training.objective import Objective, _squared_error

Make = Callable[..., Configuration]
PARTS = ("image_encoder", "label_encoder", "denoiser", "decoder")


def build(configuration: Configuration) -> Objective:
    torch.manual_seed(0)
    model = LDSeg(configuration, 3)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Objective(model, configuration.training, regions=False).train()


def batch(b: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (b, 16, 16), generator=generator)
    return torch.randn(b, 1, 16, 16, generator=generator), torch.eye(3)[label].movedim(-1, 1), torch.ones(b, 1, 16, 16)


@pytest.mark.parametrize(
    ("variant", "keys", "trained"),
    [
        ("auto", {"segmentation", "reconstruction", "regression"}, PARTS),
        ("paper", {"segmentation", "regression"}, PARTS),
        ("direct", {"segmentation"}, ("image_encoder", "denoiser", "decoder")),
    ],
)
def test_gradients_reach_the_parts(make_configuration: Make, variant: str, keys: set[str], trained: tuple[str, ...]) -> None:
    objective = build(make_configuration(variant))
    losses = objective(*batch())
    assert set(losses) == {"loss", *keys}
    assert float(losses["loss"].detach()) == pytest.approx(sum(float(losses[k]) for k in keys), rel=1e-5)
    losses["loss"].backward()
    for name in PARTS:
        gradients = [p.grad for p in getattr(objective.model, name).parameters()]
        assert all(g is None or g.isfinite().all() for g in gradients)
        if name in trained:
            assert all(g is not None for g in gradients), name
            assert any(g.any() for g in gradients), name


def test_the_regression_does_not_pull_the_label_latent_to_the_prediction(make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pure noise only (zt holds no label) nothing of the regression reaches the label encoder."""
    objective = build(make_configuration("auto", pure_noise=1.0, reconstruction_weight=0.0))
    objective(*batch())["loss"].backward()
    largest = max(float(p.grad.abs().max()) for p in objective.model.label_encoder.parameters())
    assert largest < 1e-6


def test_recycling_replaces_the_truth_by_the_own_prediction_without_gradient(make_configuration: Make) -> None:
    everyone = build(make_configuration("auto", recycling=1.0))
    nobody = build(make_configuration("auto", recycling=0.0))
    image, onehot, _ = batch()
    t = torch.tensor([0.2, 1.0, 0.7, 0.4])
    for objective, mine in ((everyone, [True, False, True, True]), (nobody, [False] * 4)):
        condition = objective.model.condition(image)
        z0 = objective.model.encode_label(onehot)
        torch.manual_seed(1)
        mixed = objective._recycled(z0, t, condition)
        assert [not torch.equal(a, b) for a, b in zip(mixed, z0, strict=True)] == mine
        if any(mine):
            torch.manual_seed(1)
            torch.rand(4)
            own = objective.model.denoise(torch.randn_like(z0), torch.ones(4), condition)
            torch.testing.assert_close(mixed[0], own[0], rtol=1e-4, atol=1e-5)
            (gradient,) = torch.autograd.grad(mixed.sum(), z0)
            assert [bool(g.any()) for g in gradient] == [not m for m in mine]


@pytest.mark.parametrize(("share", "decoded"), [(0.0, None), (0.3, 2), (0.5, 2), (1.0, 4)])
def test_the_autoencoder_decodes_the_last_samples(
    make_configuration: Make, monkeypatch: pytest.MonkeyPatch, share: float, decoded: int | None
) -> None:
    objective = build(make_configuration("auto", reconstruction_share=share))
    image, onehot, valid = batch()
    seen: list[torch.Tensor] = []
    original = objective.model.decode
    monkeypatch.setattr(objective.model, "decode", lambda z, c: (seen.append(z) if c is None else None) or original(z, c))
    losses = objective(image, onehot, valid)
    assert (len(seen[0]) if seen else None) == decoded
    assert (float(losses["reconstruction"]) == 0) == (share == 0)
    if decoded:
        z0 = objective.model.eval().encode_label(onehot)
        torch.testing.assert_close(seen[0], z0[-decoded:], rtol=1e-3, atol=1e-4)


def test_noised_latents_keep_unit_variance_and_have_their_own_noise(make_configuration: Make) -> None:
    objective = build(make_configuration())
    z0 = torch.randn(64, 4, 8, 8)
    zt = objective._noised(z0, torch.full((64,), 0.5))
    assert float(zt.var()) == pytest.approx(1, abs=0.05)
    same = objective._noised(torch.zeros(2, 4, 8, 8), torch.ones(2))
    assert not torch.allclose(same[0], same[1])


def test_ignored_voxels_do_not_count(make_configuration: Make) -> None:
    image, onehot, valid = batch()
    changed, half = onehot.clone(), valid.clone()
    half[..., 8:] = 0
    onehot[..., 8:] = 0
    changed[..., 8:] = 0
    objective = build(make_configuration("direct"))
    loss = objective(image, onehot, half)["loss"]
    other = objective(image, changed.roll(1, 1) * (1 - half) + onehot, half)["loss"]
    torch.testing.assert_close(loss, other)


def test_squared_error() -> None:
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(_squared_error(a, b, torch.ones(2, 1, 8, 8)), F.mse_loss(a, b))
    left = torch.ones(2, 1, 8, 8)
    left[..., 4:] = 0
    torch.testing.assert_close(_squared_error(a, b, left), F.mse_loss(a[..., :2], b[..., :2]))
    assert float(_squared_error(a, b, torch.zeros(2, 1, 8, 8))) == 0


def test_paper_weighs_dice_twice_and_regresses_the_noise(make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = build(make_configuration("paper"))
    decoded: list[torch.Tensor] = []
    model = objective.model
    monkeypatch.setattr(model, "denoise", lambda zt, t, condition: torch.zeros_like(zt))
    original = model.decode
    monkeypatch.setattr(model, "decode", lambda z, condition: decoded.append(z) or original(z, condition))
    weights: list[float] = []
    inner = objective._segmentation
    monkeypatch.setattr(objective, "_segmentation", lambda x, y, v, w=1.0: weights.append(w) or inner(x, y, v, w))
    losses = objective(*batch(64))
    assert float(losses["regression"]) == pytest.approx(1, abs=0.05)  # the mean square of eps itself
    assert weights == [2.0]
    assert float(decoded[0].detach().var()) == pytest.approx(1, abs=0.1)  # zt - 0: signal and noise together
