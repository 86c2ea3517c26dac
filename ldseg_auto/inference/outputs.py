"""What a prediction leaves on disk beside its label map: probabilities, uncertainty, samples, and the table of all cases.

Every file is written under a temporary name and renamed; the same prediction gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pillow

from ldseg_auto.data import natural, nifti_header, volume
from ldseg_auto.data.endings import VOLUME, label_ending
from ldseg_auto.data.geometry import Geometry
from ldseg_auto.data.image_io import write_image, write_label
from ldseg_auto.data.labels import LabelSpec
from ldseg_auto.errors import InputError
from ldseg_auto.files import Encoded, atomic_path, json_member, read_json, write_json_members, write_text
from ldseg_auto.inference.case_score import CaseScore
from ldseg_auto.inference.prediction import Prediction, Wanted

PROBABILITIES = ("nifti", "npz")
NIFTI_ONE, NATURAL_ONE = 32767, 65535  # what a probability of 1 is stored as
SLOPE = 112  # byte of scl_slope and scl_inter in a NIfTI-1 header
LEVEL = 1  # of deflate: probabilities shrink little more at higher ones
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time in .npz files, so that the same arrays give the same bytes
LOW, UNKNOWN = "low", "unknown"  # flags
COLUMNS = ("case", "predicted_dice", "predicted_dice_error", "flag", "agreement", "softmax", "soft_dice", "draws", "unit", "foreground")
ENDS = {"": "mask", "_low": "low", "_high": "high", "_likely_low": "likely_low", "_likely_high": "likely_high"}  # column -> key of a volume


@dataclass(frozen=True)
class Extras:
    """Which files a caller wants beside the label maps."""

    probabilities: str | None = None
    """nifti: one file per class or region; npz: one array."""
    uncertainty: bool = False
    samples: bool = False
    preview: bool = False

    def __post_init__(self) -> None:
        if self.probabilities not in (None, *PROBABILITIES):
            raise InputError(f"probabilities = {self.probabilities!r}: expected one of {', '.join(PROBABILITIES)}.")

    @property
    def wanted(self) -> Wanted:
        """What the predictor has to keep for them."""
        return Wanted(self.probabilities is not None, self.uncertainty or self.preview, self.samples)


def write_extras(prediction: Prediction, output: Path, labels: LabelSpec, file_ending: str, extras: Extras) -> list[Path]:
    """Writes what is wanted of one case, but the preview (preview.py).

    Args:
        prediction: with a geometry, and with the maps of `extras.wanted`.
        output: folder of the label maps; all but CASE.npz goes into folders below it.
        file_ending: of the dataset.

    Returns:
        The files.

    Raises:
        InputError: the prediction has no geometry, or lacks a map.
        OSError: a file cannot be written.
    """
    if prediction.geometry is None:
        raise InputError(f"case {prediction.case}: an array without a geometry cannot be written. Predict a file or a SimpleITK image.")
    done: list[Path] = []
    if extras.probabilities == "npz":
        done.append(write_npz(output / f"{prediction.case}.npz", _kept(prediction, "probabilities"), prediction.geometry))
    elif extras.probabilities == "nifti":
        done += _write_probabilities(prediction, output / "probabilities", labels, file_ending)
    for name in ("entropy", "mutual_information") if extras.uncertainty else ():
        stem = output / "uncertainty" / f"{prediction.case}_{name}"
        done.append(_write_float(stem, _kept(prediction, name), prediction.geometry, file_ending))
    for i, sample in enumerate(_kept(prediction, "samples") if extras.samples else ()):
        path = output / "samples" / f"{prediction.case}_sample_{i:03d}{label_ending(file_ending)}"
        write_label(path, sample, prediction.geometry)
        done.append(path)
    return done


def _kept(prediction: Prediction, name: str) -> np.ndarray:
    array = getattr(prediction, name)
    if array is None:
        raise InputError(f"case {prediction.case} was predicted without {name}: ask for it with Wanted({name}=True).")
    return np.asarray(array)


def head_names(labels: LabelSpec) -> tuple[str, ...]:
    """Names of the probabilities' first axis: classes with the background, or regions."""
    return labels.foreground_names if labels.has_regions else ("background", *labels.foreground_names)


