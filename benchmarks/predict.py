"""Prediction: nnU-Net 2.8.1 and this project, alternating on the same machine; both networks untrained, of the same patch and widths.

    .venv/bin/python benchmarks/predict.py --rounds 2                        Hippocampus, 3d_fullres, 60 cases (8 minutes on two cores)
    .venv/bin/python benchmarks/predict.py --rounds 1 --cases 10             a try
    .venv/bin/python benchmarks/predict.py --device cuda                     on a GPU
    .venv/bin/python benchmarks/predict.py --device cuda --repeat 3          the same on volumes of 27 times as many voxels
    .venv/bin/python benchmarks/predict.py --volume 25 --volume 104          peak memory on 512 x 512 x 700 voxels, 25 and 104 classes

Both tools plan the dataset; nnU-Net's 3d_fullres patch and features per stage are given to our plans (they are ours already, usually).
Weights are random, which costs the same as trained ones. Each tool predicts the whole folder and, for its start-up, two cases of it: the
seconds per case are the difference. Our samples are drawn in one step; where nothing else is said, all of the same view (`--tta none`).
The volume is noise with a bright body, predicted by a narrow network on the volume's own grid; `--shape 700 512 512` and
`--patch 32 96 96` change it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, OURS, Measurement, machine, measure, nnunet_environment, table, versions, write_report

HIPPOCAMPUS, CONFIGURATION = "Dataset004_Hippocampus", "3d_fullres"
PACKAGES = (
    "nnunetv2",
    "ldseg-auto",
    "torch",
    "numpy",
    "scipy",
    "SimpleITK",
    "batchgenerators",
    "acvl-utils",
    "dynamic-network-architectures",
)
FEW = 2  # cases of the run that is mostly start-up
SAMPLES = (1, 2, 5)
PEERS = ("nnU-Net, mirroring", "nnU-Net, no mirroring")
MIRRORED = "ours, 5 samples, each mirrored otherwise"
ROWS = (*PEERS, "ours, 1 sample", "ours, 2 samples", "ours, 5 samples", MIRRORED, "ours, mirroring")
MODEL_OF_NNUNET = """
import sys, torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
folder, name = sys.argv[1:]
plans, description = PlansManager(load_json(folder + "/plans.json")), load_json(folder + "/dataset.json")
configuration = plans.get_configuration(name)
torch.manual_seed(0)
network = nnUNetTrainer.build_network_architecture(plans, configuration, 1, 3, enable_deep_supervision=False)
torch.save({"network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer", "init_args": {"configuration": name},
            "inference_allowed_mirroring_axes": (0, 1, 2)}, folder + "/fold_0/checkpoint_final.pth")
"""


def copy_images(source: Path, target: Path, number: int, repeat: int) -> Path:
    """A folder with the first `number` images of another, each `repeat` times side by side along every axis."""
    import SimpleITK as sitk

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(source.glob("*.nii.gz"))[:number]:
        if repeat == 1:
            shutil.copy(path, target / path.name)
        else:
            image = sitk.ReadImage(str(path))
            sitk.WriteImage(sitk.WrapPad(image, [0] * 3, [(repeat - 1) * n for n in image.GetSize()]), str(target / path.name))
    return target


def raw_root(args: argparse.Namespace) -> Path:
    """A raw root with Hippocampus alone."""
    target = args.work / "raw"
    if not (target / HIPPOCAMPUS).exists():
        shutil.copytree(args.data / HIPPOCAMPUS, target / HIPPOCAMPUS)
    return target


def nnunet_model(args: argparse.Namespace) -> Path:
    """nnU-Net's model folder, planned by it, with random weights."""
    roots = {"nnUNet_raw": raw_root(args), "nnUNet_preprocessed": args.work / "nnunet", "nnUNet_results": args.work / "nnunet_results"}
    planned = roots["nnUNet_preprocessed"] / HIPPOCAMPUS
    if not (planned / "nnUNetPlans.json").exists():
        command = [str(nnunet_environment() / "nnUNetv2_plan_and_preprocess"), "-d", "4", "--no_pp", "-npfp", "2"]
        measure("nnunet", command, args.work / "logs" / "nnunet_plan.txt", {k: str(v) for k, v in roots.items()})
    folder = roots["nnUNet_results"] / HIPPOCAMPUS / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    shutil.copy(planned / "nnUNetPlans.json", folder / "plans.json")
    shutil.copy(planned / "dataset.json", folder / "dataset.json")
    subprocess.run(
        [str(nnunet_environment() / "python"), "-c", MODEL_OF_NNUNET, str(folder), CONFIGURATION], check=True, capture_output=True
    )
    return folder


