"""ldseg_ensemble: the mean of saved probabilities, whole or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.cli import common
from ldseg_auto.cli.ensemble import build, work
from ldseg_auto.data.geometry import Geometry
from ldseg_auto.data.image_io import read_label, write_label
from ldseg_auto.inference.outputs import Extras, write_npz
from ldseg_auto.inference.predictor import Predictor

# canonical axis 0 is the file's axis 1, axis 1 runs backwards
GEOMETRY = Geometry((4, 5, 3), (1.0, 2.0, 3.0), direction=(1, 0, 0, 0, 0, -1, 0, 1, 0), permutation=(1, 0, 2), flips=(False, True, False))
CLASSES = {"background": 0, "a": 2, "b": 7}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def ensemble(*words: object) -> int:
    return common.run(build(), work, [str(w) for w in words])


def write_folder(folder: Path, labels: dict, seed: int, cases: tuple[str, ...] = ("x", "y")) -> list[np.ndarray]:
    """Random probabilities (heads, z, y, x), canonical, as a prediction leaves them."""
    rng = np.random.default_rng(seed)
    regions = {"regions_class_order": [1, 2]} if labels is REGIONS else {}
    folder.mkdir()
    content = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz", **regions}
    (folder / "dataset.json").write_text(json.dumps(content))
    found = []
    for case in cases:
        values = rng.random((2 if regions else 3, *GEOMETRY.shape)).astype(np.float16)
        write_npz(folder / f"{case}.npz", values, GEOMETRY)
        write_label(folder / f"{case}.nii.gz", np.zeros(GEOMETRY.shape, np.uint8), GEOMETRY)
        found.append(values.astype(np.float32))
    return found


@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_labels_are_those_of_the_mean(tmp_path: Path, labels: dict) -> None:
    folders = [tmp_path / str(i) for i in range(3)]
    values = [write_folder(folder, labels, i) for i, folder in enumerate(folders)]
    assert ensemble("-i", *folders, "-o", tmp_path / "out", "--save-probabilities") == 0
    for number, case in enumerate(("x", "y")):
        mean = sum(v[number] for v in values) / 3
        expected = np.array([0, 2, 7])[mean.argmax(0)] if labels is CLASSES else np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
        np.testing.assert_array_equal(read_label(tmp_path / "out" / f"{case}.nii.gz").array, expected)
        with np.load(tmp_path / "out" / f"{case}.npz") as saved:
            np.testing.assert_allclose(GEOMETRY.to_canonical(saved["probabilities"]), mean, atol=1e-3)


def test_files_as_numpy_and_nnunet_write_them(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    values = [write_folder(folder, CLASSES, i, ("x",))[0] for i, folder in enumerate(folders)]
    np.savez_compressed(folders[1] / "x.npz", probabilities=GEOMETRY.from_canonical(values[1]).astype(np.float32))
    assert ensemble("-i", *folders, "-o", tmp_path / "out") == 0
    expected = np.array([0, 2, 7])[(values[0] + values[1]).argmax(0)]
    np.testing.assert_array_equal(read_label(tmp_path / "out" / "x.nii.gz").array, expected)


def test_it_is_the_prediction_of_both_models(
    make_dataset: Callable[..., Path], make_model: Callable[..., Path], tmp_path: Path
) -> None:  # fmt: skip
    """Two folds predicted one by one and averaged, against both at once."""
    raw = make_dataset(tmp_path / "raw", n_cases=2, shape=(6, 24, 20))
    model = make_model(tmp_path / "results", raw, seeds=(0, 1))
    Predictor.from_folder(model, device="cpu").predict_folder(raw / "imagesTr", tmp_path / "both")
    for fold in ("0", "1"):
        predictor = Predictor.from_folder(model, [fold], "cpu")
        predictor.predict_folder(raw / "imagesTr", tmp_path / fold, extras=Extras(probabilities="npz"))
    assert ensemble("-i", tmp_path / "0", tmp_path / "1", "-o", tmp_path / "out", "-m", model) == 0
    for path in (tmp_path / "both").glob("*.nii.gz"):
        both, averaged = read_label(path), read_label(tmp_path / "out" / path.name)
        assert both.geometry == averaged.geometry
        assert (both.array != averaged.array).mean() < 0.002  # float16 on disk decides ties otherwise


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    write_folder(a, CLASSES, 0)
    write_folder(b, CLASSES, 1, ("x",))
    for words, match in (
        (("-i", a, b, "-o", tmp_path / "out"), f"{b} has no probabilities of 1 cases that another folder has: y"),
        (("-i", a, "-o", tmp_path / "out"), "1 folder was named"),
        (("-i", a, b, "-o", a), "is one of the inputs"),
        (("-i", a, tmp_path / "none", "-o", tmp_path / "out"), "none is no folder"),
        (("-i", a, a, "-o", b), "is not empty"),
        (("-i", a, a, "-o", tmp_path / "out", "-m", tmp_path), "dataset.json does not exist"),
    ):
        assert ensemble(*words) == 2
        assert match in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda p: p.write_bytes(b"no zip"), "x.npz cannot be read"),
        (lambda p: np.savez(p, other=np.zeros(3)), "x.npz cannot be read"),
        (lambda p: np.savez(p, probabilities=np.zeros((3, 1, 1, 1))), "asks? for"),
        (lambda p: p.with_name("x.nii.gz").unlink(), "x.nii.gz does not exist: the label map"),
    ],
)
def test_damaged_files(tmp_path: Path, spoil: Callable[[Path], None], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "a", CLASSES, 0, ("x",))
    write_folder(tmp_path / "b", CLASSES, 1, ("x",))
    spoil(tmp_path / "a" / "x.npz")
    assert ensemble("-i", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out") == 2
    assert re.search(match, capsys.readouterr().err)
    assert not list((tmp_path / "out").glob("*"))
