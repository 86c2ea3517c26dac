"""From raw to preprocessed: what is kept, what is measured again, and what a user's own files decide."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.data.dataset import open_dataset
from ldseg_auto.data.image_io import read_label, write_image
from ldseg_auto.errors import DatasetError, InputError, PlansError
from ldseg_auto.planners.choices import Choices
from ldseg_auto.planners.extract import hash_case
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.preparation import FINGERPRINT, SPLITS, Options, Prepared, plan_and_preprocess
from ldseg_auto.preprocessing.store import load_case

ONE = Options(workers=1)


@pytest.fixture
def root(make_dataset: Callable[..., Path], tmp_path: Path) -> Path:
    """Holds raw/Dataset001_Toy with five cases."""
    make_dataset(tmp_path / "raw", n_cases=5, shape=(6, 20, 16))
    return tmp_path


def prepare(root: Path, options: Options = ONE) -> Prepared:
    return plan_and_preprocess(root / "raw", root / "preprocessed", 1, options)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def edit(path: Path, **change: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def splits_of(done: Prepared) -> list[dict[str, list[str]]]:
    return json.loads((done.folder / SPLITS).read_text())


def test_first_run_writes_all_and_the_second_nothing(root):
    done = prepare(root)
    assert (done.written, done.kept, done.failures) == (5, 0, {})
    names = {p.name for p in done.folder.iterdir()}
    assert names >= {FINGERPRINT, SPLITS, "ldsegPlans.json", "dataset.json", "gt_segmentations"}
    before = times(done.folder)
    raw = tree(root / "raw")
    again = prepare(root)
    assert (again.written, again.kept) == (0, 5) and again.plans == done.plans
    changed = {name for name, at in times(done.folder).items() if before.get(name) != at}
    assert changed <= {"dataset.json"}  # copied each time
    assert tree(root / "raw") == raw


def test_worker_count_changes_no_byte(root):
    prepare(root)
    plan_and_preprocess(root / "raw", root / "other", 1, Options(workers=2))
    first, second = tree(root / "preprocessed"), tree(root / "other")
    assert first == second and len(first) > 20


def test_an_added_case_means_a_new_fingerprint_and_new_splits(root):
    first = prepare(root)
    before = Fingerprint.load(first.folder / FINGERPRINT)
    raw = root / "raw" / "Dataset001_Toy"
    shutil.copy(raw / "imagesTr" / "toy_000_0000.nii.gz", raw / "imagesTr" / "new_0000.nii.gz")
    shutil.copy(raw / "labelsTr" / "toy_000.nii.gz", raw / "labelsTr" / "new.nii.gz")
    edit(raw / "dataset.json", numTraining=6)
    second = prepare(root)
    after = Fingerprint.load(second.folder / FINGERPRINT)
    assert [c.identifier for c in after.cases] == ["new", *(c.identifier for c in before.cases)]
    assert second.plans.fingerprint_hash == after.data_hash != before.data_hash
    assert (second.written, second.kept) == (1, 5)  # the same grid and z-score: the cases that were there are kept
    assert any("new" in split["val"] for split in splits_of(second))


def test_a_changed_file_means_a_new_fingerprint(root):
    first = prepare(root)
    write_image(root / "raw" / "Dataset001_Toy" / "imagesTr" / "toy_002_0000.nii.gz", np.random.rand(6, 20, 16).astype("f4"), (3, 1, 1))
    second = prepare(root)
    assert first.plans.fingerprint_hash != second.plans.fingerprint_hash and (second.written, second.kept) == (1, 4)


def test_voxels_beside_their_header_and_a_sidecar_count_as_the_case(make_dataset, tmp_path):
    """An .mhd names its voxels' file; the JSON beside a TIFF holds its spacing."""
    folder = make_dataset(tmp_path / "mhd", n_cases=2, shape=(4, 12, 10), ending=".mhd")
    case = open_dataset(folder).cases[0]
    voxels = next(p for p in (folder / "imagesTr").iterdir() if p.name.startswith("toy_000") and p.suffix != ".mhd")
    before = hash_case(case)
    voxels.write_bytes(voxels.read_bytes()[::-1])
    assert hash_case(case) != before
    flat = open_dataset(make_dataset(tmp_path / "tif", n_cases=2, shape=(1, 12, 10), ending=".tif")).cases[0]
    hashes = {hash_case(flat)}
    for name in ("toy_000.json", "toy_000_0000.json"):
        for spacing in (1, 2):
            flat.images[0].with_name(name).write_text(json.dumps({"spacing": [spacing, 1, 1]}))
            hashes.add(hash_case(flat))
    assert len(hashes) == 5


