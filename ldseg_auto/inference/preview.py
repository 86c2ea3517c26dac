"""A picture of one prediction: three planes with contours, the uncertainty beside, the score as text. Drawn by Pillow alone, so that it is
quick and needs no lock in a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as pillow
from PIL import ImageDraw, ImageFont

from ldseg_auto.data.geometry import NATURAL_Z
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.picture import COLOURS, GREY_PERCENTILES
from ldseg_auto.files import atomic_path
from ldseg_auto.inference.case_score import CaseScore, Volume
from ldseg_auto.inference.prediction import Prediction
from ldseg_auto.report.pictures import PLANES, outline

SIDE = 320  # pixels of the longest side of any plane
SMALLEST = 24  # pixels that a thin plane gets at least
GAP, MARGIN = 10, 14  # pixels between panels, and around all
LINE, SIZE = 20, 14  # pixels of a line of text, and of its letters
MOST_CLASSES = 12  # in the legend
SHORT = 4  # lines of a legend of one column at most
WIDTH = 660  # pixels of a picture at least, so that the text fits
FULL = float(np.log(2))  # nats that the heat map's brightest colour stands for: two classes equally probable
HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], float)  # matplotlib's inferno at 0, 1/4, ... 1
BACKGROUND, TEXT, FAINT = (18, 18, 18), (235, 235, 235), (160, 160, 160)


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice, ready to be drawn: all arrays `(rows, columns)`, top and left as radiologists see them."""

    title: str
    image: np.ndarray  # (c, rows, columns)
    label: np.ndarray  # indices
    entropy: np.ndarray | None  # nats
    extent: tuple[float, float]  # mm, height and width


def preview_png(path: Path, prediction: Prediction, image: np.ndarray, labels: LabelSpec) -> None:
    """Writes the picture, atomically.

    Args:
        prediction: with its entropy, else the heat map is left out.
        image: `(c, z, y, x)` canonical, the one that was predicted; its first channel is shown, of a photograph all three.
    """
    picture = draw(prediction, image, labels)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def draw(prediction: Prediction, image: np.ndarray, labels: LabelSpec) -> pillow.Image:
    """The picture: on top the text, below a row of planes with contours and a row with the uncertainty, then the legend."""
    found = planes(prediction, image, labels)
    scale = SIDE / max(side for plane in found for side in plane.extent)
    sizes = [tuple(max(SMALLEST, round(side * scale)) for side in plane.extent) for plane in found]
    low, high = np.percentile(np.concatenate([p.image.reshape(len(p.image), -1) for p in found], 1), GREY_PERCENTILES)
    greys = [_smooth(_grey(p.image, low, high), size) for p, size in zip(found, sizes, strict=True)]
    contoured = [contours(grey, p.label, labels) for grey, p in zip(greys, found, strict=True)]
    heated = [heat(grey, p.entropy) for grey, p in zip(greys, found, strict=True) if p.entropy is not None]
    rows = [contoured + heated] if len(found) == 1 else [row for row in (contoured, heated) if row]
    titles = [[p.title for p in found] + ["uncertainty"] * (len(rows[0]) - len(found)), [f"uncertainty, {p.title}" for p in found]]
    return _page(rows, titles, score_lines(prediction.case, prediction.score), _legend(prediction, labels), bool(heated))


