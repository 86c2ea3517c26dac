"""What may be handed over as an image, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ldseg_auto.data.geometry import NATURAL_Z
from ldseg_auto.errors import DatasetError, InputError, ModelError
from ldseg_auto.inference.inputs import Input, load
from ldseg_auto.inference.predictor import Predictor

SPACING = (3.0, 1.0, 1.0)


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "spacing", "full", "mm"),
    [
        ((5, 6, 7), (3.0, 1.0, 2.0), (1, 5, 6, 7), (3.0, 1.0, 2.0)),
        ((2, 5, 6, 7), (3.0, 1.0, 2.0), (2, 5, 6, 7), (3.0, 1.0, 2.0)),
        ((6, 7), (0.5, 0.25), (1, 1, 6, 7), (NATURAL_Z * 0.5, 0.5, 0.25)),
    ],
)
def test_arrays(shape: tuple[int, ...], spacing: tuple[float, ...], full: tuple[int, ...], mm: tuple[float, ...]) -> None:
    given = array(*shape)
    loaded = load(Input("x", given, spacing), full[0])
    assert loaded.spacing == mm and loaded.geometry is None
    np.testing.assert_array_equal(loaded.array, given.reshape(full))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64, bool])
def test_dtypes(dtype: type) -> None:
    given = (10 * array(4, 5, 6)).astype(dtype)
    loaded = load(Input("x", given, SPACING), 1)
    assert loaded.array.dtype == np.float32
    np.testing.assert_array_equal(loaded.array[0], given.astype(np.float32))


@pytest.mark.parametrize("components", [1, 2])
def test_simpleitk_images_are_those_of_their_files(tmp_path: Path, components: int) -> None:
    """The same image written per channel and read; a direction that flips and permutes."""
    channels = [sitk.GetImageFromArray(array(5, 6, 7) + c) for c in range(components)]
    image = channels[0] if components == 1 else sitk.Compose(channels)
    for one in (*channels, image):
        one.SetSpacing((1.0, 2.0, 3.0))
        one.SetDirection((0, 0, -1, 1, 0, 0, 0, 1, 0))
    paths = []
    for c, channel in enumerate(channels):
        paths.append(tmp_path / f"x_{c:04d}.nrrd")
        sitk.WriteImage(channel, str(paths[-1]))
    memory, file = load(Input("x", image), components), load(Input("x", paths), components)
    np.testing.assert_array_equal(memory.array, file.array)
    assert memory.geometry == file.geometry and memory.spacing == file.spacing


def test_a_2d_simpleitk_image() -> None:
    image = sitk.GetImageFromArray(array(6, 7))
    image.SetSpacing((0.5, 2.0))
    loaded = load(Input("x", image), 1)
    assert loaded.array.shape == (1, 1, 6, 7) and loaded.spacing == (2.0 * NATURAL_Z, 2.0, 0.5)


@pytest.mark.parametrize(
    ("image", "spacing", "match"),
    [
        (array(5, 6, 7), None, "spacing = None; an array of shape .* needs 3 numbers above 0, in mm"),
        (array(5, 6, 7), (1.0, 1.0), "needs 3 numbers"),
        (array(6, 7), SPACING, "needs 2 numbers"),
        (array(5, 6, 7), (1.0, 0.0, 1.0), "above 0"),
        (array(5, 6, 7), (1.0, float("nan"), 1.0), "above 0"),
        (array(5), (1.0,), r"shape \(5,\); expected numbers \(z, y, x\)"),
        (array(0, 6, 7), SPACING, "expected numbers"),
        (array(5, 6, 7).astype(complex), SPACING, "an array of complex"),
        (np.where(array(5, 6, 7) > 1, np.nan, 0), SPACING, "of 210 values are NaN or infinite"),
        (np.full((5, 6, 7), 1e300), SPACING, "210 of 210 values are NaN or infinite"),
        (array(3, 5, 6, 7), SPACING, "the image has 3 channels, the model was trained with 1"),
        (7, None, "int is no image; expected an array, a SimpleITK image, or paths"),
    ],
)
def test_what_is_refused(image: object, spacing: tuple[float, ...] | None, match: str) -> None:
    with pytest.raises(InputError, match=f"case x: .*{match}"):
        load(Input("x", image, spacing), 1)  # type: ignore[arg-type]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="none.nii.gz does not exist"):
        load(Input("x", tmp_path / "none.nii.gz"), 1)


@pytest.fixture(scope="module")
def raw(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("raw"), n_cases=2, shape=(6, 24, 20))


@pytest.fixture(scope="module")
def model(raw: Path, make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("results"), raw)


def test_a_file_and_its_array_give_the_same(model: Path, raw: Path) -> None:
    predictor, path = Predictor.from_folder(model, device="cpu"), raw / "imagesTr" / "toy_001_0000.nii.gz"
    file = predictor.predict(path)
    image = sitk.ReadImage(str(path))
    given = sitk.GetArrayFromImage(image)
    for found in (predictor.predict(given, SPACING, "toy_001"), predictor.predict(image, case="toy_001"), predictor.predict([path])):
        assert found.case == file.case == "toy_001"
        np.testing.assert_array_equal(found.label, file.label)
    assert file.geometry is not None and file.label.shape == file.geometry.shape
    assert file.probabilities is file.entropy is file.samples is None


def test_a_stream_ends_at_a_failure_and_outcomes_go_on(model: Path) -> None:
    predictor = Predictor.from_folder(model, device="cpu")
    images = [Input("a", array(6, 24, 20), SPACING), Input("b", array(6, 24, 20)), Input("c", array(6, 24, 20), SPACING)]
    stream = predictor.stream(iter(images))
    assert next(stream).case == "a"
    with pytest.raises(InputError, match="case b: spacing = None"):
        next(stream)
    outcomes = [(given.case, isinstance(found, InputError)) for given, found in predictor.outcomes(images)]
    assert outcomes == [("a", False), ("b", True), ("c", False)]


def test_a_stream_reads_one_image_ahead(model: Path) -> None:
    drawn: list[str] = []

    def images() -> object:
        for name in "abcd":
            drawn.append(name)
            yield Input(name, array(6, 24, 20), SPACING)

    stream = Predictor.from_folder(model, device="cpu").stream(images())  # type: ignore[arg-type]
    assert next(stream).case == "a" and drawn == ["a", "b"]
    stream.close()  # type: ignore[attr-defined]
    assert drawn == ["a", "b"]


def test_closed(model: Path) -> None:
    with Predictor.from_folder(model, device="cpu") as predictor:
        assert predictor.predict(array(6, 24, 20), SPACING).case == "image"
    with pytest.raises(InputError, match="this predictor is closed"):
        predictor.predict(array(6, 24, 20), SPACING)


def test_models_that_do_not_fit_together(make_dataset: Callable, make_model: Callable, model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "results", make_dataset(tmp_path / "raw", n_cases=1, classes=3))
    with pytest.raises(ModelError, match="cannot be averaged: their labels differ"):
        Predictor.from_folder([model, other], device="cpu")
    with pytest.raises(InputError, match="no model folder was named"):
        Predictor.from_folder([], device="cpu")