def test_another_memory_target_keeps_the_fingerprint_and_the_cases(root):
    first = prepare(root)
    before = Fingerprint.load(first.folder / FINGERPRINT)
    second = prepare(root, replace(ONE, choices=Choices(gpu_memory=40.0)))
    assert replace(Fingerprint.load(second.folder / FINGERPRINT), latent={}) == replace(before, latent={})
    assert (second.written, second.kept) == (0, 5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"version": 99}, r"version = 99 is not possible.*Delete the file .* or use ldseg_plan_and_preprocess --clean"),
        ({"cases": []}, r"cases = .* is not possible: expected at least one"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_edited_fingerprint_is_refused_until_clean(root, change, match):
    done = prepare(root)
    edit(done.folder / FINGERPRINT, **change)
    before = tree(done.folder)
    with pytest.raises(PlansError, match=match):
        prepare(root)
    assert tree(done.folder) == before
    assert prepare(root, replace(ONE, clean=True)).written == 5
    assert prepare(root).kept == 5


def test_clean_does_all_again_with_the_same_result(root):
    done = prepare(root)
    before = tree(done.folder)
    assert prepare(root, replace(ONE, clean=True)).written == 5
    assert tree(done.folder) == before


def test_own_splits_of_the_raw_folder_are_taken(root):
    own = [{"train": ["toy_000", "toy_001"], "val": ["toy_004"]}]
    (root / "raw" / "Dataset001_Toy" / SPLITS).write_text(json.dumps(own))
    assert splits_of(prepare(root)) == own
    assert splits_of(prepare(root)) == own


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('[{"train": ["toy_000"], "val": ["stranger"]}]', r"names case stranger, which is not in imagesTr \(1 such cases\)"),
        ("[", "is not valid JSON"),
        ('[{"train": ["toy_000"]}]', "fold 0: val is 'None'; expected a list of"),
        ('[{"train": 3, "val": null}]', "fold 0: train is '3'; expected a list of"),
        ("[]", "expected a list of"),
    ],
)
def test_bad_splits_are_refused_before_anything_is_written(root, content, match):
    (root / "raw" / "Dataset001_Toy" / SPLITS).write_text(content)
    with pytest.raises(DatasetError, match=rf"splits_final.json.*{match}.*Correct the file"):
        prepare(root)
    assert not (root / "preprocessed").exists()


def test_splits_edited_in_the_preprocessed_folder_stay(root):
    done = prepare(root)
    mine = splits_of(done)[::-1]
    (done.folder / SPLITS).write_text(json.dumps(mine))
    assert splits_of(prepare(root)) == mine


def test_splits_that_no_longer_fit_are_kept_under_another_name(root):
    done = prepare(root)
    made = splits_of(done)
    mine = [{"train": ["toy_000"], "val": ["toy_001"]}]
    (done.folder / SPLITS).write_text(json.dumps(mine))
    assert splits_of(prepare(root)) == made
    assert json.loads((done.folder / "splits_final.previous_1.json").read_text()) == mine


def test_a_class_of_five_cases_reaches_every_fold(root):
    """Ten cases, of which scikit-learn's folds would put 0 and 7, 3 and 9 and so on together; class2 is in both of each of two folds."""
    folder = root / "raw" / "Dataset001_Toy"
    for number in range(5, 10):
        for path in sorted(folder.glob("*/toy_000*")):
            shutil.copy(path, path.with_name(path.name.replace("toy_000", f"toy_00{number}")))
    edit(folder / "dataset.json", numTraining=10)
    having = {f"toy_00{i}" for i in (0, 7, 3, 9, 4)}
    for path in sorted((folder / "labelsTr").iterdir()):
        if path.name.partition(".")[0] not in having:
            label = read_label(path)
            write_image(path, np.where(label.array == 2, 1, label.array).astype(np.uint8), label.spacing)
    done = prepare(root, replace(ONE, configurations=("2d",)))
    assert [len(having & set(split["val"])) for split in splits_of(done)] == [1] * 5
    assert [len(split["val"]) for split in splits_of(done)] == [2] * 5


def test_doubtful_splits_of_the_raw_folder_are_taken_with_a_warning(root, caplog):
    own = [{"train": ["toy_000", "toy_001", "toy_004"], "val": ["toy_002", "toy_004"]}]
    (root / "raw" / "Dataset001_Toy" / SPLITS).write_text(json.dumps(own))
    assert splits_of(prepare(root, replace(ONE, groups="toy_00[34]|toy"))) == own
    assert re.search(r"splits_final.json: fold 0: 1 case\(s\) are trained and validated on \(first: toy_004\)", caplog.text)
    assert re.search(r"splits_final.json: fold 0: group toy has cases in both train and val", caplog.text)


