"""Files written whole or not at all, and hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat

import pytest

from ldseg_auto.errors import DatasetError, InputError
from ldseg_auto.files import (
    Encoded,
    atomic_path,
    hash_file,
    hash_json,
    json_member,
    read_json,
    write_json,
    write_json_members,
    write_text,
)


def test_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "one")
    write_text(path, "zwei äöü\n")
    assert path.read_bytes() == "zwei äöü\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_temporary_file_has_the_same_ending_and_folder(tmp_path):
    with atomic_path(tmp_path / "case.nii.gz") as temporary:
        assert temporary.name.endswith("case.nii.gz") and temporary.parent == tmp_path
        temporary.write_text("x")
        assert not (tmp_path / "case.nii.gz").exists()
    assert (tmp_path / "case.nii.gz").read_text() == "x"


@pytest.mark.parametrize("where", ["writing", "renaming"])
def test_failure_leaves_the_old_content(tmp_path, monkeypatch, where):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*args: object) -> None:
        raise full

    if where == "renaming":
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"), atomic_path(path) as temporary:
        temporary.write_text("new")
        if where == "writing":
            raise full
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    """mkstemp's are for the owner alone, and colleagues could not read the result."""
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_json_round_trip_and_no_nan(tmp_path):
    content = {"b": [1, 2.5, None, True], "a": {"ä": "x"}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == content


MEMBERS = {
    "one": {"a": [1, {"b": None}], 'ä "quoted"': "line\nline", "empty": {}, "list": []},
    'two "2"': 2.5,
    "three": [],
    "umlaut ö": "x",
}


@pytest.mark.parametrize("members", [MEMBERS, {}, {"one": {}}])
@pytest.mark.parametrize("content", [{"first": {"nested": [1, 2]}, "second": {}}, {"only": None}, {}])
def test_members_written_from_their_texts_give_the_same_file(tmp_path, content, members):
    write_json(tmp_path / "whole.json", {**content, "cases": members})
    write_json_members(tmp_path / "members.json", content, "cases", Encoded(json_member)(members))
    assert (tmp_path / "members.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_member_that_is_no_json_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        Encoded(json_member)({"a": float("nan")})


def test_each_value_is_turned_into_text_once():
    made = []
    encoded = Encoded(lambda name, value: made.append(name) or f"{name}={value}")
    values = {}
    for number in range(50):
        values[f"v{number}"] = [number]
        assert encoded(values) == [f"{name}={value}" for name, value in values.items()]
    assert made == list(values)
    values["v7"] = [7]  # equal, and yet another object
    assert encoded({k: values[k] for k in ("v9", "v7")}) == ["v9=[9]", "v7=[7]"] and made[50:] == ["v7"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "a.json does not exist"),
        (b"{", r"a.json is not valid JSON: .*line 1.*Correct the file"),
        (b"\xff\xfe", "a.json is not valid JSON"),
        (b"[1]", "a.json holds a list, expected a JSON object"),
        (b"", "a.json is not valid JSON"),
    ],
)
def test_bad_json(tmp_path, content, match):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        read_json(path)
    with pytest.raises(DatasetError, match=match):
        read_json(path, DatasetError)


def test_hash_of_a_file_is_sha256_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000  # more than one piece
    (tmp_path / "a").write_bytes(content)
    assert hash_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_hash_of_json_knows_no_order_but_every_value():
    assert hash_json({"a": 1, "b": [1, 2]}) == hash_json({"b": [1, 2], "a": 1})
    assert hash_json({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert len({hash_json(x) for x in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]})}) == 5
