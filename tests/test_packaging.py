"""A plain and an editable install, made for real from a copy of the tree: what lands in site-packages, and what can be imported."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import venv
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = (
    "plan", "plan_and_preprocess", "train", "find_best", "predict", "ensemble", "evaluate", "report", "make_demo", "export", "import"
)  # fmt: skip
COMMANDS = {f"ldseg_{name}" for name in NAMES}
MODULES = {"import": "import_model"}  # where a command's name is a word of Python
TREE = ("setup.py", "pyproject.toml", "LICENSE", "README.md", "ldseg_auto", "planners", "preprocessing")
IMPORTS = """
import ldseg_auto, ldseg_auto.planners.plans, ldseg_auto.preprocessing, importlib.util
print(ldseg_auto.planners.__file__, ldseg_auto.preprocessing.__file__, sep="\\n")
found = [name for name in ("planners", "preprocessing") if importlib.util.find_spec(name)]
print("generic names:", found)
"""


def _copy_tree(target: Path) -> Path:
    """What a fresh clone holds of the package: no caches, no egg-info of an earlier install."""
    target.mkdir()
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif source.exists():
            shutil.copy(source, target / name)
    return target


def _environment(folder: Path) -> Path:
    """An empty virtual environment that sees the packages of the environment that runs the tests, but not this project."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    # A .pth line adds a folder to the path without executing the .pth files in it: the project's own editable install stays out.
    (site / "outer.pth").write_text("\n".join(p for p in sys.path if "site-packages" in p), encoding="utf-8")
    return site


def _install(site: Path, tree: Path, *options: str) -> None:
    python = site.parents[2] / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed"]
    done = subprocess.run([*command, *options, str(tree)], capture_output=True, text=True, env=_clean_environment(), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def _clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_CONSTRAINT", "PIP_TARGET", "PIP_PREFIX")}


@pytest.fixture(scope="module", params=["plain", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """How it was installed, site-packages, and the source tree."""
    folder = tmp_path_factory.mktemp(request.param)
    tree, site = _copy_tree(folder / "tree"), _environment(folder / "venv")
    _install(site, tree, *(["--editable"] if request.param == "editable" else []))
    return request.param, site, tree


def test_both_folders_import_inside_the_package(installed: tuple[str, Path, Path], tmp_path: Path) -> None:
    how, site, tree = installed
    python = site.parents[2] / "bin" / "python"
    done = subprocess.run([python, "-c", IMPORTS], capture_output=True, text=True, cwd=tmp_path, env=_clean_environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    planners, preprocessing, generic = done.stdout.splitlines()
    inside = {"plain": site / "ldseg_auto", "editable": tree}[how]
    assert Path(planners) == inside / "planners" / "__init__.py"
    assert Path(preprocessing) == inside / "preprocessing" / "__init__.py"
    assert generic == "generic names: []"


def test_no_generic_name_in_site_packages(installed: tuple[str, Path, Path]) -> None:
    how, site, _ = installed
    names = {p.name for p in site.iterdir()} - {"outer.pth"}
    own = {n for n in names if n.startswith(("ldseg_auto", "__editable__"))}
    assert names - own - {"__pycache__"} == set()
    assert ("ldseg_auto" in names) == (how == "plain")


@pytest.mark.parametrize("installed", ["plain"], indirect=True)  # an editable install copies nothing
def test_every_module_is_installed(installed: tuple[str, Path, Path]) -> None:
    _, site, tree = installed
    expected = {p.relative_to(tree / "ldseg_auto") for p in (tree / "ldseg_auto").rglob("*.py")}
    expected |= {p.relative_to(tree) for name in ("planners", "preprocessing") for p in (tree / name).rglob("*.py")}
    assert {p.relative_to(site / "ldseg_auto") for p in (site / "ldseg_auto").rglob("*.py")} == expected


def test_console_scripts_start(installed: tuple[str, Path, Path]) -> None:
    _, site, _ = installed
    scripts = ConfigParser()
    scripts.read(next(site.glob("ldseg_auto-*.dist-info")) / "entry_points.txt")
    expected = {f"ldseg_{name}": f"ldseg_auto.cli.{MODULES.get(name, name)}:main" for name in NAMES}
    assert {k: v for k, v in scripts["console_scripts"].items()} == expected
    for command in sorted(COMMANDS):
        script = site.parents[2] / "bin" / command
        done = subprocess.run([script, "--version"], capture_output=True, text=True, env=_clean_environment(), timeout=60)
        assert (done.returncode, done.stdout.startswith("ldseg_auto ")) == (0, True), command + done.stderr


def test_licence_is_installed(installed: tuple[str, Path, Path]) -> None:
    _, site, _ = installed
    texts = [p.read_text(encoding="utf-8") for p in next(site.glob("ldseg_auto-*.dist-info")).rglob("LICENSE")]
    assert len(texts) == 1 and "Apache License" in texts[0]


def test_dependencies_are_those_that_the_code_imports() -> None:
    """Every third-party module imported is declared, every declared one is imported, and the constraints name declared packages."""
    module_of = {
        "simpleitk": "SimpleITK", "pillow": "PIL", "scikit-image": "skimage", "tensorboardx": "tensorboardX", "mlflow-skinny": "mlflow",
    }  # fmt: skip
    setup = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    keywords = {k.arg: k.value for n in ast.walk(setup) if isinstance(n, ast.Call) for k in n.keywords}
    declared = {item.split(">=")[0].lower() for item in ast.literal_eval(keywords["install_requires"])}
    imported = set()
    for folder in ("ldseg_auto", "planners", "preprocessing"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
                imported |= {n.split(".")[0] for n in names}
    extras = {k.value: ast.literal_eval(v) for k, v in zip(keywords["extras_require"].keys, keywords["extras_require"].values, strict=True)}
    optional = {item.split(">=")[0].lower() for name, items in extras.items() if name != "test" for item in items}
    third_party = imported - set(sys.stdlib_module_names) - {"ldseg_auto"}
    assert third_party - {module_of.get(d, d) for d in optional} == {module_of.get(d, d.replace("-", "_")) for d in declared}
    assert {"distributed", "wandb", "mlflow"} <= third_party
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")}
    assert pinned <= declared | optional
