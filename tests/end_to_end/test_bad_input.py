"""Every bad input that the first issue names: what the command says, its exit code, and that what was there is still there."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.data.image_io import write_image

SHAPE = (4, 20, 16)
IMAGE, LABEL = "imagesTr/toy_001_0000.nii.gz", "labelsTr/toy_001.nii.gz"
SPACING = (3.0, 1.0, 1.0)


def edit(path: Path, remove: str | None = None, **change: object) -> None:
    content = json.loads(path.read_text()) | change
    content.pop(remove, None)
    path.write_text(json.dumps(content))


def describe(folder: Path, **change: object) -> None:
    edit(folder / "dataset.json", **change)


def write(path: Path, array: np.ndarray, spacing: tuple[float, ...] = SPACING) -> None:
    write_image(path, array, spacing)


def image(value: float = 0.0) -> np.ndarray:
    """Noise with one voxel of `value`."""
    out = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    out[1, 2, 3] = value
    return out


def patch_header(path: Path, offset: int, kind: str, *values: float) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<" + kind, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))


# Commands that name what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "match"),
    [
        (("plan", "-d", 7), r"error: there is no dataset 7 \(folder Dataset007_NAME\) in .*raw; there: Dataset001_Toy"),
        (("plan", "-d", 1, 7), "there is no dataset 7"),
        (("train", 7, 0), "there is no dataset 7 .*there: Dataset001_Toy"),
        (("predict", "-i", ".", "-o", "never", "-d", 7), r"no model of dataset 7 is trained in .*\. There are:\n  -d 1 -c 3d_fullres"),
        (("evaluate", ".", ".", "-d", 7), "there is no dataset 7"),
        (("train", 1, 5), r"fold 5 does not exist; allowed: 0, 1, 2, all\."),
        (("train", 1, 0, "-c", "3d_lowres"), "configuration '3d_lowres' is not in the plans of Dataset001_Toy; there are 3d_fullres, 2d"),
        (("train", 1, 1, "--continue"), r"--continue: .*fold_1 holds no checkpoint to continue from\. Start without --continue"),
        (("train", 1, 0), r"fold_0 holds a finished training\. Move it away to train anew, or use --continue"),
        (("predict", "-i", ".", "-o", "never", "-f", 3), r"fold 3 is not trained in .*; trained: 0\. Run ldseg_train"),
        (("predict", "-i", "nowhere", "-o", "never"), "-i nowhere does not exist"),
    ],
)
def test_what_is_not_there(bench, refused, command, match):
    refused(bench, match, *command)


def test_two_folders_of_one_id(bench, refused):
    (bench.raw / "Dataset001_Twin").mkdir()
    refused(bench, r"dataset 1 is there 2 times in .*raw: Dataset001_Toy, Dataset001_Twin\. Rename all but one", "plan", "-d", 1)
    (bench.root / "preprocessed" / "Dataset001_Twin").mkdir()
    refused(bench, "dataset 1 is there 2 times in .*preprocessed", "train", 1, 1)


# dataset.json ------------------------------------------------------------------------------------------------------------------------

BAD_DESCRIPTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "dataset.json").unlink(), r"Dataset001_Toy/dataset\.json does not exist"),
    "malformed": (lambda f: (f / "dataset.json").write_text('{"labels": '), r"dataset\.json is not valid JSON: .*line 1.*Correct the file"),
    "no object": (lambda f: (f / "dataset.json").write_text("[]"), r"dataset\.json holds a list, expected a JSON object"),
    **{
        f"lacks {key}": (lambda f, key=key: describe(f, remove=key), rf"dataset\.json lacks {key}; required: .*Add them")
        for key in ("channel_names", "labels", "numTraining", "file_ending")
    },
    "label form": (lambda f: describe(f, labels={"background": 0, "a": "one"}), r"labels: a = 'one'; a label is an integer, or a list"),
    "label form, nested": (
        lambda f: describe(f, labels={"background": 0, "a": {"value": 1}}),
        "labels: a = {'value': 1}; a label is an integer",
    ),
    "no background": (lambda f: describe(f, labels={"class1": 1, "class2": 2}), r"labels: background is missing.*Add \"background\": 0"),
    "regions without order": (lambda f: describe(f, labels={"background": 0, "a": [1, 2]}), "regions_class_order is None; with regions"),
    "ignore not highest": (
        lambda f: describe(f, labels={"background": 0, "a": 2, "ignore": 1}),
        "ignore = 1; it must be the highest value",
    ),
    "number of cases": (lambda f: describe(f, numTraining=9), "numTraining = 9, but 3 training cases were found. Correct one or the other"),
    "ending": (lambda f: describe(f, file_ending=".dcm"), r"file_ending = '\.dcm'; readable: \.nii\.gz"),
}


@pytest.mark.parametrize("name", BAD_DESCRIPTIONS)
def test_dataset_json(bench, refused, name):
    spoil, match = BAD_DESCRIPTIONS[name]
    spoil(bench.dataset(1))
    refused(bench, match, "plan", "-d", 1)


# Files -------------------------------------------------------------------------------------------------------------------------------

BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "image without label": (
        lambda f: (f / LABEL).unlink(),
        r"1 image.s. without label, first .*toy_001_0000.nii.gz: expected labelsTr/toy_001.nii.gz",
    ),
    "label without image": (
        lambda f: (f / IMAGE).unlink(),
        r"1 label\(s\) without image, first .*toy_001.nii.gz: expected imagesTr/toy_001_0000.nii.gz",
    ),
    "missing channel": (
        lambda f: describe(f, channel_names={"0": "T1", "1": "T2"}),
        r"case toy_000: 1 channel.s. found, .* declares 2 \(T1, T2\); missing channel: expected .*toy_000_0001",
    ),
    "gap in channels": (
        lambda f: shutil.move(f / IMAGE, f / "imagesTr/toy_001_0001.nii.gz"),
        r"case toy_001: channel 0 is missing; expected .*toy_001_0000.nii.gz",
    ),
    "shape": (
        lambda f: write(f / LABEL, np.zeros((4, 20, 15), np.uint8)),
        r"case toy_001: image .* and label .* not lie on the same grid: size \(16, 20, 4\) and \(15, 20, 4\)",
    ),
    "spacing": (
        lambda f: write(f / LABEL, np.zeros(SHAPE, np.uint8), (3.0, 1.0, 1.2)),
        r"case toy_001: .* same grid: spacing \(1, 1, 3\) and \(1\.2, 1, 3\) mm.*Resample one to the other",
    ),
    "origin": (
        lambda f: [patch_header(f / LABEL, at, "f", 50.0) for at in (268, 292)],
        "case toy_001: .*do not lie on the same grid: origin",
    ),
    "undeclared value": (
        lambda f: write(f / LABEL, np.full(SHAPE, 7, np.uint8)),
        r"case toy_001: label .*: label value 7 is not declared; declared: 0, 1, 2\. Correct the label file or",
    ),
    "NaN": (
        lambda f: write(f / IMAGE, image(np.nan)),
        r"case toy_001: image .*: 1 of 1280 values are NaN or infinite\. Replace them by finite ones",
    ),
    "infinite": (lambda f: write(f / IMAGE, image(np.inf)), "case toy_001: image .*: 1 of 1280 values are NaN or infinite"),
    "empty image": (
        lambda f: patch_header(f / IMAGE, 42, "3h", 16, 0, 4),
        r"case toy_001: image .* is empty: its size is \(16, 0, 4\) voxels",
    ),
    "empty file": (
        lambda f: (f / IMAGE).write_bytes(b""),
        "case toy_001: image .*toy_001_0000.nii.gz cannot be read: it is truncated or damaged",
    ),
    "truncated": (
        lambda f: (f / IMAGE).write_bytes((f / IMAGE).read_bytes()[:-400]),
        r"case toy_001: image .* cannot be read: it is truncated or damaged .*Copy it again",
    ),
    "constant": (
        lambda f: write(f / IMAGE, np.full(SHAPE, 3, np.float32)),
        r"case toy_001: channel channel0 is constant \(3 everywhere\); check the file, or leave",
    ),
    "zero spacing": (
        lambda f: patch_header(f / IMAGE, 84, "f", 0.0),
        r"case toy_001: image .*: spacing \(1, 0, 3\) mm .*must be positive and finite\. Correct pixdim",
    ),
    "negative spacing": (
        lambda f: patch_header(f / IMAGE, 84, "f", -1.0),
        r"case toy_001: image .*: spacing \(1, -1, 3\) mm .*must be positive",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("flags", [(), ("--verify",)], ids=["", "verify"])
def test_files(bench, refused, name, flags):
    spoil, match = BAD_FILES[name]
    spoil(bench.dataset(1))
    refused(bench, match, "plan", "-d", 1, *flags)


def test_every_bad_case_is_named_at_once(bench, refused):
    write(bench.dataset(1) / IMAGE, image(np.nan))
    write(bench.dataset(1) / "labelsTr/toy_002.nii.gz", np.full(SHAPE, 7, np.uint8))
    refused(bench, "Dataset001_Toy: 2 of 3 cases cannot be used:\n  case toy_001: .*NaN.*\n  case toy_002: .*value 7", "plan", "-d", 1)


def test_traceback_with_debug_only(bench, capsys):
    assert bench.run("plan", "-d", 7, "--debug") == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err
