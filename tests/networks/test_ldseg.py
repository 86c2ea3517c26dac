"""LDSeg's laws: shapes, independence of batch mates, what is on and off, and the paper's variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch

from ldseg_auto.diffusion.samplers import ddim, multistep
from ldseg_auto.networks.ldseg import LAST_TIME, Condition, LDSeg
from ldseg_auto.networks.standardise import standardise_sample
from ldseg_auto.planners.method import DENOISERS, LABEL_INPUTS, PREDICTIONS, STANDARDISATIONS, Method
from ldseg_auto.planners.plans import Configuration, Sampling

Make = Callable[..., Configuration]
VARIANTS = ("auto", "paper", "direct")
# strides, latent stage, patch, latent grid
GRIDS = [
    (((1, 1), (2, 2), (2, 2)), 1, (16, 24), (8, 12)),
    (((1, 1), (2, 2), (2, 2)), 2, (16, 24), (4, 6)),
    (((1, 1, 1), (2, 2, 2), (2, 2, 2)), 1, (8, 12, 8), (4, 6, 4)),
    (((1, 1, 1), (1, 2, 2), (2, 2, 2)), 1, (4, 8, 16), (4, 4, 8)),
    (((1, 1, 1), (1, 2, 2), (2, 2, 2)), 2, (4, 8, 16), (2, 2, 4)),
]


def build(configuration: Configuration, heads: int = 3, seed: int = 0) -> LDSeg:
    """In evaluation mode, with no layer left at its initial zero."""
    torch.manual_seed(seed)
    model = LDSeg(configuration, heads).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def onehot(heads: int, *shape: int) -> torch.Tensor:
    """Random `(b, heads, *spatial)`; shape = (b, *spatial)."""
    return torch.eye(heads)[torch.randint(heads, shape)].movedim(-1, 1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("strides", "stage", "patch", "grid"), GRIDS)
def test_shapes(make_configuration: Make, variant: str, strides: tuple, stage: int, patch: tuple, grid: tuple) -> None:
    model = build(make_configuration(variant, strides, stage, patch, channels=2))
    image = torch.randn(2, 2, *patch)
    assert model.latent_shape(patch) == (3, *grid)
    z0 = model.encode_label(onehot(3, 2, *patch))
    assert z0.shape == (2, 3, *grid) and z0.dtype == torch.float32
    condition = model.condition(image)
    assert model.denoise(z0, torch.tensor([0.2, 1.0]), condition).shape == z0.shape
    assert model.decode(z0, condition).shape == (2, 3, *patch)
    assert model.predict(image, torch.randn_like(z0), steps=2).shape == (2, 3, *patch)
    assert model.decode(z0, None).shape == (2, 3, *patch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sample_does_not_depend_on_its_batch_mates(make_configuration: Make, variant: str) -> None:
    model = build(make_configuration(variant, patch=(16, 16)))
    image, noise, labels = torch.randn(3, 1, 16, 16), torch.randn(3, 3, 8, 8), onehot(3, 3, 16, 16)
    with torch.inference_mode():
        together, latents = model.predict(image, noise, 3), model.encode_label(labels)
        other = model.predict(torch.cat([image[:1], 50 * image[1:]]), torch.cat([noise[:1], 9 * noise[1:]]), 3)
        alone, latent = model.predict(image[:1], noise[:1], 3), model.encode_label(labels[:1])
    torch.testing.assert_close(other[:1], together[:1], rtol=0, atol=0)
    torch.testing.assert_close(alone, together[:1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(latent, latents[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_an_empty_patch_has_a_finite_latent(make_configuration: Make, variant: str, training: bool) -> None:
    model = build(make_configuration(variant)).train(training)
    empty = torch.zeros(2, 3, 16, 24)
    empty[:, 0] = 1
    z0 = model.encode_label(empty)
    assert z0.isfinite().all()
    z0.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.label_encoder.parameters())
    assert model.predict(torch.zeros(2, 1, 16, 24), torch.randn_like(z0), 2).isfinite().all()


def test_decoding_without_condition_is_decoding_with_all_features_switched_off(make_configuration: Make) -> None:
    model = build(make_configuration(stage=2))
    z, image = torch.randn(2, 3, 4, 6), torch.randn(2, 1, 16, 24)
    condition = model.condition(image)
    off = Condition(condition.denoiser, [0 * f for f in condition.decoder])
    half = Condition(condition.denoiser, [f * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1) for f in condition.decoder])
    torch.testing.assert_close(model.decode(z, off), model.decode(z, None))
    torch.testing.assert_close(model.decode(z, half)[:1], model.decode(z, condition)[:1])
    torch.testing.assert_close(model.decode(z, half)[1:], model.decode(z, None)[1:])
    assert not torch.allclose(model.decode(z, condition), model.decode(z, None), atol=1e-2)


def test_select_takes_samples(make_configuration: Make) -> None:
    model = build(make_configuration())
    condition = model.condition(torch.randn(3, 1, 16, 24))
    chosen = condition.select(torch.tensor([2, 0]))
    torch.testing.assert_close(chosen.denoiser[0], condition.denoiser[0][[2, 0]])
    torch.testing.assert_close(chosen.decoder[-1], condition.decoder[-1][[2, 0]])


def test_logits_have_a_linear_term_of_their_own_block(make_configuration: Make) -> None:
    """All that is left without the head: additive in the latent, and each latent position reaches its factor's voxels only."""
    model = build(make_configuration(stage=2))
    torch.nn.init.zeros_(model.decoder.head.weight)
    torch.nn.init.zeros_(model.decoder.head.bias)
    a, b = torch.randn(2, 1, 3, 4, 6)
    torch.testing.assert_close(model.decode(2 * a - b, None), 2 * model.decode(a, None) - model.decode(b, None), rtol=1e-4, atol=1e-4)
    moved = a.clone()
    moved[..., 1, 2] += 1
    changed = (model.decode(moved, None) != model.decode(a, None)).any(1)[0]
    block = torch.zeros(16, 24, dtype=torch.bool)
    block[4:8, 8:12] = True
    assert torch.equal(changed, block)