def planes(prediction: Prediction, image: np.ndarray, labels: LabelSpec) -> list[Plane]:
    """Across each axis the slice with the most foreground, the middle one where there is none; of a flat image the one there is."""
    label, spacing = prediction.label, prediction.spacing
    colour = len(image) == 3 and spacing[0] >= NATURAL_Z * max(spacing[1:]) * (1 - 1e-6)
    shown, inside, out = image if colour else image[:1], label != 0, []
    for axis in (0,) if label.shape[0] == 1 else (0, 1, 2):
        rows, columns = (a for a in range(3) if a != axis)
        area = np.count_nonzero(inside, axis=(rows, columns))
        index = int(area.argmax()) if area.any() else label.shape[axis] // 2
        up = slice(None, None, -1 if rows == 0 else 1)  # z grows towards superior, pictures downwards
        entropy = None if prediction.entropy is None else prediction.entropy.take(index, axis)[up]
        title = PLANES[axis] + f" {index + 1} of {label.shape[axis]}" if label.shape[0] > 1 else "contours"
        extent = label.shape[rows] * spacing[rows], label.shape[columns] * spacing[columns]
        out.append(Plane(title, shown.take(index, axis + 1)[:, up], labels.encode(label.take(index, axis)[up]), entropy, extent))
    return out


def contours(picture: np.ndarray, label: np.ndarray, labels: LabelSpec) -> np.ndarray:
    """A picture `(height, width, 3)` with the outline of each class or region of a slice's label indices `(rows, columns)`."""
    members = (labels.table.T if labels.has_regions else labels.table.T[1:]) > 0
    at, out = _nearest(label, picture.shape[:2]), picture.copy()
    present = np.flatnonzero((members & np.isin(np.arange(members.shape[1]), at)).any(1))
    for i in sorted(present, key=lambda i: -int(members[i][at].sum())):  # small ones on top
        out[outline(members[i][at])] = _rgb(COLOURS[i % len(COLOURS)])
    return out


