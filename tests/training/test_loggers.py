"""TensorBoard's files as another reader reads them; Weights & Biases and MLflow by small fakes of their functions.

(Real offline runs of both: documentation/commands.md says how.)
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldseg_auto.planners.plans import Configuration, Intensities, Plans
from ldseg_auto.training.loggers import MLflow, TensorBoard, WandB, flat, settings, tags

STATISTICS = Intensities(0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 1.0)
ROWS: list[dict[str, Any]] = [
    {"epoch": i, "iteration": 5 * i, "seconds": 2.0, "learning_rate": 0.1 / i, "loss": 3.0 / i, "loss_segmentation": 2.0 / i,
     "dice_mean": 0.1 * i, "dice_left & right": 0.1 * i, "dice_absent": None, "dice_odd": float("nan")}
    for i in (1, 2, 3, 4)
]  # fmt: skip
SENT = ["dice/left & right", "dice/mean", "learning_rate", "loss/segmentation", "loss/total", "seconds"]


@pytest.fixture
def plans(make_configuration: Callable[..., Configuration]) -> Plans:
    """Plans of one 2D configuration."""
    return Plans("Dataset001_Toy", "ldsegPlans", "hash", ".nii.gz", (0, 1, 2), (STATISTICS,), {"2d": make_configuration()}, "2d", {})


def test_only_numbers_are_sent() -> None:
    assert sorted(tags(ROWS[0])) == SENT
    assert tags(ROWS[0])["loss/segmentation"] == 2.0


def test_settings_are_the_plans_values_by_path(plans: Plans) -> None:
    found = settings(plans, "fold_0")
    assert found["training.epochs"] == plans.configuration().training.epochs and found["latent.channels"] == 4
    assert not [name for name in found if name.startswith("reasons")]
    assert dict(flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3})) == {"a.b": 1, "a.c.d": 2, "e": 3}


def events(folder: Path) -> Iterator[Any]:
    """All events in the order in which TensorBoard reads them: length, its CRC, data, their CRC (TFRecord format)."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            yield Event.FromString(content[at + 12 : at + 12 + size])
            at += 12 + size + 4


def shown(folder: Path) -> dict[str, list[int]]:
    """Tag -> steps as TensorBoard shows them: a START event with step s drops all that came before with a step of s or more."""
    found: dict[str, list[int]] = {}
    for event in events(folder):
        if event.HasField("session_log"):
            found = {tag: [s for s in steps if s < event.step] for tag, steps in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(event.step)
    return found


def test_tensorboard_holds_every_epoch_and_the_pictures(plans: Plans, tmp_path: Path) -> None:
    board = TensorBoard()
    board.start(plans, tmp_path, [])
    for row in ROWS:
        board.epoch(row)
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(tmp_path / "x.png")
    board.figure("overlays", tmp_path / "x.png", 20)
    found = shown(tmp_path / "tensorboard")  # before it is closed: what is written is in the file
    assert found.pop("overlays") == [20]
    assert {tag.replace("___", " & ") for tag in found} == set(SENT)
    assert all(steps == [5, 10, 15, 20] for steps in found.values())
    values = [v.simple_value for e in events(tmp_path / "tensorboard") for v in e.summary.value if v.tag == "loss/total"]
    np.testing.assert_allclose(values, [r["loss"] for r in ROWS], rtol=1e-6)
    board.close("finished")


@pytest.mark.parametrize("checkpointed", [0, 1, 2, 3])
def test_tensorboard_neither_repeats_nor_loses_points(plans: Plans, tmp_path: Path, checkpointed: int) -> None:
    """Killed after three epochs, the last checkpoint after fewer: the epochs since are trained again."""
    first = TensorBoard()
    first.start(plans, tmp_path, [])
    for row in ROWS[:3]:
        first.epoch(row)
    second = TensorBoard()
    second.start(plans, tmp_path, ROWS[:checkpointed])
    for row in ROWS[checkpointed:]:
        second.epoch(row)
    second.close("finished")
    assert shown(tmp_path / "tensorboard")["loss/total"] == [5, 10, 15, 20]


def test_tensorboard_that_was_not_there_gets_the_rows_of_earlier_sittings(plans: Plans, tmp_path: Path) -> None:
    board = TensorBoard()
    board.start(plans, tmp_path, ROWS[:2])
    board.epoch(ROWS[2])
    board.close("finished")
    assert shown(tmp_path / "tensorboard")["loss/total"] == [5, 10, 15]


class FakeWandb(ModuleType):
    """wandb.init, Run.log and Run.finish."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.logged: dict[str, list[int]] = {}
        self.exit_codes: list[int] = []

    def Settings(self, console: str) -> dict[str, str]:
        return {"console": console}

    def init(self, *, project: str, name: str, id: str, resume: str, config: dict[str, Any], dir: str, settings: Any) -> Any:
        self.inits.append({"id": id, "name": name, "config": config, "settings": settings, "resume": resume, "dir": dir})
        return SimpleNamespace(id=id, log=lambda values, step: self._log(id, values, step), finish=self._finish)

    def _log(self, run: str, values: dict[str, float], step: int) -> None:
        assert sorted(values) == SENT
        self.logged.setdefault(run, []).append(step)

    def _finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


class FakeMLflow(ModuleType):
    """MlflowClient and the entities, with a store that keeps every point."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.experiments: dict[str, str] = {}
        self.points: dict[str, dict[str, list[int]]] = {}
        self.parameters: dict[str, dict[str, str]] = {}
        self.statuses: dict[str, str] = {}
        self.entities = ModuleType("mlflow.entities")
        self.entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)  # type: ignore[attr-defined]
        self.entities.Param = lambda key, value: SimpleNamespace(key=key, value=value)  # type: ignore[attr-defined]

    def MlflowClient(self) -> FakeMLflow:
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, "7")

    def create_run(self, experiment: str, run_name: str) -> Any:
        assert experiment == "7" and run_name == "Dataset001_Toy ldsegPlans__2d fold_0"
        run = f"run{len(self.points)}"
        self.points[run], self.parameters[run] = {}, {}
        return SimpleNamespace(info=SimpleNamespace(run_id=run))

    def update_run(self, run: str, status: str) -> None:
        self.statuses[run] = status

    def get_metric_history(self, run: str, key: str) -> list[Any]:
        return [SimpleNamespace(step=s) for s in self.points[run].get(key, [])]

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100 and all(len(p.value) <= 500 for p in params)
        self.parameters[run] |= {p.key: p.value for p in params}
        for metric in metrics:
            self.points[run].setdefault(metric.key, []).append(metric.step)

    def set_terminated(self, run: str, status: str) -> None:
        self.statuses[run] = status


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    """In the place of the package."""
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    """In the place of the package."""
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake.entities)
    return fake


