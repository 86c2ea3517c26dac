"""Datasets that a planner gets wrong easily: what an expert would plan for them, then the real commands from raw files to a mask."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from ldseg_auto.inference.model_folder import load_network, read_model_folder
from ldseg_auto.inference.window import SlidingWindow
from ldseg_auto.planners.plans import Plans
from ldseg_auto.preprocessing.store import StoredCase, load_case

CLASSES = {"background": 0, "outer": 1, "inner": 2}
Triple = tuple[float, float, float]
TURNED = 1  # the case whose files store their axes in another order; it is predicted


@dataclass(frozen=True)
class Kind:
    """A dataset of five cases: two nested ellipsoids, brighter inside, on noise that is never 0."""

    shapes: tuple[tuple[int, int, int], ...]  # (z, y, x), of the cases in turn
    spacings: tuple[Triple, ...]  # mm, the same
    channels: tuple[str, ...] = ("MRI",)
    ending: str = ".nii.gz"
    frame: int = 0  # voxels of zeros on either side of each axis
    raters: int = 1
    content: Mapping[str, Any] = field(default_factory=dict)  # of dataset.json, over the rest
    order: tuple[int, int, int] = (0, 1, 2)  # that the plans should put the axes in: the coarsest or the single slice first

    def case(self, i: int) -> tuple[tuple[int, int, int], Triple]:
        """Shape without the frame, and spacing."""
        return self.shapes[i % len(self.shapes)], self.spacings[i % len(self.spacings)]


ISOTROPIC = (1.0, 1.0, 1.0)
KINDS = {
    "anisotropic": Kind(((10, 48, 40), (9, 40, 48)), (*[(7.5, 0.5, 0.5)] * 3, (9.0, 0.6, 0.6), (7.5, 0.5, 0.5))),
    "one_slice": Kind(((1, 40, 32), (1, 36, 36)), (*[(5.0, 0.8, 0.8)] * 3, (3.0, 1.0, 1.0), (5.0, 0.8, 0.8))),
    "sagittal_slice": Kind(((40, 32, 1), (36, 36, 1)), ((0.8, 0.8, 5.0),), order=(2, 0, 1)),
    "rgb": Kind(((1, 40, 32),), (ISOTROPIC,), ("rgb_to_0_1",) * 3, ".png"),
    "four_channels": Kind(((10, 20, 18),), (ISOTROPIC,), ("CT", "T1", "noNorm", "rescale_to_0_1"), frame=3),
    "regions": Kind(((12, 20, 18),), (ISOTROPIC,), content={
        "labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2],
    }),
    "ignore": Kind(((12, 20, 18),), (ISOTROPIC,), content={"labels": {"background": 0, "outer": 1, "ignore": 2}}),
    "two_raters": Kind(((1, 40, 32),), (ISOTROPIC,), ending=".png", raters=2),
}  # fmt: skip


def ellipsoids(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Values 1, and 2 inside of it."""
    away = np.zeros(shape)
    for axis, n in enumerate(shape):
        where = (np.arange(n) - (n - 1) / 2 - rng.uniform(-0.08, 0.08) * n) / max(0.4 * n, 1)
        away += np.expand_dims(where**2, [a for a in range(3) if a != axis])
    return ((away < 1).astype(np.uint8) + (away < 0.4)).astype(np.uint8)


def write_dataset(folder: Path, kind: Kind) -> None:
    """The raw format; the files of case TURNED store (x, y, z) towards anterior, superior, right."""
    rng = np.random.default_rng(5)
    folders = ["labelsTr"] if kind.raters == 1 else [f"labelsTr_{r}" for r in range(kind.raters)]
    for name in ("imagesTr", *folders):
        (folder / name).mkdir(parents=True)
    for i in range(5):
        shape, spacing = kind.case(i)
        label = ellipsoids(shape, rng)
        pixels = np.clip(50 + 60 * label + rng.normal(0, 8, (len(kind.channels), *shape)), 1, 255)
        around = [(kind.frame, kind.frame)] * 3
        turned = i == TURNED
        save(folder / "imagesTr" / f"case_{i}", np.pad(pixels, [(0, 0), *around]), spacing, kind.ending, turned)
        for name in folders:
            shifted = np.roll(label, folders.index(name), axis=-1)
            save(folder / name / f"case_{i}", np.pad(shifted, around)[None], spacing, kind.ending, turned)
    content = {
        "channel_names": {str(c): name for c, name in enumerate(kind.channels)}, "labels": CLASSES, "numTraining": 5,
        "file_ending": kind.ending, **({} if kind.raters == 1 else {"raters": folders}), **kind.content,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content))


