"""Pictures of the same three validation patches through training: reference, prediction, and a draw that shows whether the latent lives."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ldseg_auto.data.cases import evenly
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.cut import Cut, cut
from ldseg_auto.evaluation.evaluate import evaluate_case
from ldseg_auto.evaluation.picture import COLOURS, GREY_PERCENTILES
from ldseg_auto.files import atomic_path
from ldseg_auto.inference.preview import contours
from ldseg_auto.networks.ldseg import LDSeg
from ldseg_auto.planners.plans import Configuration
from ldseg_auto.preprocessing.store import load_case
from ldseg_auto.training.batches import read_box
from ldseg_auto.training.prepare import Prepared

logger = logging.getLogger(__name__)
FOLDER = "overlays"
CASES = 3
SHARE = 0.02  # of the training's time
DRAW_STEPS = 4  # of the draw at most: it shows that draws differ from the prediction, at little cost
SIDE, SMALLEST = 256, 32  # pixels of a panel's longer side, and of the shorter one at least
GAP, MARGIN, LINE, LETTERS = 10, 14, 20, 13  # pixels
MOST_CLASSES = 12  # in the legend
BACKGROUND, TEXT, FAINT = (18, 18, 18), (235, 235, 235), (160, 160, 160)


@dataclass(frozen=True, eq=False)
class Patch:
    """One fixed patch."""

    case: str
    image: torch.Tensor
    """(1, c, *patch) float32."""
    label: np.ndarray
    """indices (*patch) of its first rater."""


def fixed_patches(folder: Path, identifiers: Sequence[str], configuration: Configuration) -> list[Patch]:
    """Patches of three cases, evenly over the sorted names, each around the foreground voxel nearest to the foreground's middle.

    Args:
        folder: of the preprocessed cases.

    Raises:
        InputError: a case cannot be read.
    """
    names, size = sorted(identifiers), (1,) * (3 - configuration.dimensions) + tuple(configuration.patch_size)
    patches = []
    for name in evenly(names, CASES):
        case = load_case(folder, name)
        centre = _middle(case.properties.class_locations, case.image.shape[1:])
        start = [
            max(0, min(c - p // 2, s - p)) if s >= p else (s - p) // 2 for c, s, p in zip(centre, case.image.shape[1:], size, strict=True)
        ]
        image, label = read_box(case.image, start, size), read_box(case.labels, start, size, slice(0, 1))[0]
        flat = (0,) if configuration.dimensions == 2 else ()
        tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))
        patches.append(Patch(name, (tensor[:, 0] if flat else tensor)[None], label[0] if flat else label))
    return patches


def overlays(prepared: Prepared, folder: Path) -> Overlays:
    """Those of a fold's validation cases, drawn into `folder`/overlays."""
    configuration = prepared.configuration
    patches = fixed_patches(prepared.folder / configuration.data_identifier, prepared.validation, configuration)
    return Overlays(patches, configuration, prepared.description.labels, prepared.plans.transpose_backward, folder)