def sit(watcher: WandB | MLflow, plans: Plans, folder: Path, before: int, after: int, status: str | None) -> None:
    """One sitting from `before` to `after` epochs; without a status it is killed."""
    watcher.start(plans, folder, ROWS[:before])
    for row in ROWS[before:after]:
        watcher.epoch(row)
    watcher.figure("overlays", folder / "no such file.png", 1)  # pictures are not sent: they are not even opened
    if status:
        watcher.close(status)


@pytest.mark.parametrize("checkpointed", [1, 2, 3])
def test_wandb_goes_on_with_its_run(plans: Plans, tmp_path: Path, wandb: FakeWandb, checkpointed: int) -> None:
    folder = tmp_path / "fold_0"
    sit(WandB(), plans, folder, 0, 3, None)
    sit(WandB(), plans, folder, checkpointed, 4, "finished")
    (run,) = wandb.logged
    assert wandb.logged[run] == [5, 10, 15, 20] and wandb.exit_codes == [0]
    first, second = wandb.inits
    assert first["id"] == second["id"] and second["resume"] == "allow" and first["dir"] == str(folder)
    assert first["settings"] == {"console": "off"}  # the log names cases
    assert first["config"]["latent.channels"] == 4


def test_a_new_training_is_a_new_run(plans: Plans, tmp_path: Path, wandb: FakeWandb, mlflow: FakeMLflow) -> None:
    for watcher in (WandB, MLflow):
        sit(watcher(), plans, tmp_path / "fold_0", 0, 1, "failed")
        sit(watcher(), plans, tmp_path / "fold_0", 0, 1, "stopped")
    assert list(wandb.logged.values()) == [[5], [5]] and wandb.exit_codes == [1, 1]
    assert mlflow.statuses == {"run0": "FAILED", "run1": "KILLED"}


@pytest.mark.parametrize("checkpointed", [1, 2, 3])
def test_mlflow_goes_on_with_its_run(plans: Plans, tmp_path: Path, mlflow: FakeMLflow, checkpointed: int) -> None:
    folder = tmp_path / "fold_0"
    sit(MLflow(), plans, folder, 0, 3, None)
    sit(MLflow(), plans, folder, checkpointed, 4, "finished")
    (points,) = mlflow.points.values()
    assert {s for steps in points.values() for s in steps} == {5, 10, 15, 20} and all(len(s) == 4 for s in points.values())
    assert "dice/left _ right" in points  # MLflow refuses an ampersand
    assert mlflow.statuses == {"run0": "FINISHED"} and mlflow.parameters["run0"]["latent.channels"] == "4"


def test_one_that_is_added_later_gets_the_rows_of_earlier_sittings(
    plans: Plans, tmp_path: Path, wandb: FakeWandb, mlflow: FakeMLflow
) -> None:
    sit(WandB(), plans, tmp_path / "fold_0", 2, 3, "finished")
    sit(MLflow(), plans, tmp_path / "fold_0", 2, 3, "finished")
    assert list(wandb.logged.values()) == [[5, 10, 15]]
    assert mlflow.points["run0"]["seconds"] == [5, 10, 15]