def heat(picture: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """A picture `(height, width, 3)` darkened, with the entropy `(rows, columns)` in nats laid over it: more opaque where it is higher."""
    size = picture.shape[1], picture.shape[0]
    mean = pillow.fromarray(np.ascontiguousarray(entropy, np.float32)).resize(size, pillow.Resampling.BOX)  # a large picture is averaged
    share = np.clip(np.asarray(mean) / FULL, 0, 1)
    opacity = np.sqrt(share)[..., None]
    return np.round((1 - opacity) * 0.6 * picture + opacity * _heat_colour(share)).astype(np.uint8)


def score_lines(case: str, score: CaseScore) -> list[str]:
    """The score in words, a line each."""
    lines = [case]
    if score.predicted_dice is not None:
        off = "" if score.predicted_error is None else f"  (off by {score.predicted_error:.3f} on average on held-out validation cases)"
        lines.append(f"predicted Dice {score.predicted_dice:.3f}{off}")
    draws = f"agreement of {score.draws} draws {score.agreement:.3f}" if score.agreement is not None else "one draw"
    lines.append(f"{draws}, softmax response {score.softmax:.3f}" if score.foreground else f"{draws}; nothing is predicted")
    return lines


def _legend(prediction: Prediction, labels: LabelSpec) -> list[tuple[str, str]]:
    """Colour and text of each class that is predicted, the largest first where there are too many."""
    score, names = prediction.score, labels.foreground_names
    there = [i for i, name in enumerate(names) if score.volumes[name].mask > 0]
    kept = sorted(sorted(there, key=lambda i: -score.volumes[names[i]].mask)[:MOST_CLASSES])
    lines = []
    for i in kept:
        v = score.volumes[names[i]]
        lines.append((COLOURS[i % len(COLOURS)], f"{names[i]}  {_number(v.mask)} {score.unit}{interval_words(v, score.draws)}"))
    return lines + ([("", f"and {len(there) - len(kept)} more")] if len(there) > len(kept) else [])


def interval_words(volume: Volume, draws: int) -> str:
    """The interval that held on validation cases, or without it that of several draws; empty for one draw."""
    if volume.likely_low is not None and volume.likely_high is not None:
        return f"  (likely {_number(volume.likely_low)} to {_number(volume.likely_high)})"
    return f"  (draws {_number(volume.low)} to {_number(volume.high)})" if draws > 1 else ""


def _number(size: float) -> str:
    return f"{size:.0f}" if size >= 1000 else f"{size:.3g}"


def _page(
    rows: list[list[np.ndarray]], titles: list[list[str]], lines: list[str], legend: list[tuple[str, str]], bar: bool
) -> pillow.Image:  # fmt: skip
    widths = [sum(p.shape[1] for p in row) + GAP * (len(row) - 1) for row in rows]
    heights = [max(p.shape[0] for p in row) + LINE for row in rows]
    width = max(WIDTH, *widths) + 2 * MARGIN
    columns = 1 if len(legend) <= SHORT else 2
    lengths = -(-len(legend) // columns)  # rows of the legend
    below = LINE * lengths + (LINE + GAP if bar else 0)
    page = pillow.new("RGB", (width, 2 * MARGIN + LINE * len(lines) + sum(h + GAP for h in heights) + GAP + below), BACKGROUND)
    pen, y = ImageDraw.Draw(page), MARGIN
    for line in lines:
        _write(pen, MARGIN, y, line, TEXT, width - 2 * MARGIN)
        y += LINE
    y += GAP
    for row, names, height in zip(rows, titles, heights, strict=False):
        x = MARGIN
        for panel, name in zip(row, names, strict=True):
            _write(pen, x, y, name, FAINT, panel.shape[1] + GAP)
            page.paste(pillow.fromarray(panel), (x, y + LINE))
            x += panel.shape[1] + GAP
        y += height + GAP
    for i, (colour, name) in enumerate(legend):
        x, top = MARGIN + (i // lengths) * (width // columns), y + LINE * (i % lengths)
        if colour:
            pen.rectangle((x, top + 3, x + SIZE, top + 3 + SIZE), fill=_rgb(colour))
        _write(pen, x + SIZE + GAP, top, name, TEXT, width // columns - SIZE - MARGIN - 2 * GAP)
    if bar:
        _draw_bar(page, pen, y + LINE * lengths + GAP)
    return page


def _draw_bar(page: pillow.Image, pen: ImageDraw.ImageDraw, y: int) -> None:
    """What the colours of the heat map mean."""
    ramp = np.broadcast_to(_heat_colour(np.linspace(0, 1, 160))[None], (SIZE, 160, 3))
    page.paste(pillow.fromarray(np.round(ramp).astype(np.uint8)), (MARGIN, y + 3))
    _write(pen, MARGIN + 160 + GAP, y, "entropy 0 to 0.69 nats (two classes equally probable) or more", FAINT, page.width - 200 - MARGIN)


def _write(pen: ImageDraw.ImageDraw, x: int, y: int, text: str, colour: tuple[int, int, int], room: int) -> None:
    """Text, cut where there is no room."""
    font = ImageFont.load_default(SIZE)
    if pen.textlength(text, font) > room:
        while text and pen.textlength(text + "...", font) > room:
            text = text[:-1]
        text += "..."
    pen.text((x, y), text, fill=colour, font=font)


def _grey(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """A slice `(c, rows, columns)` as uint8 `(rows, columns, 3)`."""
    scaled = np.round(np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return np.moveaxis(np.broadcast_to(scaled, (3, *scaled.shape[1:])), 0, -1)


def _smooth(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A uint8 picture `(rows, columns, 3)` to `size` (height, width), bicubic."""
    return np.asarray(pillow.fromarray(np.ascontiguousarray(array)).resize((size[1], size[0]), pillow.Resampling.BICUBIC))


def _nearest(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Label indices `(rows, columns)` to `size` (height, width), the nearest pixel."""
    rows, columns = (((np.arange(n) + 0.5) * have / n).astype(int) for n, have in zip(size, array.shape, strict=True))
    return array[np.ix_(rows, columns)]


def _heat_colour(share: np.ndarray) -> np.ndarray:
    """Colours `(*share, 3)`, 0 to 255, of shares in [0, 1]."""
    return np.stack([np.interp(share, np.linspace(0, 1, len(HEAT)), channel) for channel in HEAT.T], axis=-1)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
