"""Frozen dataclasses to JSON and back, strictly: unknown keys and wrong types are refused with the key's path."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ldseg_auto.errors import PlansError

T = TypeVar("T")


class RuleBroken(PlansError):
    """A value breaks a rule of its dataclass; carries the key, so that the loader can say the whole path."""

    def __init__(self, key: str, value: object, rule: str) -> None:
        super().__init__(f"{key} = {value!r} is not possible: expected {rule}.")
        self.key, self.value, self.rule = key, value, rule


def require(holds: bool, key: str, value: object, rule: str) -> None:
    """Raises RuleBroken unless `holds`."""
    if not holds:
        raise RuleBroken(key, value, rule)


def to_dict(value: Any) -> Any:
    """Dataclasses to dictionaries and tuples to lists, recursively."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_dict(v) for v in value]
    return value


def from_dict(cls: type[T], content: Any, source: str, path: str = "") -> T:
    """Builds dataclass `cls` from a JSON object.

    A class may name keys of earlier versions, `RETIRED`, with the value at which they did nothing: that value is passed over.

    Args:
        content: the JSON object.
        source: what the error names, usually the file.
        path: the key path of `content` within the source.

    Raises:
        PlansError: with source, key path, value and rule.
    """
    if not isinstance(content, Mapping):
        raise PlansError(f"{source}: {path or 'the whole'} = {content!r} should be an object {{...}}.")
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    retired: Mapping[str, Any] = getattr(cls, "RETIRED", {})
    for key, value in content.items():
        if key in retired:
            if value not in (None, retired[key]):
                raise PlansError(
                    f"{source}: {_join(path, key)} = {value!r}: this was removed; without it is {retired[key]!r}. Delete the key."
                )
        elif key not in known:
            raise PlansError(f"{source}: unknown key '{_join(path, str(key))}'. Known here: {', '.join(known)}.")
    hints = _hints(cls)  # type: ignore[arg-type]
    values = {}
    for name, spec in known.items():
        if name in content:
            values[name] = _convert(hints[name], content[name], source, _join(path, name))
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise PlansError(f"{source}: key '{_join(path, name)}' is missing.")
    try:
        return cls(**values)
    except RuleBroken as broken:
        raise PlansError(f"{source}: {_join(path, broken.key)} = {broken.value!r} is not possible: expected {broken.rule}.") from None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _convert(hint: Any, value: Any, source: str, path: str) -> Any:
    """`value` as `hint`: dataclass, tuple, dict, optional or plain."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, source, path)
    if origin is tuple:
        return _convert_tuple(args, value, source, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise PlansError(f"{source}: {path} = {value!r} should be an object {{...}}.")
        return {k: _convert(args[1], v, source, _join(path, k)) for k, v in value.items()}
    if origin is types.UnionType:
        return None if value is None else _convert(args[0], value, source, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise PlansError(f"{source}: {path} = {value!r} should be of type {hint.__name__}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise PlansError(f"{source}: {path} = {value!r} should be a finite number.")
    return value


def _convert_tuple(args: tuple[Any, ...], value: Any, source: str, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise PlansError(f"{source}: {path} = {value!r} should be a list.")
    if args[-1] is not Ellipsis and len(args) != len(value):
        raise PlansError(f"{source}: {path} = {value!r} should have {len(args)} entries.")
    return tuple(_convert(args[0], v, source, f"{path}[{i}]") for i, v in enumerate(value))
