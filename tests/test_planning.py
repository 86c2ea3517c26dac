"""Plans made again from a stored fingerprint, copied from another dataset, and several side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldseg_auto import planning
from ldseg_auto.errors import DatasetError, InputError, PlansError
from ldseg_auto.planners.choices import Choices
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.plans import Plans
from ldseg_auto.planning import FINGERPRINT, Request, make_and_store
from ldseg_auto.preparation import Options, Prepared, plan_and_preprocess

ONE = Options(workers=1)
Tree = dict[str, bytes]


@pytest.fixture(scope="module")
def prepared(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset 1, a volume of two classes; 2, 2D; 3, a volume with two channels; 4, of other spacing and five classes; all preprocessed."""
    root = tmp_path_factory.mktemp("root")
    make_dataset(root / "raw", n_cases=5, shape=(6, 20, 16))
    make_dataset(root / "raw", n_cases=5, shape=(1, 40, 32), ending=".png", dataset_id=2)
    make_dataset(root / "raw", n_cases=5, shape=(6, 20, 16), channels=2, dataset_id=3)
    content = {"channel_names": {"0": "CT"}}
    make_dataset(root / "raw", n_cases=5, shape=(12, 24, 20), spacing=(1, 3, 4), classes=5, dataset_id=4, seed=1, content=content)
    for number in (1, 2, 3, 4):
        plan_and_preprocess(root / "raw", root / "preprocessed", number, ONE)
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    """A copy."""
    shutil.copytree(prepared, tmp_path / "root")
    return tmp_path / "root"


def folder(root: Path, number: int = 1) -> Path:
    return root / "preprocessed" / f"Dataset{number:03d}_Toy"


def request(*settings: str, name: str = "", source: Path | None = None, **choices: Any) -> Request:
    return Request(name, Choices(settings=settings, **choices), source, workers=1)


def replan(root: Path, wanted: Request, number: int = 1) -> Plans:
    return make_and_store(root / "raw", root / "preprocessed", number, wanted)[1]


def prepare(root: Path, **options: Any) -> Prepared:
    return plan_and_preprocess(root / "raw", root / "preprocessed", 1, replace(ONE, **options))


def tree(where: Path) -> Tree:
    return {str(p.relative_to(where)): p.read_bytes() for p in sorted(where.rglob("*")) if p.is_file()}


def edit(path: Path, **change: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_no_image_is_read_and_the_raw_data_is_not_needed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plans are those that ldseg_plan_and_preprocess made, to the byte."""
    shutil.rmtree(root / "raw")
    before = tree(folder(root))
    replan(root, request())
    assert tree(folder(root)) == before
    changed = replan(root, request("training.epochs=3"))
    assert {c.training.epochs for c in changed.configurations.values()} == {3}
    assert changed.choices == Choices(settings=("training.epochs=3",))
    assert set(tree(folder(root))) - set(before) == {"ldsegPlans.previous_1.json"}
    assert tree(folder(root))["ldsegPlans.previous_1.json"] == before["ldsegPlans.json"]


def test_several_plans_side_by_side(root: Path) -> None:
    before = tree(folder(root))
    large = replan(root, request(name="large", gpu_memory=40.0))
    assert (large.plans_name, large.choices.gpu_memory) == ("large", 40.0)
    fine = replan(root, request("2d.batch_size=3", name="fine", target_spacing=(1.5, 1.0, 1.0)))
    assert fine.configurations["3d_fullres"].spacing == (1.5, 1.0, 1.0) and fine.configurations["2d"].batch_size == 3
    after = tree(folder(root))
    assert set(after) - set(before) == {"large.json", "fine.json", "report_large.html", "report_fine.html"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {FINGERPRINT}  # a label code for the other spacing
    done = prepare(root, plans_name="fine")
    assert done.plans == fine and done.written == 5
    names = {c.data_identifier for c in fine.configurations.values()}
    assert names <= {"fine_3d_fullres", "fine_2d"} and all((folder(root) / name).is_dir() for name in names)
    assert prepare(root).kept == 5 and tree(folder(root))["ldsegPlans.json"] == before["ldsegPlans.json"]


def test_plans_that_are_there_are_used_as_they_are_and_choices_make_them_anew(root: Path) -> None:
    mine = replan(root, request("batch_size=3"))
    assert prepare(root).plans == mine
    assert prepare(root, clean=True).plans == mine
    assert prepare(root, choices=Choices()).plans.choices == Choices()
    edit(folder(root) / "ldsegPlans.json", configurations={})
    with pytest.raises(PlansError, match="ldsegPlans.json: configurations = {} is not possible"):
        prepare(root)
    replan(root, request())  # what is damaged is kept, and made anew
    assert prepare(root).kept == 5


def test_a_users_own_file_with_own_configurations(root: Path) -> None:
    content = json.loads((folder(root) / "ldsegPlans.json").read_text())
    content["configurations"]["small"] = {"inherits_from": "3d_fullres", "batch_size": 1}
    content["configurations"]["coarse"] = {"inherits_from": "3d_fullres", "spacing": [3.0, 2.0, 2.0]}
    (folder(root) / "mine.json").write_text(text := json.dumps(content | {"plans_name": "mine"}))
    done = prepare(root, plans_name="mine", configurations=("small", "coarse"))
    assert (folder(root) / "mine.json").read_text() == text  # it keeps its inherits_from
    assert (done.written, done.kept) == (5, 0) and (folder(root) / "mine_coarse").is_dir()
    assert done.plans.configuration("small").data_identifier == content["configurations"]["3d_fullres"]["data_identifier"]
    assert prepare(root, plans_name="mine", configurations=("small",)).kept == 5
    with pytest.raises(InputError, match="-c tiny: this dataset has no such configuration; it has 3d_fullres, 2d, small, coarse"):
        prepare(root, plans_name="mine", configurations=("tiny",))


def test_changed_data_makes_the_plans_again_with_the_same_choices(root: Path) -> None:
    replan(root, request("training.epochs=3", "small.inherits_from=2d"))
    raw = root / "raw" / "Dataset001_Toy"
    shutil.copy(raw / "imagesTr" / "toy_000_0000.nii.gz", raw / "imagesTr" / "toy_001_0000.nii.gz")
    done = prepare(root)
    assert done.plans.fingerprint_hash == Fingerprint.load(folder(root) / FINGERPRINT).data_hash
    assert done.plans.choices.settings == ("training.epochs=3", "small.inherits_from=2d")
    assert done.plans.configuration("small").training.epochs == 3


def test_an_unmeasured_dataset_is_measured(root: Path) -> None:
    there = tree(folder(root))
    shutil.rmtree(folder(root))
    replan(root, request())
    found = tree(folder(root))
    assert set(found) == {FINGERPRINT, "dataset.json", "ldsegPlans.json", "report.html"}
    assert {name: there[name] for name in (FINGERPRINT, "ldsegPlans.json")} == {n: found[n] for n in (FINGERPRINT, "ldsegPlans.json")}
    assert prepare(root).written == 5


def test_nothing_to_plan_from(root: Path) -> None:
    with pytest.raises(DatasetError, match="holds no fingerprint of dataset 9, and there is no dataset 9"):
        replan(root, request(), 9)


def test_another_grid_needs_the_raw_labels_as_they_were(root: Path) -> None:
    wanted = request(target_spacing=(2.0, 2.0))
    before = tree(folder(root))
    raw = root / "raw" / "Dataset001_Toy"
    shutil.copy(raw / "labelsTr" / "toy_000.nii.gz", raw / "labelsTr" / "toy_001.nii.gz")
    with pytest.raises(DatasetError, match="no label code for 3d_fullres: .* mm.*have changed since it was taken: run ldseg_plan_and"):
        replan(root, wanted)
    shutil.rmtree(raw)
    with pytest.raises(
        DatasetError, match="no label code for .*; it is measured from the raw labels, but dataset folder .* does not exist"
    ):
        replan(root, wanted)
    assert tree(folder(root)) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"version": 2},
            r"dataset_fingerprint.json: version = 2 is not possible: expected 3; measure .*Delete the file to have it measured again",
        ),
        ({"raters": 0}, "raters = 0 is not possible: expected at least 1.*Delete the file"),
        ({"raters": 2}, "content_hash = .* but its content has .*: it was edited after it was measured. To change a decision use --set"),
        ({"content_hash": "abc"}, "content_hash = 'abc', but its content has"),
        ({"class_names": ["a", "b"]}, "data_hash = .*but its content has .*: it was edited"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_a_fingerprint_of_an_older_version_or_edited(root: Path, change: dict[str, Any], message: str) -> None:
    edit(folder(root) / FINGERPRINT, **change)
    before = tree(folder(root))
    for make in (lambda: replan(root, request()), lambda: prepare(root)):
        with pytest.raises(PlansError, match=message):
            make()
    assert tree(folder(root)) == before


def test_one_number_changed_in_a_case_is_an_edit(root: Path) -> None:
    """Every value is possible, and the data's hash is right."""
    path = folder(root) / FINGERPRINT
    content = json.loads(path.read_text())
    content["cases"][0]["spacing"][0] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(PlansError, match="content_hash = .* it was edited after it was measured"):
        replan(root, request())


def test_a_fingerprint_of_other_data(root: Path) -> None:
    """Put in the place of this dataset's own: planning again finds another dataset's name, preprocessing measures anew."""
    own = (folder(root) / FINGERPRINT).read_bytes()
    shutil.copy(folder(root, 4) / FINGERPRINT, folder(root) / FINGERPRINT)
    with pytest.raises(
        PlansError, match=r"is of Dataset004_Toy with the classes class1, .*Dataset001_Toy/dataset.json says otherwise. Delete the file"
    ):
        replan(root, request())
    assert prepare(root).kept == 5
    assert (folder(root) / FINGERPRINT).read_bytes() == own


def test_plans_of_other_data(root: Path) -> None:
    shutil.copy(folder(root, 4) / "ldsegPlans.json", folder(root) / "other.json")
    with pytest.raises(PlansError, match="other.json is of Dataset004_Toy .data .*, not of Dataset001_Toy as it is now. .*--from-plans"):
        prepare(root, plans_name="other")


def test_old_plans_are_made_again(root: Path) -> None:
    now = tree(folder(root))["ldsegPlans.json"]
    edit(folder(root) / "ldsegPlans.json", version=2)
    assert prepare(root).kept == 5
    assert tree(folder(root))["ldsegPlans.json"] == now


def test_two_plans_may_share_a_folder_for_the_same_voxels_only(root: Path) -> None:
    shared = Plans.load(folder(root) / "ldsegPlans.json").configurations["3d_fullres"].data_identifier
    replan(root, request(f"3d_fullres.data_identifier={shared}", "batch_size=3", name="large"))
    assert prepare(root, plans_name="large", configurations=("3d_fullres",)).kept == 5
    settings = (f"3d_fullres.data_identifier={shared}", "3d_fullres.resampling.order_image=1")
    with pytest.raises(PlansError, match=rf"linear and l\w+ \(configuration \w+\) both use the folder {shared}, with different voxels"):
        replan(root, request(*settings, name="linear"))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"target_spacing": (2.0, 2.0), "settings": ("2d.spacing=[1,1]",)},
            "--target-spacing 2 2 and --set 2d.spacing both set the spacing",
        ),
        ({"settings": ("spacing=[1,1,1]",)}, r"--set: configurations.2d.spacing = \(1.0, 1.0, 1.0\) .* 2 numbers"),
        ({"gpu_memory": 0.01}, "--gpu-memory 0.01: the smallest patch"),
        ({"target_spacing": (1.0,)}, "--target-spacing 1.0: expected three numbers"),
    ],
)
def test_impossible_choices_change_nothing(root: Path, choices: dict[str, Any], message: str) -> None:
    before = tree(folder(root))
    with pytest.raises(InputError, match=message):
        replan(root, Request("", Choices(**choices), None, 1))
    assert tree(folder(root)) == before


