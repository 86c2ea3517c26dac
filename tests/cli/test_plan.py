"""ldseg_plan and the planning flags of ldseg_plan_and_preprocess. (Planning itself: tests/test_planning.py, tests/end_to_end.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ldseg_auto import planning, preparation
from ldseg_auto.cli import common, plan, plan_and_preprocess
from ldseg_auto.planners import planner
from ldseg_auto.planners.choices import Choices
from ldseg_auto.planners.plans import Configuration, Intensities, Plans
from ldseg_auto.planning import Request
from ldseg_auto.preparation import Options, Prepared
from ldseg_auto.report.outliers import Findings
from ldseg_auto.report.write import Report

MANY = ["--gpu-memory", "40", "--target-spacing", "2", "1.5", "--set", "batch_size=3", "--set", "2d.training.epochs=5"]
CHOICES = Choices(40.0, (2.0, 1.5), ("batch_size=3", "2d.training.epochs=5"))


@pytest.fixture
def calls(make_configuration: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of what the commands call; nothing is planned."""
    found: list[tuple[Any, ...]] = []
    configuration: Configuration = make_configuration()
    plans = Plans("Dataset004_Toy", "large", "abc", ".png", (0, 1, 2), (Intensities(0, 0, 1, 0, 1, 0, 1),), {"2d": configuration}, "2d")

    def planned(*args: Any) -> tuple[Path, Plans]:
        found.append(args)
        return tmp_path / "large.json", plans

    def prepared(*args: Any) -> Prepared:
        found.append(args)
        return Prepared(tmp_path, plans, 0, 3, {}, Report(tmp_path / "report.html", Findings((), ())))

    monkeypatch.setattr(planning, "make_and_store", planned)
    monkeypatch.setattr(preparation, "plan_and_preprocess", prepared)
    monkeypatch.setattr(planner, "describe", lambda plans: "THE PLANS")
    for name in ("raw", "preprocessed"):
        for number in (4, 18):
            (tmp_path / name / f"Dataset{number:03d}_Toy").mkdir(parents=True)
    return found


def run(module: Any, tmp_path: Path, *flags: str) -> int:
    roots = [word for name in ("raw", "preprocessed", "results") for word in (f"--{name}", str(tmp_path / name))]
    return common.run(module.build(), module.work, [*flags, *roots])


def test_flags_reach_the_planner(tmp_path: Path, calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(plan, tmp_path, "-d", "4") == run(plan, tmp_path, "-d", "4", "-p", "large", "-np", "1", *MANY) == 0
    assert [c[:4] for c in calls] == [
        (tmp_path / "raw", tmp_path / "preprocessed", 4, Request("", Choices(), None, 2, tmp_path / "results")),
        (tmp_path / "raw", tmp_path / "preprocessed", 4, Request("large", CHOICES, None, 1, tmp_path / "results")),
    ]
    out = capsys.readouterr().out
    assert out.startswith("THE PLANS\n")
    assert f"\n{tmp_path / 'large.json'}\n" in out and out.endswith("\nNext: ldseg_plan_and_preprocess -d 4 -p large\n")


def test_plans_to_copy(tmp_path: Path, calls: list[tuple[Any, ...]]) -> None:
    assert run(plan, tmp_path, "-d", "4", "--from-dataset", "18", "--set", "batch_size=2") == 0
    assert run(plan, tmp_path, "-d", "4", "--from-plans", "model/plans.json") == 0
    assert [c[3].source for c in calls] == [tmp_path / "preprocessed" / "Dataset018_Toy" / "ldsegPlans.json", Path("model/plans.json")]
    assert calls[0][3].choices == Choices(settings=("batch_size=2",))


def test_preprocessing_takes_the_same_flags(tmp_path: Path, calls: list[tuple[Any, ...]]) -> None:
    assert run(plan_and_preprocess, tmp_path, "-d", "4", "-np", "1") == 0
    assert run(plan_and_preprocess, tmp_path, "-d", "4", "-np", "1", "-p", "large", *MANY) == 0
    plain = Options(workers=1, results=tmp_path / "results")
    assert [c[3] for c in calls] == [plain, replace(plain, plans_name="large", choices=CHOICES)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--from-dataset", "4"], "--from-dataset 4 is the dataset itself"),
        (["--from-dataset", "18", "--gpu-memory", "8"], "--gpu-memory and --from-dataset contradict each other: copied plans keep"),
        (["--from-plans", "x.json", "--target-spacing", "1", "1"], "--target-spacing and --from-plans contradict each other"),
        (["--from-dataset", "9"], "there is no dataset 9"),
    ],
)
def test_contradictions(tmp_path: Path, calls: list, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(plan, tmp_path, "-d", "4", *flags) == 2
    assert message in capsys.readouterr().err and not calls


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "required: -d"),
        (["-d", "four"], "'four' is not a dataset ID"),
        (["-d", "4", "--gpu-memory", "0"], "'0' is not a number above zero"),
        (["-d", "4", "--from-dataset", "1", "--from-plans", "x"], "not allowed with argument"),
    ],
)
def test_bad_flags(tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(plan, tmp_path, *flags)
    assert stop.value.code == 2 and message in capsys.readouterr().err
