"""Checkpoints: whole or not at all, and refused when damaged or of other data."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

import pytest
import torch

from ldseg_auto.errors import ModelError
from ldseg_auto.training import checkpoint

CONTENT = {
    "ema": {"weight": torch.arange(3.0)},
    "iteration": 7,
    "rows": [{"dice": None, "loss": 0.5}],
    "dataset_name": "A",
    "fingerprint_hash": "f",
}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "fold_0" / "checkpoint.pth"
    checkpoint.save(path, CONTENT)
    content = checkpoint.load(path)
    assert content["rows"] == CONTENT["rows"] and content["iteration"] == 7
    torch.testing.assert_close(content["ema"], CONTENT["ema"])


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pth"
    checkpoint.save(path, CONTENT)
    before = path.read_bytes()

    def full(content: object, target: IO[bytes]) -> None:
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"iteration": 8})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """What torch raises on /dev/full is about stream positions; it becomes what the system said, with the checkpoint's name."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    path = tmp_path / "checkpoint_latest.pth"
    with pytest.raises(OSError, match="No space left on device: '.*checkpoint_latest.pth'") as caught:
        checkpoint._write(Path("/dev/full"), CONTENT, path)
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_becomes_full_within_the_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for it; the error comes from the middle of torch's writing."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "checkpoint_latest.pth"
    checkpoint.save(path, CONTENT)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large: '.*checkpoint_latest.pth'"):
            checkpoint.save(path, {"ema": torch.zeros(10**6)}, tmp_path / "checkpoint_previous.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_an_error_that_is_not_the_disks_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("not about writing")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="not about writing"):
        checkpoint.save(tmp_path / "checkpoint.pth", CONTENT)


@pytest.mark.parametrize("links", [True, False])
def test_the_old_one_becomes_the_previous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """With hard links the latest is there at every moment, without them one of the two is."""
    latest, previous = tmp_path / "checkpoint_latest.pth", tmp_path / "checkpoint_previous.pth"
    real = os.replace
    seen: list[bool] = []

    def watched(source: Path, target: Path) -> None:
        real(source, target)
        seen.append(latest.exists() if links else latest.exists() or previous.exists())

    def refused(*args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "replace", watched)
    if not links:
        monkeypatch.setattr(os, "link", refused)
    for i in range(4):
        checkpoint.save(latest, {"iteration": i}, previous)
        assert checkpoint.load(latest)["iteration"] == i
        assert checkpoint.load(previous)["iteration"] == i - 1 if i else not previous.exists()
    assert all(seen) and {p.name for p in tmp_path.iterdir()} == {latest.name, previous.name}


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.pth does not exist; train first"):
        checkpoint.load(tmp_path / "none.pth")


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    checkpoint.save(path, CONTENT)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelError, match=r"checkpoint.pth cannot be read .*damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_byte_that_changed_on_disk(tmp_path: Path, share: float) -> None:
    """torch itself reads over it: a weight would be another one."""
    path = tmp_path / "checkpoint.pth"
    checkpoint.save(path, {"ema": torch.arange(10_000.0)})
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 0x10
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    with pytest.raises(ModelError, match=r"checkpoint.pth cannot be read \(BadZipFile\); it is damaged"):
        checkpoint.load(path)


def fill(folder: Path, iterations: dict[str, int | None]) -> None:
    """Checkpoints of these iterations; None is a damaged one."""
    for name, iteration in iterations.items():
        path = folder / f"checkpoint_{name}.pth"
        checkpoint.save(path, {"iteration": iteration or 0})
        if iteration is None:
            path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("there", "chosen", "aside"),
    [
        ({}, None, []),
        ({"best": 5}, None, []),
        ({"latest": 5}, "latest", []),
        ({"latest": 5, "previous": 4}, "latest", []),
        ({"final": 5, "latest": 5}, "final", []),
        ({"final": 5, "latest": 8, "previous": 7}, "latest", []),  # a finished training that is being continued
        ({"final": 5, "latest": None, "previous": 7}, "previous", ["latest"]),
        ({"latest": None, "previous": 4}, "previous", ["latest"]),
        ({"previous": 4}, "previous", []),  # killed where the file system has no hard links
        ({"latest": 5, "previous": None}, "latest", []),  # not even looked at
        ({"final": None, "latest": 5}, "latest", ["final"]),
        ({"final": None, "latest": None, "previous": 4}, "previous", ["final", "latest"]),
    ],
)
def test_the_furthest_that_can_be_read(
    tmp_path: Path, there: dict[str, int | None], chosen: str | None, aside: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, there)
    found = checkpoint.furthest(tmp_path)
    assert (found and found.path.name) == (chosen and f"checkpoint_{chosen}.pth")
    assert not found or found.content["iteration"] == there[str(chosen)]
    assert sorted(p.name for p in tmp_path.glob("*.damaged")) == sorted(f"checkpoint_{n}.pth.damaged" for n in aside)
    for name in aside:
        assert f"checkpoint_{name}.pth cannot be read" in caplog.text
        assert f"Going on from checkpoint_{chosen}.pth, iteration {there[str(chosen)]}; what came after is trained again." in caplog.text


@pytest.mark.parametrize("names", [("latest",), ("latest", "previous"), ("final", "latest", "previous")])
def test_all_damaged(tmp_path: Path, names: tuple[str, ...]) -> None:
    fill(tmp_path, dict.fromkeys(names))
    with pytest.raises(ModelError, match=r"holds no checkpoint that can be read: .*Move the folder away and train anew") as caught:
        checkpoint.furthest(tmp_path)
    assert all(f"checkpoint_{name}.pth cannot be read" in str(caught.value) for name in names)
    assert len(list(tmp_path.glob("*.pth"))) == len(names)  # nothing is moved


def test_of_another_configuration() -> None:
    checkpoint.check_configuration({"configuration": "2d"}, "2d", Path("p"))
    checkpoint.check_configuration({}, "2d", Path("p"))  # of an earlier version
    with pytest.raises(ModelError, match="checkpoint p is of configuration 3d_fullres, not 2d"):
        checkpoint.check_configuration({"configuration": "3d_fullres"}, "2d", Path("p"))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"ema": Path("x")}, path)
    with pytest.raises(ModelError, match="UnpicklingError"):
        checkpoint.load(path)


def test_something_else(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="holds a list; it is no checkpoint"):
        checkpoint.load(path)


def test_origin() -> None:
    checkpoint.check_origin(CONTENT, "A", "f", Path("p"))
    for name, digest in (("B", "f"), ("A", "g")):
        with pytest.raises(ModelError, match=rf"trained on A \(fingerprint f\), the plans are of {name} \({digest}\)"):
            checkpoint.check_origin(CONTENT, name, digest, Path("p"))
    with pytest.raises(ModelError, match="trained on None"):
        checkpoint.check_origin({}, "A", "f", Path("p"))
