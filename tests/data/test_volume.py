"""Volumes: read in canonical orientation, written back on their own grid to the bit, and nothing repaired in silence."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ldseg_auto.data.image_io import read_image, read_label, write_image, write_label
from ldseg_auto.errors import DatasetError, InputError

ENDINGS = [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl"]
VALUES = np.random.default_rng(0).integers(0, 5, (3, 4, 5)).astype(np.uint8)


def write_itk(
    path: Path, array: np.ndarray = VALUES, spacing=(1.5, 2.0, 3.0), origin=(0.0, 0.0, 0.0), direction=None, vector=False
) -> sitk.Image:
    """Writes by SimpleITK alone and reads back what it then is."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(spacing[: image.GetDimension()])
    image.SetOrigin(origin[: image.GetDimension()])
    if direction is not None:
        image.SetDirection(np.ravel(direction).astype(float))
    sitk.WriteImage(image, str(path))
    return sitk.ReadImage(str(path))


def grid(image: sitk.Image) -> tuple:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.floats(0.2, 5)] * 3), st.tuples(*[st.floats(-500, 500)] * 3), st.booleans())
def test_labels_go_back_on_the_same_grid_to_the_bit(tmp_path, ending, seed, spacing, origin, mirrored):
    direction = Rotation.random(random_state=seed).as_matrix() * (-1 if mirrored else 1)
    (tmp_path / "in").mkdir(exist_ok=True)
    source, target = tmp_path / "in" / f"a{ending}", tmp_path / f"b{ending}"
    before = write_itk(source, VALUES, spacing, origin, direction)
    label = read_label(source)
    write_label(target, label.array, read_image([source]).geometry)
    after = sitk.ReadImage(str(target))
    assert grid(after) == grid(before)
    assert np.array_equal(sitk.GetArrayFromImage(after), VALUES)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1), (2, 4), (0, 0)])
def test_every_way_that_nifti_states_its_geometry(tmp_path, codes, order):
    """qform only, sform only, both, neither; little and big endian."""
    direction = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    write_itk(tmp_path / "a.nii", VALUES, (0.7, 0.9, 3.3), (11.1, -22.2, 33.3), direction)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<hh", content, 252, *codes)
    (tmp_path / "a.nii").write_bytes(_swapped(content) if order == ">" else content)
    before = sitk.ReadImage(str(tmp_path / "a.nii"))
    image = read_image([tmp_path / "a.nii"])
    write_label(tmp_path / "b.nii", image.array[0].astype(np.uint8), image.geometry)
    after = sitk.ReadImage(str(tmp_path / "b.nii"))
    assert grid(after) == grid(before)
    assert np.array_equal(sitk.GetArrayFromImage(after), VALUES)


def _swapped(content: bytearray) -> bytearray:
    """The header in big endian; the values have one byte each."""
    swapped = bytearray(content)
    fields = "i 10s 18s i h c c 8h 3f 4h 8f 3f h c c 4f 2i 80s 24s 2h 18f 16s 4s".replace(" ", "")
    struct.pack_into(">" + fields, swapped, 0, *struct.unpack_from("<" + fields, content, 0))
    return swapped


def test_nrrd_in_right_anterior_superior_space(tmp_path):
    direction = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    before = write_itk(tmp_path / "a.nrrd", direction=direction, origin=(1.1, 2.2, 3.3))
    content = (tmp_path / "a.nrrd").read_bytes().replace(b"left-posterior-superior", b"right-anterior-superior")
    (tmp_path / "a.nrrd").write_bytes(content)
    turned = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert grid(turned) != grid(before)
    label = read_label(tmp_path / "a.nrrd")
    write_label(tmp_path / "b.nrrd", label.array, label.geometry)
    assert grid(sitk.ReadImage(str(tmp_path / "b.nrrd"))) == grid(turned)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_from_nifti_to_another_format_the_grid_stays(tmp_path, ending):
    before = write_itk(tmp_path / "a.nii.gz", direction=np.diag([-1, -1, 1]), origin=(10.0, 20.0, 30.0))
    label = read_label(tmp_path / "a.nii.gz")
    write_label(tmp_path / f"b{ending}", label.array, label.geometry)
    after = sitk.ReadImage(str(tmp_path / f"b{ending}"))
    assert grid(after) == grid(before)
    assert np.array_equal(sitk.GetArrayFromImage(after), VALUES)


