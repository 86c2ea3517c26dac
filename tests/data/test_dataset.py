"""Datasets: finding the folder, listing the cases, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ldseg_auto.data.dataset import find_dataset, label_ending, open_dataset
from ldseg_auto.errors import DatasetError

NAMES = ["toy_000", "toy_001", "toy_002"]


def declare(folder: Path, **content: object) -> None:
    """Changes keys of a dataset.json."""
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))


def empty_dataset(
    root: Path, channels: int = 1, ending: str = ".nii.gz", cases: list[str] = NAMES, raters: tuple[str, ...] = ("labelsTr",)
) -> Path:
    """Files without content: listing a dataset reads none of them."""
    folder = root / "Dataset007_Empty"
    for name in ("imagesTr", *raters):
        (folder / name).mkdir(parents=True)
    for case in cases:
        for channel in range(channels):
            (folder / "imagesTr" / f"{case}_{channel:04d}{ending}").touch()
        for rater in raters:
            (folder / rater / f"{case}{label_ending(ending)}").touch()
    content = {"channel_names": {str(c): f"c{c}" for c in range(channels)}, "labels": {"background": 0, "a": 1}, "numTraining": len(cases)}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ending}))
    return folder


def test_find_dataset_by_number(tmp_path):
    for name in ("Dataset004_A", "Dataset14_B", "Dataset1000_C", "other"):
        (tmp_path / name).mkdir()
    assert find_dataset(tmp_path, 4) == tmp_path / "Dataset004_A"
    assert find_dataset(tmp_path, 14) == tmp_path / "Dataset14_B"
    assert find_dataset(tmp_path, 1000) == tmp_path / "Dataset1000_C"
    with pytest.raises(DatasetError, match=r"no dataset 40 \(folder Dataset040_NAME\).*Dataset004_A, Dataset1000_C, Dataset14_B"):
        find_dataset(tmp_path, 40)


def test_two_folders_of_one_number(tmp_path):
    (tmp_path / "Dataset004_A").mkdir()
    (tmp_path / "Dataset4_B").mkdir()
    with pytest.raises(DatasetError, match="dataset 4 is there 2 times.*Dataset004_A, Dataset4_B"):
        find_dataset(tmp_path, 4)


def test_no_raw_folder(tmp_path):
    with pytest.raises(DatasetError, match="nowhere, does not exist"):
        find_dataset(tmp_path / "nowhere", 4)


def test_cases_are_sorted_with_their_files(tmp_path):
    folder = empty_dataset(tmp_path, channels=2, cases=["b_1", "a_0001", "c"])
    (folder / "imagesTr" / ".hidden_0000.nii.gz").touch()
    dataset = open_dataset(folder)
    assert dataset.name == "Dataset007_Empty"
    assert [c.identifier for c in dataset.cases] == ["a_0001", "b_1", "c"]
    assert [p.name for p in dataset.cases[0].images] == ["a_0001_0000.nii.gz", "a_0001_0001.nii.gz"]
    assert dataset.cases[0].labels == (folder / "labelsTr" / "a_0001.nii.gz",)


def test_jpeg_images_have_png_labels(tmp_path):
    dataset = open_dataset(empty_dataset(tmp_path, ending=".jpg"))
    assert dataset.cases[0].labels[0].name == "toy_000.png"
    assert [label_ending(e) for e in (".jpg", ".JPEG", ".png", ".nii.gz")] == [".png", ".png", ".png", ".nii.gz"]


def test_listing_imports_neither_torch_nor_simpleitk(tmp_path):
    folder = empty_dataset(tmp_path)
    code = f"""