def save(stem: Path, array: np.ndarray, spacing: Triple, ending: str, turned: bool) -> None:
    """(c, z, y, x) as one picture, or one volume per channel; labels (uint8) have no channel in their name."""
    is_label = array.dtype == np.uint8
    if ending == ".png":
        flat = array[:, 0].astype(np.uint8)
        Image.fromarray(flat[0] if len(flat) == 1 else np.moveaxis(flat, 0, -1)).save(f"{stem}{'' if is_label else '_0000'}.png")
        return
    for number, channel in enumerate(array):
        image = sitk.GetImageFromArray(channel if is_label else channel.astype(np.float32))
        image.SetSpacing(spacing[::-1])
        image.SetOrigin((-31.25, 12.5, 100.0))
        image = sitk.DICOMOrient(image, "ASR") if turned else image
        sitk.WriteImage(image, f"{stem}{'' if is_label else f'_{number:04d}'}{ending}")


@dataclass(frozen=True)
class Prepared:
    """A dataset after ldseg_plan_and_preprocess."""

    kind: Kind
    bench: Any
    printed: str

    @property
    def plans(self) -> Plans:
        return Plans.from_dict(self.bench.plans(1))

    def cases(self, name: str) -> list[StoredCase]:
        """The preprocessed cases of a configuration."""
        folder = self.bench.preprocessed(1) / self.plans.configurations[name].data_identifier
        return [load_case(folder, f"case_{i}") for i in range(5)]


