"""Plans: derived numbers, and impossible values refused with the key's path."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ldseg_auto.errors import PlansError
from ldseg_auto.planners.method import OF_NETWORK, VARIANTS, preset
from ldseg_auto.planners.plans import Plans

NETWORK = {
    "variant": "auto", "features_per_stage": [32, 64, 128], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}  # fmt: skip
CONFIGURATION = {
    "data_identifier": "ldsegPlans_3d_fullres", "spacing": [3, 1.0, 1.0], "patch_size": [8, 32, 48], "batch_size": 2,
    "median_shape": [20.0, 100.0, 120.0], "normalisation": ["ct", "zscore"], "use_mask_for_norm": [False, True], "network": NETWORK,
    "latent": {"factor": [2, 4, 4], "channels": 8}, "sampling": {"steps": 4},
}  # fmt: skip
INTENSITIES = {"mean": 1.0, "median": 1.0, "std": 1.0, "min": 0.0, "max": 2.0, "percentile_00_5": 0.1, "percentile_99_5": 1.9}
CONTENT = {
    "dataset_name": "Dataset001_Toy", "plans_name": "ldsegPlans", "fingerprint_hash": "abc", "file_ending": ".nii.gz",
    "transpose_forward": [1, 2, 0], "foreground_intensities": [INTENSITIES, INTENSITIES],
    "configurations": {"3d_fullres": CONFIGURATION}, "default_configuration": "3d_fullres",
}  # fmt: skip
C = "configurations.3d_fullres"


def changed(path: str, value: Any) -> dict[str, Any]:
    """CONTENT with one value replaced, by its dotted path."""
    content = copy.deepcopy(CONTENT)
    *parents, last = path.replace(C, "configurations/3d_fullres").split(".")
    target: Any = content
    for parent in parents:
        for key in parent.split("/"):
            target = target.setdefault(key, {})
    target[last] = value
    return content


def test_derived_numbers() -> None:
    configuration = Plans.from_dict(CONTENT).configuration()
    assert configuration.dimensions == 3
    assert configuration.channels == 2
    assert configuration.network.cumulative_strides == ((1, 1, 1), (1, 2, 2), (2, 4, 4))
    assert configuration.latent_stage == 2
    assert configuration.latent_size == 8 * 4 * 8 * 12


def test_transposition_and_its_inverse() -> None:
    plans = Plans.from_dict(CONTENT)
    shape = (10, 20, 30)
    there = tuple(shape[i] for i in plans.transpose_forward)
    assert there == (20, 30, 10)
    assert tuple(there[i] for i in plans.transpose_backward) == shape


def test_round_trip(tmp_path: Path) -> None:
    plans = Plans.from_dict(CONTENT)
    plans.save(tmp_path / "plans.json")
    assert Plans.load(tmp_path / "plans.json") == plans
    written = json.loads((tmp_path / "plans.json").read_text())
    assert written["configurations"]["3d_fullres"]["training"]["epochs"] == 500  # defaults are written out
    assert Plans.from_dict(written).to_dict() == written


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("raters", [1, 4])
def test_a_fixed_method_goes_through_json(tmp_path: Path, variant: str, raters: int) -> None:
    """Every part is written out, and read again as the same parts."""
    content = changed(f"{C}.network.variant", variant)
    content["configurations"]["3d_fullres"]["raters"] = raters
    plans = Plans.from_dict(content)
    open_one = plans.configuration()
    fixed = dataclasses.replace(open_one, method=open_one.method.fixed(variant, raters))
    dataclasses.replace(plans, configurations={"3d_fullres": fixed}).save(tmp_path / "plans.json")
    written = json.loads((tmp_path / "plans.json").read_text())["configurations"]["3d_fullres"]["method"]
    assert written == dataclasses.asdict(open_one.parts) and None not in written.values()
    again = Plans.load(tmp_path / "plans.json").configuration()
    assert again == fixed and again.parts == open_one.parts


@pytest.mark.parametrize(("name", "value", "own"), [
    ("prediction", "eps", "z0"), ("label_input", "integer", "onehot"), ("skips", False, True), ("denoiser", "attention", "unet"),
    ("standardisation", "sample", "running"), ("stop_gradient", False, True), ("pure_noise", 0.5, 1.0), ("recycling", 0.5, 0.0),
    ("later_steps", 0.5, 0.0),
    ("reconstruction_weight", 0.5, 0.0), ("reconstruction_share", 0.125, 0.0), ("regression_weight", 1.0, 0.0), ("diversity", 1.0, 0.0),
    ("input_scale", 0.5, 1.0),
])  # fmt: skip
def test_direct_refuses_what_an_arm_without_diffusion_has_not(name: str, value: Any, own: Any) -> None:
    content = changed(f"{C}.network.variant", "direct")
    for allowed in (None, own):
        content["configurations"]["3d_fullres"]["method"] = {name: allowed}
        Plans.from_dict(content)
    content["configurations"]["3d_fullres"]["method"] = {name: value}
    rule = rf"^plans\.json: {C}.method.{name} = {value!r} is not possible: expected null with network.variant = direct"
    with pytest.raises(PlansError, match=rule):
        Plans.from_dict(content, "plans.json")
    content["configurations"]["3d_fullres"]["network"]["variant"] = "auto"
    assert getattr(Plans.from_dict(content).configuration().parts, name) == value


@pytest.mark.parametrize(
    ("variant", "raters", "method"), [("auto", 4, {"prediction": "eps"}), ("paper", 1, {"diversity": 1.0, "pure_noise": 0.5})]
)
def test_eps_with_diversity_is_refused_wherever_either_comes_from(variant: str, raters: int, method: dict[str, Any]) -> None:
    content = changed(f"{C}.network.variant", variant)
    content["configurations"]["3d_fullres"] |= {"method": method, "raters": raters}
    with pytest.raises(PlansError, match=rf"{C}\.method\.prediction = 'eps' .*diversity"):
        Plans.from_dict(content)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("raters", [1, 4])
def test_parts_are_those_of_the_variant_and_the_raters(variant: str, raters: int) -> None:
    """One stored value comes before them; the number of raters is read from the plans."""
    content = changed(f"{C}.network.variant", variant)
    content["configurations"]["3d_fullres"] |= {"raters": raters, "method": {"dice_weight": 3.5}}
    configuration = Plans.from_dict(content).configuration()
    expected = {**preset(variant, raters), "dice_weight": 3.5}
    assert configuration.raters == raters and dataclasses.asdict(configuration.parts) == expected
    assert configuration.network_parts == {name: expected[name] for name in OF_NETWORK}


@pytest.mark.parametrize(("name", "value"), [
    ("prediction", "eps"), ("label_input", "integer"), ("skips", False), ("denoiser", "attention"), ("signal_gate", False),
    ("standardisation", "sample"),
    ("input_scale", 0.5),
])  # fmt: skip
def test_network_parts_are_what_weights_are_made_for(name: str, value: Any) -> None:
    before = Plans.from_dict(CONTENT).configuration().network_parts
    assert Plans.from_dict(changed(f"{C}.method", {name: value})).configuration().network_parts == {**before, name: value} != before
    drawn = Plans.from_dict(changed(f"{C}.method", {"diversity": 0.5})).configuration().network_parts
    assert drawn == {**before, "signal_gate": False}  # a first step that draws must read the noise
    for other in ({"pure_noise": 0.5}, {"reconstruction_share": 0.9}, {"dice_weight": 3.5}):
        assert Plans.from_dict(changed(f"{C}.method", other)).configuration().network_parts == before


def test_plans_of_before_a_part_was_removed_are_read() -> None:
    """Those saved with a model name every part; at the value without effect, or open, a removed one says nothing."""
    for value in (0, 0.0, None):
        old = changed(f"{C}.method", {"skip_dropout": value, "skip_noise": value})
        assert Plans.from_dict(old) == Plans.from_dict(CONTENT)


@pytest.mark.parametrize(("planned", "method", "variant", "centre"), [
    (True, {}, "auto", True), (False, {}, "auto", False), (True, {"prediction": "eps"}, "auto", False),
    (True, {}, "paper", False), (True, {"prediction": "z0"}, "paper", True), (False, {"prediction": "z0"}, "paper", False),
])  # fmt: skip
def test_only_a_predicted_latent_starts_from_the_centre(planned: bool, method: dict[str, Any], variant: str, centre: bool) -> None:
    content = changed(f"{C}.sampling.centre", planned)
    content["configurations"]["3d_fullres"]["method"] = method
    content["configurations"]["3d_fullres"]["network"]["variant"] = variant
    assert Plans.from_dict(content).configuration().centre is centre


def test_configurations_by_name() -> None:
    plans = Plans.from_dict(CONTENT)
    assert plans.configuration("3d_fullres") is plans.configuration()
    with pytest.raises(PlansError, match="configuration '2d' is not in the plans of Dataset001_Toy; there are 3d_fullres"):
        plans.configuration("2d")


def test_plans_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plans.from_dict(CONTENT).configuration().batch_size = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("version", 1, r"version = 1 is not possible: expected 3; plan again with ldseg_plan, which takes seconds"),
        ("transpose_forward", [0, 0, 1], r"transpose_forward = \(0, 0, 1\) .* a permutation of 0, 1, 2"),
        ("configurations", {}, "configurations = {} .* at least one"),
        ("default_configuration", "2d", r"default_configuration = '2d' .* one of \('3d_fullres',\)"),
        ("foreground_intensities", [INTENSITIES], rf"{C}.normalisation = \('ct', 'zscore'\) .* 1 channels"),
        (f"{C}.patch_size", [8, 32], "patch_size|spacing"),
        (f"{C}.patch_size", [8, 32, 46], rf"{C}.patch_size = \(8, 32, 46\) .* positive multiples of the total stride \(2, 4, 4\)"),
        (f"{C}.patch_size", [0, 32, 48], "positive multiples"),
        (f"{C}.patch_size", [2, 4, 4], r"patch_size = \(2, 4, 4\) .* more than \(2, 4, 4\)"),
        (f"{C}.spacing", [1.0, -1.0, 1.0], rf"{C}.spacing = \(1.0, -1.0, 1.0\) .* above 0 mm"),
        (f"{C}.spacing", [1.0, 1.0], rf"{C}.spacing = \(1.0, 1.0\) .* 3 numbers"),
        (f"{C}.batch_size", 0, rf"{C}.batch_size = 0 .* at least 1"),
        (f"{C}.median_shape", [1.0, 1.0], "median_shape .* three numbers"),
        (f"{C}.normalisation", ["ct", "magic"], rf"{C}.normalisation .* each of"),
        (f"{C}.use_mask_for_norm", [True], "use_mask_for_norm .* one per channel"),
        (f"{C}.network.variant", "best", rf"{C}.network.variant = 'best' .* one of \('auto', 'paper', 'direct'\)"),
        (f"{C}.network.features_per_stage", [32], "two stages or more"),
        (f"{C}.network.features_per_stage", [32, 64], rf"{C}.network.strides .* one entry for each of 2 stages"),
        (f"{C}.network.features_per_stage", [32, 64, 0], "features_per_stage .* positive"),
        (f"{C}.network.strides", [[1, 1, 2], [1, 2, 2], [2, 2, 2]], "the first stage has stride 1"),
        (f"{C}.network.strides", [[1, 1, 1], [1, 3, 2], [2, 2, 2]], "each 1 or 2"),
        (f"{C}.network.strides", [[1, 1, 1], [1, 1, 1], [2, 2, 2]], "a 2 in every stage after the first"),
        (f"{C}.network.strides", [[1, 1], [2, 2], [2, 2]], rf"{C}.network.strides .* 3 numbers per stage"),
        (f"{C}.network.kernel_sizes", [[1, 3, 3], [3, 3, 3], [2, 3, 3]], "kernel_sizes .* odd"),
        (f"{C}.network.kernel_sizes", [[3, 3, 3], [3, 3, 3]], "one entry for each of 3 stages"),
        (f"{C}.network.kernel_sizes", [[3, 3], [3, 3], [3, 3]], rf"{C}.network.kernel_sizes .* 3 numbers per stage"),
        (f"{C}.network.blocks_per_stage", 0, "blocks_per_stage = 0 .* at least 1"),
        (f"{C}.latent.factor", [2, 2, 2], rf"{C}.latent.factor = \(2, 2, 2\) .* one of the network's cumulative strides"),
        (f"{C}.latent.factor", [0, 4, 4], "factor .* at least 1 per axis"),
        (f"{C}.data_identifier", "../cases", rf"{C}.data_identifier = '../cases' .* a folder's name"),
        (f"{C}.data_identifier", "gt_segmentations", "a folder's name, not gt_segmentations"),
        (f"{C}.inherits_from", "3d_fullres", r"inherits_from = '3d_fullres' closes a circle: 3d_fullres -> 3d_fullres"),
        (f"{C}.inherits_from", "2d", r"inherits_from = '2d': there is no such configuration; there are 3d_fullres"),
        ("choices.gpu_memory", 0, "choices.gpu_memory = 0.0 .* above 0 GiB"),
        ("choices.target_spacing", [1, 0], r"choices.target_spacing = \(1.0, 0.0\) .* above 0 mm"),
        ("foreground_intensities", [INTENSITIES, {**INTENSITIES, "std": -1}], r"foreground_intensities\[1\].std = -1.0 .* 0 or more"),
        ("foreground_intensities", [{**INTENSITIES, "max": -1}, INTENSITIES], r"foreground_intensities\[0\].max = -1.0 .* at least min"),
        (f"{C}.raters", 0, rf"{C}.raters = 0 .* at least 1"),
        (f"{C}.latent.channels", 0, rf"{C}.latent.channels = 0 .* at least 1"),
        (f"{C}.latent.ceiling", 1.5, "ceiling = 1.5 .* 0 to 1"),
        (f"{C}.sampling.steps", 0, "steps = 0 .* at least 1"),
        (f"{C}.sampling.sampler", "euler", r"sampler = 'euler' .* one of \('ddim', 'ddpm', 'multistep'\)"),
        (f"{C}.sampling.schedule", "sigmoid", "schedule = 'sigmoid' .* linear, quadratic or cosine"),
        (f"{C}.sampling.samples", 0, "samples = 0 .* at least 1"),
        (f"{C}.resampling.order_image", 6, rf"{C}.resampling.order_image = 6 .* 0 to 5"),
        (f"{C}.resampling.order_label", 3, "order_label = 3 .* 0 or 1"),
        (f"{C}.resampling.separate_axis_threshold", 0.5, "separate_axis_threshold = 0.5 .* at least 1"),
        (f"{C}.training.epochs", 0, rf"{C}.training.epochs = 0 .* at least 1"),
        (f"{C}.training.learning_rate", 0, "learning_rate = 0.0 .* above 0"),
        (f"{C}.training.weight_decay", -1, "weight_decay = -1.0 .* 0 or more"),
        (f"{C}.method.pure_noise", 1.5, rf"{C}.method.pure_noise = 1.5 .* 0 to 1"),
        (f"{C}.method.skip_dropout", 0.3, rf"{C}.method.skip_dropout = 0.3: this was removed; without it is 0.0. Delete the key."),
        (f"{C}.method.prediction", "v", rf"{C}.method.prediction = 'v' .* one of \('z0', 'eps'\)"),
        (f"{C}.method.skips", 1, rf"{C}.method.skips = 1 should be of type bool"),
        (f"{C}.method.recycle", 0.5, rf"unknown key '{C}.method.recycle'. Known here: prediction, "),
        (f"{C}.training.recycling", 0.5, rf"unknown key '{C}.training.recycling'"),
        (f"{C}.training.ema_decay", 1, "ema_decay = 1.0 .* 0 to below 1"),
        (f"{C}.training.warmup", 1, "warmup = 1.0 .* 0 to below 1"),
        (f"{C}.training.schedule", "linear", "schedule = 'linear' .* poly or cosine"),
        (f"{C}.training.precision", "fp8", r"precision = 'fp8' .* one of \('auto', 'float32', 'bf16', 'float16'\)"),
        (f"{C}.inference.step", 0, "step = 0.0 .* above 0, at most 1"),
        (f"{C}.inference.tile_batch", 0, "tile_batch = 0 .* at least 1"),
    ],
)
def test_impossible_values(path: str, value: Any, rule: str) -> None:
    with pytest.raises(PlansError, match=rf"^plans\.json: .*{rule}"):
        Plans.from_dict(changed(path, value), "plans.json")


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(CONTENT)[:-20])
    with pytest.raises(PlansError, match="plans.json is not valid JSON"):
        Plans.load(path)
    with pytest.raises(PlansError, match="none.json does not exist"):
        Plans.load(tmp_path / "none.json")
