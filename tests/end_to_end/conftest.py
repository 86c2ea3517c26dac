"""The real commands, run in this process on small datasets."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ldseg_auto.cli import common, evaluate, export, find_best, import_model, plan, plan_and_preprocess, predict, train

COMMANDS = {
    "plan": plan_and_preprocess, "plan_only": plan, "train": train, "predict": predict, "evaluate": evaluate,
    "export": export, "import": import_model, "find_best": find_best,
}  # fmt: skip
ROOTS = {
    "plan": ("raw", "preprocessed", "results"),
    "plan_only": ("raw", "preprocessed", "results"),
    "train": ("preprocessed", "results"),
    "predict": ("results",),
    "find_best": ("preprocessed", "results"),
    "evaluate": ("raw", "preprocessed"),
    "export": (),
    "import": ("results",),
}
TINY = (
    "training.iterations_per_epoch=2", "training.workers=0", "training.validation_patches=1", "batch_size=1", "sampling.steps=2",
    "latent.channels=2",
)  # fmt: skip


class Workbench:
    """A root folder with raw, preprocessed and results below it, and the commands on them; each returns its exit code."""

    def __init__(self, root: Path) -> None:
        self.root, self.raw, self.results = root, root / "raw", root / "results"

    def run(self, command: str, *arguments: object) -> int:
        """Any command, its roots given."""
        module = COMMANDS[command]
        roots = [word for name in ROOTS[command] for word in (f"--{name}", self.root / name)]
        device = ["--device", "cpu"] if command in ("train", "predict", "find_best") else ["-np", "1"]
        extra = [] if command in ("export", "import") else device
        return common.run(module.build(), module.work, [str(a) for a in (*arguments, *roots, *extra)])

    def dataset(self, number: int) -> Path:
        """The raw folder of dataset `number`."""
        return self.raw / f"Dataset{number:03d}_Toy"

    def preprocessed(self, number: int) -> Path:
        """The preprocessed folder of dataset `number`."""
        return self.root / "preprocessed" / f"Dataset{number:03d}_Toy"

    def model(self, number: int, configuration: str) -> Path:
        """Its model folder."""
        return self.results / f"Dataset{number:03d}_Toy" / f"ldsegPlans__{configuration}"

    def plans(self, number: int) -> dict:
        """The plans as JSON."""
        return json.loads((self.preprocessed(number) / "ldsegPlans.json").read_text())

    def train(
        self, number: int, fold: object, *settings: str, configuration: str | None = None, length: tuple[object, ...] = ("--epochs", 1)
    ) -> int:
        """A training of two iterations with a network of a few channels."""
        plans = self.plans(number)
        name = configuration or plans["default_configuration"]
        stages = len(plans["configurations"][name]["network"]["features_per_stage"])
        features = f"network.features_per_stage={json.dumps([4, *[8] * (stages - 1)])}"
        flags = [word for setting in (features, *TINY, *settings) for word in ("--set", setting)]
        return self.run("train", number, fold, "-c", name, *length, *flags)


@pytest.fixture(scope="session")
def workbench() -> Callable[[Path], Workbench]:
    """Makes a Workbench of a folder."""
    return Workbench


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Every file and folder below a folder, files with their content, to compare before and after."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@pytest.fixture(scope="session")
def pristine(make_dataset: Callable, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """Dataset 1, planned and trained; copied before it is spoilt."""
    bench = Workbench(tmp_path_factory.mktemp("pristine"))
    make_dataset(bench.raw, n_cases=3, shape=(4, 20, 16))
    assert bench.run("plan", "-d", 1) == 0
    assert bench.train(1, 0, length=("--epochs", 2)) == 0
    return bench


@pytest.fixture
def bench(pristine: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """A copy of it, which is the working directory."""
    shutil.copytree(pristine.root, tmp_path / "bench")
    monkeypatch.chdir(tmp_path / "bench")
    return Workbench(tmp_path / "bench")


@pytest.fixture
def refused(tree: Callable, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Runs a command that must fail with this message, without traceback, and change no file."""

    def check(bench: Workbench, match: str, *command: object, code: int = 2) -> None:
        before = tree(bench.root)
        capsys.readouterr()
        assert bench.run(*command) == code
        err = capsys.readouterr().err
        assert re.search(match, err, re.DOTALL), err
        assert "Traceback" not in err
        after = tree(bench.root)
        assert after == before, sorted(set(before) ^ set(after)) or [k for k in before if before[k] != after[k]]

    return check