def write_npz(path: Path, probabilities: np.ndarray, geometry: Geometry) -> Path:
    """Writes `probabilities` (heads, z, y, x) as float16 under this key, axes as in the image's file, where nnU-Net's .npz have them."""
    array = geometry.from_canonical(np.asarray(probabilities, np.float16))
    entry = zipfile.ZipInfo("probabilities.npy", EPOCH)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
        entry.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(entry, "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, array, allow_pickle=False)
    return path


def _write_probabilities(prediction: Prediction, folder: Path, labels: LabelSpec, file_ending: str) -> list[Path]:
    """A file per head: NIfTI int16 with its slope, for natural images 16 bit PNG (one slice) or TIFF."""
    geometry = prediction.geometry
    done: list[Path] = []
    if geometry is None:
        return done
    for i, (name, head) in enumerate(zip(head_names(labels), _kept(prediction, "probabilities"), strict=True)):
        stem = f"{prediction.case}_{i:02d}_{re.sub('[^A-Za-z0-9]+', '-', name).strip('-')}"
        if file_ending.lower() in VOLUME:
            path = folder / f"{stem}.nii.gz"
            _write_scaled(path, head, geometry)
        else:
            path = folder / f"{stem}{'.png' if len(head) == 1 else '.tif'}"
            with atomic_path(path) as temporary:
                natural.write_values(temporary, geometry.from_canonical(_scaled(head, NATURAL_ONE, np.uint16)))
        done.append(path)
    return done


def _scaled(head: np.ndarray, one: int, dtype: type) -> np.ndarray:
    return np.round(np.clip(head.astype(np.float32), 0, 1) * one).astype(dtype)


def _write_scaled(path: Path, head: np.ndarray, geometry: Geometry) -> None:
    """NIfTI int16 whose header says that 32767 is 1: readers that know scl_slope, which are all common ones, give probabilities."""
    with atomic_path(path) as temporary:
        plain = temporary.with_name(temporary.name[: -len(".gz")])
        try:
            volume.write(plain, np.ascontiguousarray(geometry.from_canonical(_scaled(head, NIFTI_ONE, np.int16))), geometry)
            content = bytearray(plain.read_bytes())
        finally:
            plain.unlink(missing_ok=True)
        content[SLOPE : SLOPE + 8] = np.array([1 / NIFTI_ONE, 0], np.float32).tobytes()
        temporary.write_bytes(nifti_header.compress(bytes(content)))


def _write_float(stem: Path, array: np.ndarray, geometry: Geometry, file_ending: str) -> Path:
    """A map (z, y, x) as float32: in the dataset's volume format, for natural images as TIFF, a page per z."""
    if file_ending.lower() in VOLUME:
        path = stem.with_name(stem.name + file_ending)
        write_image(path, np.asarray(array, np.float32), geometry=geometry)
        return path
    path = stem.with_name(stem.name + ".tif")
    first, *others = (pillow.fromarray(np.ascontiguousarray(page, np.float32)) for page in geometry.from_canonical(array))
    with atomic_path(path) as temporary:
        first.save(temporary, format="TIFF", save_all=True, append_images=others, compression="tiff_adobe_deflate")
    return path


def case_record(score: CaseScore, flag_below: float | None = None) -> dict[str, Any]:
    """One case of predictions.json.

    Args:
        flag_below: a predicted Dice below it is flagged `low`; a case that has none, `unknown`. None flags nothing.
    """
    flag = ""
    if flag_below is not None:
        flag = UNKNOWN if score.predicted_dice is None else LOW if score.predicted_dice < flag_below else ""
    return {
        "predicted_dice": score.predicted_dice, "predicted_dice_error": score.predicted_error, "flag": flag, "agreement": score.agreement,
        "softmax": score.softmax, "soft_dice": score.soft_dice, "draws": score.draws, "unit": score.unit, "foreground": score.foreground,
        "volumes": {name: asdict(v) for name, v in score.volumes.items()},
    }  # fmt: skip


class PredictionTable:
    """predictions.json and predictions.csv of a folder, written anew after each case: a case is turned into text once.

    Args:
        about: what else the JSON says, such as the threshold of the flags and how far predicted Dice is off.
        suffix: of the file names, for a part.
    """

    def __init__(self, output: Path, about: Mapping[str, Any], suffix: str = "") -> None:
        self.output, self.about, self.suffix = output, about, suffix
        self._members, self._lines = Encoded(json_member), Encoded(csv_line)

    def write(self, cases: Mapping[str, Mapping[str, Any]]) -> None:
        """A case (`case_record`) each, by name, so that neither file depends on the order of the work."""
        ordered = {name: cases[name] for name in sorted(cases)}
        write_json_members(self.output / f"predictions{self.suffix}.json", self.about, "cases", self._members(ordered))
        write_text(self.output / f"predictions{self.suffix}.csv", csv_header(ordered) + "".join(self._lines(ordered)))


def read_predictions(output: Path, suffix: str = "") -> dict[str, dict[str, Any]]:
    """The cases that an earlier run recorded in `output`; none without the file.

    Raises:
        InputError: predictions.json is damaged.
    """
    path = output / f"predictions{suffix}.json"
    if not path.exists():
        return {}
    cases = read_json(path).get("cases")
    if not isinstance(cases, dict):
        raise InputError(f"{path}: cases = {cases!r}: expected an object. Delete the file, or predict into another folder.")
    return cases


def csv_header(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """First line of predictions.csv: the case's figures, then for each class its volume with interval."""
    names = list(next(iter(cases.values()))["volumes"]) if cases else []
    return _csv([*COLUMNS, *(f"volume_{name}{end}" for name in names for end in ENDS)])


def csv_line(case: str, record: Mapping[str, Any]) -> str:
    """A case's line of predictions.csv; what has no value is empty."""
    sizes = [of.get(k) for of in record["volumes"].values() for k in ENDS.values()]
    return _csv([case, *(record.get(k) for k in COLUMNS[1:]), *sizes])


def _csv(values: Sequence[Any]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue()
