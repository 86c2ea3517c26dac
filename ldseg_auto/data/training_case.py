"""One training case, read and checked: what fingerprint and preprocessing start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldseg_auto.data.cases import Case
from ldseg_auto.data.description import Description
from ldseg_auto.data.geometry import differences
from ldseg_auto.data.image_io import Image, read_image, read_label
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import DatasetError


def load_training_case(case: Case, description: Description) -> tuple[Image, list[np.ndarray]]:
    """The image `(c, z, y, x)` and, per rater, the label indices `(z, y, x)` int16, all in canonical orientation.

    Raises:
        DatasetError: a file is unreadable, the number of channels is not the declared one, image and label do not lie on the same grid, or
            a label value is not declared; the message names the case.
    """
    try:
        image = read_image(case.images)
        _check_channels(image, description)
        return image, [_load_label(path, image, case.images[0], description.labels) for path in case.labels]
    except DatasetError as cause:
        raise DatasetError(f"case {case.identifier}: {cause}") from cause


def _check_channels(image: Image, description: Description) -> None:
    found, names = image.array.shape[0], description.channel_names
    if found != len(names):
        raise DatasetError(f"the image files hold {found} channel(s), dataset.json declares {len(names)} ({', '.join(names)}).")


def _load_label(path: Path, image: Image, image_path: Path, labels: LabelSpec) -> np.ndarray:
    """Compared with the image on the files' own grids, before either is turned to the canonical orientation."""
    label = read_label(path)
    different = differences(image.geometry, label.geometry)
    if different:
        shown = "; ".join(different)
        raise DatasetError(f"image {image_path} and label {path} do not lie on the same grid: {shown}. Resample one to the other.")
    try:
        return labels.encode(label.array)
    except DatasetError as cause:
        raise DatasetError(f"label {path}: {cause}") from cause
