"""The watchers that come with the package. Each imports its service when it starts.

TensorBoard's event files are local: they get the overlays too. Weights & Biases and MLflow may send what they get to another machine: they
get numbers, class names and the plan's values, never an image, a case's name or the console.
"""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldseg_auto.files import read_json, write_json
from ldseg_auto.planners.plans import Plans
from ldseg_auto.training.log import Row

RECORD = "loggers.json"  # which run of a service a fold is, so that --continue goes on with it
POSITIONS = ("epoch", "iteration")  # of a row; not sent
LONGEST = 500  # characters of a value that MLflow takes
AT_ONCE = 100  # parameters that MLflow takes at once


def tags(row: Row) -> dict[str, float]:
    """Finite values of a row by their name in a service: `loss/segmentation`, `dice/CLASS`, `learning_rate`, ..."""
    found = {}
    for name, value in row.items():
        if name in POSITIONS or value is None or not math.isfinite(value):
            continue
        group, _, rest = name.partition("_")
        found[f"{group}/{rest or 'total'}" if group in ("loss", "dice") else name] = float(value)
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`training.epochs` -> 100 and so on of a nested object."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def settings(plans: Plans, fold: str) -> dict[str, Any]:
    """What a service shows beside the curves: the trained configuration's values by path, dataset and fold."""
    content = plans.to_dict()["configurations"][plans.default_configuration]
    values = {name: value for name, value in flat({k: v for k, v in content.items() if k != "reasons"})}
    return {"dataset": plans.dataset_name, "configuration": plans.default_configuration, "fold": fold, **values}


def run_name(plans: Plans, folder: Path) -> str:
    """For instance `Dataset004_Hippocampus ldsegPlans__3d_fullres fold_0`."""
    return f"{plans.dataset_name} {plans.plans_name}__{plans.default_configuration} {folder.name}"


class TensorBoard:
    """Event files in fold_K/tensorboard, written at once: a kill loses nothing of a finished epoch.

    The events are written in this thread, by tensorboardX's own writer of files: its queue would hide that the disk is full.
    """

    def __init__(self) -> None:
        self._file: Any = None

    def start(self, plans: Plans, folder: Path, rows: Sequence[Row]) -> None:
        """See watch.Watcher. What earlier files hold beyond `rows` is to be forgotten (purge_step); without files all rows are sent."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        target = folder / "tensorboard"
        target.mkdir(parents=True, exist_ok=True)
        there = any(target.glob("events.*"))
        first = int(rows[-1]["iteration"]) + 1 if rows else 0
        self._file = EventsWriter(
            str(target / "events"), f".{os.getpid()}.{uuid.uuid4().hex[:8]}"
        )  # no file of the same second is replaced
        if there:
            event = Event(step=first, session_log=SessionLog(status=SessionLog.START), wall_time=time.time())
            self._file.write_event(event)
        for row in () if there else rows:
            self.epoch(row)
        self._file.flush()

    def epoch(self, row: Row) -> None:
        """See watch.Watcher."""
        from tensorboardX.summary import scalar

        for name, value in tags(row).items():
            self._write(scalar(name, value), row["iteration"])
        self._file.flush()

    def figure(self, name: str, path: Path, iteration: int) -> None:
        """See watch.Watcher."""
        import numpy as np
        from PIL import Image
        from tensorboardX.summary import image

        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._write(image(name, pixels, dataformats="HWC"), iteration)
        self._file.flush()

    def close(self, status: str) -> None:
        """See watch.Watcher."""
        self._file.close()

    def _write(self, summary: Any, iteration: int) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(summary=summary, step=int(iteration), wall_time=time.time()))


class WandB:
    """Weights & Biases, with its own settings (`wandb login`, WANDB_MODE=offline, ...); its files lie in fold_K/wandb."""

    PROJECT = "ldseg"

    def __init__(self) -> None:
        self._run: Any = None
        self._folder = Path()
        self._sent = 0  # iteration of the last row

    def start(self, plans: Plans, folder: Path, rows: Sequence[Row]) -> None:
        """See watch.Watcher. The run of an earlier sitting is gone on with; it gets the rows that it lacks."""
        import wandb

        self._folder, there = folder, _record(folder).get("wandb", {}) if rows else {}
        name, values = there.get("run") or uuid.uuid4().hex[:12], settings(plans, folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self.PROJECT, name=run_name(plans, folder), id=name, resume="allow", config=values, dir=str(folder),
            settings=wandb.Settings(console="off"),
        )  # fmt: skip
        self._sent = int(there.get("iteration", 0))
        _remember(self._folder, "wandb", {"run": self._run.id, "iteration": self._sent})
        for row in rows:
            self.epoch(row)

    def epoch(self, row: Row) -> None:
        """See watch.Watcher. A row that was sent before is not sent again."""
        if row["iteration"] <= self._sent:
            return
        self._run.log(tags(row), step=int(row["iteration"]))
        self._sent = int(row["iteration"])
        _remember(self._folder, "wandb", {"run": self._run.id, "iteration": self._sent})

    def figure(self, name: str, path: Path, iteration: int) -> None:
        """Nothing: pictures show patients, and W&B sends what it gets to its server."""

    def close(self, status: str) -> None:
        """See watch.Watcher."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