import sys
from pathlib import Path
import ldseg_auto.data.labels, ldseg_auto.data.splits
from ldseg_auto.data.dataset import open_dataset
assert len(open_dataset(Path({str(folder)!r})).cases) == 3
assert not {{"torch", "SimpleITK", "skimage", "PIL"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_raters_may_lack_cases_but_not_all_of_them(tmp_path, caplog):
    folder = empty_dataset(tmp_path, raters=("r1", "r2"))
    declare(folder, raters=["r1", "r2"])
    assert [len(c.labels) for c in open_dataset(folder).cases] == [2, 2, 2]
    (folder / "r2" / "toy_001.nii.gz").unlink()
    assert [[p.parent.name for p in c.labels] for c in open_dataset(folder).cases] == [["r1", "r2"], ["r1"], ["r1", "r2"]]
    assert [c.raters for c in open_dataset(folder).cases] == [(), (0,), ()]
    assert "rater r2 has no label for 1 of 3 cases (first: toy_001)" in caplog.text
    (folder / "r1" / "toy_001.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"1 image\(s\) without label.*expected r1/toy_001.nii.gz or r2/toy_001.nii.gz"):
        open_dataset(folder)


def test_image_without_label(tmp_path):
    folder = empty_dataset(tmp_path)
    (folder / "labelsTr" / "toy_002.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"without label, first .*toy_002_0000.nii.gz: expected labelsTr/toy_002.nii.gz"):
        open_dataset(folder)


def test_label_without_image(tmp_path):
    folder = empty_dataset(tmp_path)
    (folder / "imagesTr" / "toy_002_0000.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"label\(s\) without image, first .*toy_002.nii.gz: expected imagesTr/toy_002_0000.nii.gz"):
        open_dataset(folder)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_missing_channel(tmp_path, channel):
    folder = empty_dataset(tmp_path, channels=3)
    (folder / "imagesTr" / f"toy_001_000{channel}.nii.gz").unlink()
    with pytest.raises(DatasetError, match=rf"case toy_001: .*missing.*expected .*imagesTr/toy_001_000{channel}.nii.gz"):
        open_dataset(folder)


def test_too_many_channels(tmp_path):
    folder = empty_dataset(tmp_path, channels=2)
    declare(folder, channel_names={"0": "CT"})
    with pytest.raises(DatasetError, match=r"2 channel\(s\) found, dataset.json declares 1 \(CT\); last one found: .*toy_000_0001"):
        open_dataset(folder)


def test_image_without_channel_suffix(tmp_path):
    folder = empty_dataset(tmp_path)
    (folder / "imagesTr" / "toy.nii.gz").touch()
    with pytest.raises(DatasetError, match="imagesTr/toy.nii.gz: images are named CASE_0000.nii.gz"):
        open_dataset(folder)


def test_other_ending_than_declared(tmp_path):
    folder = empty_dataset(tmp_path)
    declare(folder, file_ending=".mha")
    with pytest.raises(DatasetError, match="imagesTr holds no .mha file.*found: 3 x .nii.gz"):
        open_dataset(folder)


@pytest.mark.parametrize("gone", ["imagesTr", "labelsTr"])
def test_missing_folder(tmp_path, gone):
    folder = empty_dataset(tmp_path)
    shutil.rmtree(folder / gone)
    with pytest.raises(DatasetError, match=f"{gone} does not exist"):
        open_dataset(folder)


def test_number_of_cases_differs(tmp_path):
    folder = empty_dataset(tmp_path)
    declare(folder, numTraining=4)
    with pytest.raises(DatasetError, match="numTraining = 4, but 3 training cases"):
        open_dataset(folder)


def test_group_missing(tmp_path):
    folder = empty_dataset(tmp_path)
    declare(folder, groups={"toy_000": "p", "toy_001": "p"})
    with pytest.raises(DatasetError, match="no group for 1 cases .first: toy_002"):
        open_dataset(folder)


def test_dataset_json_missing_or_malformed(tmp_path):
    with pytest.raises(DatasetError, match="dataset folder .*nowhere does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="dataset.json does not exist"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="is not valid JSON"):
        open_dataset(tmp_path)


def test_one_rgb_file_gives_three_channels(tmp_path):
    folder = empty_dataset(tmp_path, ending=".png", cases=["a"])
    declare(folder, channel_names={"0": "R", "1": "G", "2": "B"})
    Image.new("RGBA", (4, 3)).save(folder / "imagesTr" / "a_0000.png")
    assert len(open_dataset(folder).cases[0].images) == 1
    Image.new("L", (4, 3)).save(folder / "imagesTr" / "a_0000.png")
    with pytest.raises(DatasetError, match=r"case a: 1 channel\(s\) found, .* declares 3 \(R, G, B\); missing channel.*a_0001.png"):
        open_dataset(folder)


def test_files_listed_in_dataset_json(tmp_path, monkeypatch):
    folder = empty_dataset(tmp_path, channels=2)
    shutil.move(folder / "imagesTr", tmp_path / "elsewhere")
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    images = ["$ELSEWHERE/toy_000_0000.nii.gz", "../elsewhere/toy_000_0001.nii.gz"]
    declare(folder, dataset={"x": {"images": images, "label": str(folder / "labelsTr/toy_000.nii.gz")}}, numTraining=1)
    case = open_dataset(folder).cases[0]
    assert case.identifier == "x"
    assert [p.resolve() for p in case.images] == [tmp_path / "elsewhere" / f"toy_000_000{c}.nii.gz" for c in (0, 1)]
    assert case.labels == (folder / "labelsTr/toy_000.nii.gz",)


def test_raters_of_a_listed_case(tmp_path):
    folder = empty_dataset(tmp_path)
    label, other = ("labelsTr/toy_000.nii.gz", "labelsTr/toy_001.nii.gz")
    given = {"a": [None, label, other], "b": [label], "c": [label, other, None], "d": [label, other, label], "e": label}
    content = {case: {"images": ["imagesTr/toy_000_0000.nii.gz"], "label": labels} for case, labels in given.items()}
    declare(folder, dataset=content, numTraining=5, raters=["r1", "r2", "r3"])
    cases = {c.identifier: c for c in open_dataset(folder).cases}
    assert {name: c.raters for name, c in cases.items()} == {"a": (1, 2), "b": (0,), "c": (0, 1), "d": (), "e": (0,)}
    assert [p.name for p in cases["a"].labels] == ["toy_000.nii.gz", "toy_001.nii.gz"]


@pytest.mark.parametrize(("entry", "message"), [
    ({"images": ["imagesTr/toy_000_0000.nii.gz"], "label": "labelsTr/none.nii.gz"}, "case x: .*none.nii.gz does not exist"),
    ({"images": [], "label": "labelsTr/toy_000.nii.gz"}, "case x: .*expected {\"images\""),
    ({"images": ["imagesTr/toy_000_0000.nii.gz"]}, "case x: .*expected {\"images\""),
    ("imagesTr/toy_000_0000.nii.gz", "case x: .*expected {\"images\""),
    ({"images": ["imagesTr/toy_000_0000.nii.gz"], "label": ["labelsTr/toy_000.nii.gz"] * 2}, "one file per rater"),
    ({"images": ["imagesTr/toy_000_0000.nii.gz"], "label": [None]}, "one file per rater"),
    ({"images": ["imagesTr/toy_000_0000.nii.gz"] * 2, "label": "labelsTr/toy_000.nii.gz"}, r"2 channel\(s\) found, .* declares 1"),
])  # fmt: skip
def test_bad_list_in_dataset_json(tmp_path, entry, message):
    folder = empty_dataset(tmp_path)
    declare(folder, dataset={"x": entry}, numTraining=1)
    with pytest.raises(DatasetError, match=message):
        open_dataset(folder)
