"""Fine-tuning: which weights are transferred, which are not and why, and what the record says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ldseg_auto.data.description import Description
from ldseg_auto.errors import InputError, ModelError, PlansError
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration, Intensities, Latent, Plans
from ldseg_auto.training import checkpoint
from ldseg_auto.training.finish import fit_predicted_dice
from ldseg_auto.training.options import Options
from ldseg_auto.training.prepare import Prepared
from ldseg_auto.training.pretrained import begin, cases_seen, compare, find_checkpoint, grouped, load_pretrained

Make = Callable[..., Configuration]
DATASET = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1}, "numTraining": 2, "file_ending": ".nii.gz"}
INTENSITIES = Intensities(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0)


def network(configuration: Configuration, heads: int = 2, seed: int = 0) -> LDSeg:
    """Random weights, none of which is zero."""
    torch.manual_seed(seed)
    model = LDSeg(configuration, heads)
    for value in (*model.parameters(), model.standardise.mean, model.standardise.variance):
        torch.nn.init.uniform_(value, 0.1, 1.0)
    model.standardise.updates += 7
    return model


def prepared(configuration: Configuration, digest: str = "new", validation: tuple[str, ...] = ("a", "b"), **described: object) -> Prepared:
    plans = Plans(
        "Dataset002_New", "ldsegPlans", digest, ".nii.gz", (0, 1, 2), (INTENSITIES,) * configuration.channels, {"2d": configuration}, "2d"
    )
    return Prepared(Path("data"), plans, "2d", Description.from_dict(DATASET | described, "dataset.json"), ["c"], list(validation))


def save(path: Path, model: LDSeg, **more: object) -> Path:
    checkpoint.save(path, {"ema": model.state_dict(), "dataset_name": "Dataset001_Old", "fingerprint_hash": "old", **more})
    return path


def test_the_same_network_takes_everything(tmp_path: Path, make_configuration: Make) -> None:
    theirs, mine = network(make_configuration()), [network(make_configuration(), seed=s) for s in (1, 2)]
    path = save(tmp_path / "a.pth", theirs)
    found = load_pretrained(path, mine, prepared(make_configuration()))
    assert (found.left_out, found.differences, found.validation_cases_seen) == ({}, {}, ())
    assert (found.dataset, found.path) == ("Dataset001_Old", str(path.resolve()))
    for model in mine:
        torch.testing.assert_close(model.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert mine[0].standardise.updates == 7  # it goes on averaging where it was: the label encoder is the one it knows


def other_heads(c: Configuration) -> tuple[Configuration, int]:
    return c, 4


def other_channels(c: Configuration) -> tuple[Configuration, int]:
    return replace(c, normalisation=("zscore",) * 2, use_mask_for_norm=(False,) * 2), 2


def other_latent(c: Configuration) -> tuple[Configuration, int]:
    return replace(c, latent=Latent(c.latent.factor, c.latent.channels + 1)), 2


CODE_OF_LABELS = {*(f"label_encoder.layers.{i}" for i in (0, 2, 4)), "label_encoder.linear", "standardise", "decoder.linear"}
FIRST = "image_encoder.stages.0.blocks.0"


@pytest.mark.parametrize(
    ("change", "left_out"),
    [
        (other_heads, CODE_OF_LABELS | {"decoder.head"}),
        (other_channels, {f"{FIRST}.conv1.conv", f"{FIRST}.skip.0.conv"}),
        (other_latent, CODE_OF_LABELS | {"decoder.entry", "denoiser.entry", "denoiser.exit.2"}),
    ],
)
def test_all_but_the_layers_concerned(tmp_path: Path, make_configuration: Make, change: Callable, left_out: set[str]) -> None:
    """Layers by hand, from the networks' own docstrings: what reads or writes labels, image channels or latent channels."""
    configuration, heads = change(make_configuration())
    theirs, mine, before = network(make_configuration()), network(configuration, heads, 1), network(configuration, heads, 1).state_dict()
    found = load_pretrained(save(tmp_path / "a.pth", theirs), [mine], prepared(configuration))
    assert set(found.left_out) == left_out
    old = theirs.state_dict()
    for name, value in mine.state_dict().items():
        layer = name.rpartition(".")[0].replace("all_modules.0", "conv")  # the convolution's second name
        expected = before[name] if layer in left_out else old[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=0, msg=name)


