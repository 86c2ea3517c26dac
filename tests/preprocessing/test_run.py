"""Preprocessing of a dataset: what is kept, what is done again, and a case that fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.data.dataset import open_dataset
from ldseg_auto.data.image_io import read_label, write_image
from ldseg_auto.errors import DatasetError
from ldseg_auto.parallel import InProcess
from ldseg_auto.planners.extract import hash_case
from ldseg_auto.planners.plans import Plans
from ldseg_auto.preprocessing.run import clean, folders_of, preprocess_dataset
from ldseg_auto.preprocessing.settings import settings_hash
from ldseg_auto.preprocessing.store import load_case, load_properties, load_reference


@pytest.fixture
def folder(make_dataset, tmp_path) -> Path:
    return make_dataset(tmp_path / "raw", n_cases=3, shape=(4, 12, 10))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "preprocessed"


def preprocess(folder: Path, plans: Plans, target: Path, pool: InProcess | None = None) -> dict[str, object]:
    """Case -> folders written, or the error."""
    dataset = open_dataset(folder)
    hashes = {c.identifier: hash_case(c) for c in dataset.cases}
    outcomes = preprocess_dataset(dataset, plans, list(plans.configurations), target, hashes, pool or InProcess())
    return {o.item.identifier: o.value if o.error is None else o.error for o in outcomes}


def times(target: Path) -> dict[str, int]:
    return {str(p.relative_to(target)): p.stat().st_mtime_ns for p in target.rglob("*.*") if p.is_file()}


def test_second_run_touches_nothing(folder, target, make_plans):
    plans = make_plans((3.0, 1.0, 1.0))
    assert preprocess(folder, plans, target) == {"toy_000": 1, "toy_001": 1, "toy_002": 1}
    before = times(target)
    assert len(before) == 3 * (4 + 2)
    assert preprocess(folder, plans, target) == {"toy_000": 0, "toy_001": 0, "toy_002": 0}
    assert times(target) == before


def test_what_a_worker_wrote_before_it_died_counts(folder, target, make_plans):
    """A cluster repeats the work of a worker that is gone; then nothing is left to write."""

    class Repeating(InProcess):
        def submit(self, fn, /, *args, **kwargs):
            assert super().submit(fn, *args, **kwargs).result() == written.pop(0)  # what nobody hears
            return super().submit(fn, *args, **kwargs)

    plans, written = make_plans((3.0, 1.0, 1.0)), [1, 1, 1, 0, 0, 0]
    assert preprocess(folder, plans, target, Repeating()) == {"toy_000": 1, "toy_001": 1, "toy_002": 1}
    assert preprocess(folder, plans, target, Repeating()) == {"toy_000": 0, "toy_001": 0, "toy_002": 0}


def test_what_a_killed_process_left_of_a_case_is_removed_with_it(folder, target, make_plans):
    """Not what another process may be writing now, of a case whose name begins or ends alike."""
    plans = make_plans((3.0, 1.0, 1.0))
    preprocess(folder, plans, target)
    before = set(times(target))
    cases = target / next(iter(folders_of(plans, list(plans.configurations))))
    kept = [cases / n for n in (".tmp_12345678_xtoy_001.b2nd", ".tmp_12345678_toy_001x.json", ".tmp_12345678_toy_000.json", ".tmp_")]
    own = (".b2nd", "_labels.b2nd", "_locations.b2nd", ".json")
    gone = [cases / f".tmp_ab_def_h_toy_001{end}" for end in own] + [target / "gt_segmentations/.tmp_abcdefgh_toy_001.b2nd"]
    for path in (*kept, *gone):
        path.touch()
    (cases / "toy_001.json").unlink()
    assert preprocess(folder, plans, target) == {"toy_000": 0, "toy_001": 1, "toy_002": 0}
    assert set(times(target)) - before == {str(p.relative_to(target)) for p in kept}


def test_only_a_changed_case_is_done_again(folder, target, make_plans):
    plans = make_plans((3.0, 1.0, 1.0))
    preprocess(folder, plans, target)
    before = times(target)
    path = folder / "labelsTr" / "toy_001.nii.gz"
    label = np.zeros((4, 12, 10), np.uint8)
    label[1, 2, 3] = 2
    write_image(path, label, (3.0, 1.0, 1.0))
    assert preprocess(folder, plans, target) == {"toy_000": 0, "toy_001": 1, "toy_002": 0}
    changed = {name for name, at in times(target).items() if at != before[name]}
    assert changed == {p for p in before if "toy_001" in p}
    case = load_case(target / "data", "toy_001")
    assert np.array_equal(case.labels[0], label) and np.array_equal(load_reference(target / "gt_segmentations", "toy_001")[0][0], label)
    assert case.properties.class_locations[2].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("change", [
    {"spacing": (3.0, 2.0, 2.0)}, {"normalisation": ("none",)}, {"use_mask_for_norm": (True,)}, {"order_image": 1},
])  # fmt: skip
def test_changed_settings_do_all_again(folder, target, make_plans, change):
    plans = make_plans((3.0, 1.0, 1.0))
    preprocess(folder, plans, target)
    old = plans.configurations["3d"]
    new = replace(old, resampling=replace(old.resampling, **change)) if "order_image" in change else replace(old, **change)
    assert preprocess(folder, replace(plans, configurations={"3d": new}), target) == {"toy_000": 1, "toy_001": 1, "toy_002": 1}


def test_training_settings_keep_all(folder, target, make_plans):
    plans = make_plans((3.0, 1.0, 1.0))
    preprocess(folder, plans, target)
    old = plans.configurations["3d"]
    new = replace(old, batch_size=7, patch_size=(4, 4, 4), training=replace(old.training, epochs=1))
    assert preprocess(folder, replace(plans, configurations={"3d": new}), target) == {"toy_000": 0, "toy_001": 0, "toy_002": 0}


def test_intensities_count_for_ct_only(folder, make_plans):
    description = open_dataset(folder).description
    for scheme, counts in (("ct", True), ("zscore", False)):
        plans = make_plans(schemes=(scheme,))
        other = replace(plans, foreground_intensities=(replace(plans.foreground_intensities[0], mean=41.5),))
        first, second = (settings_hash(p, p.configurations["3d"], description) for p in (plans, other))
        assert (first != second) == counts


def test_a_missing_or_unfinished_case_is_done_again(folder, target, make_plans):
    plans = make_plans((3.0, 1.0, 1.0))
    preprocess(folder, plans, target)
    (target / "data" / "toy_000.json").unlink()
    (target / "data" / "toy_002.json").write_text("{")
    assert preprocess(folder, plans, target) == {"toy_000": 1, "toy_001": 0, "toy_002": 1}


def test_a_lost_reference_is_written_again(folder, target, make_plans):
    plans = make_plans((3.0, 1.0, 1.0))
    preprocess(folder, plans, target)
    (target / "gt_segmentations" / "toy_001.json").unlink()
    preprocess(folder, plans, target)
    expected = read_label(folder / "labelsTr" / "toy_001.nii.gz").array
    assert np.array_equal(load_reference(target / "gt_segmentations", "toy_001")[0], expected[None])


def test_a_failing_case_is_named_and_the_others_go_on(folder, target, make_plans):
    write_image(folder / "labelsTr" / "toy_001.nii.gz", np.full((4, 12, 10), 9, np.uint8), (3.0, 1.0, 1.0))
    found = preprocess(folder, make_plans((3.0, 1.0, 1.0)), target)
    assert (found["toy_000"], found["toy_002"]) == (1, 1)
    assert isinstance(found["toy_001"], DatasetError)
    with pytest.raises(DatasetError, match=r"case toy_001: label .*toy_001.nii.gz: label value 9 is not declared; declared: 0, 1, 2"):
        raise found["toy_001"]
    assert sorted(p.stem for p in (target / "data").glob("*.json")) == ["toy_000", "toy_002"]


def test_every_rater_is_kept(make_dataset, tmp_path, target, make_plans):
    folder = make_dataset(tmp_path / "raw", n_cases=2, shape=(4, 12, 10), raters=3)
    other = np.zeros((4, 12, 10), np.uint8)
    other[0, 0, 0] = 1
    write_image(folder / "labelsTr_rater2" / "toy_000.nii.gz", other, (3.0, 1.0, 1.0))
    preprocess(folder, make_plans((3.0, 1.0, 1.0)), target)
    labels, reference = load_case(target / "data", "toy_000").labels[:], load_reference(target / "gt_segmentations", "toy_000")[0]
    assert labels.shape == (3, 4, 12, 10) and np.array_equal(labels, reference)
    assert np.array_equal(labels[1], other) and np.array_equal(labels[0], labels[2]) and not np.array_equal(labels[0], other)
    assert [0, 0, 0] in load_case(target / "data", "toy_000").properties.class_locations[1].tolist()


def test_configurations_that_preprocess_alike_share_a_folder(folder, target, make_plans):
    plans = make_plans((3.0, 1.0, 1.0))
    one = plans.configurations["3d"]
    more = {"3d": one, "same": one, "other": replace(one, data_identifier="coarse", spacing=(3.0, 2.0, 2.0))}
    plans = replace(plans, configurations=more)
    assert folders_of(plans, list(more)) == {"data": "3d", "coarse": "other"}
    assert preprocess(folder, plans, target)["toy_000"] == 2
    assert load_properties(target / "coarse", "toy_000").preprocessed_shape == (4, 6, 5)


def test_clean_removes_cases_of_the_named_folders_only(folder, target, make_plans):
    preprocess(folder, make_plans((3.0, 1.0, 1.0)), target)
    (target / "other").mkdir()
    (target / "plans.json").touch()
    clean(target, ["data", "never_there"])
    assert sorted(p.name for p in target.iterdir()) == ["other", "plans.json"]