def test_latent_and_memory_of_what_was_set_by_hand(root: Path) -> None:
    """The ceiling is the measured one of the channels that were set; memory is not that of another batch."""
    planned = replan(root, request())
    made = replan(root, request("2d.latent.channels=1", "3d_fullres.batch_size=7"))
    fingerprint = Fingerprint.load(folder(root) / FINGERPRINT)
    ceilings = [
        min(candidate.ceilings["1"].values())
        for key, candidates in fingerprint.latent.items() for candidate in candidates
        if key.startswith("2d: ") and candidate.factor == planned.configurations["2d"].latent.factor
    ]  # fmt: skip
    assert made.configurations["2d"].latent.ceiling in ceilings
    assert made.configurations["3d_fullres"].memory_gib > planned.configurations["3d_fullres"].memory_gib > 0
    huge = replan(root, request("batch_size=30000")).configurations["2d"]
    assert huge.memory_gib > 8 and f"training needs {huge.memory_gib:.1f} GiB, and the plans are for 8 GiB" in huge.reasons["warning"]
    assert replan(root, request("2d.method.pure_noise=0.5")).configurations["2d"].memory_gib == 0  # not estimated


def test_copied_plans(root: Path) -> None:
    source = Plans.load(folder(root, 4) / "ldsegPlans.json")
    copied = replan(root, request("training.learning_rate=0.0001", source=folder(root, 4) / "ldsegPlans.json"))
    own = Plans.load(folder(root) / "ldsegPlans.json")
    assert copied.plans_name == "ldsegPlans_from004" and (folder(root) / "ldsegPlans_from004.json").exists()
    assert (copied.dataset_name, copied.fingerprint_hash) == (own.dataset_name, own.fingerprint_hash)
    assert copied.foreground_intensities == source.foreground_intensities != own.foreground_intensities
    assert copied.transpose_forward == source.transpose_forward
    for name, configuration in copied.configurations.items():
        there = source.configurations[name]
        for kept in ("spacing", "patch_size", "network", "latent", "normalisation", "resampling", "sampling", "method"):
            assert getattr(configuration, kept) == getattr(there, kept)
        assert configuration.data_identifier.startswith("ldsegPlans_from004_") and configuration.training.learning_rate == 1e-4
        assert configuration.reasons["copied"].startswith("from Dataset004_Toy, ldsegPlans")
        assert "normalisation ct is copied" in configuration.reasons["warning"] and "is far from this" in configuration.reasons["warning"]
    full = copied.configurations["3d_fullres"]
    fingerprint, order = Fingerprint.load(folder(root) / FINGERPRINT), copied.transpose_forward
    shapes = [[round(c.shape[a] * c.spacing[a] / s) for a, s in zip(order, full.spacing, strict=True)] for c in fingerprint.cases]
    assert full.median_shape == tuple(np.median(np.maximum(shapes, 1), axis=0))
    done = prepare(root, plans_name="ldsegPlans_from004")
    assert done.plans == copied and done.written == 5
    assert copied.choices.copied_from == "Dataset004_Toy, ldsegPlans"
    raw = root / "raw" / "Dataset001_Toy"
    shutil.copy(raw / "imagesTr" / "toy_000_0000.nii.gz", raw / "imagesTr" / "toy_001_0000.nii.gz")
    with pytest.raises(PlansError, match="copied from Dataset004_Toy, ldsegPlans before the files changed. Copy them again"):
        prepare(root, plans_name="ldsegPlans_from004")


