"""Hostile and damaged archives: refused with the reason, and no trace left."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldseg_auto.errors import InputError, PlansError
from ldseg_auto.sharing.install import import_model

Forge = Callable[..., Path]


def test_the_forger_can_make_a_good_one(forge: Forge, tmp_path: Path) -> None:
    """Otherwise the tests below would fail for another reason."""
    assert import_model(forge(), tmp_path / "results").folder.is_dir()
    (tmp_path / "2").mkdir()
    assert import_model(forge(manifest={"licence": "mine"}), tmp_path / "2" / "results").manifest.licence == "mine"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json", "/etc/evil", "fold_0/../../evil", "C:/evil", "C:evil", "fold_0\\..\\evil", "./plans.json", "fold_0//plans.json",
        "fold_0/", "a\nb", "..",
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere(refused: Callable, forge: Forge, tmp_path: Path, name: str) -> None:
    entry = zipfile.ZipInfo("x")
    entry.filename = name  # as it is: the constructor tidies it up
    refused(forge(raw=((entry, b"evil"),)), tmp_path / "results", "is no plain relative path. Nothing was unpacked")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_special_files(refused: Callable, forge: Forge, tmp_path: Path, kind: int) -> None:
    entry = zipfile.ZipInfo("fold_0/latent.json")
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    refused(forge(raw=((entry, b"/etc/passwd"),)), tmp_path / "results", "latent.json' is a link or another special file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["plans.json", "PLANS.JSON", "Fold_0/weights.npz", "manifest.json"])
def test_two_files_of_one_name(refused: Callable, forge: Forge, tmp_path: Path, name: str) -> None:
    refused(forge(raw=((name, b"{}"),)), tmp_path / "results", "is there twice, or another name differs in case only")


def test_compressed_and_encrypted_files(refused: Callable, forge: Forge, tmp_path: Path) -> None:
    """A bomb has to be compressed."""
    bomb = forge(files={"fold_0/latent.json": b"0" * 2**24}, compress=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 2**22
    refused(bomb, tmp_path / "results", "is compressed; an archive of ldseg_export is not")
    path = forge()
    with zipfile.ZipFile(path) as opened:
        directory = opened.start_dir
    data = bytearray(path.read_bytes())
    data[directory + 8] |= 1  # the first entry's flags: encrypted
    path.write_bytes(data)
    refused(path, tmp_path / "results", "is encrypted")


def test_overlapping_files_that_claim_more_than_there_is(refused: Callable, forge: Forge, tmp_path: Path) -> None:
    """Many entries of the directory that point to the same bytes."""
    path = forge()
    with zipfile.ZipFile(path, "a") as opened:
        big = max(opened.infolist(), key=lambda info: info.file_size)
        for number in range(3):
            twin = zipfile.ZipInfo(f"fold_{number + 2}/weights.npz")
            for name in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(twin, name, getattr(big, name))
            opened.filelist.append(twin)
        opened._didModify = True
    refused(path, tmp_path / "results", r"its files claim \d+ bytes, the archive has \d+")


@pytest.mark.parametrize(
    ("files", "listed", "match"),
    [
        ({"fold_0/weights.npz": b"other"}, False, r"weights.npz has 5 bytes, the manifest says \d+"),
        ({"fold_0/steps.json": None}, False, "not all files that its manifest lists; missing: fold_0/steps.json"),
        ({"fold_0/latent.json": b"{}"}, False, "files that its manifest does not list: fold_0/latent.json"),
        ({"setup.py": b"evil"}, False, "files that its manifest does not list: setup.py"),
        ({"setup.py": b"evil"}, True, r"files = 'setup.py' is not possible: expected only the files of a model"),
        ({"fold_0/checkpoint_final.pth": b"evil"}, True, "files = 'fold_0/checkpoint_final.pth' is not possible"),
        ({"fold_x/plans.json": b"{}"}, True, "files = 'fold_x/plans.json' is not possible"),
        ({"fold_3/plans.json": b"{}"}, True, r"folds = \['0', '1'\] is not possible: expected one entry for each of the folders"),
        ({"fold_0/weights.npz": None}, True, r"files = .* expected among them \['fold_0/weights.npz'\]"),
        ({"plans.json": None}, True, r"files = .* expected among them \['plans.json'\]"),
    ],
)
def test_other_files_than_the_manifest_lists(
    refused: Callable, forge: Forge, tmp_path: Path, files: dict, listed: bool, match: str
) -> None:
    refused(forge(files=files, listed=listed), tmp_path / "results", match)


def test_a_changed_byte_anywhere(refused: Callable, archive: Path, tmp_path: Path) -> None:
    """One bit of each file's content, in turn."""
    with zipfile.ZipFile(archive) as opened:
        places = {i.filename: i.header_offset + 30 + len(i.filename) + i.file_size // 2 for i in opened.infolist()}
    for place in places.values():
        data = bytearray(archive.read_bytes())
        data[place] ^= 1
        (tmp_path / "a.zip").write_bytes(data)
        refused(tmp_path / "a.zip", tmp_path / "results", "Get the archive anew|cannot be read|is not possible")


def test_a_changed_file_with_its_checksum_mended(refused: Callable, forge: Forge, archive: Path, tmp_path: Path) -> None:
    """The zip's own CRC is right; the SHA-256 is not."""
    with zipfile.ZipFile(archive) as opened:
        steps = opened.read("fold_0/steps.json")
    changed = steps.replace(b"0.75", b"0.95")
    assert len(changed) == len(steps) != 0 and changed != steps
    path = forge(files={"fold_0/steps.json": changed}, listed=False)
    refused(path, tmp_path / "results", "fold_0/steps.json has the SHA-256 .*, the manifest says .*: it was changed or damaged")


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        ({"version": 2, "ldseg_auto": "9.9"}, "archive of version 2, written by ldseg_auto 9.9; this ldseg_auto reads version 1"),
        ({"format": "nnU-Net"}, "format = 'nnU-Net'; expected 'ldseg_auto model'"),
        ({"dataset": "../../evil"}, "dataset = '../../evil' is not possible: expected a folder's name"),
        ({"dataset": "Dataset001_a/b"}, "dataset = .* is not possible"),
        ({"model": "a__b/../c"}, "model = 'a__b/../c' is not possible: expected a folder's name"),
        ({"model": ".tmp__a"}, "model = '.tmp__a' is not possible"),
        ({"dataset": "Dataset002_Other"}, "plans.json has another dataset than the rest: Dataset001_Toy and Dataset002_Other"),
        ({"configuration": "2d"}, "plans.json has another configuration than the rest: 3d_fullres and 2d"),
        ({"folds": {}}, "folds = .* expected one or more"),
        ({"files": []}, r"files = \[\] should be an object"),
        ({"evil": 1}, "unknown key 'evil'"),
    ],
)
def test_manifests_that_cannot_be(refused: Callable, forge: Forge, tmp_path: Path, manifest: dict, match: str) -> None:
    refused(forge(manifest=manifest), tmp_path / "results", match)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_manifests_that_are_no_json_object(refused: Callable, forge: Forge, tmp_path: Path, content: bytes) -> None:
    refused(forge(manifest_bytes=content), tmp_path / "results", "manifest.json (is not valid JSON|holds a list)")


