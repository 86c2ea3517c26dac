"""Files written whole or not at all, and hashes of what was read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldseg_auto.errors import InputError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` with the same ending; renamed to `path` on success, removed on failure.

    Raises:
        OSError: the folder cannot be written (for instance: no space left on device); `path` is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".tmp_", suffix="_" + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically; not-a-number is refused (it is not JSON)."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


class Encoded:
    """Texts of named values, each made once: for files of many entries that are written anew after every one.

    Args:
        encode: (name, value) -> text.
    """

    def __init__(self, encode: Callable[[str, Any], str]) -> None:
        self._encode = encode
        self._made: dict[str, tuple[Any, str]] = {}

    def __call__(self, values: Mapping[str, Any]) -> list[str]:
        """The texts in the order of `values`; one is made where the name is new or its value another object than last time."""
        for name, value in values.items():
            if name not in self._made or self._made[name][0] is not value:
                self._made[name] = value, self._encode(name, value)
        return [self._made[name][1] for name in values]


def json_member(name: str, value: Any) -> str:
    """A member of an object that is itself a member of a JSON file, as `write_json` indents it."""
    text = json.dumps(value, indent=2, allow_nan=False).replace("\n", "\n    ")
    return f"    {json.dumps(name)}: {text}"


def write_json_members(path: Path, content: Mapping[str, Any], key: str, members: Sequence[str]) -> None:
    """As `write_json` of `content` with a last entry `key`, whose members are texts of `json_member` already."""
    start = json.dumps({**content, key: {}}, indent=2, allow_nan=False).removesuffix("{}\n}")
    inside = ",\n".join(members)
    write_text(path, start + (f"{{\n{inside}\n  }}" if members else "{}") + "\n}\n")


def read_json(path: Path, error: type[InputError] = InputError) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        error: the file is missing, is not JSON, or is not an object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as cause:
        raise error(f"{path} is not valid JSON: {cause}. Correct the file.") from None
    if not isinstance(content, dict):
        raise error(f"{path} holds a {type(content).__name__}, expected a JSON object {{...}}.")
    return content


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object in canonical form: independent of key order and white space."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
