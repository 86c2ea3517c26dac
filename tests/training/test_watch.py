"""Watchers: started together, none of them can end a training, closed with the status that the training ended with."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ldseg_auto.errors import InputError, LdsegError, Stopped
from ldseg_auto.planners.plans import Configuration, Intensities, Plans
from ldseg_auto.training import watch
from ldseg_auto.training.options import Options

STATISTICS = Intensities(0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 1.0)


@pytest.fixture
def plans(make_configuration: Callable[..., Configuration]) -> Plans:
    """Plans of one 2D configuration."""
    return Plans("Dataset001_Toy", "ldsegPlans", "hash", ".nii.gz", (0, 1, 2), (STATISTICS,), {"2d": make_configuration()}, "2d", {})


class Diary:
    """Writes down every call; `breaks` names those that fail."""

    def __init__(self, breaks: Sequence[str] = ()) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.breaks = breaks

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if call[0] in self.breaks:
            raise ConnectionError("the server is gone")

    def start(self, plans: Plans, folder: Path, rows: Sequence[dict[str, Any]]) -> None:
        self._note("start", plans.dataset_name, folder.name, len(rows))

    def epoch(self, row: dict[str, Any]) -> None:
        self._note("epoch", row["epoch"])

    def figure(self, name: str, path: Path, iteration: int) -> None:
        self._note("figure", name, iteration)

    def close(self, status: str) -> None:
        self._note("close", status)


@pytest.fixture
def diaries(monkeypatch: pytest.MonkeyPatch) -> dict[str, Diary]:
    """Two services, one that breaks at the second epoch."""
    made = {"good": Diary(), "bad": Diary(["epoch"])}
    monkeypatch.setattr(watch, "KNOWN", {n: watch.Service(lambda d=d: d, n, n, "Help.") for n, d in made.items()})
    return made


def test_one_that_fails_warns_once_and_the_others_go_on(
    plans: Plans, tmp_path: Path, diaries: dict[str, Diary], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ldseg_auto"), watch.watching(["bad", "good"], plans, tmp_path, []) as watchers:
        for epoch in (1, 2, 3):
            watchers.epoch({"epoch": epoch, "iteration": epoch})
        watchers.figure("overlays", tmp_path / "x.png", 3)
    start = ("start", "Dataset001_Toy", tmp_path.name, 0)
    figure, close = ("figure", "overlays", 3), ("close", "finished")
    assert diaries["good"].calls == [start, ("epoch", 1), ("epoch", 2), ("epoch", 3), figure, close]
    assert diaries["bad"].calls == [start, ("epoch", 1)]
    assert [r.getMessage() for r in caplog.records] == [
        "bad failed and gets no more figures (ConnectionError: the server is gone); training_log.csv goes on."
    ]


@pytest.mark.parametrize(
    ("raised", "status"),
    [(None, "finished"), (KeyboardInterrupt, "stopped"), (Stopped, "stopped"), (LdsegError, "failed"), (SystemExit, "failed")],
)
def test_closed_with_the_status_of_the_block(plans: Plans, tmp_path: Path, diaries: dict[str, Diary], raised: Any, status: str) -> None:
    with contextlib.suppress(*([raised] if raised else [])), watch.watching(["good"], plans, tmp_path, []):
        if raised:
            raise raised("stop")
    assert diaries["good"].calls[1:] == [("close", status)]


def test_the_block_may_close_them_itself(plans: Plans, tmp_path: Path, diaries: dict[str, Diary]) -> None:
    with watch.watching(["good"], plans, tmp_path, []) as watchers:
        watchers.close(watch.STOPPED)
    assert diaries["good"].calls[1:] == [("close", "stopped")]


def test_one_that_does_not_start_is_an_error_and_closes_the_others(plans: Plans, tmp_path: Path, diaries: dict[str, Diary]) -> None:
    diaries["bad"].breaks = ["start"]
    with pytest.raises(InputError, match=r"--log-to bad: bad did not start \(ConnectionError: the server is gone\). Help."):
        watch.watching(["good", "bad"], plans, tmp_path, []).__enter__()
    assert diaries["good"].calls[-1] == ("close", "failed")


@pytest.mark.parametrize(
    ("name", "command"), [("wandb", "pip install 'ldseg-auto[wandb]'"), ("mlflow", "pip install 'ldseg-auto[mlflow]'")]
)
def test_absent_package(plans: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as error:
        watch.watching([name], plans, tmp_path, []).__enter__()
    assert f"--log-to {name}: the package {name} cannot be imported" in str(error.value) and str(error.value).endswith(command)


def test_the_default_is_left_out_where_its_package_is_absent(
    plans: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("tensorboardX", "tensorboardX.event_file_writer"):
        monkeypatch.setitem(sys.modules, name, None)
    with caplog.at_level(logging.INFO, "ldseg_auto"), watch.watching(watch.DEFAULT, plans, tmp_path, []) as watchers:
        watchers.epoch({"epoch": 1, "iteration": 1})
    assert "no TensorBoard files" in caplog.text and "pip install tensorboardX" in caplog.text


def test_options_refuse_an_unknown_name() -> None:
    with pytest.raises(InputError, match="--log-to tensorbord: expected names among tensorboard, wandb, mlflow"):
        Options(log_to=["tensorbord"])


def test_the_documented_watcher_works(
    plans: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "documentation" / "watching.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr(watch, "KNOWN", dict(watch.KNOWN))
    exec(block, {})
    options = Options(log_to=["printer"])
    with watch.watching(options.log_to, plans, tmp_path, []) as watchers:
        watchers.epoch({"epoch": 1, "iteration": 5, "dice_mean": 0.5})
    assert capsys.readouterr().out == f"Dataset001_Toy {tmp_path} 0 epochs done\n1 0.5\nfinished\n"