def test_no_archive(refused: Callable, tmp_path: Path) -> None:
    refused(tmp_path / "none.zip", tmp_path / "results", "none.zip does not exist")
    refused(tmp_path, tmp_path / "results", "is no file")
    (tmp_path / "a.zip").write_bytes(b"no zip")
    refused(tmp_path / "a.zip", tmp_path / "results", "a.zip cannot be read .*: it is no zip file, or damaged")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("plans.json", "{}")
    refused(tmp_path / "a.zip", tmp_path / "results", "has no manifest.json: it is no archive of ldseg_export")


def test_a_truncated_archive(refused: Callable, archive: Path, tmp_path: Path) -> None:
    data = archive.read_bytes()
    for size in (100, len(data) // 2, len(data) - 30):
        (tmp_path / "a.zip").write_bytes(data[:size])
        refused(
            tmp_path / "a.zip",
            tmp_path / "results",
            "a.zip (cannot be read|has no manifest.json: it is no archive of ldseg_export, or not whole)",
        )


def changed_plans(archive: Path, **top: Any) -> bytes:
    with zipfile.ZipFile(archive) as opened:
        return json.dumps(json.loads(opened.read("plans.json")) | top).encode()


def test_plans_of_another_version_and_impossible_ones(refused: Callable, forge: Forge, archive: Path, tmp_path: Path) -> None:
    for top, match in (
        ({"version": 2}, r"forged\.zip/plans\.json: version = 2 is not possible: expected 3; .*needs the ldseg_auto that trained it"),
        ({"evil": 2}, r"forged\.zip/plans\.json: unknown key 'evil'"),
    ):
        refused(forge(files={"plans.json": changed_plans(archive, **top)}), tmp_path / "results", match, PlansError)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("dataset.json", b"{", "dataset.json is not valid JSON"),
        ("dataset.json", b'{"labels": {}}', r"forged\.zip/dataset\.json lacks channel_names"),
        ("fold_0/steps.json", b"[1]", "steps.json holds a list"),
        ("fold_0/steps.json", b'{"chosen": "many"}', "holds a value that no model has"),
        ("fold_0/predicted_dice.json", b'{"evil": 1}', "predicted_dice.json: unknown key 'evil'"),
        ("inference.json", b"{}", "inference.json"),
        ("fold_0/latent.json", b"\xff", "latent.json is not valid JSON"),
    ],
)
def test_files_that_prediction_could_not_read(
    refused: Callable, forge: Forge, tmp_path: Path, name: str, content: bytes, match: str
) -> None:
    refused(forge(files={name: content}), tmp_path / "results", match, InputError)


