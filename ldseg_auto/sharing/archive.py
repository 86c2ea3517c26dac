"""The archive: a zip of uncompressed files with the hash of each. Nothing is unpacked that was not verified.

Uncompressed, its bytes depend on no compressor's version, and a file cannot grow when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ldseg_auto.errors import ModelError, PlansError
from ldseg_auto.planners.serialise import from_dict
from ldseg_auto.progress import Progress, silent
from ldseg_auto.sharing import manifest as contents
from ldseg_auto.sharing.manifest import FORMAT, VERSION, Entry, Manifest

EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every file
LONGEST_MANIFEST = 2**24  # bytes
BLOCK = 2**20
UNREADABLE = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError, OSError)  # what zipfile makes of damage


class Writer:
    """A zip being written, file by file: the same files in the same order give the same bytes. A context manager."""

    def __init__(self, target: Path | IO[bytes]) -> None:
        self.zip = zipfile.ZipFile(target, "w", zipfile.ZIP_STORED)
        self.entries: dict[str, Entry] = {}

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.zip.close()

    def add(self, name: str, content: bytes) -> None:
        """Writes one file."""
        info = zipfile.ZipInfo(name, EPOCH)
        info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # as on Unix, wherever it runs
        self.zip.writestr(info, content)
        self.entries[name] = Entry(len(content), hashlib.sha256(content).hexdigest())


def check_entries(opened: zipfile.ZipFile, size: int, source: str) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by name, none of which leads elsewhere, is there twice or holds more than the zip has bytes.

    Args:
        size: bytes of the zip.
        source: names it in errors.

    Raises:
        ModelError: one does.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in opened.infolist():
        if reason := _refusal(info):
            raise ModelError(f"{source}: {info.orig_filename!r} {reason}. Nothing was unpacked.")
        if info.filename.casefold() in seen:
            raise ModelError(f"{source}: {info.filename!r} is there twice, or another name differs in case only. Nothing was unpacked.")
        seen.add(info.filename.casefold())
        found[info.filename] = info
    total = sum(info.file_size for info in found.values())
    if total > size:
        raise ModelError(f"{source}: its files claim {total} bytes, the archive has {size}. Nothing was unpacked.")
    return found


def _refusal(info: zipfile.ZipInfo) -> str:
    """Why a file of a zip is not taken; empty where it is."""
    name, mode = info.orig_filename, info.external_attr >> 16
    parts = name.split("/")
    if any(c in name for c in "\\:") or any(ord(c) < 32 for c in name) or any(p in ("", ".", "..") for p in parts):
        return "is no plain relative path"  # an absolute one begins with an empty part, a folder ends with one
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a link or another special file"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        return "is compressed; an archive of ldseg_export is not"
    return ""


class Archive:
    """An archive opened for reading; a context manager.

    Args:
        path: of the archive.

    Raises:
        ModelError: no zip, a file in it that must not be, no manifest or one of another version, or files that are not those of it.
        PlansError: a key or value of the manifest that cannot be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ModelError(f"archive {path} does not exist, or is no file.")
        with self._readable():
            self.zip = zipfile.ZipFile(path)
        try:
            self.entries = check_entries(self.zip, os.path.getsize(path), str(path))
            self.manifest = self._read_manifest()
            self._compare()
        except BaseException:
            self.zip.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.zip.close()

    def verify(self, progress: Progress = silent) -> None:
        """Reads every file and compares its hash; raises ModelError."""
        for name in progress(sorted(self.manifest.files), "verifying", total=len(self.manifest.files)):
            digest = hashlib.sha256()
            with self._readable(), self.zip.open(self.entries[name]) as stream:
                while chunk := stream.read(BLOCK):
                    digest.update(chunk)
            self._check_hash(name, digest.hexdigest())

    def read(self, name: str) -> bytes:
        """A file's bytes, whose hash is that of the manifest; raises ModelError."""
        with self._readable():
            content = self.zip.read(self.entries[name])
        self._check_hash(name, hashlib.sha256(content).hexdigest())
        return content

    def _check_hash(self, name: str, found: str) -> None:
        if found != self.manifest.files[name].sha256:
            raise ModelError(
                f"{self.path}: {name} has the SHA-256 {found[:12]}, the manifest says {self.manifest.files[name].sha256[:12]}: it was "
                "changed or damaged since the export. Get the archive anew."
            )

    def _read_manifest(self) -> Manifest:
        info = self.entries.get(contents.NAME)
        if info is None:
            raise ModelError(f"{self.path} has no {contents.NAME}: it is no archive of ldseg_export, or not whole.")
        if info.file_size > LONGEST_MANIFEST:
            raise ModelError(f"{self.path}: {contents.NAME} has {info.file_size} bytes; expected {LONGEST_MANIFEST} at most.")
        with self._readable():
            text = self.zip.read(info)
        content = parse_json(text, f"{self.path}: {contents.NAME}")
        if content.get("format") != FORMAT:
            raise ModelError(
                f"{self.path}: {contents.NAME}: format = {content.get('format')!r}; expected {FORMAT!r}, as ldseg_export writes."
            )
        if content.get("version") != VERSION:
            raise ModelError(
                f"{self.path} is an archive of version {content.get('version')!r}, written by ldseg_auto {content.get('ldseg_auto')}; this "
                f"ldseg_auto reads version {VERSION}. Import it with the one that wrote it, or export it again with this one."
            )
        try:
            return from_dict(Manifest, content, f"{self.path}: {contents.NAME}")
        except PlansError as cause:
            raise ModelError(f"{cause} Nothing was unpacked.") from None

    def _compare(self) -> None:
        """Raises ModelError unless the files are those of the manifest, each of its size."""
        there, listed = set(self.entries) - {contents.NAME}, self.manifest.files
        for names, what in (
            (there - set(listed), "files that its manifest does not list"),
            (set(listed) - there, "not all files that its manifest lists; missing"),
        ):
            if names:
                raise ModelError(f"{self.path} holds {what}: {', '.join(sorted(names)[:5])}. Nothing was unpacked.")
        for name, entry in listed.items():
            if self.entries[name].file_size != entry.size:
                raise ModelError(
                    f"{self.path}: {name} has {self.entries[name].file_size} bytes, the manifest says {entry.size}. Nothing was unpacked."
                )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """What goes wrong while the zip is read becomes a ModelError."""
        try:
            yield
        except UNREADABLE as cause:
            raise ModelError(f"{self.path} cannot be read ({cause}): it is no zip file, or damaged. Get the archive anew.") from cause


def parse_json(content: bytes, source: str) -> dict[str, Any]:
    """A JSON object; raises ModelError."""
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as cause:
        raise ModelError(f"{source} is not valid JSON ({type(cause).__name__}). Get the archive anew.") from None
    if not isinstance(found, dict):
        raise ModelError(f"{source} holds a {type(found).__name__}, expected a JSON object.")
    return found
