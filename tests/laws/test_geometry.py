"""Laws that hold for every image: what comes out lies where what went in lay."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ldseg_auto.data.image_io import read_image, read_label, write_label
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.planners.plans import Configuration, Intensities, Latent, Network, Plans, Sampling
from ldseg_auto.preprocessing.case import preprocess_array, preprocess_labels, scores_to_indices

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LABELS = LabelSpec.from_dict({"background": 0, "a": 3, "b": 4})
SPACINGS = st.tuples(*[st.floats(0.3, 6)] * 3)
SHAPES = st.tuples(*[st.integers(1, 14)] * 3)
ORDERS = st.sampled_from(list(itertools.permutations(range(3))))


def plans_of(spacing: tuple[float, ...], order: tuple[int, ...]) -> Plans:
    """One channel, z-score, `spacing` (mm) after the transposition `order`; two numbers make it a 2D configuration."""
    n = len(spacing)
    configuration = Configuration(
        "data", spacing, (8,) * n, 2, (8.0,) * 3, ("zscore",), (False,),
        Network("auto", (4, 8), ((1,) * n, (2,) * n), ((3,) * n, (3,) * n)), Latent((2,) * n, 1), Sampling(1),
    )  # fmt: skip
    numbers = (Intensities(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0),)
    return Plans("Dataset001_Law", "plans", "0" * 64, ".nii.gz", order, numbers, {"c": configuration}, "c")  # type: ignore[arg-type]


def write_source(folder: Path, seed: int, shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[Path, Path]:
    """An image with a zero border here and there, and its label, under any rotation and mirroring."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 3, shape).astype(np.float32)
    label = np.where(pixels > 0, rng.choice([0, 3, 4], shape), 0).astype(np.uint8)
    direction = Rotation.random(random_state=seed).as_matrix() @ np.diag(rng.choice([-1.0, 1.0], 3))
    paths = folder / "image.nii.gz", folder / "label.nii.gz"
    for array, path in zip((pixels, label), paths, strict=True):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing)
        image.SetOrigin(rng.uniform(-200, 200, 3))
        image.SetDirection(direction.ravel())
        if path != paths[0]:
            image.CopyInformation(sitk.ReadImage(str(paths[0])))
        sitk.WriteImage(image, str(path))
    return paths


def grid(path: Path) -> tuple[object, ...]:
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@FEW
@given(st.integers(0, 2**31 - 1), SHAPES, SPACINGS, SPACINGS, ORDERS, st.booleans())
def test_what_is_predicted_has_the_grid_of_its_image(tmp_path, seed, shape, spacing, target, order, flat):
    """Read, crop, resample to any spacing, and back: size, spacing, origin and direction are the input's, to the bit."""
    source, _ = write_source(tmp_path, seed, shape, spacing)
    plans = plans_of(target[:2] if flat else target, order)
    image = read_image([source])
    data, properties = preprocess_array(image.array, image.spacing, plans, plans.configurations["c"])
    assert data.shape[1:] == properties.preprocessed_shape and np.isfinite(data).all()
    scores = np.random.default_rng(seed).random((3, *data.shape[1:]), np.float32)
    indices = scores_to_indices(scores, properties, plans, LABELS)
    write_label(tmp_path / "out.nii.gz", LABELS.decode(indices), image.geometry)
    assert grid(tmp_path / "out.nii.gz") == grid(source)
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nii.gz"))))) <= {0, 3, 4}


@FEW
@given(st.integers(0, 2**31 - 1), SHAPES, SPACINGS, ORDERS)
def test_labels_return_unchanged_at_their_own_spacing(tmp_path, seed, shape, spacing, order):
    """Through files, orientation, transposition and crop: voxel by voxel what the label file held."""
    source, label_path = write_source(tmp_path, seed, shape, spacing)
    image, label = read_image([source]), read_label(label_path)
    own = tuple(image.spacing[a] for a in order)
    plans = plans_of(own, order)
    _, properties = preprocess_array(image.array, image.spacing, plans, plans.configurations["c"])
    moved = preprocess_labels(LABELS.encode(label.array)[None], properties, plans, plans.configurations["c"])[0]
    back = scores_to_indices(np.moveaxis(LABELS.table[moved], -1, 0), properties, plans, LABELS)
    write_label(tmp_path / "out.nii.gz", LABELS.decode(back), image.geometry)
    found, expected = (sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (tmp_path / "out.nii.gz", label_path))
    assert np.array_equal(found, expected)


@FEW
@given(st.integers(0, 2**31 - 1), st.tuples(*[st.integers(2, 8)] * 3), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_a_scan_stored_otherwise_is_the_same_scan(tmp_path, seed, shape, order, flips):
    """The same voxels in space, with other index axes and directions in the file: the canonical array is equal."""
    rng = np.random.default_rng(seed)
    image = sitk.GetImageFromArray(rng.random(shape).astype(np.float32))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    other = sitk.Flip(sitk.PermuteAxes(image, list(order)), flips)
    sitk.WriteImage(image, str(tmp_path / "one.nii.gz"))
    sitk.WriteImage(other, str(tmp_path / "two.nii.gz"))
    first, second = read_image([tmp_path / "one.nii.gz"]), read_image([tmp_path / "two.nii.gz"])
    assert np.array_equal(first.array, second.array) and first.spacing == second.spacing == (3.0, 2.0, 1.0)