def our_model(args: argparse.Namespace, nnunet: Path) -> Path:
    """Our model folder, planned by this project, with nnU-Net's patch and widths and random weights."""
    from ldseg_auto.planners.plans import Plans

    preprocessed = args.work / "ours"
    if not (preprocessed / HIPPOCAMPUS / "ldsegPlans.json").exists():
        command = [str(OURS / "ldseg_plan"), "-d", "4", "--raw", str(raw_root(args)), "--preprocessed", str(preprocessed)]
        measure("ours", command, args.work / "logs" / "ours_plan.txt")
    plans = Plans.load(preprocessed / HIPPOCAMPUS / "ldsegPlans.json")
    theirs = json.loads((nnunet / "plans.json").read_text(encoding="utf-8"))["configurations"][CONFIGURATION]
    ours = plans.configurations[CONFIGURATION]
    widths = tuple(theirs["architecture"]["arch_kwargs"]["features_per_stage"])[: len(ours.network.features_per_stage)]
    configuration = replace(ours, patch_size=tuple(theirs["patch_size"]), network=replace(ours.network, features_per_stage=widths))
    plans = replace(plans, configurations={CONFIGURATION: configuration}, default_configuration=CONFIGURATION)
    return write_model(args.work / "ours_results", plans, (raw_root(args) / HIPPOCAMPUS / "dataset.json").read_text(encoding="utf-8"))


def write_model(results: Path, plans: Any, description: str) -> Path:
    """A model folder of random weights, whose masks have structure."""
    import torch

    from ldseg_auto.networks.ldseg import LDSeg
    from ldseg_auto.training import checkpoint

    folder = results / plans.dataset_name / f"{plans.plans_name}__{plans.default_configuration}"
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    plans.save(folder / "plans.json")
    (folder / "dataset.json").write_text(description, encoding="utf-8")
    torch.manual_seed(0)
    network = LDSeg(plans.configuration(), len(json.loads(description)["labels"]))
    torch.nn.init.normal_(network.decoder.head.weight, std=1.0)
    content = {"ema": network.state_dict(), "dataset_name": plans.dataset_name, "fingerprint_hash": plans.fingerprint_hash}
    checkpoint.save(folder / "fold_0" / "checkpoint_final.pth", content)
    return folder


def sampled(number: int) -> str:
    """The row of so many samples."""
    return f"ours, {number} sample{'s' * (number > 1)}"


def commands(args: argparse.Namespace, inputs: Path, output: Path, theirs: Path, ours: Path) -> dict[str, list[str]]:
    """One command for each row of the table."""
    there = [str(nnunet_environment() / "nnUNetv2_predict_from_modelfolder"), "-i", str(inputs), "-o", str(output), "-m", str(theirs)]
    there += ["-f", "0", "-device", args.device, "--disable_progress_bar"]
    here = [str(OURS / "ldseg_predict"), "-i", str(inputs), "-o", str(output), "-m", str(ours), "--device", args.device, "--steps", "1"]
    found = dict(zip(PEERS, (there, [*there, "--disable_tta"]), strict=True))
    found |= {sampled(n): [*here, "--samples", str(n), "--tta", "none"] for n in SAMPLES}
    found[MIRRORED] = [*here, "--samples", "5"]
    found["ours, mirroring"] = [*here, "--samples", "1", "--tta", "mirror"]
    found |= {"ours, compiled": [*here, "--samples", "1", "--compile"]} if args.compile else {}
    return {name: command for name, command in found.items() if not args.only or name in args.only}