def _middle(locations: dict[int, np.ndarray], shape: Sequence[int]) -> list[int]:
    """The sampled foreground voxel nearest to their mean; the image's middle without foreground."""
    voxels = [v for v in locations.values() if len(v)]
    if not voxels:
        return [s // 2 for s in shape]
    each = np.concatenate(voxels)
    return [int(i) for i in each[int(np.square(each - each.mean(0)).sum(1).argmin())]]


class Overlays:
    """Draws the patches of one fold.

    Args:
        patches: see fixed_patches; none draws nothing.
        configuration, labels: of the model.
        backward: permutation from the networks' axes to (z, y, x).
        folder: fold_K; pictures go to fold_K/overlays.
    """

    def __init__(
        self, patches: Sequence[Patch], configuration: Configuration, labels: LabelSpec, backward: Sequence[int], folder: Path
    ) -> None:
        self.patches, self.labels, self.folder = list(patches), labels, folder
        self.configuration, self.backward = configuration, tuple(backward)
        self.began, self.spent = time.monotonic(), 0.0  # seconds
        direct = configuration.network.variant == "direct"
        self.steps = (1,) if direct else (1, min(DRAW_STEPS, max(2, configuration.sampling.steps)))  # of the prediction, and of the draw

    def due(self, epoch: int) -> bool:
        """Whether an epoch (from 1) gets a picture: powers of two, so that a training of any length has few; its end gets one besides.

        The first one always; further ones as long as all of them took less than a fiftieth of the time since the training began.
        """
        return epoch & (epoch - 1) == 0 and self.spent <= SHARE * (time.monotonic() - self.began)

    def draw(self, model: LDSeg, epoch: int, iteration: int) -> Path | None:
        """Writes overlays/epoch_0008.png, atomically; the noise is fixed by the patch's number.

        Returns:
            Its path; None without patches, and where it cannot be drawn or written, which is said once and never ends a training.
        """
        path, start = self.folder / FOLDER / f"epoch_{epoch:04d}.png", time.monotonic()
        if not self.patches:
            return None
        try:
            picture = self.picture(model, f"epoch {epoch}, iteration {iteration}")
            with atomic_path(path) as temporary:
                picture.save(temporary, format="PNG")
        except (OSError, ValueError, RuntimeError) as cause:
            self.patches = []
            logger.warning("no more overlays of this training: %s: %s", type(cause).__name__, cause)
            return None
        self.spent += time.monotonic() - start
        return path

    def picture(self, model: LDSeg, title: str) -> Image.Image:
        """A row for each patch."""
        rows = [self._row(model, number, patch) for number, patch in enumerate(self.patches)]
        draws = [f"one draw, {s} steps" if s > 1 else "prediction, 1 step" for s in self.steps]
        return _page(title, ["reference", *draws], rows, self.labels.foreground_names)

    def _row(self, model: LDSeg, number: int, patch: Patch) -> tuple[str, list[np.ndarray], list[str]]:
        """Case, panels `(height, width, 3)` and the line below each."""
        predicted = self._predict(model, patch, number)
        spacing = (1.0,) * (3 - self.configuration.dimensions) + tuple(self.configuration.spacing)
        back = self.backward if self.configuration.dimensions == 3 else (0, 1, 2)
        masks = [_three(m).transpose(back) for m in (patch.label, *predicted)]
        image = _three(patch.image[0].numpy(), 4).transpose(0, *(a + 1 for a in back))
        where = tuple(spacing[a] for a in back)
        scores = [evaluate_case(masks[0], m, self.labels, where, surface=False) for m in masks[1:]]
        means = [[v["dice"] for v in score.values() if v["dice"] == v["dice"]] for score in scores]
        lines = [f"Dice {np.mean(m):.3f}" if m else "no class" for m in means]
        seen = cut(image, masks, where, self.labels)
        grey = _grey(seen)
        return patch.case, [contours(grey, m, self.labels) for m in seen.masks], ["", *lines]

    @torch.inference_mode()
    def _predict(self, model: LDSeg, patch: Patch, number: int) -> list[np.ndarray]:
        """Label indices `(*patch)` of the prediction and of the draw; the image encoder runs once."""
        device = next(model.parameters()).device
        shape = (1, *model.latent_shape(tuple(patch.image.shape[2:])))
        generator = torch.Generator().manual_seed(number)

        def noise(step: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(device)

        condition, found = model.condition(patch.image.to(device)), []
        for steps in self.steps:
            start = noise(-1)
            start = torch.zeros_like(start) if model.centre and steps == 1 else start
            logits = model.decode(model.sample(start, condition, steps, noise), condition)[0]
            found.append(self.labels.assign(iter(logits.float().cpu().numpy())))
        return found


def _three(array: np.ndarray, dimensions: int = 3) -> np.ndarray:
    """With an axis of one voxel for 2D, before the last two."""
    return array if array.ndim == dimensions else np.expand_dims(array, -3)


def _grey(seen: Cut) -> np.ndarray:
    """The first channel as uint8 `(height, width, 3)`, enlarged in the proportions of millimetres."""
    low, high = np.percentile(seen.image[0], GREY_PERCENTILES)
    scaled = np.round(np.clip((seen.image[0] - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    scale = SIDE / max(seen.extent)
    height, width = (max(SMALLEST, round(side * scale)) for side in seen.extent)
    large = Image.fromarray(np.ascontiguousarray(scaled)).resize((width, height), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(large)[..., None], 3, -1)


def _page(title: str, heads: Sequence[str], rows: Sequence[tuple[str, list[np.ndarray], list[str]]], classes: Sequence[str]) -> Image.Image:
    """Title, a row of panels per case with its name above and a line below each panel, and the classes' colours."""
    column = SIDE + GAP
    heights = [max(p.shape[0] for p in panels) + 2 * LINE + GAP for _, panels, _ in rows]
    width, shown = 2 * MARGIN + column * len(heads) - GAP, list(classes[:MOST_CLASSES])
    shown += [f"and {len(classes) - len(shown)} more"] if len(classes) > len(shown) else []
    across = max(1, (width - 2 * MARGIN) // (column - GAP))
    below = LINE * -(-len(shown) // across)
    page = Image.new("RGB", (width, 2 * MARGIN + 2 * LINE + sum(heights) + below), BACKGROUND)
    pen, y = ImageDraw.Draw(page), MARGIN + 2 * LINE
    _write(pen, (MARGIN, MARGIN), title, TEXT, width - 2 * MARGIN)
    for i, head in enumerate(heads):
        _write(pen, (MARGIN + i * column, MARGIN + LINE), head, FAINT, SIDE)
    for (case, panels, lines), height in zip(rows, heights, strict=True):
        _write(pen, (MARGIN, y), case, TEXT, width - 2 * MARGIN)
        for i, (panel, line) in enumerate(zip(panels, lines, strict=True)):
            page.paste(Image.fromarray(panel), (MARGIN + i * column, y + LINE))
            _write(pen, (MARGIN + i * column, y + LINE + panel.shape[0]), line, FAINT, SIDE)
        y += height
    for i, name in enumerate(shown):
        x, top = MARGIN + (i % across) * column, y + LINE * (i // across)
        if i < MOST_CLASSES:
            pen.rectangle((x, top + 3, x + LETTERS, top + 3 + LETTERS), fill=COLOURS[i % len(COLOURS)])
        _write(pen, (x + LETTERS + GAP, top), name, TEXT, SIDE - LETTERS - GAP)
    return page


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, colour: tuple[int, int, int], room: int) -> None:
    """Text, cut where there is no room."""
    font = ImageFont.load_default(LETTERS)
    while len(text) > 3 and pen.textlength(text, font) > room:
        text = text[:-4] + "..."
    pen.text(at, text, fill=colour, font=font)
