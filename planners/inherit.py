"""`inherits_from`: a configuration that says only in what it differs from another one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ldseg_auto.errors import PlansError

KEY = "inherits_from"
VOXELS = ("spacing", "normalisation", "use_mask_for_norm", "resampling")  # what decides the preprocessed voxels
MEMORY = ("memory_gib", "prediction_memory_gib")  # estimates; true of what follows only
DECIDE_MEMORY = ("patch_size", "batch_size", "network", "latent", "method", "inference")


def resolve(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fills every configuration of a plans file with what it leaves out and its parent has, section by section.

    A configuration whose voxels differ from its parent's is preprocessed into a folder of its own, PLANS_NAME, unless it names one;
    an estimate of memory that no longer holds is left out. Each changed value gets a reason, where the configuration has no reasons.

    Args:
        content: the JSON object of the file. It is not changed.
        source: what errors name, usually the file.

    Raises:
        PlansError: a parent that is not there, or configurations that inherit from each other in a circle (the chain is shown).
    """
    given = content.get("configurations")
    if not isinstance(given, Mapping) or not all(isinstance(c, Mapping) for c in given.values()):
        return dict(content)  # the reader says what is wrong with it
    prefix = content.get("plans_name", "plans")
    return {**content, "configurations": {name: _resolved(name, given, f"{prefix}_{name}", source) for name in given}}


def _resolved(name: str, given: Mapping[str, Any], folder: str, source: str) -> dict[str, Any]:
    chain = _chain(name, given, source)
    if len(chain) == 1:
        return dict(given[name])
    parent = _resolved(chain[1], given, folder, source)
    own = given[name]
    out = merge(parent, own)
    differing = [path for path in leaves(own) if at(parent, path) != at(own, path) and path != KEY]
    touched = {path.split(".")[0] for path in differing}
    if "data_identifier" not in own and touched & set(VOXELS):
        out["data_identifier"] = folder
    if touched & set(DECIDE_MEMORY):
        out = {key: value for key, value in out.items() if key not in MEMORY or key in own}
    changed = {p: f"set to {shown(at(own, p))} by hand, where {chain[1]} has {shown(at(parent, p))}" for p in differing}
    out["reasons"] = own.get("reasons", {**parent.get("reasons", {}), **changed})
    return out


def _chain(name: str, given: Mapping[str, Any], source: str) -> list[str]:
    """The configuration and its ancestors, nearest first."""
    chain = [name]
    while (parent := given[chain[-1]].get(KEY)) is not None:
        path = f"{source}: configurations.{chain[-1]}.{KEY} = {parent!r}"
        if parent in chain:
            raise PlansError(f"{path} closes a circle: {' -> '.join([*chain, parent])}. Take {KEY} out of one of them.")
        if not isinstance(parent, str) or parent not in given:
            raise PlansError(f"{path}: there is no such configuration; there are {', '.join(given)}.")
        chain.append(parent)
    return chain


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `base`; objects that both have are merged in the same way, everything else is replaced whole."""
    out = dict(base)
    for key, value in own.items():
        there = out.get(key)
        out[key] = merge(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    return out


def leaves(content: Mapping[str, Any], path: str = "") -> list[str]:
    """Dotted paths of all values of a JSON object that are no objects themselves; `reasons` is one value."""
    out = []
    for key, value in content.items():
        here = f"{path}.{key}" if path else key
        out += leaves(value, here) if isinstance(value, Mapping) and key != "reasons" else [here]
    return out


def at(content: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for key in path.split("."):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def shown(value: Any) -> str:
    """A value as it would be written after `--set PATH=`."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
