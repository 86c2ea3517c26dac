"""Fixtures for all tests: small datasets made on the spot, and the real ones where they are."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from ldseg_auto.planners.plans import Configuration, Latent, Network, Sampling

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real datasets; tests that need it are skipped where it is not."""
    if not SHARED.is_dir():
        pytest.skip(f"the real datasets are not here ({SHARED})")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny networks are many times slower on two threads than on one where other work shares the cores.

    The processes that tests start are given one, too: sums over more threads differ in their last bits.
    """
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def make_configuration() -> Callable[..., Configuration]:
    """See `configuration`."""
    return configuration


def configuration(
    variant: str = "auto", strides: Sequence[Sequence[int]] = ((1, 1), (2, 2), (2, 2)), stage: int = 1, patch: Sequence[int] = (16, 24),
    channels: int = 1, sampling: Sampling | None = None,
) -> Configuration:  # fmt: skip
    """Widths 8, 16, 32, ..., three latent channels on the grid of `stage`; kernels are 1 where an axis has not been halved yet."""
    moved = tuple(tuple(s) for s in strides)
    kernels = tuple(tuple(3 if moved[i][a] == 2 or i == len(moved) - 1 else 1 for a in range(len(patch))) for i in range(len(moved)))
    network = Network(variant, tuple(8 * 2**i for i in range(len(moved))), moved, kernels)
    return Configuration(
        data_identifier="data", spacing=(1.0,) * len(patch), patch_size=tuple(patch), batch_size=2, median_shape=(16.0, 24.0, 24.0),
        normalisation=("zscore",) * channels, use_mask_for_norm=(False,) * channels, network=network,
        latent=Latent(network.cumulative_strides[stage], 3), sampling=sampling or Sampling(2),
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """See `write_model`."""
    return write_model


def write_model(
    results: Path, raw: Path, name: str = "3d_fullres", known: Configuration | None = None, seeds: Sequence[int] = (0,)
) -> Path:
    """An untrained model folder, whose masks have structure, for the dataset in folder `raw`: one fold per seed.

    The configuration is 3D with patches of 4 x 16 x 16 unless `known` is another.
    """
    from ldseg_auto.networks.ldseg import LDSeg
    from ldseg_auto.planners.plans import Intensities, Plans
    from ldseg_auto.training import checkpoint

    folder = Path(results) / raw.name / f"ldsegPlans__{name}"
    known = known or configuration(strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), stage=1, patch=(4, 16, 16))
    description = json.loads((raw / "dataset.json").read_text())
    intensities = (Intensities(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0),) * known.channels
    Plans(raw.name, "ldsegPlans", "abc", description["file_ending"], (0, 1, 2), intensities, {name: known}, name).save(
        folder / "plans.json"
    )
    (folder / "dataset.json").write_text(json.dumps(description))
    heads = len(description["labels"]) - ("regions_class_order" in description)
    for fold, seed in enumerate(seeds):
        torch.manual_seed(seed)
        network = LDSeg(known, heads)
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        torch.nn.init.normal_(network.decoder.head.weight, std=2.0)
        content = {"ema": network.state_dict(), "dataset_name": raw.name, "fingerprint_hash": "abc"}
        checkpoint.save(folder / f"fold_{fold}" / "checkpoint_final.pth", content)
    return folder


class Cluster(NamedTuple):
    """A Dask scheduler and its workers, processes of their own on loopback."""

    address: str  # dask://HOST:PORT
    scheduler: subprocess.Popen
    workers: list[subprocess.Popen]


@pytest.fixture
def dask_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts a cluster; it ends with the test."""
    pytest.importorskip("distributed")
    started: list[subprocess.Popen] = []

    def start(workers: int = 2, threads: int = 1) -> Cluster:
        file, quiet = tmp_path / f"scheduler_{len(started)}.json", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        dask, flags = [sys.executable, "-m", "dask"], ["--host", "127.0.0.1", "--no-dashboard"]
        command = [*dask, "scheduler", "--port", "0", *flags, "--scheduler-file", str(file)]
        scheduler = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
        started.append(scheduler)
        address = read_address(file)
        flags += ["--no-nanny", "--nthreads", str(threads), "--local-directory", str(tmp_path / "dask")]
        found = [subprocess.Popen([*dask, "worker", address, *flags], **quiet) for _ in range(workers)]  # type: ignore[call-overload]
        started.extend(found)
        address = address.replace("tcp://", "dask://")
        if workers:
            await_workers(address, workers)
        return Cluster(address, scheduler, found)

    yield start
    for process in started:
        process.kill()
        process.wait()