@pytest.fixture(scope="module")
def prepared(workbench: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    """Each kind is planned and preprocessed once."""

    @cache
    def make(name: str) -> Prepared:
        bench = workbench(tmp_path_factory.mktemp(name))
        write_dataset(bench.dataset(1), KINDS[name])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert bench.run("plan", "-d", 1) == 0
        return Prepared(KINDS[name], bench, printed.getvalue())

    return make


# What an expert would plan -----------------------------------------------------------------------------------------------------------


def test_a_coarse_axis_waits_until_the_plane_is_as_coarse(prepared):
    """0.5 x 0.5 x 7.5 mm: in the plane to 4 mm first, one slice at a time; the slice of 9 mm in one case is no reason to blur 7.5."""
    plans = prepared("anisotropic").plans
    c = plans.configuration()
    assert set(plans.configurations) == {"3d_fullres", "2d"} and plans.default_configuration == "3d_fullres"
    assert c.spacing == pytest.approx((7.5, 0.5, 0.5)) and plans.configurations["2d"].spacing == pytest.approx((0.5, 0.5))
    assert "axis z is coarse (7.5 mm" in c.reasons["spacing"]
    network, ends = c.network, len(c.network.strides) - 1
    assert ends >= 3
    for stage, (total, stride, kernel) in enumerate(zip(network.cumulative_strides, network.strides, network.kernel_sizes, strict=True)):
        coarse = 7.5 * total[0] >= 2 * 0.5 * min(total[1:])
        assert not coarse or (stride[0] == 1 and (kernel[0] == 1 or stage == ends))
        assert kernel[1:] == (3, 3)
    assert network.kernel_sizes[0] == network.kernel_sizes[1] == network.kernel_sizes[2] == (1, 3, 3)
    assert c.latent.factor[0] == 1 and min(c.latent.factor[1:]) >= 4
    assert "the coarse axis by itself, nearest" in c.reasons["resampling"]
    assert [case.properties.separate_axis for case in prepared("anisotropic").cases("3d_fullres")] == [0] * 5


@pytest.mark.parametrize("name", ["one_slice", "sagittal_slice"])
def test_one_slice_is_planned_in_2d_alone(prepared, name):
    plans = prepared(name).plans
    assert set(plans.configurations) == {"2d"} and plans.transpose_forward == KINDS[name].order
    c = plans.configuration()
    assert c.spacing == pytest.approx((0.8, 0.8)) and len(c.patch_size) == len(c.latent.factor) == 2
    assert "one slice" in plans.reasons["default_configuration"] and "one slice" in plans.reasons["transpose_forward"]


def test_rgb_is_scaled_and_nothing_else(prepared):
    done = prepared("rgb")
    plans = done.plans
    assert set(plans.configurations) == {"2d"} and plans.configuration().normalisation == ("rgb_to_0_1",) * 3
    for i, case in enumerate(done.cases("2d")):
        pixels = np.asarray(Image.open(done.bench.dataset(1) / "imagesTr" / f"case_{i}_0000.png"), np.float32)
        np.testing.assert_allclose(case.image[:][:, 0], np.moveaxis(pixels, -1, 0) / 255, rtol=1e-6)


def test_each_of_four_channels_is_normalised_by_its_name(prepared):
    """The frame of zeros is cut off and more than a quarter of the image, so that z-score looks at the rest alone."""
    done = prepared("four_channels")
    c = done.plans.configuration()
    assert c.normalisation == ("ct", "zscore", "none", "rescale_to_0_1") and c.use_mask_for_norm == (False, True, False, False)
    files = [sitk.ReadImage(str(done.bench.dataset(1) / "imagesTr" / f"case_0_{k:04d}.nii.gz")) for k in range(4)]
    ct, t1, plain, scaled = (sitk.GetArrayFromImage(f).astype(np.float64)[3:-3, 3:-3, 3:-3] for f in files)
    values = done.plans.foreground_intensities[0]
    expected = [
        (np.clip(ct, values.percentile_00_5, values.percentile_99_5) - values.mean) / values.std,
        (t1 - t1.mean()) / t1.std(),
        plain,
        (scaled - scaled.min()) / (scaled.max() - scaled.min()),
    ]
    for found, wanted in zip(done.cases("3d_fullres")[0].image[:], expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_regions_are_planned_as_what_they_cover(prepared):
    """The fingerprint measures regions, not the values that they are made of."""
    done = prepared("regions")
    fingerprint = json.loads((done.bench.preprocessed(1) / "dataset_fingerprint.json").read_text())
    assert fingerprint["class_names"] == ["whole", "core"]
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(done.bench.dataset(1) / "labelsTr" / "case_0.nii.gz")))
    volumes = fingerprint["cases"][0]["volumes"]
    assert volumes == pytest.approx({"whole": np.sum(voxels > 0) / 1000, "core": np.sum(voxels == 2) / 1000})  # ml
    classes = [set(dice) for candidates in fingerprint["latent"].values() for x in candidates for dice in x["ceilings"].values() if dice]
    assert classes and all(names == {"whole", "core"} for names in classes)


def test_unannotated_voxels_are_no_class(prepared):
    done = prepared("ignore")
    fingerprint = json.loads((done.bench.preprocessed(1) / "dataset_fingerprint.json").read_text())
    assert fingerprint["class_names"] == ["outer"] and set(fingerprint["cases"][0]["volumes"]) == {"outer"}


def test_two_raters_are_two_truths(prepared):
    done = prepared("two_raters")
    c = done.plans.configuration()
    one, other = done.cases("2d")[0].labels[:]
    assert (one != other).any() and np.array_equal(np.roll(one, 1, axis=-1), other)
    fingerprint = json.loads((done.bench.preprocessed(1) / "dataset_fingerprint.json").read_text())
    agreement = np.mean([case["agreement"] for case in fingerprint["cases"]])
    assert 0.7 < agreement < 1 and c.raters == 2 and c.reasons["method"].startswith(f"2 raters agree to a Dice of {agreement:.2f}")
    assert c.parts.diversity == 0 and c.sampling.steps > 1  # they agree on most: the best mask, whose steps the labels' spectrum plans
    dice = [2 * ((one == v) & (other == v)).sum() / ((one == v).sum() + (other == v).sum()) for v in (1, 2)]  # the 2d grid is the image's
    assert fingerprint["cases"][0]["agreement"] == pytest.approx(np.mean(dice), abs=0.01)