def test_repeat_puts_the_whole_batch_behind_itself(make_configuration: Make) -> None:
    condition = build(make_configuration()).condition(torch.randn(2, 1, 16, 24))
    twice = condition.repeat(2)
    for before, after in zip((*condition.denoiser, *condition.decoder), (*twice.denoiser, *twice.decoder), strict=True):
        torch.testing.assert_close(after, before[[0, 1, 0, 1]])


def test_sampling_leaves_the_condition_as_it_was(make_configuration: Make) -> None:
    """In-place activations must not touch what several steps and samples share."""
    model = build(make_configuration(stage=2))
    condition = model.condition(torch.randn(1, 1, 16, 24))
    before = [f.clone() for f in (*condition.denoiser, *condition.decoder)]
    noise = torch.randn(1, 3, 4, 6)
    first = model.decode(model.sample(noise, condition, 3), condition)
    again = model.decode(model.sample(noise, condition, 3), condition)
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    torch.testing.assert_close([*condition.denoiser, *condition.decoder], before, rtol=0, atol=0)


def test_the_latent_matters_to_auto_and_not_to_direct(make_configuration: Make) -> None:
    image, a, b = torch.randn(1, 1, 16, 24), torch.randn(1, 3, 8, 12), torch.randn(1, 3, 8, 12)
    for variant, equal in (("auto", False), ("paper", False), ("direct", True)):
        model = build(make_configuration(variant))
        assert torch.equal(model.predict(image, a, 2), model.predict(image, b, 2)) == equal, variant
    direct = build(make_configuration("direct"))
    assert torch.equal(direct.predict(image, a, 1), direct.predict(image, a, 9))


def test_one_step_of_auto_is_its_prediction_from_pure_noise(make_configuration: Make) -> None:
    model = build(make_configuration())
    condition, noise = model.condition(torch.randn(2, 1, 16, 24)), torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(model.sample(noise, condition, 1), model.denoise(noise, torch.ones(2), condition))


def test_the_denoiser_reads_the_time_of_each_sample(make_configuration: Make) -> None:
    model = build(make_configuration())
    image, z = torch.randn(1, 1, 16, 24).expand(2, -1, -1, -1), torch.randn(1, 3, 8, 12).expand(2, -1, -1, -1)
    out = model.denoise(z, torch.tensor([0.1, 0.9]), model.condition(image))
    assert not torch.allclose(out[0], out[1], atol=1e-3)


def test_ddpm_needs_and_uses_fresh_noise(make_configuration: Make) -> None:
    model = build(make_configuration(sampling=Sampling(3, sampler="ddpm")))
    condition, noise = model.condition(torch.randn(1, 1, 16, 24)), torch.randn(1, 3, 8, 12)
    with pytest.raises(ValueError, match="ddpm needs fresh noise"):
        model.sample(noise, condition, 3)
    seen: list[int] = []

    def fresh(scale: float) -> Callable[[int], torch.Tensor]:
        return lambda i: seen.append(i) or scale * torch.ones_like(noise)  # type: ignore[func-returns-value]

    a, b = model.sample(noise, condition, 3, fresh(1)), model.sample(noise, condition, 3, fresh(-1))
    assert seen == [0, 1, 2] * 2
    assert not torch.allclose(a, b, atol=1e-3)


