"""From raw data to plans: purity, replay, and what the reasons say."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ldseg_auto.data.dataset import open_dataset
from ldseg_auto.errors import InputError, PlansError
from ldseg_auto.parallel import executor
from ldseg_auto.planners.extract import extract_fingerprint
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.method import preset
from ldseg_auto.planners.overrides import override
from ldseg_auto.planners.planner import choose_configurations, describe, label_grid, layouts, make_plans
from ldseg_auto.planners.plans import Plans
from ldseg_auto.planners.spectrum import measure_latent, sample_cases


def measured(folder: Path, workers: int = 1, reverse: bool = False) -> Fingerprint:
    dataset = open_dataset(folder)
    cases = dataset.cases[::-1] if reverse else dataset.cases
    heads = dataset.description.labels.num_heads
    with executor(workers) as pool:
        fingerprint = extract_fingerprint(replace(dataset, cases=cases), pool)
        order, found = layouts(fingerprint, heads)
        sample = sample_cases(cases, fingerprint)
        codes = {}
        for layout in found.values():
            grid = label_grid(layout, order)
            codes[grid.key] = measure_latent(sample, dataset.description, grid, pool)
    return replace(fingerprint, latent=codes)


@pytest.fixture(scope="module")
def folder(make_dataset, tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("raw"), n_cases=6, shape=(14, 40, 36), spacing=(3.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def fingerprint(folder: Path) -> Fingerprint:
    return measured(folder)


def test_fingerprint_survives_the_disk_and_gives_the_same_plans(fingerprint: Fingerprint, tmp_path: Path) -> None:
    fingerprint.save(tmp_path / "f.json")
    again = Fingerprint.load(tmp_path / "f.json")
    assert again == fingerprint
    assert make_plans(again, 3) == make_plans(fingerprint, 3)


def test_plans_do_not_depend_on_workers_or_the_order_of_cases(folder: Path, fingerprint: Fingerprint) -> None:
    plans = make_plans(fingerprint, 3)
    assert make_plans(measured(folder, workers=2), 3) == plans
    assert make_plans(measured(folder, reverse=True), 3) == plans


def test_plans_hold_every_decision_with_its_reason(fingerprint: Fingerprint, tmp_path: Path) -> None:
    plans = make_plans(fingerprint, 3)
    assert set(plans.configurations) == {"2d", "3d_fullres"} and plans.default_configuration == "3d_fullres"
    for configuration in plans.configurations.values():
        keys = {"spacing", "patch_size", "batch_size", "normalisation", "latent", "sampling.steps", "method"}
        assert keys <= set(configuration.reasons)
    full = plans.configurations["3d_fullres"]
    assert full.spacing == (3.0, 1.0, 1.0) and full.memory_gib <= 8
    plans.save(tmp_path / "p.json")
    assert Plans.load(tmp_path / "p.json") == plans
    text = describe(plans)
    assert "3d_fullres" in text and "latent dimension" in text and "Why:" in text


@pytest.mark.parametrize(
    ("raters", "agreement", "aim"),
    [
        (1, None, "one rater: the best mask"),
        (4, None, "4 raters, whose agreement is not known: samples follow their distribution"),
        (4, 0.4, "4 raters agree to a Dice of 0.40, less than 0.7: samples follow their distribution"),
    ],
)
def test_plans_aim_at_what_the_raters_call_for(
    fingerprint: Fingerprint, tmp_path: Path, raters: int, agreement: float | None, aim: str
) -> None:
    """Nothing but steps and memory depends on their number beside it, and nothing of the method is decided before training."""
    plans = make_plans(with_raters(fingerprint, raters, agreement), 3)
    plans.save(tmp_path / "p.json")
    for name, configuration in Plans.load(tmp_path / "p.json").configurations.items():
        assert configuration.raters == raters and configuration.reasons["method"].startswith(aim)
        assert asdict(configuration.parts) == preset("auto", raters) and not any(asdict(configuration.method).values())
        assert (configuration.parts.diversity > 0) == (raters > 1)
        one = make_plans(fingerprint, 3).configurations[name]
        assert raters == 1 or configuration.sampling.steps == 1  # the first step is a draw
        there = replace(configuration, raters=1, sampling=one.sampling, reasons=one.reasons)
        assert replace(there, memory_gib=one.memory_gib) == one  # two draws of a sample are decoded, and kept
    assert aim in describe(plans)


def with_raters(fingerprint: Fingerprint, raters: int, agreement: float | None) -> Fingerprint:
    """All cases but the first, where nobody drew anything, have that agreement."""
    first, *others = fingerprint.cases
    return replace(fingerprint, raters=raters, cases=(first, *(replace(c, agreement=agreement) for c in others)))


def test_raters_who_agree_get_the_plan_of_one(fingerprint: Fingerprint) -> None:
    """But for the reason and for what says so; a draw from their distribution is one setting away."""
    plans, one = make_plans(with_raters(fingerprint, 3, 0.8), 3), make_plans(fingerprint, 3)
    assert "3 raters agree to a Dice of 0.80, 0.7 or more: the best mask, as with one" in describe(plans)
    for name, configuration in plans.configurations.items():
        expected = one.configurations[name]
        assert configuration.method.diversity == 0 and configuration.parts == expected.parts
        assert replace(configuration, raters=1, method=expected.method, reasons=expected.reasons) == expected
        drawing = override(configuration, ["method.diversity=1"]).parts
        assert drawing.diversity == 1 and not drawing.signal_gate


@pytest.mark.parametrize("raters", [1, 4])
def test_the_fingerprint_counts_the_raters(make_dataset, tmp_path: Path, raters: int) -> None:
    dataset = open_dataset(make_dataset(tmp_path, n_cases=2, shape=(4, 12, 10), raters=raters))
    with executor(1) as pool:
        found = extract_fingerprint(dataset, pool)
    assert found.raters == raters and (found.agreement is None) == (raters == 1)
    found.save(tmp_path / "f.json")
    again = Fingerprint.load(tmp_path / "f.json")
    assert (again.raters, again.agreement) == (raters, found.agreement)


def test_memory_target_changes_the_batch_and_too_small_names_the_minimum(fingerprint: Fingerprint) -> None:
    with pytest.raises(InputError, match=r"--gpu-memory 0.1: the smallest patch .* needs \d"):
        layouts(fingerprint, 3, 0.1)


def test_unknown_configuration(fingerprint: Fingerprint) -> None:
    with pytest.raises(InputError, match="-c 4d: this dataset has no such configuration; it has 3d_fullres, 2d"):
        choose_configurations(["3d_fullres", "2d"], ["4d"])


def test_missing_label_code_says_what_to_do(fingerprint: Fingerprint) -> None:
    with pytest.raises(PlansError, match="holds no label code for '3d_fullres.*run ldseg_plan_and_preprocess again"):
        make_plans(replace(fingerprint, latent={}), 3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"version": 99}, "version = 99 is not possible.*--clean"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"cases": []}, "cases = .* is not possible: expected at least one"),
        ({"raters": 0}, "raters = 0 is not possible: expected at least 1"),
    ],
)
def test_edited_fingerprint_is_refused(fingerprint: Fingerprint, tmp_path: Path, change: dict, match: str) -> None:
    import json

    fingerprint.save(tmp_path / "f.json")
    content = json.loads((tmp_path / "f.json").read_text())
    (tmp_path / "f.json").write_text(json.dumps(content | change))
    with pytest.raises(PlansError, match=match):
        Fingerprint.load(tmp_path / "f.json")


def test_data_hash_changes_with_a_file_only(fingerprint: Fingerprint) -> None:
    other = replace(fingerprint.cases[0], input_hash="0" * 64)
    assert replace(fingerprint, cases=(other, *fingerprint.cases[1:])).data_hash != fingerprint.data_hash
    assert replace(fingerprint, latent={}).data_hash == fingerprint.data_hash
