"""Raw label values and indices: reading the declaration, encoding, decoding, assigning."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import DatasetError

REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def spec(labels: dict, order: list | None = None) -> LabelSpec:
    return LabelSpec.from_dict(labels, order, "dataset.json")


def test_classes_are_sorted_by_value_and_made_consecutive():
    labels = spec({"liver": 300, "background": 0, "spleen": 7, "ignore": 400})
    assert labels.foreground_names == ("spleen", "liver")
    assert labels.values == (0, 7, 300)
    assert (labels.num_heads, labels.has_regions, labels.ignore_value, labels.ignore_index) == (3, False, 400, 3)
    assert labels.encode(np.array([[0, 7], [300, 400]])).tolist() == [[0, 1], [2, 3]]


def test_table_of_classes_is_one_hot_with_a_zero_row_for_ignore():
    table = spec({"background": 0, "a": 2, "b": 5, "ignore": 9}).table
    assert table.dtype == np.float32
    assert np.array_equal(table, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])


def test_table_of_regions_is_multi_hot():
    labels = spec({**REGIONS, "ignore": 4}, [1, 2, 3])
    assert labels.has_regions and labels.num_heads == 3 and labels.foreground_names == ("whole", "core", "enhancing")
    assert np.array_equal(labels.table, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]])


def test_regions_are_painted_in_their_order():
    labels = spec(REGIONS, [1, 2, 3])
    scores = np.array([[-1.0, 1, 1, 1, -1], [-1, -1, 1, 1, -1], [-1, -1, -1, 1, 1]])
    assert labels.assign(scores).tolist() == [0, 1, 2, 3, 3]
    assert spec(REGIONS, [3, 2, 1]).assign(scores).tolist() == [0, 3, 2, 1, 1]


def test_classes_are_assigned_by_the_highest_score():
    scores = np.random.default_rng(0).normal(size=(3, 2, 4, 5))
    assigned = spec({"background": 0, "a": 2, "b": 5}).assign(scores)
    assert assigned.dtype == np.int16
    assert np.array_equal(assigned, scores.argmax(0))


def test_lists_of_one_value_are_plain_classes():
    labels = spec({"background": 0, "a": [1], "b": [2]})
    assert labels == spec({"background": 0, "a": 1, "b": 2})


@given(st.sets(st.integers(1, 65534), min_size=1, max_size=20), st.booleans(), st.integers(0, 2**32 - 1))
def test_decode_is_the_reverse_of_encode(values, ignore, seed):
    labels = {"background": 0, **{f"c{v}": v for v in values}, **({"ignore": 65535} if ignore else {})}
    declared = spec(labels)
    raw = np.random.default_rng(seed).choice([*labels.values()], (3, 4))
    indices = declared.encode(raw)
    assert indices.dtype == np.int16
    assert np.array_equal(declared.decode(indices), raw)
    assert declared.decode(indices).dtype == (np.uint16 if max(labels.values()) > 255 else np.uint8)


def test_encode_holds_little_beside_its_result():
    """64-bit indices of the whole volume would be four times the result, of one plane in 32 an eighth of it."""
    labels, array = spec({"background": 0, "a": 4}), np.full((32, 128, 128), 4, np.uint8)
    tracemalloc.start()
    indices = labels.encode(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (indices == 1).all() and peak < 1.7 * indices.nbytes


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 3, 2), (0, 2, 2)])
def test_encode_takes_every_shape(shape, dtype):
    array = np.full(shape, 4, dtype)
    np.testing.assert_array_equal(spec({"background": 0, "a": 4}).encode(array), np.ones(shape, np.int16), strict=True)


def test_encode_names_the_undeclared_values_of_all_planes():
    with pytest.raises(DatasetError, match=r"label value -1, 2, 2\.5, 9 is not declared; declared: 0, 1"):
        spec({"background": 0, "a": 1}).encode(np.array([0, 9, 1, 2.5, 2, -1, 0, 2]).reshape(2, 2, 2))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int64", "uint64", "float32"])
def test_encode_takes_every_dtype(dtype):
    assert spec({"background": 0, "a": 4}).encode(np.array([0, 4], dtype)).tolist() == [0, 1]


@pytest.mark.parametrize(("array", "shown"), [
    (np.array([0, 2, 3]), "label value 2, 3 is not declared; declared: 0, 1, 9"),
    (np.array([-1, 0]), "label value -1 is not"),
    (np.array([0, 70000]), "label value 70000 is not"),
    (np.array([0.5, 1.0]), "label value 0.5 is not"),
    (np.array([np.nan, 1.0]), "label value nan is not"),
    (np.arange(10, 40), r"16, 17, 18, 19, \.\.\. is not"),
])  # fmt: skip
def test_undeclared_values_are_named(array, shown):
    with pytest.raises(DatasetError, match=shown):
        spec({"background": 0, "a": 1, "b": 9}).encode(array)


@pytest.mark.parametrize("indices", [[-1, 0], [0, 2]])
def test_decode_refuses_indices_that_do_not_exist(indices):
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        spec({"background": 0, "a": 1}).decode(np.array(indices))


@pytest.mark.parametrize(("labels", "message"), [
    ([0, 1], "labels is \\[0, 1\\]; expected an object"),
    ({"a": 1}, "background is missing"),
    ({"background": 1, "a": 2}, "background is 1; it must be there and be 0"),
    ({"background": 0}, "no class besides the background"),
    ({"background": 0, "ignore": 1}, "no class besides the background"),
    ({"background": 0, "a": 1, "b": 1}, "b = 1, but a has the same"),
    ({"background": 0, "a": 0}, "a holds the value 0; background has it already"),
    ({"background": 0, "a": -1}, "a = -1; a label lies in"),
    ({"background": 0, "a": 65536}, "a = 65536; a label lies in 0..65535"),
    ({"background": 0, "a": True}, "a = True; a label is an integer"),
    ({"background": 0, "a": 1.0}, "a = 1.0; a label is an integer"),
    ({"background": 0, "a": "1"}, "a = '1'; a label is an integer"),
    ({"background": 0, "a": None}, "a = None; a label is an integer"),
    ({"background": 0, "a": {"x": 1}}, "a = {'x': 1}; a label is an integer"),
    ({"background": 0, "a": []}, "a = \\[\\]; a region is"),
    ({"background": 0, "a": [1, 1]}, "a = \\[1, 1\\]; a region is a list of one or more different"),
    ({"background": 0, "a": [0, 1]}, "a holds the value 0; a region does not contain the background"),
    ({"background": 0, "a": [1, 2], "b": [2, 1]}, "b = \\[2, 1\\], but a has the same"),
    ({"background": 0, "a": 3, "ignore": 2}, "ignore = 2; it must be the highest value, above 3"),
    ({"background": 0, "a": 3, "ignore": 3}, "ignore = 3; it must be the highest value"),
    ({"background": 0, "a": 3, "ignore": [4, 5]}, "ignore = \\[4, 5\\]; ignore is one integer"),
])  # fmt: skip
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(DatasetError, match=message):
        spec(labels, [1, 2])


@pytest.mark.parametrize(("order", "message"), [
    (None, "regions_class_order is None; with regions it is a list of one label value per region.*whole, core, enhancing"),
    ([1, 2], "regions_class_order is \\[1, 2\\]; with regions"),
    ([1, 2, 4], "has 4 for enhancing; .* among 1, 2, 3"),
    ([1, True, 3], "has True for core"),
    (["1", 2, 3], "has '1' for whole"),
])  # fmt: skip
def test_bad_region_orders_are_refused(order, message):
    with pytest.raises(DatasetError, match=message):
        spec(REGIONS, order)
