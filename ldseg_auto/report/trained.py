"""What trainings made of the planned latent: the measured reconstruction beside the ceiling that the planner predicted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ldseg_auto.errors import LdsegError
from ldseg_auto.files import read_json
from ldseg_auto.report.html import Section, paragraph, table


@dataclass(frozen=True)
class Reconstruction:
    """One class of one trained fold."""

    configuration: str
    fold: str
    name: str  # of the class
    planned: float | None  # ceiling of the linear block code; None where it was not measured
    measured: float | None  # Dice of the label autoencoder with the image switched off, on patches of validation cases


def reconstructions(results: Path, dataset_name: str, plans_name: str) -> list[Reconstruction]:
    """Of every fold trained with these plans that left a latent.json below `results`; what cannot be read is left out."""
    found = []
    for path in sorted((results / dataset_name).glob(f"{plans_name}__*/fold_*/latent.json")):
        try:
            content = read_json(path)
        except LdsegError:
            continue
        measured, planned = content.get("reconstruction"), content.get("ceilings")
        if not isinstance(measured, dict) or not isinstance(planned, dict):
            continue
        configuration, fold = path.parent.parent.name.rpartition("__")[2], path.parent.name.removeprefix("fold_")
        found += [Reconstruction(configuration, fold, name, planned.get(name), dice) for name, dice in measured.items()]
    return found


def trained_section(found: list[Reconstruction]) -> Section:
    """A row for each class of each fold."""
    if not found:
        return Section("trained", "After training", paragraph("No model is trained with these plans yet.", "muted"))
    rows = [(r.configuration, r.fold, r.name, _dice(r.planned), _dice(r.measured)) for r in found]
    text = "Ceiling: what the planner's linear code reconstructs of labels. Measured: the trained label autoencoder, the image "
    text += "switched off, on patches of the fold's validation cases. It can exceed the ceiling, which is linear; far below, train longer."
    head = ("configuration", "fold", "class", "ceiling", "measured")
    return Section("trained", "After training", paragraph(text, "muted") + table(head, rows, (3, 4)))


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