def test_paper_has_one_embedding_channel_no_skips_and_attention(make_configuration: Make) -> None:
    model = build(make_configuration("paper", stage=2))
    condition = model.condition(torch.randn(1, 1, 16, 24))
    assert condition.decoder == [] and len(condition.denoiser) == 1
    assert model.embedding.out_channels == 1
    assert type(model.denoiser.attention).__name__ == "Attention"
    assert len(model.image_encoder.stages) == 3
    z = torch.randn(1, 3, 4, 6)
    torch.testing.assert_close(model.decode(z, condition), model.decode(z, None), rtol=0, atol=0)


@pytest.mark.parametrize(("widths", "expected"), [((8, 16, 24), (16, 24, 24)), ((32, 64, 320), (32, 32, 32))])
def test_the_label_encoder_stays_narrow_whatever_the_image_encoder(make_configuration: Make, widths: tuple, expected: tuple) -> None:
    configuration = make_configuration("auto", stage=2)
    wide = replace(configuration, network=replace(configuration.network, features_per_stage=widths))
    model = build(wide)
    convolutions = [m for m in model.label_encoder.layers if hasattr(m, "out_channels")]
    assert tuple(m.out_channels for m in convolutions) == (*expected, model.channels)
    assert [m.out_channels for m in model.image_encoder.modules() if hasattr(m, "out_channels")][-1] == widths[-1]


def test_paper_codes_labels_as_one_integer_channel(make_configuration: Make) -> None:
    model = build(make_configuration("paper"))
    seen: list[torch.Tensor] = []
    model.label_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    labels = torch.arange(3).repeat(16, 8)
    model.encode_label(torch.eye(3)[labels].movedim(-1, 0)[None])
    torch.testing.assert_close(seen[0][0, 0], labels.float() - 1)
    regions = torch.zeros(1, 3, 16, 24)
    regions[0, 0, :8] = 1
    model.encode_label(regions)
    assert seen[1].unique().tolist() == [-2, -1]  # a first region differs from the background


