"""The page on a model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldseg_auto.data.description import Description
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.calibration import Reliability
from ldseg_auto.evaluation.cut import Cut
from ldseg_auto.report.model import Anew, Looked, Model, render_model
from ldseg_auto.report.model_files import FoldFiles, Score

EVIL = '<b onclick="x">&"organ"'
SECTIONS = ["cases", "training", "calibration", "predicted", "steps", "latent", "dataset", "plan", "curves", "record", "missing"]


class Page(HTMLParser):
    """Tags with their attributes, and whether they nest."""

    EMPTY = ("meta", "img", "circle", "path", "line", "rect", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.EMPTY:
            return
        assert self.open.pop() == tag


def fold(name: str, dice: dict[str, float | None], train: tuple[str, ...] = ()) -> FoldFiles:
    """A fold with these validation cases."""
    scores = [Score(case, name, {EVIL: d, "lesion": d}, (2.0, 1.5)) for case, d in dice.items()]
    rows = [{"epoch": 1.0, "iteration": 5.0, "seconds": 1800.0, "loss": 1.0, "learning_rate": 0.1, "dice_mean": 0.5, f"dice_{EVIL}": 0.5}]
    manifest = {"torch": "2.13", "device": "cpu", "seed": 0, "train": list(train), "validation": list(dice)}
    return FoldFiles(name, manifest, rows, {"dice": {"1": 0.5}, "chosen": 1}, {"reconstruction": {EVIL: 0.9}}, scores, finished=True)


@pytest.fixture
def model(fingerprint_of: Callable, case_of: Callable, plans_of: Callable) -> Model:
    """Two folds of a 3D dataset; one case was trained on."""
    fingerprint, plans = plans_of(fingerprint_of([case_of(i) for i in range(6)]))
    content = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, EVIL: 1, "lesion": 2},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    folds = [fold("0", {"a": 0.9, "b": 0.4, "none": None}), fold("all", {"c": 0.99, "d": 0.2}, ("c",))]
    wanting = {"fold 1": "ldseg_train 1 1 -c 3d_fullres"}
    return Model(
        "ldsegPlans__3d_fullres", plans, Description.from_dict(content, "x"), fingerprint, folds, Anew(note="Nothing yet."), wanting
    )


def table_of(page: str, title: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    body = re.search(f"<h[23]>{title}</h[23]>.*?<tbody>(.*?)</tbody>", page, re.DOTALL)[1]  # type: ignore[index]
    return [re.findall("<td[^>]*>(.*?)</td>", row) for row in body.split("</tr>") if row]


def test_one_file_without_script_that_nests(model: Model) -> None:
    page = render_model(model)
    parsed = Page(page)
    assert parsed.open == []
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "iframe", "object"}
    for _, attributes in parsed.tags:
        assert not [a for a in attributes if a.startswith("on")]
        assert all((attributes.get(a) or "#").startswith(("#", "data:image/")) for a in ("href", "src"))
    assert [a["id"] for tag, a in parsed.tags if tag == "section"] == SECTIONS
    assert all(a.get("aria-label") for tag, a in parsed.tags if tag == "svg")
    assert "&lt;b onclick" in page and "<b onclick" not in page


def test_cases_lowest_first_and_none_that_was_trained_on(model: Model) -> None:
    page = render_model(model)
    rows = table_of(page, "All cases, lowest Dice first")
    assert [(r[0], r[1], r[2]) for r in rows] == [("d", "all", "0.200"), ("b", "0", "0.400"), ("a", "0", "0.900"), ("none", "0", "-")]
    assert rows[0][5:7] == ["2", "1.5"]
    classes = table_of(page, "Classes")
    assert classes[1] == ["lesion", "0.500", "0.400", "0.200", "0.900", "3"]
    assert "<b>0.5000</b>" in page and "<b>1.00 h</b>" in page


def test_many_cases_and_classes_stay_readable(model: Model) -> None:
    scores = [Score(f"case{i:04d}", "0", {f"c{k}": (i + k) / 2000 for k in range(60)}, None) for i in range(1000)]
    labels = LabelSpec(tuple(f"c{k}" for k in range(60)), tuple(range(61)))
    description = replace(model.description, labels=labels)
    page = render_model(replace(model, description=description, folds=[replace(model.folds[0], scores=scores)]))
    rows = table_of(page, "All cases, lowest Dice first")
    assert len(rows) == 300 and rows[0][0] == "case0000" and rows[-1][0] == "case0999"
    assert "The 250 lowest and the 50 highest of 1000" in page
    assert rows[1][3] == "c0 0.001, c1 0.001, c2 0.002"  # (1 + k) / 2000 of the lowest three


def test_what_is_missing_is_named_with_its_command(model: Model) -> None:
    page = render_model(model)
    assert "<td>fold 1</td><td><code>ldseg_train 1 1 -c 3d_fullres</code></td>" in page and "1 parts are missing" in page
    assert "Nothing yet." in page
    assert "parts are missing" not in render_model(replace(model, wanting={}))


def test_pictures_and_calibration(model: Model) -> None:
    mask = np.zeros((8, 10), np.int16)
    mask[2:6, 3:7] = 1
    cut = Cut(np.random.default_rng(0).normal(size=(2, 8, 10)), (mask, mask), (24.0, 10.0), 0, 4, 20)
    found = Reliability(np.array([0.9]), np.array([0.8]), np.array([100]))
    page = render_model(replace(model, anew=Anew([Looked("d", "all", cut)], found, "1 of 4 cases.")))
    images = [a for tag, a in Page(page).tags if tag == "img"]
    assert len(images) == 4 and all(a["alt"] for a in images)
    assert "d, reference" in page and "fold all, Dice 0.200" in page and "axial slice 5 of 20" in page
    assert "Expected calibration error 0.100" in page and page.count("1 of 4 cases.") == 2


def test_overlays_first_and_last_as_small_pictures(model: Model, tmp_path: Path) -> None:
    paths = [tmp_path / f"epoch_{e:04d}.png" for e in (1, 2, 4, 100)]
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    paths.append(tmp_path / "epoch_0200.png")
    paths[-1].write_bytes(b"damaged")
    for chosen, shown in ((paths[:1], ["1"]), (paths[:4], ["1", "100"]), (paths, ["1"])):
        page = render_model(replace(model, folds=[replace(model.folds[0], overlays=chosen)]))
        assert re.findall("Fixed patches after epoch ([0-9]+)<", page) == shown


def test_an_empty_model_still_has_a_page(model: Model) -> None:
    page = render_model(replace(model, folds=[FoldFiles("0")], fingerprint=None))
    assert "No validation case that was not trained on" in page and "No training log." in page and Page(page).open == []
