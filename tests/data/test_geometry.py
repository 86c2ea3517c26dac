"""The canonical orientation and back, for any permutation, mirroring and rotation."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ldseg_auto.data.geometry import Geometry, check_direction, differences, oriented
from ldseg_auto.errors import DatasetError

SIZE, SPACING = (5, 4, 3), (0.5, 2.0, 3.0)
AXES = [np.eye(3)[list(p)] * signs for p in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
angles = st.floats(-180, 180)


def geometry(matrix: np.ndarray) -> Geometry:
    return oriented(SIZE, SPACING, (7.0, -8.0, 9.0), tuple(matrix.ravel()), 3, None)


def numbered() -> np.ndarray:
    return np.arange(np.prod(SIZE), dtype=np.int32).reshape(SIZE[::-1])


@pytest.mark.parametrize("matrix", AXES, ids=lambda m: "".join(f"{v:+.0f}" for v in m.ravel()))
@pytest.mark.parametrize("tilt", [0, 20])
def test_canonical_is_what_itk_calls_lps(matrix, tilt):
    """Independent: SimpleITK's DICOMOrient."""
    matrix = Rotation.from_euler("xyz", [tilt, -tilt / 2, tilt / 3], degrees=True).as_matrix() @ matrix
    image = sitk.GetImageFromArray(numbered())
    image.SetSpacing(SPACING)
    image.SetDirection(matrix.ravel())
    expected = sitk.DICOMOrient(image, "LPS")
    found = geometry(matrix)
    assert np.array_equal(found.to_canonical(numbered()), sitk.GetArrayFromImage(expected))
    assert found.canonical_spacing == pytest.approx(expected.GetSpacing()[::-1])
    assert found.shape == expected.GetSize()[::-1]
    assert found.orientation == sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(matrix.ravel())


@given(angles, angles, angles, st.sampled_from(AXES))
def test_round_trip_of_oblique_images(a, b, c, axes):
    found = geometry(Rotation.from_euler("xyz", [a, b, c], degrees=True).as_matrix() @ axes)
    canonical = found.to_canonical(numbered())
    assert canonical.shape == found.shape
    assert np.array_equal(found.from_canonical(canonical), numbered())
    assert sorted(found.permutation) == [0, 1, 2]
    channels = np.stack([numbered(), -numbered()])
    assert np.array_equal(found.from_canonical(found.to_canonical(channels)), channels)


@given(angles, angles, angles, st.sampled_from(AXES))
def test_canonical_axes_point_to_superior_posterior_left(a, b, c, axes):
    """The cosines between canonical axes and z, y, x have the largest sum of all ways to permute and mirror the image."""
    matrix = Rotation.from_euler("xyz", [a, b, c], degrees=True).as_matrix() @ axes
    found = geometry(matrix)
    columns = matrix[:, ::-1][:, list(found.permutation)] * np.where(found.flips, -1, 1)  # canonical z, y, x axes in space
    best = max(float(np.trace(matrix @ turn)) for turn in AXES)
    assert float(np.trace(columns[:, ::-1])) == pytest.approx(best, abs=1e-5)


def test_a_canonical_image_is_left_alone():
    found = geometry(np.eye(3))
    assert (found.permutation, found.flips, found.orientation) == ((0, 1, 2), (False, False, False), "LPS")


SHEAR = np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("matrix", [np.diag([1, 1, 2]), SHEAR, np.zeros((3, 3)), np.full((3, 3), np.nan)])
def test_shear_and_scale_are_refused(matrix):
    with pytest.raises(DatasetError, match="scan.nrrd: direction .* is not orthonormal"):
        check_direction(tuple(matrix.ravel()), Path("scan.nrrd"))


@pytest.mark.parametrize(("change", "shown"), [
    ({"size": (5, 4, 4)}, r"size (5, 4, 3) and (5, 4, 4) (x, y, z)"),
    ({"spacing": (0.5, 2.0, 3.01)}, "spacing (0.5, 2, 3) and (0.5, 2, 3.01) mm (x, y, z)"),
    ({"origin": (7.0, -8.0, 9.02)}, "origin (7, -8, 9) and (7, -8, 9.02) mm (x, y, z)"),
    ({"direction": (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)}, "direction (1, 0, 0, 0, 1, 0, 0, 0, 1) and (-1, 0, 0, 0, -1, 0, 0, 0, 1)"),
])  # fmt: skip
def test_differences_are_shown(change, shown):
    first = geometry(np.eye(3))
    assert differences(first, replace(first, **change)) == [shown]


def test_rounding_is_no_difference():
    first = geometry(np.eye(3))
    second = replace(first, spacing=tuple(np.float32(s) * 1.0005 for s in SPACING), origin=(7.003, -8.0, 9.0))
    assert differences(first, second) == []


def test_only_the_size_counts_where_a_file_has_no_geometry():
    first = geometry(np.eye(3))
    bare = replace(first, spacing=(9.0, 9.0, 9.0), origin=(0.0, 0.0, 0.0), has_spacing=False)
    assert differences(first, bare) == []
    assert len(differences(first, replace(bare, size=(1, 1, 1)))) == 1