def test_reasons(make_configuration: Make) -> None:
    configuration = make_configuration()
    theirs = network(configuration).state_dict()
    del theirs["decoder.entry.bias"]
    theirs["decoder.further.weight"] = torch.zeros(1)
    _, left_out = compare(theirs, network(configuration, 4))
    assert left_out["decoder.head"] == "other shape: 2 x 8 x 1 x 1 there, 4 x 8 x 1 x 1 here"
    assert left_out["decoder.entry"] == "not there" and left_out["decoder.further"] == "not in this network"
    assert left_out["standardise"] == left_out["label_encoder.layers.2"] == "part of its code of labels, which does not fit as a whole"
    assert left_out["label_encoder.linear"].startswith("other shape")
    assert grouped({"a": "x", "b": "y", "c": "x"}) == {"x": ["a", "c"], "y": ["b"]}


@pytest.mark.parametrize("variant", ["auto", "direct"])
def test_a_model_without_diffusion_has_no_code_of_labels_to_give(tmp_path: Path, make_configuration: Make, variant: str) -> None:
    direct, configuration = make_configuration("direct"), make_configuration(variant)
    path = save(tmp_path / "fold_0" / "a.pth", network(direct))
    prepared(direct).plans.save(path.with_name("plans.json"))
    found = load_pretrained(path, [network(configuration)], prepared(configuration))
    assert set(found.left_out) == (CODE_OF_LABELS if variant == "auto" else set())


@pytest.mark.parametrize("variant", ["auto", "paper", "direct"])
@pytest.mark.parametrize("heads", [2, 3])
def test_every_layer_is_transferred_or_left_out(make_configuration: Make, variant: str, heads: int) -> None:
    """Between any two variants: no layer in both, none in neither, and each tensor of a transferred layer fits."""
    theirs = network_of(make_configuration, "auto").state_dict()
    mine = network_of(make_configuration, variant, heads)
    transferred, left_out = compare(theirs, mine)
    names = {name for names in transferred.values() for name in names}
    own = {name for name in mine.state_dict() if "all_modules" not in name}
    assert not set(transferred) & set(left_out)
    assert {n.rpartition(".")[0] for n in own} <= set(transferred) | set(left_out)
    assert all(theirs[name].shape == mine.state_dict()[name].shape for name in names)
    assert bool(left_out) == (variant == "paper" or heads != 2)


def network_of(make: Make, variant: str, heads: int = 2) -> LDSeg:
    torch.manual_seed(0)
    return LDSeg(make(variant), heads)


def test_2d_weights_do_not_fit_in_3d(tmp_path: Path, make_configuration: Make) -> None:
    """Norms have the same shapes in both, which is not worth the name."""
    path, flat = save(tmp_path / "a.pth", network(make_configuration())), make_configuration(patch=(8, 8, 8))
    with pytest.raises(
        ModelError, match=r"--pretrained .*a\.pth: nothing of its image encoder fits .*other shape: .*Copy its plans first: ldseg"
    ):
        load_pretrained(path, [network(flat)], prepared(flat))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"model": {}}, "holds no weights under 'ema'"),
        ({"ema": {"a": 1.0}}, "holds no weights under 'ema'"),
        ({"ema": {"a": torch.zeros(1)}}, "nothing of its image encoder fits this network"),
    ],
)
def test_no_weights(tmp_path: Path, make_configuration: Make, content: dict, match: str) -> None:
    checkpoint.save(tmp_path / "a.pth", content)
    with pytest.raises(ModelError, match=match):
        load_pretrained(tmp_path / "a.pth", [network(make_configuration())], prepared(make_configuration()))


def test_damaged_and_not_finite(tmp_path: Path, make_configuration: Make) -> None:
    model = network(make_configuration())
    with torch.no_grad():
        model.decoder.entry.weight[0] = torch.nan
    path, before = save(tmp_path / "a.pth", model), (mine := network(make_configuration())).state_dict()
    before = {name: value.clone() for name, value in before.items()}
    with pytest.raises(ModelError, match="decoder.entry.weight hold values that are not finite"):
        load_pretrained(path, [mine], prepared(make_configuration()))
    torch.testing.assert_close(mine.state_dict(), before, rtol=0, atol=0)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelError, match="cannot be read .* damaged"):
        load_pretrained(path, [mine], prepared(make_configuration()))


