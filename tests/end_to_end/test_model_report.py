"""Training leaves figures where they are looked for, and ldseg_report makes one page of a model."""

from __future__ import annotations

import csv
import json
import re

from ldseg_auto.cli import common, report


def make(bench, *arguments: object) -> int:
    roots = ["--preprocessed", str(bench.root / "preprocessed"), "--results", str(bench.results), "--device", "cpu"]
    return common.run(report.build(), report.work, [*map(str, arguments), *roots])


def test_training_leaves_pictures_events_and_a_page(bench) -> None:
    model = bench.model(1, bench.plans(1)["default_configuration"])
    fold = model / "fold_0"
    assert sorted(p.name for p in (fold / "overlays").iterdir()) == ["epoch_0001.png", "epoch_0002.png"]
    assert len(list((fold / "tensorboard").glob("events.out.tfevents.*"))) == 1
    page = (model / "report.html").read_text(encoding="utf-8")
    assert "No case was predicted for this page: ldseg_report does." in page
    assert "<code>ldseg_report 1 -c" in page and "<code>ldseg_train 1 1 -c" in page


def test_the_page_of_a_trained_model(bench, capsys) -> None:
    configuration = bench.plans(1)["default_configuration"]
    fold = bench.model(1, configuration) / "fold_0"
    capsys.readouterr()
    assert make(bench, "1", "-o", bench.root / "page.html") == 0
    assert capsys.readouterr().out == f"Report: {bench.root / 'page.html'}\n"
    page = (bench.root / "page.html").read_text(encoding="utf-8")
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert all(f"<td>{case}</td>" in page for case in summary["cases"])
    assert re.search(f"{len(summary['cases'])} of {len(summary['cases'])} validation cases were predicted anew", page)
    assert "Expected calibration error" in page and ", prediction" in page and "Fixed patches after epoch 2" in page
    assert "class1" in page and "card of 8 GiB" in page
    again = page
    assert make(bench, "1", "-o", bench.root / "page.html") == 0
    assert (bench.root / "page.html").read_text(encoding="utf-8") == again  # the same model gives the same bytes


def test_without_preprocessed_cases_or_with_a_damaged_file_the_page_says_so(bench, tmp_path, capsys) -> None:
    model = bench.model(1, bench.plans(1)["default_configuration"])
    moved = tmp_path / "elsewhere"
    model.rename(moved)
    (bench.root / "preprocessed").rename(tmp_path / "gone")
    (moved / "fold_0" / "steps.json").write_text("{")
    assert make(bench, "-m", moved) == 0
    page = (moved / "report.html").read_text(encoding="utf-8")
    assert "The preprocessed cases that this model was trained on were not at hand" in page
    assert "fold 0: steps.json (it cannot be read" in page and "ldseg_plan_and_preprocess -d 1" in page


def test_tensorboard_goes_on_where_the_training_does(bench) -> None:
    """Two epochs, then two more with --continue: each step once."""
    from tensorboardX.proto.event_pb2 import Event

    assert bench.train(1, 0, length=("--epochs", 4, "--continue")) == 0
    fold = bench.model(1, bench.plans(1)["default_configuration"]) / "fold_0"
    steps: list[int] = []
    for path in sorted((fold / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):  # TFRecord: length, its checksum, data, their checksum
            size = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + size])
            if event.HasField("session_log"):  # what comes after is to replace what came with a step as high
                steps = [s for s in steps if s < event.step]
            steps += [event.step for value in event.summary.value if value.tag == "loss/total"]
            at += 16 + size
    with open(fold / "training_log.csv", newline="") as stream:
        assert steps == [int(row["iteration"]) for row in csv.DictReader(stream)] == [2, 4, 6, 8]
    assert (fold / "overlays" / "epoch_0004.png").exists()
