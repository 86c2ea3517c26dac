"""Small pictures of cases: a slice as JPEG, and its labels as a transparent PNG to lay over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image as Pillow

from ldseg_auto.data.cases import Case, evenly
from ldseg_auto.data.description import Description
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.picture import COLOURS, GREY_PERCENTILES, best_slice

SIDE = 208  # pixels of a picture's longer side
THINNED = 256  # about, pixels per axis looked at for the grey scale
QUALITY = 85  # of the JPEG
FILL, EDGE = 80, 255  # opacity of 255
PLANES = ("axial", "coronal", "sagittal")  # across z, y, x
SPREAD, ODD = 16, 8  # pictures evenly over the cases, and of cases that stand out


@dataclass(frozen=True)
class Thumbnail:
    """One case."""

    case: str
    image: str  # data URI
    overlay: str  # data URI, as large as the image
    size: tuple[int, int]  # pixels, width and height
    note: str  # which slice


def choose(names: Sequence[str], odd: Sequence[str]) -> tuple[list[str], list[str]]:
    """The first 8 of the cases that stand out, and 16 evenly over the others."""
    first = list(odd[:ODD])
    others = sorted(set(names) - set(first))
    return first, evenly(others, SPREAD)


def thumbnail(case: Case, description: Description) -> Thumbnail:
    """The slice of a case that shows most of all classes (of its first rater), with the labels of all its raters.

    Only the first channel is read; a colour photograph is shown in colour. Grey runs from percentile 0.5 to 99.5 of the slice. The
    orientation is the radiologists': patient's right on the left, superior or anterior at the top.

    Raises:
        DatasetError: a file cannot be read.
    """
    from ldseg_auto.data.image_io import read_image, read_label  # only here: training draws outlines without SimpleITK

    labels = [description.labels.encode(read_label(path).array) for path in case.labels]
    image = read_image(case.images[:1])
    axis, index = best_slice(labels[0], image.spacing, description.labels)
    rows, columns = (a for a in range(3) if a != axis)
    step = -1 if rows == 0 else 1  # z grows towards superior, rows downwards
    shown = np.take(image.array, index, axis=axis + 1)[:, ::step]
    masks = [np.take(label, index, axis=axis)[::step] for label in labels]
    extent = shown.shape[2] * image.spacing[columns], shown.shape[1] * image.spacing[rows]
    flat = image.geometry.dimension == 2
    note = "" if flat else f"{PLANES[axis]} slice {index + 1} of {labels[0].shape[axis]}"
    return layered(case.identifier, shown, masks, extent, description.labels, note)


def layered(
    name: str, shown: np.ndarray, masks: Sequence[np.ndarray], extent: tuple[float, float], labels: LabelSpec, note: str
) -> Thumbnail:  # fmt: skip
    """A slice `(c, rows, columns)` and its label indices `(rows, columns)`, one per rater; `extent` is width and height in mm."""
    size = _fitted(extent)
    return Thumbnail(name, _jpeg(shown, size), _png(overlay(masks, labels, size)), size, note)


def gallery(thumbnails: Sequence[Thumbnail], notes: Mapping[str, str]) -> str:
    """HTML of pictures side by side, each with its name, its slice and its note; pointed at, the labels disappear."""
    out = []
    for t in thumbnails:
        width, height = t.size
        layers = f'<img src="{t.image}" alt="{escape(t.case)}"><img src="{t.overlay}" alt="labels of {escape(t.case)}">'
        lines = [f"<b>{escape(t.case)}</b>", *(escape(text) for text in (t.note, notes.get(t.case, "")) if text)]
        box = f'<span class="layers" tabindex="0" style="width:{width}px;height:{height}px">{layers}</span>'
        out.append(f"<figure>{box}<figcaption>{'<br>'.join(lines)}</figcaption></figure>")
    return f'<div class="cases">{"".join(out)}</div>'


def overlay(masks: Sequence[np.ndarray], labels: LabelSpec, size: tuple[int, int]) -> np.ndarray:
    """Colours of a slice's labels, RGBA uint8 `(height, width, 4)`: an outline for each rater, filled where all raters agree.

    Args:
        masks: label indices `(rows, columns)`, one per rater.
        size: width and height in pixels.
    """
    at = [_nearest(m, size) for m in masks]
    members = (labels.table.T if labels.has_regions else labels.table.T[1:]) > 0
    layer = np.zeros((size[1], size[0], 4), np.uint8)
    order = sorted(range(len(members)), key=lambda i: -sum(int(members[i][m].sum()) for m in at))  # small ones on top
    for opacity in (FILL, EDGE):
        for i in order:
            each = [members[i][m] for m in at]
            where = np.all(each, axis=0) if opacity == FILL else np.any([outline(m) for m in each], axis=0)
            layer[where] = (*_rgb(COLOURS[i % len(COLOURS)]), opacity)
    return layer


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a binary `(rows, columns)` mask with a neighbour (by edge) outside; beyond the picture counts as outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _fitted(extent: tuple[float, float]) -> tuple[int, int]:
    """Width and height in pixels, in the proportions of `extent`, the longer one 208 and the other at least 16."""
    scale = SIDE / max(extent)
    return max(16, round(extent[0] * scale)), max(16, round(extent[1] * scale))


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (((np.arange(n) + 0.5) * have / n).astype(int) for n, have in zip(size[::-1], mask.shape, strict=True))
    return mask[np.ix_(rows, columns)]


def _jpeg(shown: np.ndarray, size: tuple[int, int]) -> str:
    """A slice `(c, rows, columns)`: colour for three channels of one file, else grey."""
    step = max(1, max(shown.shape[1:]) // THINNED)
    low, high = np.percentile(shown[:, ::step, ::step], GREY_PERCENTILES)
    scaled = np.round(np.clip((shown - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    picture = Pillow.fromarray(np.moveaxis(scaled, 0, -1) if len(scaled) == 3 else scaled[0])
    stream = io.BytesIO()
    picture.resize(size, Pillow.Resampling.BICUBIC).save(stream, "JPEG", quality=QUALITY)
    return _uri("jpeg", stream)


def _png(layer: np.ndarray) -> str:
    stream = io.BytesIO()
    Pillow.fromarray(layer).save(stream, "PNG", optimize=True)
    return _uri("png", stream)


def _uri(kind: str, stream: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
