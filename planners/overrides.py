"""`--set path=value`: any field of a configuration, by its path."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ldseg_auto.errors import PlansError
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.planners.serialise import from_dict, to_dict


def override(configuration: Configuration, settings: Iterable[str]) -> Configuration:
    """Applies settings such as `training.epochs=50` or `patch_size=[64,64]` (values are JSON; bare words are text).

    Raises:
        PlansError: no '=' in a setting, no such path, a path set twice to different values, or an impossible value.
    """
    content: dict[str, Any] = to_dict(configuration)
    seen: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        path = path.strip()
        if not equals or not path:
            raise PlansError(f"--set {setting}: expected path=value, for instance training.epochs=50.")
        value = _parse(text)
        if path in seen and seen[path] != value:
            raise PlansError(f"--set {path} is given twice, as {seen[path]!r} and as {value!r}: keep one.")
        seen[path] = value
        _assign(content, path, value)
    return from_dict(Configuration, content, "--set")


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text.strip()


def _assign(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    target = content
    for parent in parents:
        target = target.get(parent) if isinstance(target, dict) else None  # type: ignore[assignment]
    if not isinstance(target, dict) or last not in target:
        known = ", ".join(target) if isinstance(target, dict) else ", ".join(content)
        raise PlansError(f"--set {path}: there is no such field. Known here: {known}.")
    target[last] = value
