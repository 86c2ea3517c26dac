"""Laws of prediction: a case's result is a function of its image, its name, the seed and the models, and of nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldseg_auto.inference.predictor import Input, Options, Predictor, Wanted
from ldseg_auto.scratch import Room

FEW = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FULL = Wanted(probabilities=True, uncertainty=True, samples=True)
SPACING = (3.0, 1.0, 1.0)
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def raw(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("raw"), n_cases=5, shape=(4, 16, 14))


@pytest.fixture(scope="module")
def model(raw: Path, make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("results"), raw, seeds=(0, 1))


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.from_folder(model, device="cpu", samples=2, seed=3)


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(3 + i, 16, 17 - i)).astype(np.float32) for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def alone(predictor: Predictor, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Labels and uncertainty of each case, predicted by itself."""
    return {name: everything(predictor, name, image) for name, image in images.items()}


def everything(predictor: Predictor, name: str, image: np.ndarray) -> np.ndarray:
    found = predictor.predict(image, SPACING, name, FULL)
    return np.stack([found.label, *found.probabilities, found.entropy, found.mutual_information, *found.samples])  # type: ignore[misc]


@FEW
@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4))
def test_company_and_position_in_the_stream_do_not_count(predictor, images, alone, names):
    found = list(predictor.stream((Input(n, images[n], SPACING) for n in names), FULL))
    assert [p.case for p in found] == names
    for p in found:
        np.testing.assert_array_equal(np.stack([p.label, *p.probabilities, p.entropy, p.mutual_information, *p.samples]), alone[p.case])


@FEW
@given(st.integers(1, 9), st.sampled_from([0, 2**29]), st.sampled_from([1, 2]))
def test_tile_batch_room_and_threads_do_not_count(model, images, alone, batch, limit, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        other = Predictor.from_folder(model, device="cpu", samples=2, seed=3, tile_batch=batch, options=Options(room=Room(limit)))
        found = everything(other, "b", images["b"])
    finally:
        torch.set_num_threads(before)
    if threads == 1:  # another number of threads may round otherwise
        np.testing.assert_array_equal(found, alone["b"])
    else:
        np.testing.assert_allclose(found[1:], alone["b"][1:], atol=2e-3)


@FEW
@given(st.integers(2, 4))
def test_a_draw_is_the_same_among_few_and_many(model, images, count):
    """The first samples of five are those of fewer."""
    one = Predictor.from_folder(model, ["0"], "cpu", samples=count, seed=3).predict(images["a"], SPACING, "a", FULL)
    many = Predictor.from_folder(model, ["0"], "cpu", samples=5, seed=3).predict(images["a"], SPACING, "a", FULL)
    np.testing.assert_array_equal(one.samples, many.samples[:count])
    assert len({s.tobytes() for s in many.samples}) > 2


def test_draws_come_by_models_then_samples(model, images):
    both = Predictor.from_folder(model, device="cpu", samples=2, seed=3).predict(images["a"], SPACING, "a", FULL)
    folds = [Predictor.from_folder(model, [f], "cpu", samples=2, seed=3).predict(images["a"], SPACING, "a", FULL) for f in ("0", "1")]
    np.testing.assert_array_equal(both.samples, np.concatenate([f.samples for f in folds]))


def test_seed_and_name_count(model, images, alone):
    other = Predictor.from_folder(model, device="cpu", samples=2, seed=4)
    assert not np.array_equal(everything(other, "b", images["b"]), alone["b"])
    same = Predictor.from_folder(model, device="cpu", samples=2, seed=3)
    assert not np.array_equal(everything(same, "c", images["b"]), alone["b"])
    np.testing.assert_array_equal(everything(same, "b", images["b"]), alone["b"])


def test_threads_that_share_a_predictor_do_not_disturb_each_other(predictor, images, alone):
    found: dict[str, np.ndarray] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: everything(predictor, n, images[n])})) for n in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in NAMES:
        np.testing.assert_array_equal(found[name], alone[name])


@pytest.mark.parametrize("count", [2, 7])
def test_parts_are_together_the_whole(model, raw, tmp_path, count):
    predictor = Predictor.from_folder(model, device="cpu")
    predictor.predict_folder(raw / "imagesTr", tmp_path / "whole")
    whole = {p.name: p.read_bytes() for p in (tmp_path / "whole").glob("*.nii.gz")}
    parts: dict[str, bytes] = {}
    for k in range(1, count + 1):
        predictor.predict_folder(raw / "imagesTr", tmp_path / f"part{k}", part=(k, count))
        new = {p.name: p.read_bytes() for p in (tmp_path / f"part{k}").glob("*.nii.gz")}
        assert not set(new) & set(parts)
        parts |= new
    assert parts == whole
    assert len(whole) == 5