def read_address(file: Path) -> str:
    """Of the scheduler, from the file that it writes when it is up."""
    until = time.monotonic() + 60
    while True:
        with contextlib.suppress(FileNotFoundError, ValueError):  # not there yet, or half of it
            return json.loads(file.read_text())["address"]
        if time.monotonic() > until:
            raise TimeoutError("the Dask scheduler did not start")
        time.sleep(0.05)


def await_workers(address: str, number: int) -> None:
    """Until all have joined."""
    from distributed import Client

    with Client(address.replace("dask://", "tcp://"), set_as_default=False) as client:
        client.wait_for_workers(number, timeout=60)


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """Writes a dataset in raw format and returns its folder; see `write_dataset` for the arguments."""
    return write_dataset


def write_dataset(
    root: Path, n_cases: int = 6, shape: Sequence[int] = (12, 24, 20), spacing: Sequence[float] = (3.0, 1.0, 1.0), channels: int = 1,
    classes: int = 2, ending: str = ".nii.gz", **more: object,
) -> Path:  # fmt: skip
    """A dataset `Dataset001_Toy` below `root`: one ball per class, brighter by class, on noise.

    Args:
        shape: (z, y, x); a natural image (.png .bmp .jpg .tif) takes (y, x) from it, with 3 channels in one RGB file.
        classes: foreground classes, values 1, 2, ...
        more: `dataset_id`, `raters` (number), `seed`, and `content` (keys put into dataset.json over the others).
    """
    unknown = set(more) - {"dataset_id", "raters", "seed", "content"}
    if unknown:
        raise TypeError(f"unknown arguments {sorted(unknown)}")
    folder = Path(root) / f"Dataset{more.get('dataset_id', 1):03d}_Toy"
    natural = ending in (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
    raters = int(more.get("raters", 1))  # type: ignore[call-overload]
    names = ["labelsTr"] if raters == 1 else [f"labelsTr_rater{r + 1}" for r in range(raters)]
    rng = np.random.default_rng(more.get("seed", 0))  # type: ignore[arg-type]
    grid = (1, *shape[1:]) if natural else tuple(shape)
    for number in range(n_cases):
        image, label = _case(rng, grid, channels, classes)
        case = f"toy_{number:03d}"
        _write_image(folder / "imagesTr", case, image, spacing, ending, natural)
        for name in names:
            _write_label(folder / name, case, label, spacing, ".png" if ending in (".jpg", ".jpeg") else ending, natural)
    content = {
        "channel_names": {str(c): f"channel{c}" for c in range(channels)},
        "labels": {"background": 0, **{f"class{k}": k for k in range(1, classes + 1)}},
        "numTraining": n_cases,
        "file_ending": ending,
        **({} if raters == 1 else {"raters": names}),
        **(more.get("content") or {}),  # type: ignore[dict-item]
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def _case(rng: np.random.Generator, grid: Sequence[int], channels: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (c, z, y, x) in 0..255 and label (z, y, x)."""
    axes = np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")
    label = np.zeros(grid, np.uint8)
    for value in range(1, classes + 1):
        place = (value - 0.5) / classes
        centre = [(n - 1) * (place if axis == 2 else 0.5) + rng.uniform(-0.05, 0.05) * n for axis, n in enumerate(grid)]
        radii = [max(n * (0.4 / classes if axis == 2 else 0.3), 1.0) for axis, n in enumerate(grid)]
        distance = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True))
        label[distance < 1] = value
    image = 60.0 + 150.0 * label[None] / classes + rng.normal(0, 10, (channels, *grid))
    return np.clip(image, 0, 255).astype(np.float32), label


def _write_image(folder: Path, case: str, image: np.ndarray, spacing: Sequence[float], ending: str, natural: bool) -> None:
    from PIL import Image

    from ldseg_auto.data.image_io import write_image

    folder.mkdir(parents=True, exist_ok=True)
    if natural:
        pixels = image[:, 0].astype(np.uint8)
        Image.fromarray(np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels[0]).save(folder / f"{case}_0000{ending}")
        return
    for number, channel in enumerate(image):
        write_image(folder / f"{case}_{number:04d}{ending}", channel, spacing)


def _write_label(folder: Path, case: str, label: np.ndarray, spacing: Sequence[float], ending: str, natural: bool) -> None:
    from PIL import Image

    from ldseg_auto.data.image_io import write_image

    folder.mkdir(parents=True, exist_ok=True)
    if natural:
        Image.fromarray(label[0]).save(folder / f"{case}{ending}")
    else:
        write_image(folder / f"{case}{ending}", label, spacing)