def test_image_is_canonical_float_with_channels(tmp_path):
    for channel in (0, 1):
        write_itk(tmp_path / f"a_{channel}.nii.gz", (VALUES + 10 * channel).astype(np.int16), direction=np.diag([-1, -1, 1]))
    image = read_image([tmp_path / "a_0.nii.gz", tmp_path / "a_1.nii.gz"])
    assert (image.array.shape, image.array.dtype, image.spacing) == ((2, 3, 4, 5), np.float32, (3.0, 2.0, 1.5))
    assert np.array_equal(image.array[0], VALUES[:, ::-1, ::-1])  # RAS in the file; posterior and left grow in the array
    assert np.array_equal(image.array[1], VALUES[:, ::-1, ::-1] + 10)
    assert image.array.flags.c_contiguous


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_2d_images_have_one_slice(tmp_path, ending):
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    before = write_itk(tmp_path / f"a{ending}", VALUES[0], (0.5, 2.0), (3.0, 4.0), turn)
    image = read_image([tmp_path / f"a{ending}"])
    assert image.array.shape == (1, 1, 5, 4)
    assert image.spacing == (2.0 * 999, 0.5, 2.0)
    write_label(tmp_path / f"b{ending}", image.array[0].astype(np.uint8), image.geometry)
    after = sitk.ReadImage(str(tmp_path / f"b{ending}"))
    assert grid(after) == grid(before)
    assert np.array_equal(sitk.GetArrayFromImage(after), VALUES[0])


def test_a_volume_of_one_slice(tmp_path):
    before = write_itk(tmp_path / "a.nii.gz", VALUES[:1])
    label = read_label(tmp_path / "a.nii.gz")
    assert label.spacing == (3.0, 2.0, 1.5)
    write_label(tmp_path / "b.nii.gz", label.array, label.geometry)
    assert grid(sitk.ReadImage(str(tmp_path / "b.nii.gz"))) == grid(before)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_labels_give_the_same_bytes(tmp_path, ending):
    write_itk(tmp_path / f"in{ending}")
    label = read_label(tmp_path / f"in{ending}")
    for folder in ("x", "y"):
        write_label(tmp_path / folder / f"b{ending}", label.array, label.geometry)
    files = [p.name for p in sorted((tmp_path / "x").iterdir())]
    assert files == (["b.mhd", "b.zraw"] if ending == ".mhd" else [f"b{ending}"])
    assert all((tmp_path / "x" / f).read_bytes() == (tmp_path / "y" / f).read_bytes() for f in files)


def test_compressed_nifti_holds_no_time_and_no_name(tmp_path):
    write_itk(tmp_path / "a.nii.gz")
    label = read_label(tmp_path / "a.nii.gz")
    write_label(tmp_path / "b.nii.gz", label.array, label.geometry)
    assert (tmp_path / "b.nii.gz").read_bytes()[3:8] == bytes(5)  # flags (no name) and modification time


@pytest.mark.parametrize(("highest", "dtype"), [(255, "8-bit unsigned integer"), (256, "16-bit unsigned integer")])
def test_labels_are_written_with_as_few_bits_as_they_need(tmp_path, highest, dtype):
    write_itk(tmp_path / "a.nii.gz")
    label = read_label(tmp_path / "a.nii.gz")
    write_label(tmp_path / "b.nii.gz", label.array.astype(np.int32) * 0 + highest, label.geometry)
    assert sitk.ReadImage(str(tmp_path / "b.nii.gz")).GetPixelIDTypeAsString() == dtype
    assert read_label(tmp_path / "b.nii.gz").array.max() == highest


def test_the_compressed_file_is_read_where_both_stand_side_by_side(tmp_path):
    """ITK's NIfTI library takes the voxels of a.nii for a.nii.gz."""
    write_itk(tmp_path / "a.nii.gz", VALUES)
    write_itk(tmp_path / "a.nii", VALUES * 0)
    assert np.array_equal(read_label(tmp_path / "a.nii.gz").array, VALUES)


def test_labels_stored_as_floating_point(tmp_path):
    write_itk(tmp_path / "a.nii.gz", VALUES.astype(np.float32))
    label = read_label(tmp_path / "a.nii.gz")
    assert label.array.dtype.kind == "i" and np.array_equal(label.array, VALUES)
    write_itk(tmp_path / "b.nii.gz", VALUES + np.float32(0.25))
    with pytest.raises(DatasetError, match=r"b.nii.gz holds the value \d.25; label values are whole numbers"):
        read_label(tmp_path / "b.nii.gz")


