"""The whole page: well formed, self-contained, the same for the same input, and kept while it is up to date."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ldseg_auto.data.dataset import RawDataset, open_dataset
from ldseg_auto.parallel import executor
from ldseg_auto.planners.extract import extract_fingerprint
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.report import write
from ldseg_auto.report.write import Report, write_report

VOID = {"meta", "img", "br"}
LARGEST = 3_000_000  # bytes


class Checker(HTMLParser):
    """Collects unbalanced tags, addresses and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "data", "action", "srcset", "xlink:href")]
        self.anchors |= {values["id"]} if values.get("id") else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def checked(path: Path) -> Checker:
    """Parses a page; fails where it is not well formed or refers to anything outside itself."""
    text = path.read_text(encoding="utf-8")
    page = Checker()
    page.feed(text)
    page.close()
    assert page.open == []
    assert {a for a in page.addresses if not a.startswith("data:image/")} <= {f"#{a}" for a in page.anchors}
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe", text)
    assert len(text) < LARGEST and "nan" not in page.text.lower().split()
    return page


def measured(folder: Path) -> tuple[RawDataset, Fingerprint]:
    dataset = open_dataset(folder)
    with executor(1) as pool:
        return dataset, extract_fingerprint(dataset, pool)


def reported(folder: Path, target: Path, plans_of: Callable) -> Report:
    dataset, fingerprint = measured(folder)
    return write_report(target, *plans_of(fingerprint, len(dataset.description.raters)), dataset)


REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
KINDS: dict[str, dict] = {
    "3D": {},
    "one case": {"n_cases": 1},
    "RGB": {"shape": (1, 40, 30), "channels": 3, "ending": ".png"},
    "four channels": {"channels": 4},
    "regions": {"content": REGIONS},
    "raters": {"raters": 3, "shape": (1, 30, 30), "channels": 3, "ending": ".png"},
    "volume of one slice": {"shape": (1, 40, 30)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_page_of_every_kind_of_dataset(make_dataset, plans_of, tmp_path: Path, kind: str) -> None:
    options = {"n_cases": 5, **KINDS[kind]}
    report = reported(make_dataset(tmp_path, **options), tmp_path / "out", plans_of)
    assert report.path == tmp_path / "out" / "report.html" and [p.name for p in report.path.parent.iterdir()] == ["report.html"]
    page = checked(report.path)
    assert page.anchors == {"stand-out", "pictures", "distributions", "plan", "curves", "trained", "memory"}
    count = sum(a.startswith("data:image/jpeg") for a in page.addresses)
    assert count == options["n_cases"] == sum(a.startswith("data:image/png") for a in page.addresses)
    assert all(f"toy_{i:03d}" in page.text for i in range(options["n_cases"]))
    assert "class lesion is small" in page.text and "target 0.99" in page.text and "target 0.85" in page.text
    text = report.path.read_text(encoding="utf-8")
    assert 'style="width:50.0%"' in text and 'class=over style="width:100.0%"' in text  # of 8 GiB: 4 to train, 9.5 to predict


def test_equal_input_gives_equal_bytes_with_any_number_of_workers(make_dataset, plans_of, tmp_path: Path) -> None:
    dataset, fingerprint = measured(make_dataset(tmp_path, n_cases=3))
    fingerprint, plans = plans_of(fingerprint)
    first = write_report(tmp_path / "a", fingerprint, plans, dataset).path.read_bytes()
    with executor(2) as pool:
        assert write_report(tmp_path / "b" / "c", fingerprint, plans, dataset, pool).path.read_bytes() == first


def test_text_of_the_dataset_is_escaped(case_of, fingerprint_of, plans_of, tmp_path: Path) -> None:
    """Names of cases, classes, channels and the dataset, and reasons, may hold anything."""
    evil = "<b>&\"x'</section><script>"
    plain = fingerprint_of([case_of(i) for i in range(8)])
    cases = [replace(c, volumes={evil: 5.0, "b": 5.0}, components={evil: 1.0, "b": 1.0}) for c in plain.cases]
    cases[3] = replace(cases[3], identifier=evil, spacing=(30.0, 1.0, 1.0))
    classes = {evil: plain.classes["organ"], "b": plain.classes["lesion"]}
    names = {"dataset_name": evil, "channel_names": (evil, "PET"), "class_names": (evil, "b")}
    fingerprint = replace(plain, cases=tuple(cases), classes=classes, **names)
    fingerprint, plans = plans_of(fingerprint)
    configuration = replace(plans.configurations["3d_fullres"], reasons={evil: evil, "warning": evil})
    plans = replace(plans, configurations={"3d_fullres": configuration}, reasons={"x": evil})
    page = checked(write_report(tmp_path, fingerprint, plans).path)
    assert page.text.count(evil) >= 8


def test_page_that_is_up_to_date_is_left_alone_and_pictures_are_kept(make_dataset, plans_of, tmp_path: Path, monkeypatch) -> None:
    dataset, fingerprint = measured(make_dataset(tmp_path, n_cases=3))
    fingerprint, plans = plans_of(fingerprint)
    bare = write_report(tmp_path, fingerprint, plans).path
    assert "data:image" not in bare.read_text()
    path = write_report(tmp_path, fingerprint, plans, dataset).path  # the data has come: pictures are added
    full, at = path.read_bytes(), path.stat().st_mtime_ns
    monkeypatch.setattr(write, "thumbnail", lambda *_, **__: pytest.fail("drawn again"))
    assert write_report(tmp_path, fingerprint, plans, dataset).path.stat().st_mtime_ns == at
    assert write_report(tmp_path, fingerprint, plans).path.stat().st_mtime_ns == at
    other = replace(plans, reasons={"default_configuration": "something else"})
    for given in (dataset, None):  # other plans of the same data: the pictures are taken over
        changed = write_report(tmp_path, fingerprint, other, given).path.read_text()
        assert "something else" in changed and changed.count("data:image") == 6
    assert write_report(tmp_path, fingerprint, plans).path.read_bytes() == full
    large = write_report(tmp_path, fingerprint, replace(plans, plans_name="large")).path
    assert large.name == "report_large.html" and large.read_text().count("data:image") == 6


def test_pictures_of_other_data_are_not_kept(make_dataset, plans_of, tmp_path: Path) -> None:
    dataset, fingerprint = measured(make_dataset(tmp_path, n_cases=3))
    write_report(tmp_path, *plans_of(fingerprint), dataset)
    changed = replace(fingerprint, cases=(replace(fingerprint.cases[0], input_hash="other"), *fingerprint.cases[1:]))
    text = write_report(tmp_path, *plans_of(changed)).path.read_text()
    assert "data:image" not in text and "no pictures" in text


def test_a_picture_that_fails_ends_nothing(make_dataset, plans_of, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_dataset(tmp_path, n_cases=3)
    dataset, fingerprint = measured(folder)
    broken = folder / "imagesTr" / "toy_001_0000.nii.gz"
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    fingerprint, plans = plans_of(fingerprint)
    with caplog.at_level(logging.WARNING):
        page = checked(write_report(tmp_path, fingerprint, plans, dataset).path)
    assert "No picture of toy_001" in page.text and sum("jpeg" in a for a in page.addresses) == 2
    assert "no picture of case toy_001" in caplog.text
    broken.write_bytes(content)
    page = checked(write_report(tmp_path, fingerprint, plans, dataset).path)  # tried again, as it was not complete
    assert sum("jpeg" in a for a in page.addresses) == 3


def test_a_large_dataset_gives_a_small_page(case_of, fingerprint_of, plans_of, tmp_path: Path) -> None:
    """3000 cases, many of them odd: distributions and not tables."""
    cases = [replace(case_of(i), at_border=("organ",) if i % 12 == 0 else ()) for i in range(3000)]
    report = write_report(tmp_path, *plans_of(fingerprint_of(cases)))
    assert len(report.findings.cases) >= 250 and report.path.stat().st_size < 1_500_000
    page = checked(report.path)
    assert "mask of organ: 238 more" in page.text
