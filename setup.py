"""Packaging: `planners/` and `preprocessing/` stand at the top level and install inside the package."""

from pathlib import Path

from setuptools import find_packages, setup

INSIDE = {"ldseg_auto.planners": "planners", "ldseg_auto.preprocessing": "preprocessing"}


def packages() -> list[str]:
    """All packages under their installed names."""
    found = find_packages(include=["ldseg_auto", "ldseg_auto.*"])
    for name, folder in INSIDE.items():
        found += [name, *(f"{name}.{sub}" for sub in find_packages(folder))]
    return found


COMMANDS = (
    "plan", "plan_and_preprocess", "train", "find_best", "predict", "ensemble", "evaluate", "report", "make_demo", "export",
    "import",
)  # fmt: skip
MODULES = {"import": "import_model"}  # where a command's name is a word of Python
readme = Path(__file__).parent / "README.md"

setup(
    name="ldseg-auto",
    version="0.1.0",
    description="Self-configuring medical image segmentation by end-to-end latent diffusion",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=packages(),
    package_dir=INSIDE,
    # Most tests were run with all lower bounds but torch's at once. SimpleITK 2.3 reads truncated .mha files without an error.
    install_requires=[
        "torch>=2.4",
        "numpy>=1.26",
        "scipy>=1.11.4",
        "SimpleITK>=2.4",
        "acvl-utils>=0.2.3",
        "dynamic-network-architectures>=0.3.1",
        "blosc2>=3.0",
        "lightning-fabric>=2.4",
        "matplotlib>=3.8",
        "pillow>=10.1",
        "scikit-image>=0.22",
        "tensorboardX>=2.6.2.2",
        "threadpoolctl>=3.1",
        "tqdm>=4.65",
    ],
    # setuptools: the packaging test builds without network; before 70.1 that needs the package "wheel" besides.
    # mlflow-skinny keeps runs in a file of its own only with sqlalchemy and alembic; without, it needs a server.
    extras_require={
        "dask": ["distributed>=2024.8.0"],
        "wandb": ["wandb>=0.17.9"],
        "mlflow": ["mlflow-skinny>=2.17.2", "sqlalchemy>=2.0", "alembic>=1.13"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.13",
            "setuptools>=70.1",
            "batchgenerators>=0.25",
            "distributed>=2024.8.0",
        ],
    },
    entry_points={"console_scripts": [f"ldseg_{c} = ldseg_auto.cli.{MODULES.get(c, c)}:main" for c in COMMANDS]},
)
