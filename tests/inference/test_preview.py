"""The preview: which planes, which way up, which pixels are coloured, and what is written on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.picture import COLOURS
from ldseg_auto.inference.case_score import CaseScore, Volume
from ldseg_auto.inference.prediction import Prediction
from ldseg_auto.inference.preview import FULL, contours, draw, heat, interval_words, planes, preview_png, score_lines

LABELS = LabelSpec.from_dict({"background": 0, "organ": 1, "lesion": 5})
REGIONS = LabelSpec.from_dict({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
ORANGE, BLUE = ((int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16)) for c in COLOURS[:2])


def score_of(labels: LabelSpec, size: float, draws: int = 1) -> CaseScore:
    volumes = {name: Volume(size, size, size, size) for name in labels.foreground_names}
    return CaseScore(draws, 0.9 if draws > 1 else None, 0.8 if size else 1.0, 0.7, volumes, size)


def prediction(label: np.ndarray, spacing: tuple[float, ...] = (2.0, 1.0, 1.0), entropy: bool = True) -> Prediction:
    uncertain = np.where(label > 0, 0.5, 0).astype(np.float32) if entropy else None
    return Prediction(
        "case_1", label.astype(np.int16), None, spacing, None, uncertain, None, None, score_of(LABELS, float(label.any())), 1.0
    )


def box() -> np.ndarray:
    label = np.zeros((6, 20, 30), np.int16)
    label[2:4, 5:15, 8:24] = 1
    label[3, 8:12, 10:20] = 5
    return label


def test_three_planes_through_the_most_foreground() -> None:
    label = box()
    label[3, 5, 25] = 1  # z 3 and y 5 are the only slices with the most
    image = np.arange(label.size, dtype=np.float32).reshape(1, *label.shape)
    found = planes(prediction(label), image, LABELS)
    assert [p.title for p in found] == ["axial 4 of 6", "coronal 6 of 20", "sagittal 9 of 30"]
    np.testing.assert_array_equal(found[0].image[0], image[0, 3])
    np.testing.assert_array_equal(found[1].image[0], image[0, ::-1, 5])  # superior at the top
    np.testing.assert_array_equal(found[2].label, LABELS.encode(label)[::-1, :, 8])
    assert [p.extent for p in found] == [(20, 30), (12, 30), (12, 20)]  # mm


def test_without_foreground_the_middle() -> None:
    empty = np.zeros((6, 20, 30), np.int16)
    found = planes(prediction(empty), np.zeros((1, 6, 20, 30), np.float32), LABELS)
    assert [p.title for p in found] == ["axial 4 of 6", "coronal 11 of 20", "sagittal 16 of 30"]


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3)])
def test_a_flat_image_has_one_plane_and_a_photograph_its_colours(channels: int, shown: int) -> None:
    label = np.zeros((1, 8, 12), np.int16)
    (found,) = planes(prediction(label, (999.0, 1.0, 1.0)), np.zeros((channels, 1, 8, 12), np.float32), LABELS)
    assert found.image.shape == (shown, 8, 12)
    volume = planes(prediction(np.zeros((4, 8, 12))), np.zeros((channels, 4, 8, 12), np.float32), LABELS)
    assert {len(p.image) for p in volume} == {1}  # three channels of a scan are no colours


def test_contours_are_the_borders_of_the_classes() -> None:
    label = np.zeros((20, 20), np.int16)
    label[2:18, 2:18], label[6:10, 6:10] = 1, 2
    grey = np.full((20, 20, 3), 100, np.uint8)
    found = contours(grey, label, LABELS)
    blue = (found == BLUE).all(-1)
    assert blue.sum() == 12 and blue[6, 6] and not blue[7, 7]  # the edge of 4 x 4
    orange = (found == ORANGE).all(-1)
    assert orange[2, 2:18].all() and orange[5, 6:10].all()  # outside, and around the hole that class 2 leaves in class 1
    assert (found[0] == 100).all() and (grey == 100).all()
    nested = contours(grey, label, REGIONS)  # the region whole has no hole
    assert not (nested == ORANGE).all(-1)[5, 6:10].any()


def test_heat_grows_with_entropy_and_averages_large_pictures() -> None:
    grey = np.zeros((4, 4, 3), np.uint8)
    found = heat(grey, np.array([[0, FULL / 4], [FULL / 2, 3 * FULL]])).astype(int).sum(-1)
    assert found[0, 0] == 0 < found[0, 3] < found[3, 0] < found[3, 3]
    np.testing.assert_array_equal(heat(grey, np.full((2, 2), FULL))[0, 0], (252, 255, 164))
    lines = np.zeros((40, 40))
    lines[::10] = FULL  # thinner than a pixel of the picture
    assert heat(grey, lines).any((1, 2)).all()


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (score_of(LABELS, 2.0), ["a", "one draw, softmax response 0.800"]),
        (score_of(LABELS, 2.0, 4), ["a", "agreement of 4 draws 0.900, softmax response 0.800"]),
        (score_of(LABELS, 0.0), ["a", "one draw; nothing is predicted"]),
        (
            replace(score_of(LABELS, 2.0), predicted_dice=0.871, predicted_error=0.03),
            ["a", "predicted Dice 0.871  (off by 0.030 on average on held-out validation cases)", "one draw, softmax response 0.800"],
        ),
    ],
)
def test_the_score_in_words(score: CaseScore, expected: list[str]) -> None:
    assert score_lines("a", score) == expected


def test_the_interval_that_held_comes_before_that_of_the_draws() -> None:
    volume = Volume(2.0, 1.5, 2.5, 2.1)
    assert interval_words(volume, 1) == "" and interval_words(volume, 4) == "  (draws 1.5 to 2.5)"
    likely = replace(volume, likely_low=0.75, likely_high=1234.5)
    assert interval_words(likely, 1) == interval_words(likely, 4) == "  (likely 0.75 to 1234)"


def test_the_file(tmp_path: Path) -> None:
    label = box()
    image = np.random.default_rng(0).normal(size=(1, *label.shape)).astype(np.float32)
    for name, found in (("a", prediction(label)), ("b", prediction(label))):
        preview_png(tmp_path / "previews" / f"{name}.png", found, image, LABELS)
    with pillow.open(tmp_path / "previews" / "a.png") as picture:
        content = np.asarray(picture)
    assert content.shape[2] == 3 and (content == ORANGE).all(-1).sum() > 200 and (content == BLUE).all(-1).any()
    assert (tmp_path / "previews" / "a.png").read_bytes() == (tmp_path / "previews" / "b.png").read_bytes()
    without = draw(prediction(label, entropy=False), image, LABELS)
    assert without.height < content.shape[0] and without.width == content.shape[1]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 400), (2, 2, 2), (300, 4, 4)])
@pytest.mark.parametrize("value", [0, 1])
def test_any_shape_can_be_drawn(shape: tuple[int, ...], value: int) -> None:
    label = np.full(shape, value, np.int16)
    assert draw(prediction(label, (5.0, 0.5, 0.5)), np.zeros((1, *shape), np.float32), LABELS).width >= 660


def test_long_names_and_many_classes_fit() -> None:
    many = LabelSpec.from_dict({"background": 0, **{f"a very long name of a class, number {i} " * 4: i for i in range(1, 40)}})
    label = np.arange(64).reshape(4, 4, 4) % 40
    found = replace(prediction(label), score=score_of(many, 1.0, 3))
    page = draw(found, np.zeros((1, 4, 4, 4), np.float32), many)
    assert page.width < 1100 and page.height < 1100
