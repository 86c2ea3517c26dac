"""The slice that shows most, as radiologists see it."""

from __future__ import annotations

import numpy as np

from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.evaluation.cut import cut

LABELS = LabelSpec(("organ",), (0, 1), ignore_value=2)


def test_across_the_coarsest_axis_where_the_first_mask_is_largest() -> None:
    image = np.arange(5 * 6 * 7, dtype=np.float32).reshape(1, 5, 6, 7)
    reference, predicted = np.zeros((5, 6, 7), np.int16), np.ones((5, 6, 7), np.int16)
    reference[1, 2, 3], reference[3, 2:4, 3:5] = 1, 1
    found = cut(image, [reference, predicted], (3.0, 1.0, 2.0), LABELS)
    assert (found.axis, found.index, found.count) == (0, 3, 5)
    assert np.array_equal(found.image, image[:, 3]) and np.array_equal(found.masks[0], reference[3])
    assert found.extent == (6.0, 14.0)


def test_superior_is_at_the_top() -> None:
    image = np.zeros((1, 4, 3, 5), np.float32)
    image[0, 3] = 1  # z grows towards superior
    mask = np.zeros((4, 3, 5), np.int16)
    mask[0, 1, 2] = 1
    found = cut(image, [mask], (1.0, 2.0, 1.0), LABELS)
    assert found.axis == 1 and found.image[0, 0].all() and not found.image[0, 1:].any()
    assert found.masks[0][-1, 2] == 1


def test_an_empty_reference_shows_the_prediction_and_ignored_voxels_are_no_foreground() -> None:
    reference, predicted = np.full((5, 3, 3), 2, np.int16), np.zeros((5, 3, 3), np.int16)
    reference[:3], predicted[4] = 0, 1
    assert cut(np.zeros((1, 5, 3, 3), np.float32), [reference, predicted], (2.0, 1.0, 1.0), LABELS).index == 4
