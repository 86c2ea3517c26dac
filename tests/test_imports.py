"""Imports point one way, heavy packages stay out of training, and only the commands print, exit and read the environment."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABSENT = ("SimpleITK", "skimage")  # what a bare GPU machine lacks
BARE = (
    "ldseg_auto.networks.ldseg", "ldseg_auto.diffusion.samplers", "ldseg_auto.diffusion.schedule", "ldseg_auto.training.loop",
    "ldseg_auto.training.run", "ldseg_auto.inference.window", "ldseg_auto.inference.model_folder", "ldseg_auto.data.labels",
    "ldseg_auto.data.dataset", "ldseg_auto.data.splits", "ldseg_auto.preprocessing.case", "ldseg_auto.preprocessing.store",
)  # fmt: skip
# What each part may import besides itself and the helpers at the package's top (design.md 2); "a.b" allows that module of part a only.
MAY_IMPORT: dict[str, set[str]] = {
    "": {"inference.predictor"},
    "data": set(),
    "diffusion": set(),
    "preprocessing": {"data", "planners.plans", "planners.serialise"},
    "planners": {"data", "diffusion", "preprocessing", "training.memory"},
    "planning": {"data", "planners", "preprocessing", "report"},
    "preparation": {"data", "planners", "planning", "preprocessing", "report"},
    "report": {"data", "planners", "evaluation"},
    "model_report": {"data", "planners", "inference", "report"},
    "networks": {"diffusion", "planners.plans"},
    "evaluation": {"data", "planners.serialise"},
    "inference": {
        "data",
        "networks",
        "diffusion",
        "preprocessing",
        "planners.plans",
        "planners.names",
        "planners.serialise",
        "training.checkpoint",
        "evaluation.predicted_dice",
        "evaluation.picture",
        "evaluation.calibration",
        "evaluation.cut",
        "report.pictures",
    },
    "selection": {"data", "evaluation", "inference", "preprocessing", "planners.plans", "planners.names", "planners.serialise"},
    "sharing": {"data", "networks", "inference", "planners.plans", "planners.serialise", "training.checkpoint", "training.lock"},
    "training": {
        "data",
        "networks",
        "diffusion",
        "preprocessing",
        "planners.block_code",
        "planners.plans",
        "planners.overrides",
        "evaluation",
        "inference",
    },
}
MODULES = sorted(p for folder in ("ldseg_auto", "planners", "preprocessing") for p in (ROOT / folder).rglob("*.py"))
BELOW_CLI = [p for p in MODULES if "cli" not in p.relative_to(ROOT).parts]
FORBIDDEN_NAMES = {"print", "exit", "quit", "input", "breakpoint"}
FORBIDDEN_CALLS = {"sys.exit", "os._exit", "os.getenv", "os.environ", "os.environb", "sys.argv"}
# Exceptions: dataset.json may hold variables in its paths (nnU-Net's format); worker processes are given one thread each, by variables.
EXPANDS_VARIABLES = Path("ldseg_auto/data/cases.py")
SETS_VARIABLES = Path("ldseg_auto/parallel.py")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _module(path: Path) -> str:
    """`networks.blocks` of ldseg_auto/networks/blocks.py, `planners.plans` of planners/plans.py; a package is its folder's name."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(p for p in (parts[1:] if parts[0] == "ldseg_auto" else parts) if p != "__init__")


KNOWN = {_module(p) for p in MODULES}


def _imports(tree: ast.AST) -> Iterator[str]:
    """All that is imported anywhere in the file, inside functions too, by its dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: write the full name"
            yield from (f"{node.module}.{a.name}" for a in node.names)


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _own_imports(path: Path) -> set[str]:
    """The modules of this package that a file imports: `planners.plans` for `from ldseg_auto.planners.plans import Plans`."""
    names = {n.removeprefix("ldseg_auto.") for n in _imports(ast.parse(path.read_text(encoding="utf-8"))) if n.startswith("ldseg_auto.")}
    return {n if n in KNOWN else n.rpartition(".")[0] for n in names}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_one_way(path: Path) -> None:
    part = _module(path).split(".")[0]
    if part == "cli":
        return  # the top: it may import everything
    parts = {"cli", *MAY_IMPORT}
    allowed = MAY_IMPORT.get(part, set()) | {part}
    wrong = {m for m in _own_imports(path) if m.split(".")[0] in parts and not {m, m.split(".")[0]} & allowed}
    assert not wrong, f"{_module(path)} imports {sorted(wrong)}; {part} may import {sorted(allowed)}"


def test_no_module_imports_itself_by_a_circle() -> None:
    graph = {_module(p): _own_imports(p) & KNOWN for p in MODULES if p.name != "__init__.py"}
    while leaves := {m for m, needs in graph.items() if not needs & set(graph)}:
        graph = {m: needs for m, needs in graph.items() if m not in leaves}
    assert graph == {}, "these modules import each other in a circle"


@pytest.mark.parametrize("path", BELOW_CLI, ids=_name)
def test_only_commands_print_exit_and_read_the_environment(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    used = {_dotted(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert not called & FORBIDDEN_NAMES
    if path.relative_to(ROOT) == SETS_VARIABLES:
        environment = {u for u in used if u.startswith("os.environ")}
        assert environment == {"os.environ", "os.environ.update"}  # it writes, and reads nothing
        used -= environment
    assert not used & FORBIDDEN_CALLS
    imported = set(_imports(tree))
    assert not {m.split(".")[0] for m in imported} & {"argparse", "getpass", "optparse"}
    assert not imported & {"os.environ", "os.getenv", "sys.exit", "sys.argv"}
    assert "os.path.expandvars" not in used | imported or path.relative_to(ROOT) == EXPANDS_VARIABLES


@pytest.mark.parametrize("module", BARE)
def test_imports_on_a_bare_gpu_machine(module: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_blocked_packages_are_really_blocked() -> None:
    """The test above can fail: a module that needs SimpleITK does not import with it blocked."""
    code = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); import SimpleITK"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr
