"""Preprocessed cases on disk: written whole, read back, and what a full disk or a damaged file does."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.preprocessing import run, store
from ldseg_auto.preprocessing.store import Properties, load_case, load_reference, save_case, save_reference

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(2, 6, 40, 30)).astype(np.float32)
LABELS = RNG.integers(0, 3, (3, 6, 40, 30)).astype(np.int16)
PROPERTIES = Properties(
    (3.0, 1.0, 0.1), (8, 40, 30), ((1, 7), (0, 40), (0, 30)), (6, 40, 30), (6, 40, 30), 0, "in", "set",
    {1: np.argwhere(LABELS[0] == 1).astype(np.int32), 2: np.array([[0, 1, 2]], np.int32)},
)  # fmt: skip


def save(folder: Path, name: str = "case", image: np.ndarray = IMAGE) -> None:
    save_case(folder, name, image, LABELS, PROPERTIES)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_round_trip(tmp_path):
    save(tmp_path)
    case = load_case(tmp_path, "case")
    assert np.array_equal(case.image[:], IMAGE) and case.image.dtype == np.float32
    assert np.array_equal(case.labels[:], LABELS) and case.labels.dtype == np.uint8
    assert replace(case.properties, class_locations={}) == replace(PROPERTIES, class_locations={})
    for c, voxels in PROPERTIES.class_locations.items():
        assert np.array_equal(case.properties.class_locations[c], voxels)
    assert np.array_equal(case.image[1:, 2:5, 10:20, 3:4], IMAGE[1:, 2:5, 10:20, 3:4])


def test_no_foreground(tmp_path):
    save_case(tmp_path, "case", IMAGE, np.zeros_like(LABELS), replace(PROPERTIES, class_locations={}))
    assert load_case(tmp_path, "case").properties.class_locations == {}


def test_more_than_255_classes(tmp_path):
    labels = np.arange(300, dtype=np.int16).reshape(1, 10, 6, 5)
    save_case(tmp_path, "case", labels, labels, PROPERTIES)
    save_reference(tmp_path / "gt", "case", labels, (1, 2, 3))
    assert np.array_equal(load_case(tmp_path, "case").labels[:], labels)
    assert np.array_equal(load_reference(tmp_path / "gt", "case")[0], labels)


def test_reference_round_trip(tmp_path):
    save_reference(tmp_path, "case", LABELS, (3.0, 1.0, 0.1))
    labels, spacing = load_reference(tmp_path, "case")
    assert np.array_equal(labels, LABELS) and labels.dtype == np.int16 and spacing == (3.0, 1.0, 0.1)


def test_same_content_gives_the_same_bytes_and_nothing_else_is_left(tmp_path):
    save(tmp_path / "a")
    save(tmp_path / "b")
    save(tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert sorted(tree(tmp_path / "a")) == ["case.b2nd", "case.json", "case_labels.b2nd", "case_locations.b2nd"]


def test_a_patch_reads_no_more_than_a_few_chunks(tmp_path):
    path = tmp_path / "large.b2nd"
    store.write_array(path, np.zeros((1, 64, 256, 256), np.float32))
    assert np.prod(store.open_array(path).chunks) <= 2**18


def full_disk(monkeypatch: pytest.MonkeyPatch, allowed: int, of: tuple[object, str]) -> None:
    """Calls of a function beyond the first `allowed` fail as on a full disk."""
    module, name = of
    real, calls = getattr(module, name), iter(range(1000))

    def write(*args: object, **more: object) -> object:
        if next(calls) >= allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **more)

    monkeypatch.setattr(module, name, write)


@pytest.mark.parametrize(
    ("of", "allowed"), [((store.blosc2, "asarray"), n) for n in range(3)] + [((os, "replace"), n) for n in range(4)]
)  # three arrays and a JSON
def test_full_disk_leaves_other_cases_and_marks_this_one_unfinished(tmp_path, monkeypatch, of, allowed):
    save(tmp_path, "earlier")
    save(tmp_path, "case")
    before = tree(tmp_path)
    full_disk(monkeypatch, allowed, of)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, "case", IMAGE + 1)
    after = tree(tmp_path)
    assert {k: v for k, v in after.items() if k.startswith("earlier")} == {k: v for k, v in before.items() if k.startswith("earlier")}
    assert not [name for name in after if ".tmp_" in name]
    assert not run.is_finished(tmp_path, "case", "in", "set") and run.is_finished(tmp_path, "earlier", "in", "set")
    with pytest.raises(InputError, match="case.json does not exist"):
        load_case(tmp_path, "case")


@pytest.mark.parametrize(("name", "part"), [("case.b2nd", "image"), ("case_labels.b2nd", "labels"), ("case_locations.b2nd", "locations")])
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:50], lambda b: b[: len(b) // 2], lambda b: b"x" * len(b)])
def test_damaged_array(tmp_path: Path, name: str, part: str, damage: Callable[[bytes], bytes]) -> None:
    save(tmp_path)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(InputError, match=rf"{name} cannot be read .*damaged. Delete it and run ldseg_plan_and_preprocess again"):
        load_case(tmp_path, "case")


def test_missing_parts(tmp_path):
    save(tmp_path)
    (tmp_path / "case_labels.b2nd").unlink()
    with pytest.raises(InputError, match="case_labels.b2nd does not exist; run ldseg_plan_and_preprocess again"):
        load_case(tmp_path, "case")
    with pytest.raises(InputError, match="other.json does not exist"):
        load_reference(tmp_path, "other")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "case.json is not valid JSON"),
        ("[]", "case.json holds a list"),
        ("{}", "case.json: key 'spacing' is missing"),
        (json.dumps({"colour": 1}), "case.json: unknown key 'colour'"),
    ],
)
def test_damaged_record(tmp_path, content, match):
    save(tmp_path)
    (tmp_path / "case.json").write_text(content)
    with pytest.raises(InputError, match=match):
        load_case(tmp_path, "case")
    assert not run.is_finished(tmp_path, "case", "in", "set")


@pytest.mark.parametrize("content", ["{}", '{"spacing": 3}', '{"spacing": [1, 2]}'])
def test_damaged_reference_record(tmp_path, content):
    save_reference(tmp_path, "case", LABELS, (1, 1, 1))
    (tmp_path / "case.json").write_text(content)
    with pytest.raises(InputError, match=r"case.json: spacing = .* Delete it and run ldseg_plan_and_preprocess again"):
        load_reference(tmp_path, "case")


def test_a_disk_that_is_really_full_is_an_oserror(tmp_path):
    """A limit on the size of files stands for the disk: what blosc2 says of it becomes an OSError."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="noise.b2nd could not be written"):
            store.write_array(tmp_path / "noise.b2nd", np.random.default_rng(0).normal(size=(64, 64, 64)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("array", [np.arange(4 * 30 * 50 * 60).reshape(4, 30, 50, 60), np.ones((3, 5, 1, 7)).transpose(0, 3, 1, 2)])
def test_both_ways_of_writing_give_the_same_bytes(tmp_path, monkeypatch, array):
    for name, limit in (("at_once", 0), ("by_asarray", array.nbytes + 1)):
        monkeypatch.setattr(store, "LARGE", limit)
        store.write_array(tmp_path / name, array)
    assert (tmp_path / "at_once").read_bytes() == (tmp_path / "by_asarray").read_bytes()
    assert np.array_equal(store.open_array(tmp_path / "at_once")[:], array)
