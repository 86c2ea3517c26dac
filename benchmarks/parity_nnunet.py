"""nnU-Net's half of planner_parity.py: plans made by its own default planner. Run by nnU-Net's own Python, not by hand.

    .venv-nnunet/bin/python benchmarks/parity_nnunet.py datasets.json answers.json

Its network is made on the meta device, which changes the speed and nothing else: the planner asks it for sizes alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

SECONDS = 120  # per dataset: the planner never ends where no patch fits


def plan(dataset: dict[str, Any], number: int, root: Path) -> dict[str, Any]:
    """The plans of one dataset: {description: dataset.json, fingerprint, memory: GB}."""
    import torch
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    name = f"Dataset{number:03d}_Parity"
    for part, file, content in (("raw", "dataset.json", "description"), ("preprocessed", "dataset_fingerprint.json", "fingerprint")):
        folder = root / part / name
        folder.mkdir(parents=True)
        (folder / file).write_text(json.dumps(dataset[content]), encoding="utf-8")
    with torch.device("meta"):
        planner = ExperimentPlanner(name, gpu_memory_target_in_gb=dataset["memory"])
        planner.plan_experiment()
    plans = json.loads((root / "preprocessed" / name / "nnUNetPlans.json").read_text(encoding="utf-8"))
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:
            network = configuration["architecture"]
            with torch.device("meta"):
                configuration["estimate"] = int(
                    planner.static_estimate_VRAM_usage(
                        configuration["patch_size"], len(dataset["description"]["channel_names"]), len(dataset["description"]["labels"]),
                        network["network_class_name"], network["arch_kwargs"], network["_kw_requires_import"],
                    )
                )  # fmt: skip
    return {**plans, "anisotropy_threshold": float(planner.anisotropy_threshold)}


def answer(dataset: dict[str, Any], number: int, root: Path) -> dict[str, Any]:
    """The plans, or {"error": what went wrong}."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"does not end within {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return plan(dataset, number, root)
    except Exception as cause:  # whatever stops the other tool is its answer
        return {"error": f"{type(cause).__name__}: {cause}"[:300]}
    finally:
        signal.alarm(0)


def main() -> None:
    """Plans every dataset of the first file into the second."""
    datasets = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        for variable in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{variable}"] = str(Path(folder) / variable)
        answers = [answer(dataset, number, Path(folder)) for number, dataset in enumerate(datasets, start=1)]
    Path(sys.argv[2]).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