def test_label_of_another_shape_is_not_written(tmp_path):
    write_itk(tmp_path / "a.nii.gz")
    geometry = read_label(tmp_path / "a.nii.gz").geometry
    with pytest.raises(InputError, match=r"shape \(3, 4, 6\), expected \(3, 4, 5\)"):
        write_label(tmp_path / "b.nii.gz", np.zeros((3, 4, 6), np.uint8), geometry)
    assert not (tmp_path / "b.nii.gz").exists()


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_write_image_keeps_values_and_spacing(tmp_path, ending):
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    write_image(tmp_path / f"a{ending}", array, (3.0, 2.0, 1.0))
    image = read_image([tmp_path / f"a{ending}"])
    assert np.array_equal(image.array[0], array) and image.spacing == (3.0, 2.0, 1.0)
    with pytest.raises(InputError, match="a.png: expected one of .nii.gz"):
        write_image(tmp_path / "a.png", array)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    write_itk(tmp_path / "a.nii.gz")
    label = read_label(tmp_path / "a.nii.gz")
    write_label(tmp_path / "b.nii.gz", label.array, label.geometry)
    before = (tmp_path / "b.nii.gz").read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_label(tmp_path / "b.nii.gz", label.array * 0, label.geometry)
    monkeypatch.undo()
    assert (tmp_path / "b.nii.gz").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinite_intensities(tmp_path, ending, value, dtype):
    """In NIfTI, ITK would make them 0."""
    array = VALUES.astype(dtype)
    array[1, 2, 3] = value
    write_itk(tmp_path / f"a{ending}", array)
    for read in (lambda: read_image([tmp_path / f"a{ending}"]), lambda: read_label(tmp_path / f"a{ending}")):
        with pytest.raises(DatasetError, match=f"a{ending}.*(1 of 60 values are NaN or infinite|holds the value (nan|-?inf); label)"):
            read()


