"""Our planner's rules against nnU-Net 2.8.1's own planner, on 60 synthetic fingerprints: spacing, patch, strides, batch, normalisation.

    .venv/bin/python benchmarks/planner_parity.py --output benchmarks/output
    .venv/bin/python benchmarks/planner_parity.py --memory 24 --only "liver CT" "2D strip"

Each fingerprint is planned three times: by nnU-Net (in its own environment, made at the first call), by our rules with nnU-Net's memory
estimate in place of ours, and by our rules as they are. A difference that the second plan does not have is due to our network's memory.
Every other one is named; one that no reason explains makes the script end with 1. To expect: no unexplained difference, spacing equal
everywhere but for single slices; about 2 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isclose, prod
from pathlib import Path
from typing import Any

from common import ROOT, environment, machine, nnunet_environment, table, versions, write_report
from parity_cases import Dataset, datasets, random_datasets

from ldseg_auto.planners.planner import layouts, network_of
from ldseg_auto.planners.plans import Resampling
from ldseg_auto.planners.rules.default import batch_dice
from ldseg_auto.planners.rules.memory import GIB, Demand, Linear
from ldseg_auto.planners.rules.normalisation import normalisation
from ldseg_auto.planners.rules.topology import Topology

REFERENCE = {2: (85_000_000, 12), 3: (560_000_000, 2)}  # nnU-Net's feature map voxels of its reference batch at 8 GB, and that batch
SCHEMES = {
    "CTNormalization": "ct", "ZScoreNormalization": "zscore", "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1", "RGBTo01Normalization": "rgb_to_0_1",
}  # fmt: skip
SHARED = "all"  # stands for the configuration in what is the same for all of them
MEMORY = "as planned: our network's memory"
ROUNDED = "nnU-Net rounds the batch that fits up, ours never exceeds the target"
LATENT = "the latent grid needs one halving, nnU-Net plans a single stage"
SINGLE = "a single slice goes first and is planned in 2D, whatever its thickness"
UNEXPLAINED = "unexplained"
REASONS = (ROUNDED, LATENT, SINGLE, UNEXPLAINED, MEMORY)
Answer = dict[str, dict[str, Any]]  # configuration -> field -> value


@dataclass(frozen=True)
class Difference:
    """One field that is not the same."""

    dataset: str
    configuration: str
    field: str
    ours: Any
    nnunet: Any
    reason: str


def feature_voxels(topology: Topology, heads: int) -> int:
    """nnU-Net's estimate for its default U-Net: voxels of all convolutions' outputs (nnunet.md 1.8; Isensee et al. 2021, supplement).

    A stage of width w on n voxels counts 2 w n in the encoder and, except the last, 3 w n in the decoder (a transposed convolution and two
    others); the logits count once.
    """
    network = network_of(topology)
    sizes = [w * prod(p // s for p, s in zip(topology.patch_size, stride, strict=True)) for w, stride in _stages(network)]
    return 2 * sum(sizes) + 3 * sum(sizes[:-1]) + heads * prod(topology.patch_size)


def _stages(network: Any) -> list[tuple[int, tuple[int, ...]]]:
    return list(zip(network.features_per_stage, network.cumulative_strides, strict=True))


def nnunet_memory(heads: int) -> Callable[[Topology], Demand]:
    """nnU-Net's memory rule as a demand: 8 GiB hold the reference batch."""

    def demand(topology: Topology) -> Demand:
        reference, batch = REFERENCE[len(topology.patch_size)]
        return Linear(0.0, 8 * GIB * feature_voxels(topology, heads) / (reference * batch))

    return demand


def ours(dataset: Dataset, gpu_memory: float, memory: Callable[[Topology], Demand] | None = None) -> Answer:
    """Our plan in the common form.

    Args:
        memory: in place of our network's.
    """
    order, found = layouts(dataset.fingerprint(), dataset.classes, gpu_memory, memory=memory)
    schemes, mask, _ = normalisation(dataset.channels, dataset.relative_size)
    settings = Resampling()
    answer: Answer = {SHARED: {
        "transpose": order, "configurations": tuple(sorted(found)), "normalisation": schemes, "use of the mask": mask,
        "resampling": (settings.order_image, settings.order_label, settings.separate_axis_threshold),
    }}  # fmt: skip
    for name, layout in found.items():
        topology = layout.patch.topology
        answer[name] = {
            "spacing": layout.spacing, "median shape": layout.median_shape[-len(layout.spacing) :], "patch": topology.patch_size,
            "strides": topology.strides, "kernels": topology.kernel_sizes, "widths": layout.network.features_per_stage,
            "batch": layout.patch.batch_size, "batch Dice": batch_dice(name, found)[0],
        }  # fmt: skip
    return answer