class MLflow:
    """MLflow, with its own settings: MLFLOW_TRACKING_URI, or its default store in the working directory."""

    EXPERIMENT = "ldseg"
    STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

    def __init__(self) -> None:
        self._client: Any = None
        self._run = ""
        self._sent = 0

    def start(self, plans: Plans, folder: Path, rows: Sequence[Row]) -> None:
        """See watch.Watcher. The run of an earlier sitting is gone on with; it gets the rows that it lacks."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        self._run = (_record(folder).get("mlflow", {}) if rows else {}).get("run", "")
        if self._run:
            self._client.update_run(self._run, status="RUNNING")
            history = self._client.get_metric_history(self._run, "learning_rate")
            self._sent = max((int(m.step) for m in history), default=0)
        else:
            self._run = self._client.create_run(self._experiment(), run_name=run_name(plans, folder)).info.run_id
            values = [Param(k, str(v)[:LONGEST]) for k, v in settings(plans, folder.name).items()]
            for start in range(0, len(values), AT_ONCE):
                self._client.log_batch(self._run, params=values[start : start + AT_ONCE])
            _remember(folder, "mlflow", {"run": self._run})
        for row in rows:
            self.epoch(row)

    def epoch(self, row: Row) -> None:
        """See watch.Watcher. A row that was sent before is not sent again."""
        from mlflow.entities import Metric

        if row["iteration"] <= self._sent:
            return
        now, step = int(time.time() * 1000), int(row["iteration"])
        self._client.log_batch(self._run, metrics=[Metric(_accepted(k), v, now, step) for k, v in tags(row).items()])
        self._sent = step

    def figure(self, name: str, path: Path, iteration: int) -> None:
        """Nothing: pictures show patients, and the store may be another machine's."""

    def close(self, status: str) -> None:
        """See watch.Watcher."""
        self._client.set_terminated(self._run, self.STATUS[status])

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.EXPERIMENT)
        return found.experiment_id if found else self._client.create_experiment(self.EXPERIMENT)


def _accepted(name: str) -> str:
    """A metric's name with what MLflow does not take (anything but letters, digits, `_ - . /` and spaces) as an underscore."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


def _record(folder: Path) -> dict[str, Any]:
    """Service -> its run, of an earlier sitting; empty where there was none."""
    path = folder / RECORD
    return read_json(path) if path.exists() else {}


def _remember(folder: Path, service: str, run: dict[str, Any]) -> None:
    write_json(folder / RECORD, {**_record(folder), service: run})
