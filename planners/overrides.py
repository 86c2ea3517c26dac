"""`--set path=value`: any field of the plans, by its path."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ldseg_auto.errors import PlansError
from ldseg_auto.planners.inherit import KEY, MEMORY, at, leaves, merge, resolve, shown
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.planners.serialise import from_dict, to_dict

T = TypeVar("T")
RECORDED = "it records how the plans came about, and setting it would change nothing"
RECORDS = ("median_shape", "raters", "reasons", "latent.ceiling", "latent.ceilings", KEY, *MEMORY)  # of a configuration
SETTABLE = ("default_configuration",)  # beside the configurations
FIXED = {
    "dataset_name": "it names the data", "plans_name": "--plans-name names the plans", "fingerprint_hash": "it names the data",
    "file_ending": "it is the dataset's", "transpose_forward": "every size in the plans is in its order, which follows from the spacing",
    "foreground_intensities": "they are measured (--from-dataset takes those of another dataset)",
    "configurations": "write NAME.PATH=VALUE for one of them", "reasons": RECORDED, "choices": RECORDED, "version": "it is the format's",
}  # fmt: skip


def override(configuration: Configuration, settings: Iterable[str], name: str = "") -> Configuration:
    """Applies settings such as `training.epochs=50` or `patch_size=[64,64]` (values are JSON; bare words are text).

    Args:
        name: of the configuration; a path may start with it.

    Raises:
        PlansError: no '=' in a setting, no such path (the nearest is named), a path set to two values, or an impossible value.
    """
    content: dict[str, Any] = to_dict(configuration)
    parsed = parse(s.strip().removeprefix(f"{name}.") if name else s for s in settings)
    for path, value in parsed.items():
        _check_path(path, path)
        _assign(content, path, value)
    return _explained(lambda: from_dict(Configuration, content, "--set"), parsed, "")


def override_plans(content: Mapping[str, Any], settings: Iterable[str]) -> Plans:
    """Applies settings to plans: `PATH=VALUE` for every configuration, `NAME.PATH=VALUE` for one, which then comes first.

    `NAME.inherits_from=PARENT` makes a new configuration. Each change is written into `reasons`, with what was there before.

    Args:
        content: possible plans as JSON, whose configurations may inherit. Not changed.

    Raises:
        PlansError: see override; or a field that records where the plans come from.
    """
    parsed, out = parse(settings), copy.deepcopy(dict(content))
    known: dict[str, Any] = out["configurations"]
    new = {p.removesuffix(f".{KEY}"): v for p, v in parsed.items() if p.endswith(f".{KEY}") and p.partition(".")[0] not in known}
    known.update({name: {KEY: parent} for name, parent in new.items()})
    of_one = {p: v for p, v in parsed.items() if p.partition(".")[0] in known}
    for path, value in parsed.items():
        if path in SETTABLE:
            out[path] = value
        elif path not in of_one:
            _check_settable(path, path, known)
            _assign_to_all(known, path, value)
    for path, value in of_one.items():
        name, _, rest = path.partition(".")
        if rest != KEY or name not in new:
            _check_settable(rest, path, known)
            _assign(known[name], rest, value)
    hint = " PATH=VALUE sets it in every configuration, NAME.PATH=VALUE in one." if len(known) > 1 and len(of_one) < len(parsed) else ""
    plans = _explained(lambda: Plans.from_dict(out, "--set"), parsed, hint)
    return _with_reasons(plans, resolve(content, "plans")["configurations"], [*parsed, *(p.partition(".")[2] for p in of_one)])


def new_names(settings: Iterable[str]) -> list[str]:
    """Configurations that settings of `NAME.inherits_from` may make."""
    return [path.removesuffix(f".{KEY}") for path in parse(settings) if path.endswith(f".{KEY}")]


def field_paths(cls: type = Configuration, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> type of every field below a dataclass, sections and their fields alike."""
    out: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for name in (f.name for f in dataclasses.fields(cls)):  # type: ignore[arg-type]
        out[prefix + name] = hint = hints[name]
        out |= field_paths(typing.cast(type, hint), f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {}
    return out


def parse(settings: Iterable[str]) -> dict[str, Any]:
    """Path -> value; an object `training={"epochs":5}` counts as its fields.

    Raises:
        PlansError: no '=', or two values for one path.
    """
    out: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not path:
            raise PlansError(f"--set {setting}: expected path=value, for instance training.epochs=50.")
        value = _parse_value(text)
        for leaf in leaves(value, path) if isinstance(value, Mapping) else [path]:
            found = at(value, leaf.removeprefix(f"{path}.")) if leaf != path else value
            if leaf in out and out[leaf] != found:
                raise PlansError(f"--set {leaf} is given twice, as {out[leaf]!r} and as {found!r}: keep one.")
            out[leaf] = found
    return out


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _check_settable(path: str, whole: str, names: Iterable[str]) -> None:
    """Raises PlansError where `path` is no field, or one that says where the plans come from; `whole` is as it was given."""
    head = path.partition(".")[0]
    if path == whole and head in FIXED:
        raise PlansError(f"--set {whole}: {FIXED[head]}. Leave it out.")
    if path in RECORDS or head in RECORDS:
        raise PlansError(f"--set {whole}: {RECORDED}. Leave it out.")
    _check_path(path, whole, names)


def _check_path(path: str, whole: str, names: Iterable[str] = ()) -> None:
    known = field_paths()
    if path in known:
        return
    parent = path.rpartition(".")[0]
    inside = [p[len(parent) + 1 :] for p in known if parent and p.startswith(f"{parent}.")] or [p for p in known if "." not in p]
    candidates = [p for p in known if p.split(".")[-1] == path] or difflib.get_close_matches(
        whole, [*known, *SETTABLE, *(f"{n}.{p}" for n in names for p in known)], n=1
    )
    nearest = f" Did you mean {' or '.join(candidates)}?" if candidates else ""
    raise PlansError(f"--set {whole}: there is no such field. Known here: {', '.join(inside)}.{nearest}")


def _assign_to_all(configurations: Mapping[str, Any], path: str, value: Any) -> None:
    """In every configuration that would not inherit it."""
    for own in configurations.values():
        if own.get(KEY) is None or path in leaves(own):
            _assign(own, path, value)


def _assign(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
    there = content.get(last)
    content[last] = merge(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value


def _explained(make: Callable[[], T], parsed: Mapping[str, Any], hint: str) -> T:
    """What `make` gives; its error names all settings, of which two may contradict each other."""
    try:
        return make()
    except PlansError as cause:
        given = f" The settings were {', '.join(f'{p}={shown(v)}' for p, v in parsed.items())}." if len(parsed) > 1 else ""
        raise PlansError(f"{cause}{given}{hint}") from None


def _with_reasons(plans: Plans, before: Mapping[str, Any], paths: Iterable[str]) -> Plans:
    """`plans` whose reasons say what was set, and in place of what."""
    changed = {}
    for name, configuration in plans.configurations.items():
        content, origin = to_dict(configuration), name
        while origin not in before:  # made here: what its parent had
            origin = plans.configurations[origin].inherits_from or ""
        old, stated = before[origin], configuration.reasons if origin != name else {}
        differing = [p for p in dict.fromkeys(paths) if p != KEY and at(content, p) != at(old, p) and "by hand" not in stated.get(p, "")]
        why = {p: f"set to {shown(at(content, p))} by hand, in place of {shown(at(old, p))}" for p in differing}
        was = {p: f" ({configuration.reasons[p]})" for p in differing if p in configuration.reasons}
        reasons = {**configuration.reasons, **{p: text + was.get(p, "") for p, text in why.items()}}
        changed[name] = dataclasses.replace(configuration, reasons=reasons)
    return dataclasses.replace(plans, configurations=changed)