def test_what_names_a_checkpoint(tmp_path: Path) -> None:
    model = tmp_path / "ldsegPlans__2d"
    for fold, kind in (("0", "best"), ("0", "final"), ("1", "latest")):
        checkpoint.save(model / f"fold_{fold}" / f"checkpoint_{kind}.pth", {})
    final, latest = model / "fold_0" / "checkpoint_final.pth", model / "fold_1" / "checkpoint_latest.pth"
    assert find_checkpoint(model / "fold_0") == final and find_checkpoint(latest) == latest
    with pytest.raises(ModelError, match=r"holds several folds \(fold_0, fold_1\): name one of them, for instance .*fold_0"):
        find_checkpoint(model)
    checkpoint.save(model / "fold_all" / "checkpoint_final.pth", {})
    assert find_checkpoint(model) == model / "fold_all" / "checkpoint_final.pth"
    for path, match in ((tmp_path, "holds no checkpoint: name a model folder"), (tmp_path / "none", "holds no checkpoint")):
        with pytest.raises(ModelError, match=match):
            find_checkpoint(path)
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(ModelError, match="is an archive: put it in place with ldseg_import"):
        find_checkpoint(tmp_path / "a.zip")


def old_model(folder: Path, configuration: Configuration, digest: str = "old") -> Path:
    """A fold with its plans, its manifest and dataset.json beside it."""
    plans = Plans("Dataset001_Old", "ldsegPlans", digest, ".nii.gz", (0, 1, 2), (INTENSITIES,), {"2d": configuration}, "2d")
    plans.save(folder / "fold_0" / "plans.json")
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    (folder / "fold_0" / "manifest.json").write_text(json.dumps({"train": ["a", "c"]}))
    save(folder / "fold_0" / "checkpoint_final.pth", network(configuration), fingerprint_hash=digest)
    return folder


def test_what_else_differs(tmp_path: Path, make_configuration: Make, caplog: pytest.LogCaptureFixture) -> None:
    model, mine = old_model(tmp_path / "m", make_configuration()), make_configuration(patch=(8, 8))
    mine = replace(mine, spacing=(1.0, 2.0), method=replace(mine.method, prediction="eps"))
    found = load_pretrained(model, [network(mine)], prepared(mine, labels={"background": 0, "lesion": 1}))
    assert found.differences == {
        "spacing": "1.0, 1.0 -> 1.0, 2.0", "patch_size": "16, 16 -> 8, 8", "prediction": "z0 -> eps", "classes": "organ -> lesion",
    }  # fmt: skip
    assert "other spacing: 1.0, 1.0 -> 1.0, 2.0" in caplog.text
    assert load_pretrained(model, [network(make_configuration())], prepared(make_configuration())).differences == {}


def test_cases_that_the_pretrained_model_has_seen(tmp_path: Path, make_configuration: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Names of other data say nothing; those of the same data do."""
    configuration = make_configuration()
    other, same = (old_model(tmp_path / digest, configuration, digest) for digest in ("old", "new"))
    assert load_pretrained(other, [network(configuration)], prepared(configuration)).validation_cases_seen == ()
    found = begin(same, [network(configuration)], prepared(configuration), None)
    assert found is not None and found["validation_cases_seen"] == ("a",)
    assert "1 validation cases of this fold were trained on by them (first: a)" in caplog.text
    (fold := tmp_path / "fold_0").mkdir()
    assert cases_seen(fold) == set()
    (fold / "manifest.json").write_text(json.dumps({"pretrained": found}))
    assert cases_seen(fold) == {"a"}
    assert begin(None, [], prepared(configuration), fold) == json.loads(json.dumps(found))
    assert begin(None, [], prepared(configuration), None) is None


def test_seen_cases_do_not_count_for_the_predicted_dice(tmp_path: Path, make_configuration: Make) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"pretrained": {"validation_cases_seen": ["a", "b"]}}))
    (tmp_path / "steps.json").write_text("{}")
    found = fit_predicted_dice(prepared(make_configuration()), tmp_path, {}, lambda **_: {})
    assert found.single is None and found.note == "the validation cases were trained on: their Dice says nothing of other cases."


def test_plans_of_another_version(tmp_path: Path, make_configuration: Make) -> None:
    model = old_model(tmp_path / "m", make_configuration())
    path = model / "fold_0" / "plans.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(PlansError, match=r"plans\.json: version = 2 is not possible: expected 3; .*a trained model needs the ldseg_auto"):
        load_pretrained(model, [network(make_configuration())], prepared(make_configuration()))


def test_not_with_continue() -> None:
    with pytest.raises(InputError, match="--pretrained m and --continue: a training that goes on has weights already"):
        Options(pretrained=Path("m"), resume=True)
