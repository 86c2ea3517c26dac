"""benchmarks/method*.py: the parts that need no training, and one tiny network measured."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.agreement import pairwise_dice
from ldseg_auto.evaluation.risk import augrc
from ldseg_auto.inference.window import SlidingWindow
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.method import Method
from ldseg_auto.planners.overrides import override
from ldseg_auto.planners.plans import Configuration, Sampling
from ldseg_auto.training.options import Options

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import method
import method_cases
import method_gates
import method_plots
import method_report

CPU = torch.device("cpu")
ONE, TWO = LabelSpec(("a",), (0, 1)), LabelSpec(("a", "b"), (0, 1, 2))
Make = Callable[..., Configuration]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals need no precision here."""
    monkeypatch.setattr(method_report, "AREA_DRAWS", 40)


def subject(configuration: Configuration, labels: LabelSpec = TWO) -> method_cases.Subject:
    """An untrained network that reads its noise: no parameter is left at zero."""
    torch.manual_seed(0)
    model = LDSeg(configuration, labels.num_heads).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return method_cases.Subject(model, SlidingWindow(configuration, CPU, 1), labels, 3)


@pytest.mark.parametrize("variant", ["auto", "paper", "direct"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("shape", [(1, 14, 20), (2, 40, 30)])  # within the patch, and several tiles and slices
def test_samples_drawn_together_are_those_drawn_alone(make_configuration: Make, variant: str, sampler: str, shape: tuple[int, ...]) -> None:
    configuration = make_configuration(variant, sampling=Sampling(2, sampler))
    one = subject(configuration)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    found = one.probabilities(image, "c", 2, [0, 4, 1, 2, 3])
    assert (np.abs(found[0] - found[1]).max() > 1e-3) == (variant != "direct")
    for row, number in zip(found, [0, 4, 1, 2, 3], strict=True):
        np.testing.assert_allclose(row, one.window.draw(one.model, image, "c", 3, 2, number, False), atol=1e-5)


@pytest.mark.parametrize(("shape", "tiles"), [((1, 10, 10), 1), ((3, 16, 16), 3), ((1, 17, 16), 2)])
def test_tile_count(make_configuration: Make, shape: tuple[int, ...], tiles: int) -> None:
    """A patch of 16 x 24: one tile for each plane that it covers, two along an axis that is longer."""
    window = subject(make_configuration()).window
    assert window.configuration.patch_size == (16, 24)
    assert method_cases.tile_count(window, shape) == tiles


def test_masks_of_classes_and_regions() -> None:
    indices = np.array([[0, 1, 2, 3]])
    with_ignore = replace(TWO, ignore_value=9)
    assert method_cases.masks(indices, with_ignore).tolist() == [[[False, True, False, False], [False, False, True, False]]]
    regions = LabelSpec(("whole", "core"), (0, 1, 2), None, ((1, 2), (2,)), (1, 2))
    assert method_cases.masks(indices[:, :3], regions).tolist() == [[[False, True, True], [False, False, True]]]


@pytest.mark.parametrize("variant", ["auto", "direct"])
@pytest.mark.parametrize("raters", [1, 3])
def test_record_of_a_case_agrees_with_itself(make_configuration: Make, variant: str, raters: int) -> None:
    one = subject(make_configuration(variant))
    rng = np.random.default_rng(1)
    image, labels = rng.normal(size=(1, 1, 16, 24)).astype(np.float32), rng.integers(0, 3, (raters, 1, 16, 24))
    record, diagram = method_cases.evaluate_one(one, image, labels, "case", (1, 1, 1), planned=2, samples=6)
    assert record["noise"]["0"]["ensemble"] == record["ensemble"]["planned"]["mean"]
    assert record["noise"]["0"]["one"] == record["one"]["1"]["mean"] and record["one"]["planned"] == record["one"]["2"]
    assert record["noise"]["0.5"]["loss"] == 1 - record["noise"]["0.5"]["ensemble"] and diagram.count.sum() > 0
    if variant == "direct":
        assert record["agreement"] == {"1": 1, "planned": 1} and len({v["mean"] for v in record["one"].values()}) == 1
    same = replace(one.window.configuration, method=Method(mirror_samples=False)) if variant == "auto" else one.window.configuration
    unturned = replace(one, window=SlidingWindow(same, CPU, 1)).draw(image, "case", 2, 2).masks
    assert record["swap"] == pairwise_dice(unturned) and (record["swap"] == 1) == (variant == "direct")
    for sigma in (0, 0.5) if variant == "direct" else ():
        turned = subject(make_configuration(variant))
        turned.window.turns = ((), (0, 1), (0,), (1,))
        found = turned.probabilities(method_cases.noisy(image, "case", sigma), "case", 1, range(5))
        scored = method_cases.score(turned.assign(found.mean(0)), labels, TWO, (1, 1, 1))
        assert record["noise"][f"{sigma:g}"]["mirrored"] == scored["mean"] != record["noise"][f"{sigma:g}"]["one"]
    assert ("raters" in record) == (raters > 1)
    if raters > 1:
        np.testing.assert_allclose(np.mean(record["raters"]["dice"]), record["ensemble"]["planned"]["mean"], atol=1e-12)
        assert record["raters"]["ged"].keys() == record["one"].keys()


def test_an_empty_prediction_has_no_foreground_confidence() -> None:
    empty, mean = np.zeros((5, 1, 4, 4), int), np.stack([np.full((1, 4, 4), p) for p in (0.8, 0.1, 0.1)])
    draws = method_cases.Drawn(empty, method_cases.masks(empty, TWO), mean, empty[0])
    record = method_cases.confidence_record(empty[0], draws, np.ones((1, 1, 4, 4), int), TWO, (1, 1, 1))
    assert record["softmax"] == pytest.approx(0.8) and record["softmax_foreground"] == 0 and record["loss"] == record["agreement"] == 1
    assert record["soft_dice"] == 0


def test_soft_dice_of_the_mean_by_hand() -> None:
    """One class: mask of p 0.9 and 0.7, outside it 0.2 and a faint 0.05."""
    p = np.array([0.9, 0.7, 0.2, 0.05]).reshape(1, 2, 2)
    indices = np.tile((p > 0.5).astype(int), (5, 1, 1, 1))
    draws = method_cases.Drawn(indices, method_cases.masks(indices, ONE), np.stack([1 - p, p]), indices[0])
    record = method_cases.confidence_record(indices[0], draws, np.ones((1, 1, 2, 2), int), ONE, (1, 1, 1))
    assert record["soft_dice"] == pytest.approx(2 * 1.6 / (1.8 + 2))


def test_volumes_against_raters_by_hand() -> None:
    """Class a: 1 to 3 voxels; two of three raters' within, the ends included. Class b: no sample shows it."""
    drawn = np.stack([np.array([1] * n + [0] * (4 - n)).reshape(1, 2, 2) for n in (1, 2, 3, 2, 2)])
    raters = np.stack([np.array([1] * n + [2] * (4 - n)).reshape(1, 2, 2) for n in (1, 3, 4)])
    found = method_cases.volume_record(
        method_cases.Drawn(drawn, method_cases.masks(drawn, TWO), np.zeros((3, 1, 2, 2)), drawn[0]), raters, TWO
    )
    assert found == {"inside": pytest.approx(2 / 3), "width": 1.0}
    none = np.zeros_like(drawn)
    empty = method_cases.Drawn(none, method_cases.masks(none, TWO), np.zeros((3, 1, 2, 2)), none[0])
    assert all(np.isnan(v) for v in method_cases.volume_record(empty, raters, TWO).values())


@pytest.mark.parametrize("curve", itertools.permutations([0.1, 0.2, 0.25, 0.4]))
def test_largest_drop_is_that_of_the_worst_pair(curve: tuple[float, ...]) -> None:
    assert method_gates.largest_drop(list(curve)) == max([0, *(a - b for a, b in itertools.combinations(curve, 2))])


def result(arm: str, seed: int, dice: float, raters: bool = False) -> dict[str, Any]:
    """A result.json whose numbers rise with the case's number; sigma takes a twentieth of Dice."""
    cases = {}
    for i in range(4):
        value = dice + 0.01 * i
        scored = {"dice": {"a": value}, "hd95": {"a": None if i == 3 else 2.0}, "mean": value}
        noise = {
            s: {"one": value - 0.05 * float(s), "ensemble": value - 0.05 * float(s), "loss": 1 - value + 0.05 * float(s),
                "agreement": value - 0.05 * float(s), "softmax": 0.9, "softmax_foreground": -value, "soft_dice": value,
                **({"mirrored": value + 0.001 - 0.01 * float(s)} if arm == "direct" else {})}
            for s in method_report.NOISE
        }  # fmt: skip
        cases[f"c{i}"] = {
            "seconds": 1.0 + i, "one": dict.fromkeys((*method_report.STEPS, "planned"), scored), "noise": noise,
            "ensemble": {"1": scored, "planned": scored}, "agreement": {"1": 1.0, "planned": value},
            "swap": value,
            "volume": {"inside": 0.5, "width": 0.1},
        }  # fmt: skip
        if raters:
            each = dict.fromkeys((*method_report.STEPS, "planned"), 0.4 if arm == "direct" else 0.2)
            cases[f"c{i}"]["raters"] = {
                "ged": each,
                "pairwise": each,
                "empty": each,
                "agreement": 0.5,
                "empty_raters": 0.1,
                "dice": [value, None],
            }
    return {
        "request": {"arm": arm, "seed": seed, "fold": 1, "minutes": None, "iterations": 3, "settings": []}, "samples": 16,
        "training": {"iterations": 3, "seconds": 60.0, "peak_mib": 10, "precision": "32-true"}, "classes": ["a"], "cases": cases,
        "evaluation": {"peak_mib": 5, "device": "cpu"}, "planned_steps": 1 if arm == "direct" else 4, "tiles": 1.5,
        "reconstruction": None if arm == "direct" else {"a": 0.98},
        "reliability": {"confidence": [None, 0.7], "accuracy": [None, 0.6], "count": [0, 10]},
    }  # fmt: skip


@pytest.mark.parametrize("name, raters", [("hippocampus", False), ("lidc", True)])
def test_summary_of_made_up_results(tmp_path: Path, name: str, raters: bool) -> None:
    made = [result(arm, seed, dice, raters) for arm, dice in (("direct", 0.8), ("auto", 0.804)) for seed in (0, 1)]
    del made[0]["cases"]["c0"]
    arms = method_report.group(made)
    content = method_report.summarise(name, arms)
    assert content["cases"] == ["c1", "c2", "c3"]
    auto = content["numbers"]["auto"]
    assert auto["dice"]["1 step"][0] == pytest.approx(0.824) and auto["hd95"]["1 step"] == {"mean": 2.0, "without": 2}
    assert auto["ece"] == pytest.approx(0.1) and auto["seconds"] == 3
    row = content["tables"]["Difference to direct"]["rows"][0]
    assert row[1].startswith("+0.0040") and row[-1].startswith("+0.0030")  # direct's mirrored passes are 0.001 better than one
    assert content["tables"]["Dice lost to noise in the image"]["rows"][1][1:4] == ["5 mirrored", "0.0025", "0.0050"]
    assert content["tables"]["Accuracy and cost"]["rows"][0][5].startswith("0.8210")
    met = [(g["gate"], g["met"]) for g in content["gates"]]
    g1 = [("G1", True), ("G1", True), ("LIDC", True)] if raters else [("G1", True)]
    # Confidence by agreement is the loss itself turned round, softmax says nothing: G3. The same Dice is lost as by direct: no G6.
    rest = [("G2", True), ("G3", True), ("G4", True), ("G4", True), ("G4", True), ("G6", False), ("G6", False)]
    assert met == [("G0", True), *g1, *rest]
    text = method_report.dataset_text(name, content)
    assert all(f"### {title}" in text for title in content["tables"]) and "| auto | 2 | 0.8240 [" in text
    assert [p.stat().st_size > 0 for p in method_plots.draw_all(tmp_path, name, arms)] == [True] * 4


def test_without_direct_nothing_is_compared_with_it() -> None:
    content = method_report.summarise("hc18", method_report.group([result("auto", 0, 0.8)]))
    assert {g["gate"] for g in content["gates"] if g["met"] is None} == {"G4", "G6"}
    assert "### Difference" not in method_report.dataset_text("hc18", content)


def test_results_that_share_no_case_are_refused() -> None:
    first, second = result("direct", 0, 0.8), result("auto", 0, 0.8)
    second["cases"] = {"other": second["cases"]["c0"]}
    with pytest.raises(ValueError, match="share no case"):
        method_report.group([first, second])


def test_area_averages_seeds_and_leaves_out_cases_without_a_loss() -> None:
    rng = np.random.default_rng(0)
    confidence, loss = rng.random((2, 2, 6, 4))
    loss[1, 2, 3] = np.nan
    keep = [0, 1, 3, 4, 5]
    expected = np.mean([augrc(c[keep].ravel(), x[keep].ravel()) for c, x in zip(confidence, loss, strict=True)])
    value, low, high = method_report.area(confidence, loss)
    assert value == pytest.approx(expected) and low < value < high
    assert method_report.area(confidence, loss, confidence) == (0, 0, 0)


def arguments(monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    """method.py's parsed command line."""
    monkeypatch.setattr(sys, "argv", ["method.py", *map(str, words)])
    return method.parse()


def test_requests_go_seed_by_seed_with_their_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = ("--datasets", "lidc", "--arms", "direct", "auto", "--seeds", 0, 1, "--iterations", 5, "--work", tmp_path)
    wanted = method.requests(arguments(monkeypatch, *base, "--set", "batch_size=3", "--planned"))
    assert [str(p.relative_to(tmp_path)) for p in wanted] == [f"lidc/{a}/seed_{s}" for s in (0, 1) for a in ("direct", "auto")]
    assert wanted[tmp_path / "lidc/direct/seed_1"]["settings"] == ["batch_size=3", "network.variant=direct"]
    own = method.requests(arguments(monkeypatch, *base))[tmp_path / "lidc/direct/seed_1"]["settings"]
    assert own == [*method.DATASETS["lidc"].settings, "network.variant=direct"]


def test_what_is_set_by_hand_replaces_what_dataset_and_arm_would_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = ("--datasets", "hc18", "--arms", "auto-same-view", "--seeds", 0, "--iterations", 5, "--work", tmp_path)
    given = ("batch_size=3", "method.mirror_samples=true")
    [request] = method.requests(arguments(monkeypatch, *base, *(word for value in given for word in ("--set", value)))).values()
    width = next(s for s in method.DATASETS["hc18"].settings if s.startswith("network.features_per_stage"))
    assert request["settings"] == [width, *given, "network.variant=auto"]


def test_the_best_mask_is_what_one_rater_gets(make_configuration: Make) -> None:
    several = override(replace(make_configuration(), raters=4), method.ARMS["auto-best-mask"])
    assert several.parts == make_configuration().parts != replace(make_configuration(), raters=4).parts


@pytest.mark.parametrize("raters", [1, 4])
@pytest.mark.parametrize("arm", method.ARMS)
def test_every_arm_can_be_trained_on_any_data(make_configuration: Make, arm: str, raters: int) -> None:
    """Its settings contradict neither each other nor what the plans aim at, also as they are saved with the model."""
    found = override(replace(make_configuration(), raters=raters), method.ARMS[arm])
    variant, parts = found.network.variant, found.parts
    assert variant == arm.partition("-")[0].partition("+")[0]
    for path, text in (setting.split("=") for setting in method.ARMS[arm]):
        part, number = path.removeprefix("method."), text[0].isdigit() or text in ("true", "false")
        assert part == path or getattr(parts, part) == (json.loads(text) if number else text)
    assert replace(found, method=found.method.fixed(variant, raters)).parts == parts


def test_no_arm_is_another_one(make_configuration: Make) -> None:
    """On data of one rater or of several: some change only what one of them aims at."""
    plans = [replace(make_configuration(), raters=raters) for raters in (1, 4)]
    made = {arm: [replace(c, method=Method(**asdict(c.parts))) for c in (override(p, s) for p in plans)] for arm, s in method.ARMS.items()}
    for one, other in itertools.combinations(made, 2):
        assert made[one] != made[other], (one, other)


def test_a_length_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(monkeypatch, "--datasets", "lidc")
    assert "--minutes or --iterations" in capsys.readouterr().err


def test_training_is_done_again_only_for_another_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def train_fold(preprocessed: Path, results: Path, fold: int, options: Options) -> Path:
        calls.append((options.iterations, options.resume, options.configuration))
        folder = results / "D" / "P__2d" / f"fold_{fold}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint_latest.pth").touch()
        if len(calls) == 1:
            raise RuntimeError("stopped")
        (folder / "training_log.csv").write_text("iteration,seconds\n1,2.5\n2,2\n")
        (folder / "manifest.json").write_text('{"precision": "32-true"}')
        return folder

    monkeypatch.setattr("ldseg_auto.training.run.train_fold", train_fold)
    request = {"fold": 1, "iterations": 7, "minutes": None, "configuration": "2d", "settings": [], "seed": 0, "cases": 2, "samples": 16}
    with pytest.raises(RuntimeError):
        method.train(request, tmp_path, tmp_path, "cpu")
    record = method.train(request, tmp_path, tmp_path, "cpu")
    assert record["iterations"] == 2 and record["seconds"] == 4.5
    assert method.train({**request, "cases": 5}, tmp_path, tmp_path, "cpu") == record
    method.train({**request, "iterations": 9}, tmp_path, tmp_path, "cpu")
    assert calls == [(7, False, "2d"), (7, True, "2d"), (9, False, "2d")]
    assert json.loads((tmp_path / "training.json").read_text())["request"]["iterations"] == 9