def run_all(args: argparse.Namespace) -> dict[str, dict[str, list[Measurement]]]:
    """Every command on all cases and on few, `rounds` times one after the other."""
    theirs = nnunet_model(args)
    ours, measured = our_model(args, theirs), {}
    source, roots = (
        raw_root(args) / HIPPOCAMPUS / "imagesTr",
        {n: str(args.work) for n in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
    )
    folders = {size: copy_images(source, args.work / f"images_{size}", n, args.repeat) for size, n in (("few", FEW), ("all", args.cases))}
    for number, size in product(range(args.rounds), folders):
        for name, command in commands(args, folders[size], args.work / "predicted", theirs, ours).items():
            shutil.rmtree(args.work / "predicted", ignore_errors=True)
            result = measure(name, command, args.work / "logs" / f"{size}_{name.replace(' ', '_')}_{number}.txt", roots)
            print(f"{size}, round {number}: {name} {result.seconds} s, {result.peak_mib} MiB", flush=True)
            measured.setdefault(name, {}).setdefault(size, []).append(result)
    return measured


def report(measured: dict[str, dict[str, list[Measurement]]], cases: int, repeat: int) -> str:
    """The Markdown table, with ratios to both runs of nnU-Net."""
    whole = {name: statistics.median(m.seconds for m in of["all"]) for name, of in measured.items()}
    start = {name: statistics.median(m.seconds for m in of["few"]) for name, of in measured.items()}
    each = {name: (whole[name] - start[name]) / (cases - FEW) for name in measured}
    rows = []
    for name, of in measured.items():
        ratios = [f"{of_all[base] / of_all[name]:.2f}" if base in of_all else "" for base in PEERS for of_all in (whole, each)]
        cpu = statistics.median(m.cpu_seconds for m in of["all"])
        peak = max(m.peak_mib for m in of["all"])
        rows.append(
            [name, f"{whole[name]:.1f}", f"{start[name] - FEW * each[name]:.1f}", f"{each[name]:.3f}", f"{cpu:.0f}", f"{peak:.0f}", *ratios]
        )
    header = ["", "seconds", "start-up", "seconds per case", "CPU seconds", "peak, MiB"]
    header += [f"{kind} than nnU-Net {m}" for m in ("with mirroring", "without") for kind in ("faster", "faster per case")]
    one, more = each.get(sampled(1)), {sampled(2): (1, ""), sampled(5): (4, ""), MIRRORED: (4, ", each mirrored otherwise: the default")}
    costs = [f"{(each[name] - one) / n / one:.0%} ({n + 1} samples{how})" for name, (n, how) in more.items() if one and name in each]
    further = f"A further sample costs {', '.join(costs)} of the first one's seconds." if costs else ""
    larger = f" of {repeat}^3 times the voxels" if repeat > 1 else ""
    return f"Hippocampus, {CONFIGURATION}, {cases} cases{larger}\n\n" + table(header, rows) + f"\n\n{further}"


def volume_model(args: argparse.Namespace, classes: int) -> tuple[Path, Path]:
    """A folder with one large volume, and a narrow model of `classes` foreground classes on its grid."""
    from ldseg_auto.data.image_io import write_image
    from ldseg_auto.planners.plans import Configuration, Inference, Intensities, Latent, Network, Plans, Sampling

    images = args.work / ("volume_" + "_".join(map(str, args.shape)))
    if not (images / "body_0000.nii.gz").exists():
        rng = np.random.default_rng(0)
        volume = rng.normal(-900, 30, args.shape).astype(np.int16)
        inside = tuple(slice(s // 10, -s // 10) for s in args.shape[1:])
        volume[(slice(None), *inside)] += 950
        write_image(images / "body_0000.nii.gz", volume, (1.0, 0.8, 0.8))
    strides = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    network = Network("auto", (8, 16, 32, 32), strides, ((3, 3, 3),) * 4)
    configuration = Configuration(
        "data", (args.spacing or (1.0, 0.8, 0.8)), tuple(args.patch), 2, tuple(map(float, args.shape)), ("ct",), (False,), network,
        Latent((4, 4, 4), 8), Sampling(1), inference=Inference(args.step),
    )  # fmt: skip
    name = f"Dataset7{classes:02d}_Volume"
    ct = Intensities(0.0, 0.0, 300.0, -1000.0, 1000.0, -950.0, 300.0)
    plans = Plans(name, "ldsegPlans", "none", ".nii.gz", (0, 1, 2), (ct,), {CONFIGURATION: configuration}, CONFIGURATION)
    labels = {"background": 0, **{f"organ{i}": i for i in range(1, classes)}}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    return images, write_model(args.work / "volume_results", plans, json.dumps(content))


def predict_volume(args: argparse.Namespace, classes: int) -> dict[str, Any]:
    """Seconds and peak memory of one large volume, as /usr/bin/time -v has it (ru_maxrss of the command and of none of its parents)."""
    images, model = volume_model(args, classes)
    output = args.work / "volume_predicted"
    shutil.rmtree(output, ignore_errors=True)
    command = [str(OURS / "ldseg_predict"), "-i", str(images), "-o", str(output), "-m", str(model), "--device", args.device]
    with open(args.work / f"volume_{classes}.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = json.loads((output / "manifest.json").read_text())["cases"]["body"]["seconds"]
    size = 4 * np.prod(args.shape) / 2**20
    return {
        "classes": classes, "exit code": process.returncode, "seconds": seconds, "peak, MiB": round(used.ru_maxrss / 1024),
        "bound, MiB": round(2.5e9 / 2**20 + 3 * size), "input as float32, MiB": round(size),
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"), help="folder for the report (default: benchmarks/output)")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder that holds {HIPPOCAMPUS} (default: {DATA})")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/output/predict"), help="folder for models, predictions and logs")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each command (default: 2)")
    parser.add_argument("--cases", type=int, default=60, help="default: 60")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="images N times side by side along each axis (default: 1)")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", help=f"rows of the table: {'; '.join(ROWS)} (default: all)")
    parser.add_argument("--compile", action="store_true", help="a row with torch.compile too")
    parser.add_argument("--volume", type=int, action="append", metavar="CLASSES", help="one large volume with so many classes instead")
    parser.add_argument("--shape", type=int, nargs=3, default=(700, 512, 512), metavar="N", help="of the volume (default: 700 512 512)")
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 128, 128), metavar="N", help="on the volume (default: 64 128 128)")
    parser.add_argument("--step", type=float, default=0.5, help="between tiles on the volume, share of the patch (default: 0.5)")
    parser.add_argument("--spacing", type=float, nargs=3, metavar="MM", help="of the network's grid (default: the volume's, 1 0.8 0.8)")
    return parser.parse_args()


def volumes(args: argparse.Namespace, classes: Sequence[int]) -> str:
    """The table of large volumes."""
    found = [predict_volume(args, c) for c in classes]
    header = list(found[0])
    text = f"{' x '.join(map(str, args.shape))}, patch {' x '.join(map(str, args.patch))}\n\n" + table(
        header, [list(f.values()) for f in found]
    )
    write_report(args.output, "predict_volume", text, {"machine": machine(), "volumes": found})
    return text


def main() -> None:
    """Runs and reports."""
    args = arguments()
    args.work, args.output = args.work.resolve(), args.output.resolve()
    if args.volume:
        volumes(args, args.volume)
        return
    measured = run_all(args)
    content = {
        "machine": machine(),
        "nnunet": versions(nnunet_environment() / "python", PACKAGES),
        "ours": versions(OURS / "python", PACKAGES),
    }
    write_report(args.output, "predict", report(measured, args.cases, args.repeat), content | {"measured": measured})


if __name__ == "__main__":
    main()
