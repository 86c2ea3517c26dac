"""Train and validate fold 0 of three datasets by the public commands, and print a table row for each.

    .venv/bin/python benchmarks/first_results.py --work /tmp/results                  all three, about 55 minutes on two cores
    .venv/bin/python benchmarks/first_results.py --only hc18 --minutes 5              one of them, shorter
    .venv/bin/python benchmarks/first_results.py --only hippocampus --set network.variant=paper

To expect on two cores with the default minutes: mean Dice >= 0.84 for Hippocampus (20 minutes), >= 0.93 for HC18 (15), >= 0.70 for CHASE
against rater 1 (15). Planning, preprocessing and the validation of the fold's whole cases come on top of the minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import DATA, OURS, environment, machine, table, versions, write_report

HEADER = ("dataset", "configuration", "minutes", "iterations", "mean Dice", "per class", "per rater", "cases", "steps")
PACKAGES = ("ldseg-auto", "torch", "numpy", "batchgenerators", "dynamic-network-architectures", "lightning-fabric")


@dataclass(frozen=True)
class Setup:
    """A dataset and how long it trains."""

    folder: str
    minutes: float
    groups: str | None  # case name -> patient: folds do not split one
    settings: tuple[str, ...] = ()  # of ldseg_train: networks that two cores can train in that time
    planning: tuple[str, ...] = ()  # more arguments of ldseg_plan_and_preprocess

    @property
    def number(self) -> str:
        """The dataset's ID."""
        return str(int(self.folder.removeprefix("Dataset").split("_")[0]))

    def with_given(self, settings: Sequence[str]) -> list[str]:
        """All settings; those from the command line replace its own."""
        return [*without(self.settings, settings), *settings]


SETUPS = {
    "hippocampus": Setup("Dataset004_Hippocampus", 20, None, ("network.features_per_stage=[16,32,64,128]", "batch_size=2")),
    "hc18": Setup(
        "Dataset018_HC18", 15, r"^(\d+)_",
        ("network.features_per_stage=[16,32,64,128,128,128,128]", "batch_size=2"), ("--target-spacing", "2", "2"),
    ),
    "chase": Setup(
        "Dataset028_CHASE", 15, r"^(Image_\d+)", ("network.features_per_stage=[16,32,64,128,128,128,128,128]", "patch_size=[512,512]")
    ),
}  # fmt: skip


def without(settings: Sequence[str], given: Sequence[str]) -> list[str]:
    """Those of `settings` (`PATH=VALUE`) whose path `given`, from the command line, does not set."""
    paths = {setting.partition("=")[0].strip() for setting in given}
    return [setting for setting in settings if setting.partition("=")[0] not in paths]


def link_dataset(setup: Setup, data: Path, raw: Path) -> None:
    """The dataset in `raw`: its image and label folders as links, its dataset.json with the patients named."""
    source, target = data.resolve() / setup.folder, raw / setup.folder
    target.mkdir(parents=True, exist_ok=True)
    for folder in (p for p in source.iterdir() if p.is_dir()):
        if not (target / folder.name).exists():
            (target / folder.name).symlink_to(folder, target_is_directory=True)
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    if setup.groups:
        content["groups"] = setup.groups
    (target / "dataset.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def run(command: str, *arguments: object) -> None:
    """Runs one of the project's commands; its messages go to this terminal.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    words = [str(OURS / command), *map(str, arguments)]
    print("$", " ".join([command, *words[1:]]), flush=True)
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, env=environment({}))


def train(setup: Setup, args: argparse.Namespace) -> Path:
    """Plans, preprocesses and trains fold 0; returns the fold's folder. An earlier model of this dataset in the work folder goes."""
    roots = {name: args.work / name for name in ("raw", "preprocessed", "results")}
    link_dataset(setup, args.data, roots["raw"])
    shutil.rmtree(roots["results"] / setup.folder, ignore_errors=True)
    memory = ["--gpu-memory", args.gpu_memory] if args.gpu_memory else []
    number, planning = setup.number, [*memory, *setup.planning]
    run("ldseg_plan_and_preprocess", "-d", number, "-np", 2, *planning, "--raw", roots["raw"], "--preprocessed", roots["preprocessed"])
    options = [word for value in setup.with_given(args.settings) for word in ("--set", value)]
    options += ["-c", args.configuration] if args.configuration else []
    budget = ["--time-budget", f"{args.minutes or setup.minutes}m", "--device", args.device, "--seed", args.seed]
    run("ldseg_train", setup.number, 0, *budget, *options, "--preprocessed", roots["preprocessed"], "--results", roots["results"])
    return next((roots["results"] / setup.folder).glob("*__*/fold_0"))


def read_result(fold: Path, minutes: float) -> dict[str, Any]:
    """What the fold's folder says: Dice, iterations, steps, versions."""
    summary = json.loads((fold / "validation" / "summary.json").read_text(encoding="utf-8"))
    with open(fold / "training_log.csv", encoding="utf-8", newline="") as stream:
        last = list(csv.DictReader(stream))[-1]
    manifest = json.loads((fold / "manifest.json").read_text(encoding="utf-8"))
    return {
        "dataset": fold.parents[1].name, "configuration": fold.parent.name.split("__")[-1], "minutes": minutes,
        "iterations": int(last["iteration"]), "mean": summary["mean"], "per_class": summary["per_class"], "per_rater": summary["per_rater"],
        "cases": len(summary["cases"]), "steps": summary["steps"],
        "device": manifest["device"], "precision": manifest["precision"], "seed": manifest["seed"],
    }  # fmt: skip


def row(result: dict[str, Any]) -> list[object]:
    """The result as a table row; raters are counted from 1, as the label folders are."""
    classes = ", ".join(f"{name} {dice:.4f}" for name, dice in result["per_class"].items() if dice is not None)
    raters = ", ".join(f"{int(number) + 1}: {dice:.4f}" for number, dice in result["per_rater"].items() if dice is not None)
    start = [result[k] for k in ("dataset", "configuration", "minutes", "iterations")]
    mean = "-" if result["mean"] is None else f"{result['mean']:.4f}"
    return [*start, mean, classes, raters if len(result["per_rater"]) > 1 else "-", result["cases"], result["steps"]]


def main() -> None:
    """Runs the chosen datasets and writes first_results.md and first_results.json into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(SETUPS), nargs="+", default=list(SETUPS), help="which datasets (default: all three)")
    parser.add_argument("--minutes", type=float, help="of training, in place of each dataset's own")
    settings = "passed to ldseg_train, after the dataset's own (a path given twice to different values is an error)"
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help=settings)
    parser.add_argument("--gpu-memory", metavar="GB", help="passed to ldseg_plan_and_preprocess")
    parser.add_argument("-c", "--configuration", help="passed to ldseg_train (default: the plans' choice)")
    parser.add_argument("--device", default="auto", help="passed to ldseg_train (default: auto)")
    parser.add_argument("--seed", type=int, default=0, help="passed to ldseg_train (default: 0)")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder that holds the datasets (default: {DATA})")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/output/first_results"), help="folder for data, models and the report")
    args = parser.parse_args()
    results = []
    for name in args.only:
        setup = SETUPS[name]
        results.append(read_result(train(setup, args), args.minutes or setup.minutes))
        chosen = {n: {"planning": SETUPS[n].planning, "settings": SETUPS[n].with_given(args.settings)} for n in args.only}
        about = {"machine": machine(), "versions": versions(OURS / "python", PACKAGES), "chosen": chosen, "results": results}
        write_report(args.work, "first_results", table(HEADER, [row(r) for r in results]), about)


if __name__ == "__main__":
    main()
