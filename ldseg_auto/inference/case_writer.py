"""All files of one predicted case, and the table of cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldseg_auto.data.cases import Case
from ldseg_auto.data.description import Description
from ldseg_auto.data.endings import TIFF, label_ending
from ldseg_auto.data.image_io import read_image, write_label
from ldseg_auto.errors import InputError
from ldseg_auto.inference.outputs import Extras, PredictionTable, case_record, read_predictions, write_extras
from ldseg_auto.inference.prediction import Prediction


class CaseWriter:
    """Writes predictions into a folder, one case after the other.

    Args:
        output: the folder.
        description: of the model's dataset.
        extras: what to write beside label maps and table.
        flag_below: predicted Dice below which a case is flagged; None flags none.
        about: what predictions.json says beside the cases.
        keep: the cases that an earlier predictions.json holds stay in the table, for a run that goes on.
        suffix: of the names of predictions.csv and predictions.json, for a part.

    Raises:
        InputError: flag_below is no Dice, or the predictions.json to keep is damaged.
    """

    def __init__(
        self, output: Path, description: Description, extras: Extras, flag_below: float | None, about: Mapping[str, Any],
        keep: bool = False, suffix: str = "",
    ) -> None:  # fmt: skip
        if flag_below is not None and not 0 <= flag_below <= 1:
            raise InputError(f"--flag-below {flag_below}: expected a Dice from 0 to 1.")
        self.output, self.description, self.extras, self.flag_below = output, description, extras, flag_below
        self._table = PredictionTable(output, {"flag_below": flag_below, **about}, suffix)
        self.cases = read_predictions(output, suffix) if keep else {}

    def write(self, case: Case, prediction: Prediction) -> list[Path]:
        """Writes a case: extras, then its label map, then the table.

        Returns:
            The files of the case.

        Raises:
            OSError: a file cannot be written; whatever stands there is whole.
        """
        if prediction.geometry is None:
            raise InputError(f"case {prediction.case}: an array without a geometry cannot be written. Predict a file or a SimpleITK image.")
        ending, labels = self.description.file_ending, self.description.labels
        files = write_extras(prediction, self.output, labels, ending, self.extras)
        if self.extras.preview:
            from ldseg_auto.inference.preview import preview_png  # here: Pillow's drawing loads slowly

            image = read_image(case.images).array  # read again: holding it until now would cost memory in every run
            files.append(self.output / "previews" / f"{case.identifier}.png")
            preview_png(files[-1], prediction, image, labels)
        path = self.output / f"{case.identifier}{label_ending(ending)}"
        write_label(path, prediction.label, prediction.geometry)
        sidecar = [self.output / f"{case.identifier}.json"] if ending.lower() in TIFF and prediction.geometry.has_spacing else []
        self.cases[case.identifier] = case_record(prediction.score, self.flag_below)
        self.write_table()
        return [*files, path, *sidecar]

    def write_table(self) -> None:
        """Writes predictions.json and predictions.csv."""
        self._table.write(self.cases)