def test_copied_plans_keep_who_inherits_from_whom(root: Path) -> None:
    content = json.loads((folder(root, 4) / "ldsegPlans.json").read_text())
    content["configurations"]["small"] = {"inherits_from": "3d_fullres", "batch_size": 1}
    (root / "theirs.json").write_text(json.dumps(content))
    copied = replan(root, request("3d_fullres.training.epochs=3", name="tuned", source=root / "theirs.json"))
    small = copied.configuration("small")
    assert (small.inherits_from, small.training.epochs, small.batch_size) == ("3d_fullres", 3, 1)
    assert small.data_identifier == copied.configuration("3d_fullres").data_identifier == "tuned_3d_fullres"


@pytest.mark.parametrize(
    ("number", "source", "message"),
    [
        (1, 3, r"plans of Dataset003_Toy cannot be copied to Dataset001_Toy: they are for 2 channel\(s\), and it has 1 \(channel0\)"),
        (2, 4, r"their slices are cut across axis x, and its images have one voxel along z"),
    ],
)
def test_plans_that_cannot_be_copied(root: Path, number: int, source: int, message: str) -> None:
    before = tree(folder(root, number))
    with pytest.raises(PlansError, match=message):
        replan(root, request(source=folder(root, source) / "ldsegPlans.json"), number)
    assert tree(folder(root, number)) == before


def test_plans_of_a_volume_for_slices(root: Path) -> None:
    content = json.loads((folder(root) / "ldsegPlans.json").read_text())
    (root / "theirs.json").write_text(json.dumps(content))
    copied = replan(root, request(source=root / "theirs.json"), 2)
    assert list(copied.configurations) == ["2d"] and copied.default_configuration == "2d"
    assert copied.configuration().median_shape[0] == 1
    del content["configurations"]["2d"]
    (root / "theirs.json").write_text(json.dumps(content))
    with pytest.raises(PlansError, match=r"it is 2D, and they have 3D configurations only \(3d_fullres\)"):
        replan(root, request(source=root / "theirs.json"), 2)


def test_a_name_that_is_another_file(root: Path) -> None:
    before = tree(folder(root))
    for name in ("dataset_fingerprint", "../x", "a__b"):
        with pytest.raises(InputError, match=f"--plans-name {name}: expected letters"):
            replan(root, request(name=name))
        with pytest.raises(InputError, match=f"--plans-name {name}: expected letters"):
            prepare(root, plans_name=name, choices=Choices())
    assert tree(folder(root)) == before


def test_an_interrupted_write_leaves_the_old_plans(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(folder(root))["ldsegPlans.json"]

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(planning, "atomic_path", full)
    with pytest.raises(OSError, match="No space left"):
        replan(root, request("batch_size=3"))
    assert tree(folder(root))["ldsegPlans.json"] == before
