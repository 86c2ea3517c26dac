"""Labels: the raw values of a dataset, the consecutive indices that networks see, and regions (numpy only)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ldseg_auto.errors import DatasetError

logger = logging.getLogger(__name__)

LARGEST_VALUE = 65535  # label files are written with 8 or 16 bits
SHOWN = 10  # undeclared values named in an error


@dataclass(frozen=True)
class LabelSpec:
    """What the values of a label map mean.

    Index 0 is the background, the others follow ascending by raw value; the ignore label, if there is one, is the last index.

    Args:
        names: of the heads without the background: one per foreground class ascending by value, or one per region as declared.
        values: raw value of each index, background first, ignore excluded.
        ignore_value: raw value of voxels that nobody annotated; None without.
        regions: raw values of each region; empty for a dataset of plain classes.
        paint: raw value that each region paints, in the order of `regions` (nnU-Net's regions_class_order).
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    ignore_value: int | None = None
    regions: tuple[tuple[int, ...], ...] = ()
    paint: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, labels: Any, regions_class_order: Any = None, source: str = "dataset.json") -> LabelSpec:
        """Reads `labels` of a dataset.json: name -> value, or name -> list of values (a region).

        Raises:
            DatasetError: a rule is broken; the message names the entry, its value and the rule.
        """
        entries = _entries(labels, source)
        ignore = _take_ignore(entries, source)
        if "background" not in entries or entries["background"] != (0,):
            shown = f"is {labels['background']!r}" if "background" in labels else "is missing"
            raise DatasetError(f'{source}: labels: background {shown}; it must be there and be 0. Add "background": 0.')
        foreground = {n: v for n, v in entries.items() if n != "background"}
        if not foreground:
            raise DatasetError(f"{source}: labels declare no class besides the background and ignore; at least one is needed.")
        _check_foreground(foreground, source)
        values = sorted({v for group in foreground.values() for v in group})
        if ignore is not None and ignore <= values[-1]:
            raise DatasetError(f"{source}: labels: ignore = {ignore}; it must be the highest value, above {values[-1]}.")
        if all(len(v) == 1 for v in foreground.values()):
            if regions_class_order is not None:
                logger.info("%s: regions_class_order has no effect: every label is a single value.", source)
            names = sorted(foreground, key=lambda n: foreground[n])
            return cls(tuple(names), (0, *values), ignore)
        paint = _paint_order(regions_class_order, list(foreground), values, source)
        return cls(tuple(foreground), (0, *values), ignore, tuple(foreground.values()), paint)

    @property
    def foreground_names(self) -> tuple[str, ...]:
        """One name per foreground class, or one per region."""
        return self.names

    @property
    def has_regions(self) -> bool:
        """Whether the heads are regions, which may overlap, and not classes."""
        return bool(self.regions)

    @property
    def num_heads(self) -> int:
        """Outputs of a network: classes with the background, or regions."""
        return len(self.regions) if self.regions else len(self.values)

    @property
    def ignore_index(self) -> int | None:
        """Index of the ignore label; None without."""
        return None if self.ignore_value is None else len(self.values)

    @cached_property
    def table(self) -> np.ndarray:
        """(indices with ignore, heads) float32: row i holds the heads that index i switches on; all zero for ignore."""
        rows = len(self.values) + (self.ignore_value is not None)
        table = np.zeros((rows, self.num_heads), np.float32)
        for index, value in enumerate(self.values):
            for head in range(self.num_heads):
                table[index, head] = value in self.regions[head] if self.regions else index == head
        return table

    @property
    def _raw(self) -> np.ndarray:
        ignore = () if self.ignore_value is None else (self.ignore_value,)
        return np.array((*self.values, *ignore), np.uint16 if max((*self.values, *ignore)) > 255 else np.uint8)

    def encode(self, array: np.ndarray) -> np.ndarray:
        """Raw values (any shape) -> indices, int16, of the same shape; plane by plane, because a lookup takes many bytes per voxel.

        Raises:
            DatasetError: a value is not declared; the message names them.
        """
        array = np.asarray(array)
        raw = self._raw
        lookup = np.full(int(raw.max()) + 1, -1, np.int16)
        lookup[raw] = np.arange(len(raw), dtype=np.int16)
        indices, wrong = np.empty(array.shape, np.int16), []  # type: np.ndarray, list[float]
        for plane, values in zip(indices, array, strict=True) if array.ndim > 2 else [(indices, array)]:
            plane[...], undeclared = _looked_up(values, lookup)
            wrong += undeclared
        if wrong:
            found = np.unique(wrong).tolist()
            shown = ", ".join(f"{v:g}" for v in found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
            declared = ", ".join(str(v) for v in raw.tolist())
            raise DatasetError(f"label value {shown} is not declared; declared: {declared}. Correct the label file or dataset.json.")
        return indices

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Indices (any shape) -> raw values, uint8, or uint16 where a declared value needs it.

        Raises:
            ValueError: an index that does not exist.
        """
        raw = self._raw
        indices = np.asarray(indices)
        if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= len(raw)):
            raise ValueError(f"label indices {indices.min()}..{indices.max()}: expected 0..{len(raw) - 1}.")
        return raw[indices]

    def assign(self, scores: Iterable[np.ndarray]) -> np.ndarray:
        """Scores, one array (*spatial) per head, -> indices (*spatial), int16; heads are taken one by one, so a generator saves memory.

        Classes: the head with the highest score, the first of equals. Regions: where its score is above 0 each head paints its value, in
        their order, later over earlier.
        """
        heads = iter(scores)
        first = next(heads)
        indices = np.zeros(first.shape, np.int16)
        if self.regions:
            for value, score in zip(self.paint, itertools.chain([first], heads), strict=True):
                indices[score > 0] = self.values.index(value)
            return indices
        best = first.copy()
        for head, score in enumerate(heads, start=1):
            higher = score > best
            indices[higher], best[higher] = head, score[higher]
        return indices


def _looked_up(values: np.ndarray, lookup: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """`lookup[values]`, and the values that it has no entry of 0 or more for."""
    inside = (values >= 0) & (values < len(lookup))
    indices = lookup[np.where(inside, values, 0).astype(np.intp)]
    undeclared = ~inside | (indices < 0) | (values != np.floor(values) if values.dtype.kind == "f" else False)
    return indices, np.unique(values[undeclared]).tolist() if undeclared.any() else []


def _entries(labels: Any, source: str) -> dict[str, tuple[int, ...]]:
    """Every entry as a tuple of values; one for a plain class."""
    if not isinstance(labels, Mapping):
        raise DatasetError(f'{source}: labels is {labels!r}; expected an object such as {{"background": 0, "organ": 1}}.')
    return {str(n): tuple(_value(n, v, source) for v in (e if isinstance(e, list) else [e])) for n, e in labels.items()}


def _value(name: str, value: Any, source: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DatasetError(f"{source}: labels: {name} = {value!r}; a label is an integer, or a list of integers for a region.")
    if not 0 <= value <= LARGEST_VALUE:
        raise DatasetError(f"{source}: labels: {name} = {value}; a label lies in 0..{LARGEST_VALUE}.")
    return value


def _take_ignore(entries: dict[str, tuple[int, ...]], source: str) -> int | None:
    ignore = entries.pop("ignore", None)
    if ignore is not None and len(ignore) != 1:
        raise DatasetError(f"{source}: labels: ignore = {list(ignore)}; ignore is one integer, the highest value of all.")
    return None if ignore is None else ignore[0]


def _check_foreground(foreground: Mapping[str, tuple[int, ...]], source: str) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for name, values in foreground.items():
        if not values or len(set(values)) != len(values):
            raise DatasetError(f"{source}: labels: {name} = {list(values)}; a region is a list of one or more different values.")
        if 0 in values:
            other = "background has it already" if values == (0,) else "a region does not contain the background"
            raise DatasetError(f"{source}: labels: {name} holds the value 0; {other}. Give {name} values of 1 and above.")
        key = tuple(sorted(values))
        if key in seen:
            shown = values[0] if len(values) == 1 else list(values)
            raise DatasetError(f"{source}: labels: {name} = {shown}, but {seen[key]} has the same; every label needs its own value.")
        seen[key] = name


def _paint_order(order: Any, regions: Sequence[str], values: Sequence[int], source: str) -> tuple[int, ...]:
    rule = "with regions it is a list of one label value per region: what that region paints in the label map, later ones over earlier ones"
    if not isinstance(order, list) or len(order) != len(regions):
        raise DatasetError(f"{source}: regions_class_order is {order!r}; {rule} (regions: {', '.join(regions)}).")
    for name, value in zip(regions, order, strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or value not in values:
            raise DatasetError(f"{source}: regions_class_order has {value!r} for {name}; {rule}, among {', '.join(map(str, values))}.")
    return tuple(order)