def nnunet(plans: Mapping[str, Any]) -> Answer:
    """nnU-Net's plans in the common form; its cascade, which only inherits, is left out."""
    configurations = {name: c for name, c in plans["configurations"].items() if "architecture" in c}
    first = next(iter(configurations.values()))
    orders = (first["resampling_fn_data_kwargs"]["order"], first["resampling_fn_seg_kwargs"]["order"], plans["anisotropy_threshold"])
    answer: Answer = {SHARED: {
        "transpose": _tuples(plans["transpose_forward"]), "configurations": tuple(sorted(configurations)),
        "normalisation": tuple(SCHEMES[s] for s in first["normalization_schemes"]),
        "use of the mask": _tuples(first["use_mask_for_norm"]), "resampling": orders,
    }}  # fmt: skip
    for name, c in configurations.items():
        network = c["architecture"]["arch_kwargs"]
        answer[name] = {
            "spacing": _tuples(c["spacing"]), "median shape": _tuples(c["median_image_size_in_voxels"]), "patch": _tuples(c["patch_size"]),
            "strides": _tuples(network["strides"]), "kernels": _tuples(network["kernel_sizes"]),
            "widths": _tuples(network["features_per_stage"]), "batch": c["batch_size"], "batch Dice": c["batch_dice"],
        }  # fmt: skip
    return answer


def ask_nnunet(chosen: Sequence[Dataset], gpu_memory: float) -> list[dict[str, Any]]:
    """nnU-Net's plans, or {"error": ...}, per dataset."""
    python = nnunet_environment() / "python"
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "datasets.json", Path(folder) / "answers.json"
        asked.write_text(json.dumps([d.nnunet(gpu_memory) for d in chosen]), encoding="utf-8")
        command = [str(python), str(ROOT / "benchmarks" / "parity_nnunet.py"), str(asked), str(told)]
        subprocess.run(command, check=True, env=environment({"OMP_NUM_THREADS": "1"}))
        return list(json.loads(told.read_text(encoding="utf-8")))


def compare(dataset: Dataset, theirs: Answer, planned: Answer, replaced: Answer) -> tuple[list[Difference], Counter[str]]:
    """What differs and why, and how often each field was compared.

    A field counts twice where the rules differ with nnU-Net's memory already, and ours changes it once more.

    Args:
        planned: our plan as it is.
        replaced: our plan with nnU-Net's memory rule.
    """
    differences, compared = [], Counter[str]()
    for name in (n for n in theirs if n in replaced):
        for field, value in theirs[name].items():
            compared[field] += 1
            other = replaced[name][field]
            mine = planned[name][field] if name in planned else other
            if not _same(other, value):
                differences.append(Difference(dataset.name, name, field, other, value, _reason(dataset, name, field, other, theirs)))
            if not _same(mine, value) and not _same(mine, other):
                differences.append(Difference(dataset.name, name, field, mine, value, MEMORY))
    return differences, compared


def _reason(dataset: Dataset, name: str, field: str, replaced: Any, theirs: Answer) -> str:
    """Why nnU-Net differs from our rules with its own memory estimate."""
    if any(n <= 1 for n in (min(axis) for axis in zip(*dataset.shapes, strict=True))) and dataset.spacings[0][0] < 100:
        return SINGLE
    if name != SHARED and len(theirs[name]["strides"]) == 1:
        return LATENT
    return ROUNDED if field == "batch" and replaced == theirs[name]["batch"] - 1 else UNEXPLAINED


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, float) or isinstance(second, float):
        return isinstance(first, (int, float)) and isinstance(second, (int, float)) and isclose(first, second, rel_tol=1e-9)
    return bool(first == second)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def summary(differences: Sequence[Difference], compared: Counter[str]) -> str:
    """One row per field: how often it was compared, equal with nnU-Net's memory rule, and different for each reason."""
    counts = Counter((d.field, d.reason) for d in differences)
    rows = []
    for field, total in compared.items():
        found = [counts[field, reason] for reason in REASONS]
        rows.append([field, total, total - sum(found[:-1]), *(n or "" for n in found)])
    return table(["field", "compared", "equal with nnU-Net's memory", *REASONS], rows)


