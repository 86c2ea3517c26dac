"""Objective: the samples that are denoised once more, at t < 1, for the regression alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ldseg_auto.networks.ldseg import LAST_TIME, Condition, LDSeg
from ldseg_auto.planners.method import Method
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.training.objective import Objective

Make = Callable[..., Configuration]


def build(configuration: Configuration) -> Objective:
    """In training mode, with no layer left at its initial zero."""
    torch.manual_seed(0)
    model = LDSeg(configuration, 3)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Objective(model, configuration, regions=False).train()


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four samples; in the first a quarter, in the last all but a corner is ignored."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (4, 16, 16), generator=generator)
    valid = torch.ones(4, 1, 16, 16)
    valid[0, :, :8, :8], valid[3, :, 3:] = 0, 0
    onehot = torch.eye(3)[label].movedim(-1, 1).contiguous()  # else random numbers fill the latent in another order
    return torch.randn(4, 1, 16, 16, generator=generator), onehot, valid


def without_noise(objective: Objective) -> Callable[..., Any]:
    """In place of the first step: no losses, and what the model says at t = 1; takes no random numbers."""

    def regress(z0: torch.Tensor, onehot: torch.Tensor, valid: torch.Tensor, condition: Condition, *args: Any) -> Any:
        return {}, objective.model.denoise(torch.zeros_like(z0), torch.ones(len(z0)), condition)

    return regress


@pytest.mark.parametrize("later", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("values", "decoded"),
    [
        ({"pure_noise": 1.0}, [4]),
        ({"pure_noise": 0.5}, [4]),
        ({"pure_noise": 1.0, "diversity": 1.0}, [8]),  # two draws per sample
        ({"pure_noise": 0.5, "diversity": 1.0}, [4, 2]),
        ({"pure_noise": 0.0, "prediction": "eps"}, [4]),
        ({"pure_noise": 1.0, "reconstruction_weight": 0.5, "reconstruction_share": 0.25}, [4, 1]),
    ],
)
def test_nothing_is_decoded_for_later_steps(
    make_configuration: Make, monkeypatch: pytest.MonkeyPatch, values: dict, decoded: list[int], later: float
) -> None:
    method = Method(**{"reconstruction_weight": 0.0, "recycling": 0.0, "later_steps": later, **values})
    objective = build(make_configuration("auto", method=method))
    sizes: dict[str, list[int]] = {"decode": [], "denoise": []}
    for name, seen in sizes.items():
        original = getattr(objective.model, name)
        monkeypatch.setattr(objective.model, name, lambda z, *args, f=original, seen=seen: seen.append(len(z)) or f(z, *args))
    losses = objective(*batch())
    assert sizes["decode"] == decoded
    assert sum(sizes["denoise"]) == sum(decoded[:-1] if "reconstruction_share" in values else decoded) + 4 * later
    assert ("regression_later" in losses) == (later > 0)


@pytest.mark.parametrize("prediction", ["z0", "eps"])
@pytest.mark.parametrize("later", [0.5, 1.0])
@pytest.mark.parametrize("recycling", [0.0, 0.5, 1.0])
def test_their_loss_is_the_error_on_the_latent_at_random_times(
    make_configuration: Make, monkeypatch: pytest.MonkeyPatch, prediction: str, later: float, recycling: float
) -> None:
    """Computed sample by sample from the same random numbers."""
    pure = 0.5 if prediction == "eps" else 1.0
    method = Method(
        prediction=prediction, pure_noise=pure, later_steps=later, recycling=recycling, regression_weight=0.7, reconstruction_weight=0.0,
        standardisation="running", input_scale=1.0,
    )  # fmt: skip
    objective = build(make_configuration("auto", method=method))
    monkeypatch.setattr(objective, "_regress", without_noise(objective))
    torch.manual_seed(1)
    found = objective(*batch())
    assert set(found) == {"loss", "segmentation", "regression", "regression_later"}
    assert float(found["loss"].detach()) == float(found["regression_later"])

    model, count, mine = objective.model.eval(), int(4 * later), int(4 * later * recycling)  # the first batch's statistics are kept
    torch.manual_seed(1)
    image, onehot, valid = (x[order] for order in [torch.randperm(4)] for x in batch())
    torch.rand(4)  # how many are at t = 1, are denoised once more, and are recycled of both: whole numbers, whatever is drawn
    torch.randperm(4)  # whose label is rebuilt: of none
    limit = LAST_TIME if prediction == "eps" else 1
    t = torch.rand(count) * limit
    # With the gate the first step's draw, which reads no noise, is the one that is recycled: none is drawn for it.
    fresh = torch.randn(mine, 4, 8, 8) if prediction == "eps" else torch.full((mine, 4, 8, 8), 7.0)
    eps = torch.randn(count, 4, 8, 8)
    error, weights = 0.0, 0.0
    with torch.no_grad():
        for i in range(count):
            condition, z0 = model.condition(image[i : i + 1]), model.encode_label(onehot[i : i + 1])
            start = model.clean(fresh[i : i + 1], torch.ones(1), condition) if i < mine else z0
            angle = t[i] * torch.pi / 2
            out = model.denoise(angle.cos() * start + angle.sin() * eps[i], t[i : i + 1], condition)
            weight = F.avg_pool2d(valid[i : i + 1], 2)
            error += float(((out - (eps[i] if prediction == "eps" else z0)).square() * weight).sum())
            weights += float(weight.sum()) * 4
    assert float(found["regression_later"]) == pytest.approx(0.7 * later * error / weights, rel=2e-3)


def test_they_are_never_at_pure_noise_and_spread_over_all_times(make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    method = Method(pure_noise=1.0, later_steps=1.0, recycling=0.0, reconstruction_weight=0.0)
    objective = build(make_configuration("auto", method=method))
    times: list[torch.Tensor] = []
    original = objective.model.denoise
    monkeypatch.setattr(objective.model, "denoise", lambda z, t, condition: times.append(t) or original(z, t, condition))
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(25):
            objective(*batch())
    first, later = torch.cat(times[::2]), torch.cat(times[1::2])
    assert len(first) == len(later) == 100 and (first == 1).all() and (later < 1).all()
    counts = torch.histc(later, 4, 0, 1)
    assert float(((counts - 25) ** 2 / 25).sum()) < 16.3  # chi square of three degrees of freedom, one in a thousand


@pytest.mark.parametrize("stop", [True, False])
def test_the_error_reaches_the_denoiser_and_the_label_encoder_not_the_decoder(
    make_configuration: Make, monkeypatch: pytest.MonkeyPatch, stop: bool
) -> None:
    method = Method(pure_noise=1.0, later_steps=1.0, recycling=0.0, reconstruction_weight=0.0, stop_gradient=stop)
    objective = build(make_configuration("auto", method=method))
    monkeypatch.setattr(objective, "_regress", without_noise(objective))
    objective(*batch())["loss"].backward()
    for name, reached in (("image_encoder", True), ("denoiser", True), ("label_encoder", True), ("decoder", False)):
        gradients = [p.grad for p in getattr(objective.model, name).parameters() if p.grad is not None]
        assert any(g.any() for g in gradients) == reached, name