def test_splits_in_the_preprocessed_folder_stay_unless_they_split_a_group(root, caplog):
    done = prepare(root)
    mine = splits_of(done)[::-1]
    (done.folder / SPLITS).write_text(json.dumps(mine))
    assert splits_of(prepare(root, replace(ONE, groups=r"_00([0-4])$"))) == mine and not caplog.records
    folds = splits_of(prepare(root, replace(ONE, groups="toy_00[0-2]|toy")))
    assert {"train": ["toy_000", "toy_001", "toy_002"], "val": ["toy_003", "toy_004"]} in folds
    assert "splits_final.json splits group toy: the splits are made anew. To keep yours put them into" in caplog.text
    assert json.loads((done.folder / "splits_final.previous_1.json").read_text()) == mine


def test_groups_are_never_split(root):
    done = prepare(root, replace(ONE, groups=r"_00([0-4])$"))
    assert len(splits_of(done)) == 5
    done = prepare(root, replace(ONE, groups="toy_00[0-2]|toy"))  # 0, 1 and 2 by themselves, 3 and 4 together
    folds = splits_of(done)
    assert sorted(sorted(f["val"]) for f in folds) == [["toy_000"], ["toy_001"], ["toy_002"], ["toy_003", "toy_004"]]
    assert splits_of(prepare(root)) == folds  # without the option they stay as they are


@pytest.mark.parametrize(
    ("pattern", "match"), [("(", r"--groups '\(' is no regular expression"), ("x(.)", "does not match 5 cases .first: toy_000")]
)
def test_groups_that_do_not_work(root, pattern, match):
    with pytest.raises(InputError, match=match):
        prepare(root, replace(ONE, groups=pattern))
    assert not (root / "preprocessed").exists()


def test_plans_that_differ_are_kept_under_another_name(root):
    done = prepare(root)
    path = done.folder / "ldsegPlans.json"
    for number in (1, 2):
        edit(path, plans_name=f"mine{number}")
        mine = path.read_bytes()
        assert prepare(root).plans.plans_name == f"mine{number}"  # used as they are
        assert path.read_bytes() == mine
        prepare(root, replace(ONE, choices=Choices()))
        assert (done.folder / f"ldsegPlans.previous_{number}.json").read_bytes() == mine
        assert json.loads(path.read_text()) == done.plans.to_dict()


def test_a_full_disk_leaves_the_plans_that_were_there(root, monkeypatch):
    done = prepare(root)
    edit(done.folder / "ldsegPlans.json", plans_name="mine")
    before = tree(done.folder)
    new = replace(ONE, choices=Choices())

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(root, new)
    assert tree(done.folder) == before


def test_chosen_configuration_alone_is_preprocessed_but_all_are_planned(root):
    done = prepare(root, replace(ONE, configurations=("2d",)))
    assert set(done.plans.configurations) == {"2d", "3d_fullres"}
    case = load_case(done.folder / done.plans.configurations["2d"].data_identifier, "toy_000")
    assert case.image.shape == (1, 6, 20, 16)
    with pytest.raises(InputError, match="-c 3d_lowres: this dataset has no such configuration; it has 3d_fullres, 2d"):
        prepare(root, replace(ONE, configurations=("3d_lowres",)))


def test_a_case_that_cannot_be_stored_is_named_and_the_others_are_done(root, monkeypatch):
    from ldseg_auto.preprocessing import run

    real = run.save_case

    def full(folder: Path, identifier: str, *args: object) -> None:
        if identifier == "toy_003":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder, identifier, *args)

    monkeypatch.setattr(run, "save_case", full)
    done = prepare(root)
    assert (done.written, done.kept, list(done.failures)) == (4, 0, ["toy_003"])
    assert "No space left" in done.failures["toy_003"]
    monkeypatch.undo()
    assert prepare(root).written == 1


def test_verify_names_every_problem_at_once(root):
    raw = root / "raw" / "Dataset001_Toy"
    write_image(raw / "labelsTr" / "toy_001.nii.gz", np.full((6, 20, 16), 9, np.uint8), (3, 1, 1))
    write_image(raw / "imagesTr" / "toy_003_0000.nii.gz", np.full((6, 20, 16), 5, np.float32), (3, 1, 1))
    with pytest.raises(DatasetError, match=r"(?s)Dataset001_Toy has 2 problem.*toy_001.*value 9.*toy_003.*constant \(5 everywhere\)"):
        prepare(root, replace(ONE, verify=True))
    assert not (root / "preprocessed").exists()


def test_the_hash_of_a_case_says_who_drew_it(root):
    """The same files as another rater's are another input: results name raters."""
    case = open_dataset(root / "raw" / "Dataset001_Toy").cases[0]
    assert len({hash_case(replace(case, raters=who)) for who in ((), (0,), (1,))}) == 3
