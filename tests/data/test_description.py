"""dataset.json: required and optional keys, and what is refused."""

from __future__ import annotations

import logging

import pytest

from ldseg_auto.data.description import Description
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import DatasetError

CONTENT = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}, "numTraining": 3, "file_ending": ".nii.gz"}


def test_required_keys_suffice():
    description = Description.from_dict(CONTENT, "here")
    assert description.channel_names == ("T1", "T2")
    assert description.labels == LabelSpec(("a",), (0, 1))
    assert (description.file_ending, description.num_training) == (".nii.gz", 3)
    assert (description.raters, description.groups) == (("labelsTr",), None)
    assert description.content == CONTENT


def test_channels_are_ordered_by_number_not_by_place():
    names = {str(i): f"c{i}" for i in reversed(range(12))}
    assert Description.from_dict({**CONTENT, "channel_names": names}, "here").channel_names == tuple(f"c{i}" for i in range(12))


def test_modality_is_the_old_word_for_channel_names():
    content = {k: v for k, v in CONTENT.items() if k != "channel_names"} | {"modality": {"0": "CT"}}
    assert Description.from_dict(content, "here").channel_names == ("CT",)


def test_optional_keys():
    more = {"raters": ["labelsTr_r1", "labelsTr_r2"], "groups": {"a": "p"}, "licence": "CC0", "regions_class_order": [1, 2]}
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    description = Description.from_dict({**CONTENT, **more, "labels": labels}, "here")
    assert description.raters == ("labelsTr_r1", "labelsTr_r2")
    assert description.groups == {"a": "p"}
    assert description.labels.paint == (1, 2)
    assert Description.from_dict({**CONTENT, "groups": r"^(\d+)_"}, "here").groups == r"^(\d+)_"


def test_the_reader_is_not_chosen_by_name(caplog):
    with caplog.at_level(logging.INFO):
        Description.from_dict({**CONTENT, "overwrite_image_reader_writer": "NibabelIO"}, "here")
    assert "overwrite_image_reader_writer has no effect" in caplog.text


@pytest.mark.parametrize("key", ["channel_names", "labels", "numTraining", "file_ending"])
def test_a_missing_key_is_named(key):
    with pytest.raises(DatasetError, match=f"^here lacks {key}; required: channel_names, labels"):
        Description.from_dict({k: v for k, v in CONTENT.items() if k != key}, "here")


@pytest.mark.parametrize(("key", "value", "message"), [
    ("channel_names", {}, "expected an object with the keys"),
    ("channel_names", ["CT"], "expected an object with the keys"),
    ("channel_names", {"1": "CT"}, "channel_names = {'1': 'CT'}; expected an object with the keys"),
    ("channel_names", {"0": "CT", "2": "PET"}, "without a gap"),
    ("channel_names", {"0": 7}, "channel 0 = 7"),
    ("channel_names", {"0": " "}, "channel 0 = ' '"),
    ("labels", "liver", "expected an object such as"),
    ("numTraining", "3", "numTraining = '3'"),
    ("numTraining", 0, "numTraining = 0; expected the number"),
    ("numTraining", True, "numTraining = True"),
    ("file_ending", "nii.gz", "file_ending = 'nii.gz'; readable: .nii.gz"),
    ("file_ending", ".dcm", "file_ending = '.dcm'"),
    ("file_ending", None, "file_ending = None"),
    ("raters", [], "raters = \\[\\]"),
    ("raters", "labelsTr", "raters = 'labelsTr'; expected a list"),
    ("raters", ["a", "a"], "different folder names"),
    ("raters", ["../a"], "different folder names"),
    ("raters", [1], "different folder names"),
    ("groups", "(", "is no regular expression"),
    ("groups", "", "groups = .*expected an object case -> group"),
    ("groups", {"a": 1}, "expected an object case -> group"),
    ("groups", 5, "groups = '5'; expected"),
])  # fmt: skip
def test_bad_values_are_refused(key, value, message):
    with pytest.raises(DatasetError, match=message):
        Description.from_dict({**CONTENT, key: value}, "here")
