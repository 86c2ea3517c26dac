"""Fingerprints and choices that cannot be planned with: one line says what, the exit code is 2, and no file changes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ONE_LINE = r"\A(?=[^\n]*\n\Z)error: .*"
BOTH = pytest.mark.parametrize("command", ["plan_only", "plan"])


def fingerprint(bench: Any, number: int = 1) -> Path:
    return bench.preprocessed(number) / "dataset_fingerprint.json"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def older(content: dict[str, Any]) -> None:
    """As version 2 wrote it: without ranges, histograms and hashes."""
    content["version"] = 2
    for key in ("histograms", "data_hash", "content_hash"):
        del content[key]
    for case in content["cases"]:
        for key in ("image_intensities", "foreground_intensities", "at_border", "mirrored", "oblique_degrees"):
            del case[key]


EDITED = (
    "it was edited after it was measured. To change a decision use --set. Delete the file to have it measured again, or use ldseg_plan_"
)
SPOILT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "older version": (older, "version = 2 is not possible: expected 3; measure the dataset again with ldseg_plan_and_preprocess --clean"),
    "newer version": (lambda c: c.update(version=4, colours=3), "version = 4 is not possible: expected 3; measure the dataset again"),
    "no version": (lambda c: c.pop("version"), "version = None is not possible: expected 3"),
    "negative spacing": (
        lambda c: c["cases"][0].update(spacing=[-3.0, 1.0, 1.0]),
        r"cases\[0\]\.spacing = \(-3\.0, 1\.0, 1\.0\) is not possible: expected three numbers above 0\. Delete the file",
    ),
    "text for a number": (
        lambda c: c.update(median_relative_size_after_cropping="half"),
        "median_relative_size_after_cropping = 'half' should be of type float.*Delete the file",
    ),
    "not a number": (
        lambda c: c["classes"]["class1"].update(prevalence=float("nan")),
        r"classes\.class1\.prevalence = nan should be a finite number.*Delete the file",
    ),
    "no cases": (lambda c: c.update(cases=[]), r"cases = \[\] is not possible: expected at least one\. Delete the file"),
    "missing key": (lambda c: c.pop("class_names"), "key 'class_names' is missing.*Delete the file"),
    "unknown key": (lambda c: c.update(colour=1), r"unknown key 'colour'\. Known here: dataset_name, .*Delete the file"),
    "possible, but not as measured": (lambda c: c["cases"][0].update(spacing=[1.0, 1.0, 1.0]), f"content_hash = '.{{64}}', .*{EDITED}"),
    "a hash taken away": (lambda c: c.pop("content_hash"), f"content_hash = None, .*{EDITED}"),
    "the hash of other files": (lambda c: c["cases"][0].update(input_hash="0" * 64), f"data_hash = '.{{64}}', but its content .*{EDITED}"),
}


@BOTH
@pytest.mark.parametrize("name", SPOILT)
def test_a_fingerprint_that_is_old_or_edited(bench, refused, command, name):
    change, match = SPOILT[name]
    edit(fingerprint(bench), change)
    refused(bench, rf"{ONE_LINE}Dataset001_Toy/dataset_fingerprint\.json: {match}", command, "-d", 1)


@BOTH
@pytest.mark.parametrize(
    ("text", "match"), [('{"cases": [', "is not valid JSON: .*Delete the file"), ("[]", "holds a list, expected a JSON object .*Delete")]
)
def test_a_fingerprint_that_is_no_object(bench, refused, command, text, match):
    fingerprint(bench).write_text(text)
    refused(bench, rf"{ONE_LINE}dataset_fingerprint\.json {match}", command, "-d", 1)


def test_measuring_again_is_the_way_out(bench, capsys):
    """What the messages advise: afterwards all is as it was."""
    own = fingerprint(bench).read_bytes()
    edit(fingerprint(bench), older)
    assert bench.run("plan", "-d", 1, "--clean") == 0
    assert fingerprint(bench).read_bytes() == own and "3 cases preprocessed" in capsys.readouterr().out
    fingerprint(bench).unlink()
    assert bench.run("plan", "-d", 1) == 0
    assert fingerprint(bench).read_bytes() == own


def test_a_fingerprint_of_other_data(bench, make_dataset, refused, capsys):
    """Planning has nothing else to go by and refuses; preprocessing has the files, says that they differ and measures them."""
    make_dataset(bench.raw, n_cases=3, shape=(4, 20, 16), seed=4, dataset_id=2)
    assert bench.run("plan_only", "-d", 2) == 0
    own = fingerprint(bench).read_bytes()
    shutil.copy(fingerprint(bench, 2), fingerprint(bench))
    match = (
        r"dataset_fingerprint\.json is of Dataset002_Toy with the classes class1, class2; .*dataset\.json says otherwise\. Delete the file"
    )
    refused(bench, ONE_LINE + match, "plan_only", "-d", 1)
    assert bench.run("plan", "-d", 1) == 0
    captured = capsys.readouterr()
    assert "the raw files have changed since the fingerprint was taken; it is taken again" in captured.err
    assert fingerprint(bench).read_bytes() == own


# Choices -----------------------------------------------------------------------------------------------------------------------------


@BOTH
def test_too_little_memory_names_what_is_enough(bench, refused, capsys, command):
    match = r"--gpu-memory 0\.3: the smallest patch \([\d, ]+\) with 2 samples needs \d\.\d\d GiB\. Give at least that\."
    refused(bench, ONE_LINE + match, command, "-d", 1, "--gpu-memory", 0.3)
    assert bench.run(command, "-d", 1, "--gpu-memory", 0.3) == 2
    least = float(re.search(r"needs ([\d.]+) GiB", capsys.readouterr().err)[1])
    refused(bench, ONE_LINE + "the smallest patch", command, "-d", 1, "--gpu-memory", round(least - 0.01, 2))
    assert bench.run(command, "-d", 1, "--gpu-memory", least) == 0
    assert all(c["memory_gib"] <= least for c in bench.plans(1)["configurations"].values())


@BOTH
@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--set", "batch_size=3", "--set", "batch_size=4"), "--set batch_size is given twice, as 3 and as 4: keep one"),
        (
            ("--target-spacing", 2, 1, 1, "--set", "3d_fullres.spacing=[1,1,1]"),
            r"--target-spacing 2 1 1 and --set 3d_fullres\.spacing both set the spacing",
        ),
        (
            ("--set", "network.variant=direct", "--set", "method.diversity=1"),
            r"method\.diversity = 1\.0 is not possible: expected null with network\.variant = direct.*"
            r"The settings were network\.variant=direct, method\.diversity=1",
        ),
        (
            ("--set", "2d.patch_size=[18,18]"),
            r"configurations\.2d\.patch_size = \(18, 18\) is not possible: expected positive multiples of the total stride",
        ),
        (("--set", "2d.latent.factor=[3,3]"), r"2d\.latent\.factor = \(3, 3\) .* expected one of the network's cumulative strides"),
        (
            ("--set", 'normalisation=["ct","zscore"]'),
            r"--set: configurations\.\w+\.(normalisation|use_mask_for_norm) = .* is not possible: expected one per channel|1 channels",
        ),
        (("--set", "raters=4"), "--set raters: it records how the plans came about, and setting it would change nothing. Leave it out"),
        (("--set", "fingerprint_hash=abc"), "--set fingerprint_hash: it names the data. Leave it out"),
        (("--target-spacing", 1), "--target-spacing 1.0: expected three numbers .z y x. or two .y x. above 0, in mm"),
    ],
)
def test_choices_that_contradict_each_other_or_the_data(bench, refused, command, flags, match):
    refused(bench, ONE_LINE + match, command, "-d", 1, *flags)