def batch_voxels(answers: Mapping[str, Mapping[str, Answer]]) -> str:
    """Median over configurations of our batch's voxels against nnU-Net's, 3D and 2D."""
    ratios: dict[str, list[float]] = {"3D": [], "2D": []}
    for answer in answers.values():
        for name in (n for n in answer["nnunet"] if n != SHARED and n in answer["ours"]):
            mine, theirs = (prod(plan[name]["patch"]) * plan[name]["batch"] for plan in (answer["ours"], answer["nnunet"]))
            ratios[name[:2].upper()].append(mine / theirs)
    shown = ", ".join(f"{statistics.median(found):.2f} ({name})" for name, found in ratios.items() if found)
    return f"Voxels of a batch, ours / nnU-Net's, median: {shown}."


def main() -> None:
    """Plans, compares, and writes planner_parity.md and planner_parity.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report (default: benchmarks/output)")
    parser.add_argument("--memory", type=float, default=8.0, help="GB of the graphics card to plan for, both tools (default: 8)")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="N more datasets, drawn from a fixed seed (default: 0)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="datasets, by name (default: all)")
    args = parser.parse_args()
    chosen = [d for d in (*datasets(), *random_datasets(args.random)) if not args.only or d.name in args.only]
    differences: list[Difference] = []
    compared, wrong_estimates, failed, answers = Counter[str](), 0, [], {}
    for dataset, plans in zip(chosen, ask_nnunet(chosen, args.memory), strict=True):
        if "error" in plans:
            failed.append(f"{dataset.name}: {plans['error']}")
            continue
        replaced, planned = ours(dataset, args.memory, nnunet_memory(dataset.classes)), ours(dataset, args.memory)
        found, counted = compare(dataset, nnunet(plans), planned, replaced)
        differences, compared = differences + found, compared + counted
        answers[dataset.name] = {"nnunet": nnunet(plans), "ours": planned, "ours with nnU-Net's memory": replaced}
        wrong_estimates += sum(not estimates_agree(dataset, c) for c in plans["configurations"].values() if "estimate" in c)
    unexplained = [d for d in differences if d.reason == UNEXPLAINED]
    rows = [[d.dataset, d.configuration, d.field, _short(d.ours), _short(d.nnunet), d.reason] for d in differences]
    text = f"{len(chosen)} datasets, {args.memory:g} GB\n\n{summary(differences, compared)}\n\n"
    text += f"nnU-Net could not plan {len(failed)}{': ' if failed else ''}{'; '.join(failed)}. "
    text += f"Estimates of its memory that our formula does not give: {wrong_estimates}. Unexplained: {len(unexplained)}. "
    text += f"{batch_voxels(answers)}\n\n"
    text += table(["dataset", "configuration", "field", "ours", "nnU-Net", "reason"], rows)
    known = versions(nnunet_environment() / "python", ("nnunetv2", "dynamic-network-architectures")) | versions(
        Path(sys.executable), ("ldseg-auto",)
    )
    content = {"machine": machine(), "versions": known, "memory": args.memory, "failed": failed, "answers": answers}
    write_report(args.output, "planner_parity", text, {**content, "differences": [asdict(d) for d in differences]})
    sys.exit(1 if unexplained or wrong_estimates else 0)


def estimates_agree(dataset: Dataset, configuration: Mapping[str, Any]) -> bool:
    """Whether our formula of nnU-Net's estimate gives what its network counts."""
    network = configuration["architecture"]["arch_kwargs"]
    strides = _tuples(network["strides"])
    total = tuple(prod(s[i] for s in strides) for i in range(len(strides[0])))
    topology = Topology(strides, _tuples(network["kernel_sizes"]), _tuples(configuration["patch_size"]), total)
    return len(strides) == 1 or feature_voxels(topology, dataset.classes) == configuration["estimate"]


def _short(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return " ".join("".join(map(str, v)) for v in value)
    return " x ".join(_short(v) for v in value) if isinstance(value, tuple) else f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
