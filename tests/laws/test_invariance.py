"""Laws of the fingerprint: it is a function of the dataset, not of how the dataset was read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldseg_auto.data.dataset import open_dataset
from ldseg_auto.parallel import executor
from ldseg_auto.planners.extract import extract_fingerprint
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.spectrum import LabelGrid, measure_latent, sample_cases

FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GRID = LabelGrid("grid", (0, 1, 2), (3.0, 1.0, 1.0), (4, 16, 16), ((1, 4, 4), (2, 8, 8)))


@pytest.fixture(scope="module")
def folder(make_dataset, tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("raw"), n_cases=4, shape=(4, 20, 16))


def measured(folder: Path, order: list[int] | None = None, workers: int = 1) -> Fingerprint:
    dataset = open_dataset(folder)
    cases = dataset.cases if order is None else tuple(dataset.cases[i] for i in order)
    with executor(workers) as pool:
        fingerprint = extract_fingerprint(replace(dataset, cases=cases), pool)
        code = measure_latent(sample_cases(cases, fingerprint), dataset.description, GRID, pool)
    return replace(fingerprint, latent={"grid": code})


@pytest.fixture(scope="module")
def expected(folder: Path) -> Fingerprint:
    return measured(folder)


@FEW
@given(st.permutations(range(4)))
def test_order_of_the_cases_does_not_count(folder, expected, order):
    found = measured(folder, order)
    assert sorted(found.cases, key=lambda c: c.identifier) == list(expected.cases)
    assert found.data_hash == expected.data_hash and found.latent == expected.latent and found.classes == expected.classes
    for channel, statistics in expected.foreground_intensity_properties_per_channel.items():
        other = found.foreground_intensity_properties_per_channel[channel]
        assert vars(other) == pytest.approx(vars(statistics), rel=1e-9)


def test_number_of_workers_does_not_count(folder, expected):
    assert measured(folder, workers=2) == expected


def test_place_and_dates_of_the_files_do_not_count(folder, expected, tmp_path):
    copy = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    assert measured(copy) == expected


def test_training_order_of_dataset_json_does_not_count(folder, expected, tmp_path):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    content = json.loads((copy / "dataset.json").read_text())
    content["labels"] = dict(reversed(content["labels"].items()))
    (copy / "dataset.json").write_text(json.dumps(dict(reversed(content.items()))))
    assert measured(copy) == expected