def test_values_beyond_32_bits_are_infinite(tmp_path):
    write_itk(tmp_path / "a.nii.gz", VALUES * 1e300)
    with pytest.raises(DatasetError, match="values are NaN or infinite"):
        read_image([tmp_path / "a.nii.gz"])


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".gipl"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.98])
def test_truncated_files(tmp_path, ending, share):
    path = tmp_path / f"a{ending}"
    write_itk(path, np.random.default_rng(0).integers(0, 255, (8, 16, 16)).astype(np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DatasetError, match=f"a{ending} cannot be read: it is truncated or damaged"):
        read_image([path])


def test_truncated_mhd_data(tmp_path):
    write_itk(tmp_path / "a.mhd")
    (tmp_path / "a.raw").write_bytes(VALUES.tobytes()[:30])
    with pytest.raises(DatasetError, match="a.mhd cannot be read"):
        read_image([tmp_path / "a.mhd"])
    (tmp_path / "a.raw").unlink()
    with pytest.raises(DatasetError, match="a.mhd cannot be read"):
        read_image([tmp_path / "a.mhd"])


def test_damaged_gzip(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_itk(path, np.random.default_rng(0).integers(0, 255, (8, 16, 16)).astype(np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="a.nii.gz cannot be read: it is truncated or damaged"):
        read_image([path])


def test_something_else_under_the_name(tmp_path):
    for ending in ENDINGS:
        (tmp_path / f"a{ending}").write_bytes(b"hello " * 100)
        with pytest.raises(DatasetError, match=f"a{ending} cannot be read"):
            read_image([tmp_path / f"a{ending}"])
        with pytest.raises(DatasetError, match=f"none{ending} does not exist"):
            read_image([tmp_path / f"none{ending}"])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("value", "shown"), [(0.0, "1.5, 0, 3"), (-2.0, "1.5, -2, 3"), (np.nan, "1.5, nan, 3"), (np.inf, "1.5, inf, 3")])
def test_bad_spacing_in_nifti(tmp_path, value, shown, compressed):
    write_itk(tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<f", content, 76 + 4 * 2, value)  # pixdim[2]
    path = tmp_path / ("b.nii.gz" if compressed else "b.nii")
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(DatasetError, match=rf"b.nii.*: spacing \({re.escape(shown)}\) mm \(x, y, z\) must be positive and finite"):
        read_image([path])


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_bad_spacing_in_metaimage(tmp_path, value):
    write_itk(tmp_path / "a.mha")
    content = re.sub(rb"ElementSpacing = .*\n", f"ElementSpacing = 1 {value} 1\n".encode(), (tmp_path / "a.mha").read_bytes())
    (tmp_path / "a.mha").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"spacing \(1, {value}, 1\) mm \(x, y, z\) must be positive"):
        read_image([tmp_path / "a.mha"])


@pytest.mark.parametrize("value", ["0", "nan"])
def test_bad_spacing_in_nrrd(tmp_path, value):
    write_itk(tmp_path / "a.nrrd")
    line = f"space directions: ({value},0,0) (0,1,0) (0,0,1)\n".encode()
    (tmp_path / "a.nrrd").write_bytes(re.sub(rb"space directions: .*\n", line, (tmp_path / "a.nrrd").read_bytes()))
    with pytest.raises(DatasetError, match="a.nrrd: its spacing is zero, negative or not finite"):
        read_image([tmp_path / "a.nrrd"])


def test_empty_images(tmp_path):
    write_itk(tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<h", content, 40 + 2 * 2, 0)  # dim[2]
    (tmp_path / "a.nii").write_bytes(content)
    write_itk(tmp_path / "a.mha")
    (tmp_path / "a.mha").write_bytes((tmp_path / "a.mha").read_bytes().replace(b"DimSize = 5 4 3", b"DimSize = 5 0 3"))
    for name in ("a.nii", "a.mha"):
        with pytest.raises(DatasetError, match=rf"{name} is empty: its size is \(5, 0, 3\) voxels"):
            read_image([tmp_path / name])


def test_shear_is_refused(tmp_path):
    write_itk(tmp_path / "a.nrrd")
    content = re.sub(rb"space directions: .*\n", b"space directions: (1,0,0) (0.5,1,0) (0,0,1)\n", (tmp_path / "a.nrrd").read_bytes())
    (tmp_path / "a.nrrd").write_bytes(content)
    with pytest.raises(DatasetError, match="a.nrrd: .*direction.* is not orthonormal"):
        read_image([tmp_path / "a.nrrd"])
    write_itk(tmp_path / "b.nii")
    content = bytearray((tmp_path / "b.nii").read_bytes())
    struct.pack_into("<hh", content, 252, 0, 1)
    struct.pack_into("<12f", content, 280, 1.5, 1, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0)
    (tmp_path / "b.nii").write_bytes(content)
    with pytest.raises(DatasetError, match="b.nii: its direction is not orthonormal"):
        read_image([tmp_path / "b.nii"])


def test_4d_and_vector_images_are_refused(tmp_path):
    image = sitk.JoinSeries([sitk.GetImageFromArray(VALUES)] * 2)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    with pytest.raises(DatasetError, match=r"a.nii.gz is 4D, of size \(5, 4, 3, 2\); each time point or channel must be its own 3D file"):
        read_image([tmp_path / "a.nii.gz"])
    for ending in (".nii.gz", ".nrrd", ".mha"):
        write_itk(tmp_path / f"v{ending}", np.stack([VALUES] * 3, -1), vector=True)
        with pytest.raises(DatasetError, match="has 3 values per voxel.*each channel must be its own file"):
            read_image([tmp_path / f"v{ending}"])


@pytest.mark.parametrize(("changed", "shown"), [
    ({"array": VALUES[:2]}, r"size \(5, 4, 3\) and \(5, 4, 2\)"),
    ({"spacing": (1.5, 2.0, 4.0)}, r"spacing \(1.5, 2, 3\) and \(1.5, 2, 4\) mm"),
    ({"origin": (0.0, 0.0, 1.0)}, r"origin \(0, 0, 0\) and \(0, 0, 1\) mm"),
    ({"direction": np.diag([-1, -1, 1])}, "direction"),
])  # fmt: skip
def test_channels_on_different_grids(tmp_path, changed, shown):
    write_itk(tmp_path / "a_0000.nii.gz")
    write_itk(tmp_path / "a_0001.nii.gz", **changed)
    with pytest.raises(DatasetError, match=f"a_0000.nii.gz and .*a_0001.nii.gz do not lie on the same grid: {shown}"):
        read_image([tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"])