def test_paper_clean_latent_inverts_the_noise_formula(make_configuration: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(make_configuration("paper"))
    z0, eps = torch.randn(1, 3, 8, 12), torch.randn(1, 3, 8, 12)
    monkeypatch.setattr(model, "denoise", lambda zt, t, condition: eps)
    for t in (0.3, 0.8, 1.0):
        angle = torch.tensor(min(t, LAST_TIME), dtype=torch.float64) * torch.pi / 2
        zt = (angle.cos() * z0 + angle.sin() * eps).float()
        torch.testing.assert_close(model.clean(zt, torch.tensor([t]), None), z0, rtol=1e-2, atol=1e-3)


def test_paper_standardises_after_every_step_per_sample(make_configuration: Make) -> None:
    model = build(make_configuration("paper"))
    condition = model.condition(torch.randn(2, 1, 16, 24))
    z = model.sample(torch.randn(2, 3, 8, 12), condition, 3)
    torch.testing.assert_close(z, standardise_sample(z), rtol=1e-4, atol=1e-4)


def test_bfloat16_latents_are_float32_and_finite(make_configuration: Make) -> None:
    model = build(make_configuration(stage=2))
    with torch.autocast("cpu", torch.bfloat16):
        z0 = model.train().encode_label(onehot(3, 2, 16, 24))
        logits = model.eval().predict(torch.randn(2, 1, 16, 24), torch.randn_like(z0), 2)
    assert z0.dtype == logits.dtype == model.standardise.mean.dtype == torch.float32
    assert z0.isfinite().all() and logits.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_new_network_guesses_the_mean_of_the_latent(make_configuration: Make, variant: str) -> None:
    model = LDSeg(make_configuration(variant), 3)
    out = model.denoise(torch.randn(2, 3, 8, 12), torch.tensor([0.3, 1.0]), model.condition(torch.randn(2, 1, 16, 24)))
    assert out.shape == (2, 3, 8, 12) and not out.any()


@pytest.mark.parametrize("variant", ["auto", "paper"])
@pytest.mark.parametrize("parts", product(PREDICTIONS, LABEL_INPUTS, (True, False), DENOISERS, STANDARDISATIONS))
def test_every_combination_of_parts_does_what_it_says(make_configuration: Make, variant: str, parts: tuple) -> None:
    prediction, label_input, skips, denoiser, standardisation = parts
    method = Method(
        prediction=prediction, label_input=label_input, skips=skips, denoiser=denoiser, standardisation=standardisation, pure_noise=0.5,
    )  # fmt: skip
    model = build(replace(make_configuration(variant, patch=(16, 16)), method=method))
    image, noise = torch.randn(1, 1, 16, 16), torch.randn(1, 3, 8, 8)
    condition, t = model.condition(image), torch.tensor([0.6])
    assert model.predict(image, noise, 2).shape == (1, 3, 16, 16)
    out, clean = model.denoise(noise, t, condition), model.clean(noise, t, condition)
    signal, sigma = model.signal_and_noise(t)
    torch.testing.assert_close(clean, out if prediction == "z0" else (noise - sigma * out) / signal)
    assert model.label_encoder.layers[0].in_channels == (3 if label_input == "onehot" else 1)
    assert torch.equal(model.decode(noise, condition), model.decode(noise, None)) != skips
    assert [f.shape[1:] for f in condition.denoiser] == ([(16, 8, 8), (32, 4, 4)] if denoiser == "unet" else [(64, 8, 8)])
    z, sampled = model.encode_label(onehot(3, 1, 16, 16)), model.sample(noise, condition, 2)
    assert torch.allclose(z, standardise_sample(z), atol=1e-3) == (standardisation == "sample")
    assert torch.allclose(sampled, standardise_sample(sampled), atol=1e-3) == (standardisation == "sample")


@pytest.mark.parametrize("scale", [0.2, 1.0])
@pytest.mark.parametrize("sampler", ["ddim", "multistep"])
def test_sampling_noises_as_training_does(make_configuration: Make, monkeypatch: pytest.MonkeyPatch, sampler: str, scale: float) -> None:
    """A certain guess is noised to half the time by the very amplitudes that the objective takes."""
    model = build(replace(make_configuration(sampling=Sampling(2, sampler)), method=Method(input_scale=scale)))
    guess, noise = torch.randn(1, 3, 8, 12), torch.randn(1, 3, 8, 12)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(model, "clean", lambda zt, t, condition: seen.append(zt) or guess)
    model.sample(noise, None, 2)  # type: ignore[arg-type]
    signal, sigma = model.signal_and_noise(torch.tensor([0.5]))
    assert float(signal / sigma) == pytest.approx(scale, rel=1e-5)  # the ratio at half the time is 1 without a scale
    torch.testing.assert_close(seen[1], signal * guess + sigma * noise)


def test_the_planned_sampler_is_taken(make_configuration: Make) -> None:
    condition_of, noise = torch.randn(1, 1, 16, 24), torch.randn(1, 3, 8, 12)
    drawn = {}
    for name, sampler in (("ddim", ddim), ("multistep", multistep)):
        model = build(replace(make_configuration(sampling=Sampling(6, name)), method=Method(average_steps=False)))
        condition = model.condition(condition_of)
        drawn[name] = model.sample(noise, condition, 6)
        expected = sampler(lambda z, t, m=model, c=condition: m.denoise(z, t, c), noise, 6, "cosine")
        torch.testing.assert_close(drawn[name], expected)
    assert not torch.allclose(drawn["ddim"], drawn["multistep"], atol=1e-3)


@pytest.mark.parametrize("sampler", ["ddim", "multistep", "ddpm"])
def test_averaged_steps_end_at_the_mean_of_all_predictions(make_configuration: Make, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    """With one rater. With several, and where it is switched off, at the last prediction."""
    noise, guesses = torch.randn(1, 3, 8, 12), torch.randn(4, 1, 3, 8, 12)
    configuration = make_configuration(sampling=Sampling(4, sampler))
    for method, raters, expected in (
        (Method(), 1, guesses.mean(0)), (Method(average_steps=False), 1, guesses[-1]), (Method(), 4, guesses[-1]),
    ):  # fmt: skip
        model = build(replace(configuration, method=method, raters=raters))
        given = iter(guesses)
        monkeypatch.setattr(model, "clean", lambda zt, t, condition, given=given: next(given))
        drawn = model.sample(noise, None, 4, lambda i: noise)  # type: ignore[arg-type]
        if sampler != "multistep":  # which ends at an extrapolation along its predictions
            torch.testing.assert_close(drawn, expected)
        given = iter(guesses)
        monkeypatch.setattr(model, "clean", lambda zt, t, condition, given=given: next(given))
        torch.testing.assert_close(model.sample(noise, None, 1, lambda i: noise), guesses[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("setup", [{}, {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "stage": 2, "patch": (4, 8, 16)}], ids=["2d", "3d"])
@pytest.mark.parametrize("heads", [1, 2, 3, 5])
def test_decoding_in_parts_is_decoding(make_configuration: Make, setup: dict, heads: int) -> None:
    configuration = make_configuration(**setup)
    torch.manual_seed(0)
    model = LDSeg(configuration, 5).eval().requires_grad_(False)
    condition, z = (
        model.condition(torch.randn(2, 1, *configuration.patch_size)),
        torch.randn(2, *model.latent_shape(configuration.patch_size)),
    )
    parts = list(model.decode_in_parts(z, condition, heads))
    assert [p.shape[1] for p in parts] == [min(heads, 5 - i) for i in range(0, 5, heads)]
    torch.testing.assert_close(torch.cat(parts, 1), model.decode(z, condition), rtol=1e-4, atol=1e-5)
