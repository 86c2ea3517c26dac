"""The comparison picture: which slice, which way up, which colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.picture import COLOURS, Example, best_slice, comparison_png

LABELS = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 2})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2])


def example(spacing: tuple[float, float, float] = (3.0, 1.0, 1.0)) -> Example:
    reference = np.zeros((8, 30, 40), np.int16)
    reference[2:6, 5:20, 5:20] = 1
    reference[5, 8:12, 8:12] = 2
    image = np.random.default_rng(0).normal(size=(1, 8, 30, 40)).astype(np.float32)
    return Example("case_7", image, reference, np.roll(reference, 10, axis=2), spacing)


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def exact(path: Path) -> list[int]:
    """Pixels in each colour of the palette: of contours and legend, not of the translucent layer."""
    return [int((pixels_of(path) == np.round(np.array(to_rgb(c)) * 255)).all(-1).sum()) for c in COLOURS]


def coloured(path: Path) -> int:
    """Pixels that are not grey."""
    return int((np.ptp(pixels_of(path), axis=-1) > 20).sum())


def test_slice_is_cut_across_the_coarsest_axis_where_all_classes_show() -> None:
    label = example().reference
    assert best_slice(label, (3.0, 1.0, 1.0), LABELS) == (0, 5)
    assert best_slice(label.transpose(1, 0, 2), (1.0, 3.0, 1.0), LABELS) == (1, 5)
    assert best_slice(label[5:6], (1.0, 2.0, 2.0), LABELS) == (0, 0)  # one slice: a 2D image, whatever its spacing
    assert best_slice(label * 0, (3.0, 1.0, 1.0), LABELS) == (0, 4)


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
def test_each_class_has_its_colour(tmp_path: Path, labels: LabelSpec) -> None:
    found = example()
    comparison_png(tmp_path / "new" / "a.png", [found], labels)
    comparison_png(
        tmp_path / "legend.png", [Example("empty", found.image, found.reference * 0, found.reference * 0, found.spacing)], labels
    )
    counts, legend = exact(tmp_path / "new" / "a.png"), exact(tmp_path / "legend.png")
    assert counts[0] > legend[0] > 0 and counts[1] > legend[1] > 0  # contours add to the legend
    assert not any(counts[2:])
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a.png"]


def test_each_example_adds_a_row(tmp_path: Path) -> None:
    comparison_png(tmp_path / "one.png", [example()], LABELS)
    comparison_png(tmp_path / "three.png", [example()] * 3, LABELS)
    one, three = (np.asarray(Image.open(tmp_path / f"{n}.png")).shape for n in ("one", "three"))
    assert one[1] == three[1] and three[0] > 2 * one[0]


def test_empty_masks_and_constant_images_can_be_drawn(tmp_path: Path) -> None:
    empty = np.zeros((4, 10, 10), np.int16)
    nothing = Example("empty", np.ones((1, 4, 10, 10), np.float32), empty, empty, (3.0, 1.0, 1.0))
    comparison_png(tmp_path / "a.png", [nothing], LABELS)
    found = example()
    comparison_png(tmp_path / "b.png", [Example("no reference", found.image, found.reference * 0, found.predicted, found.spacing)], LABELS)
    # The legend colours both; only where the prediction is drawn are there pixels beyond it.
    assert coloured(tmp_path / "b.png") > 2 * coloured(tmp_path / "a.png")


def test_photographs_keep_their_colours(tmp_path: Path) -> None:
    image = np.zeros((3, 1, 20, 20), np.float32)
    image[0], image[1, :, :10] = 255, 255  # yellow above, red below
    empty = np.zeros((1, 20, 20), np.int16)
    comparison_png(tmp_path / "a.png", [Example("photo", image, empty, empty, (999.0, 1.0, 1.0))], LABELS)
    pixels = pixels_of(tmp_path / "a.png")
    yellow, red = (np.argwhere((pixels == colour).all(-1)) for colour in ((255, 255, 0), (255, 0, 0)))
    assert len(yellow) > 1000 and len(red) > 1000
    assert yellow[:, 0].mean() < red[:, 0].mean()  # not upside down


def test_coronal_slices_have_superior_at_the_top(tmp_path: Path) -> None:
    image = np.zeros((1, 20, 4, 20), np.float32)
    image[0, 10:] = 1  # bright above
    empty = np.zeros((20, 4, 20), np.int16)
    comparison_png(tmp_path / "a.png", [Example("coronal", image, empty, empty, (1.0, 5.0, 1.0))], LABELS)
    black = (pixels_of(tmp_path / "a.png") == 0).all(-1)
    rows = np.argwhere(black[:, black.sum(0) > 50])[:, 0]  # columns through the image, not those through letters alone
    assert rows.mean() / len(black) > 0.6  # the dark half is the lower one