def weights(archive: Path, change: Callable[[dict[str, np.ndarray]], None], pickled: bool = False) -> bytes:
    with zipfile.ZipFile(archive) as opened, np.load(io.BytesIO(opened.read("fold_0/weights.npz"))) as arrays:
        content = dict(arrays)
    change(content)
    stream = io.BytesIO()
    np.savez(stream, **content)
    return stream.getvalue()


class Evil:
    """Unpickled, it would make a file."""

    def __reduce__(self) -> tuple:
        return open, ("/tmp/ldseg_evil", "w")


BIAS = "decoder.head.bias"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.pop(BIAS), r"weights.npz does not fit plans.json: 1 weights are missing or too many \(first: decoder.head.bias.npy"),
        (lambda a: a.update(more=np.zeros(1)), "1 weights are missing or too many .first: more.npy"),
        (
            lambda a: a.update({BIAS: np.zeros(7, np.float32)}),
            r"float32 of shape \(7,\) does not fit plans.json, which asks for float32 of",
        ),
        (lambda a: a.update({BIAS: a[BIAS].astype(float)}), "float64 of shape .* does not fit"),
        (lambda a: a.update({BIAS: np.full_like(a[BIAS], np.nan)}), "decoder.head.bias holds values that are not finite"),
        (lambda a: a.update({BIAS: np.array([Evil()], dtype=object)}), "object of shape .* does not fit"),
    ],
)
def test_weights_of_another_network(refused: Callable, forge: Forge, archive: Path, tmp_path: Path, change: Callable, match: str) -> None:
    refused(forge(files={"fold_0/weights.npz": weights(archive, change)}), tmp_path / "results", match)
    assert not Path("/tmp/ldseg_evil").exists()


def test_a_checkpoint_with_a_pickle_in_place_of_the_weights(refused: Callable, forge: Forge, tmp_path: Path) -> None:
    torch.save({"ema": Evil()}, tmp_path / "c.pth")
    refused(forge(files={"fold_0/weights.npz": (tmp_path / "c.pth").read_bytes()}), tmp_path / "results", "weights.npz")
    assert not Path("/tmp/ldseg_evil").exists()


def test_an_array_that_claims_to_be_huge(refused: Callable, forge: Forge, tmp_path: Path, archive: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": (2**50,), "fortran_order": False, "descr": "<f4"})
    with zipfile.ZipFile(archive) as opened, zipfile.ZipFile(io.BytesIO(opened.read("fold_0/weights.npz"))) as inner:
        content = {name: inner.read(name) for name in inner.namelist()}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as out:
        for name, data in (content | {f"{BIAS}.npy": stream.getvalue()}).items():
            out.writestr(name, data)
    refused(forge(files={"fold_0/weights.npz": target.getvalue()}), tmp_path / "results", "does not fit plans.json")
