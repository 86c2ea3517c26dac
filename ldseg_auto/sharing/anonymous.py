"""A model's files without the names of the cases that it was trained on: these may tell who a patient is."""

from __future__ import annotations

from typing import Any

DATASET_KEYS = (
    "name", "description", "reference", "licence", "license", "channel_names", "modality", "labels", "regions_class_order", "numTraining",
    "file_ending",
)  # fmt: skip


def without_cases(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """The content of a JSON file of a model without names of cases, patients and raters.

    Args:
        name: in the archive, such as fold_0/predicted_dice.json.
        content: as read; not changed.
    """
    if name == "dataset.json":
        return {key: content[key] for key in DATASET_KEYS if key in content} | _numbered_raters(content)
    if name == "inference.json":
        return {key: value for key, value in content.items() if key != "measured"}
    if name.endswith("/predicted_dice.json"):
        return {key: _numbered_pairs(value) if isinstance(value, dict) else value for key, value in content.items()}
    return content


def _numbered_raters(content: dict[str, Any]) -> dict[str, Any]:
    raters = content.get("raters")
    return {"raters": [f"labelsTr_rater{number + 1}" for number in range(len(raters))]} if raters else {}


def _numbered_pairs(fit: dict[str, Any]) -> dict[str, Any]:
    pairs = fit.get("pairs", [])
    return fit | {"pairs": [pair | {"case": f"case_{number:04d}"} for number, pair in enumerate(pairs)]}
