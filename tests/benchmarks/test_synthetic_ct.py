"""The CT-like dataset of benchmarks/preprocess.py: valid, the same each time, and in need of resampling."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ldseg_auto.data.dataset import open_dataset
from ldseg_auto.data.training_case import load_training_case

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import synthetic_ct

SHAPE = (30, 64, 60)


def test_a_case_is_readable_and_holds_every_organ_at_its_intensity(tmp_path):
    dataset = open_dataset(synthetic_ct.make_dataset(tmp_path, 2, SHAPE))
    assert len(dataset.cases) == 2
    image, (label,) = load_training_case(dataset.cases[1], dataset.description)
    assert image.array.shape == (1, *SHAPE)
    np.testing.assert_allclose(image.spacing, (2.5, 0.84, 0.84), rtol=1e-6)
    for index, (value, _, _) in enumerate(synthetic_ct.ORGANS.values(), start=1):
        inside = image.array[0][label == index]
        assert len(inside) and abs(inside.mean() - value) < 5 * synthetic_ct.NOISE / np.sqrt(len(inside)) + 0.5
    assert abs(image.array[0, 0, 0].mean() - synthetic_ct.AIR) < 10


def test_the_same_files_each_time_and_those_that_are_there_are_kept(tmp_path):
    first, second = (synthetic_ct.make_dataset(tmp_path / name, 1, SHAPE) for name in "ab")
    names = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert len(names) == 3 and all((first / n).read_bytes() == (second / n).read_bytes() for n in names)
    image = next(p for p in first.rglob("*_0000.nii.gz"))
    image.write_bytes(b"kept")
    synthetic_ct.make_dataset(tmp_path / "a", 1, SHAPE)
    assert image.read_bytes() == b"kept"


def test_every_case_is_resampled_and_some_by_slices():
    """The median spacing, the planner's target, is no case's own; two cases are coarser than 3 : 1, where nnU-Net takes one axis apart."""
    spacings = np.array(synthetic_ct.SPACINGS)
    within, along = np.median(spacings[:, 1]), np.median(spacings[:, 0])
    assert not np.isin(within, spacings[:, 1]) and along / within < 3
    assert int((spacings[:, 0] / spacings[:, 1] > 3).sum()) == 2