# From raw files to a mask ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_report_names_the_dataset_and_the_plan(prepared, name):
    done = prepared(name)
    report = done.bench.preprocessed(1) / "report.html"
    page = report.read_text()
    assert "<title>Dataset001_Toy" in page and all(c in page for c in done.plans.configurations) and "case_0" in page
    assert str(report) in done.printed and "5 cases preprocessed, 0 were up to date" in done.printed


@pytest.mark.parametrize("name", KINDS)
def test_every_case_lies_on_the_planned_grid(prepared, name):
    """Voxels x spacing is the length of an axis, before and after; 2D leaves the slices as they are."""
    done = prepared(name)
    assert done.plans.transpose_forward == done.kind.order
    for key, configuration in done.plans.configurations.items():
        for i, case in enumerate(done.cases(key)):
            shape, spacing = ([given[a] for a in done.kind.order] for given in done.kind.case(i))
            target = (*spacing[: 3 - len(configuration.spacing)], *configuration.spacing)
            wanted = tuple(math.floor(n * s / t + 0.5) for n, s, t in zip(shape, spacing, target, strict=True))
            assert case.image.shape == (len(done.kind.channels), *wanted) and case.labels.shape == (done.kind.raters, *wanted)
            assert set(case.properties.class_locations) == ({1, 2} if name != "ignore" else {0, 1})  # 0: of what was annotated
            assert np.isfinite(case.image[:]).all() and case.image[:].std() > 0


@pytest.mark.parametrize("name", KINDS)
def test_one_epoch_and_a_mask_on_the_images_own_grid(prepared, tmp_path, name):
    done = prepared(name)
    bench, ending = done.bench, done.kind.ending
    assert bench.train(1, 0) == 0
    inputs = tmp_path / "in"
    inputs.mkdir()
    for path in sorted((bench.dataset(1) / "imagesTr").glob(f"case_{TURNED}_*")):
        (inputs / path.name).write_bytes(path.read_bytes())
    assert bench.run("predict", "-i", inputs, "-o", tmp_path / "out") == 0
    image, mask = (sitk.ReadImage(str(p)) for p in (inputs / f"case_{TURNED}_0000{ending}", tmp_path / "out" / f"case_{TURNED}{ending}"))
    assert mask.GetSize() == image.GetSize()
    if ending != ".png":
        assert (mask.GetSpacing(), mask.GetOrigin(), mask.GetDirection()) == (image.GetSpacing(), image.GetOrigin(), image.GetDirection())
        assert mask.GetDirection() != (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert set(np.unique(sitk.GetArrayFromImage(mask))) <= ({0, 1, 2} if name != "ignore" else {0, 1})


@pytest.mark.parametrize(("name", "heads", "sigmoid"), [("regions", 2, True), ("rgb", 3, False), ("ignore", 2, False)])
def test_heads_are_regions_or_classes_with_background(prepared, name, heads, sigmoid):
    """Regions overlap, each with a probability of its own; classes share one."""
    done = prepared(name)
    model = done.bench.model(1, done.plans.default_configuration)
    assert model.exists() or done.bench.train(1, 0) == 0  # trained by the test above, where that was run
    folder, device = read_model_folder(model), torch.device("cpu")
    network, regions = load_network(folder, "0", device), folder.description.labels.has_regions
    image = np.asarray(done.cases(done.plans.default_configuration)[0].image[:])
    found = SlidingWindow(folder.configuration, device, 1).probabilities([network], image, "case_0", 0, 1, 1, regions)
    assert regions == sigmoid and found.shape == (heads, *image.shape[1:]) and found.min() >= 0 and found.max() <= 1
    assert np.allclose(found.sum(0), 1, atol=1e-3) != sigmoid
