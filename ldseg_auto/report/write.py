"""Writes report.html beside the plans."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ldseg_auto.data.dataset import RawDataset
from ldseg_auto.errors import LdsegError
from ldseg_auto.files import hash_json, write_text
from ldseg_auto.parallel import InProcess, run_all
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.planner import PLANS_NAME
from ldseg_auto.planners.plans import Plans
from ldseg_auto.planners.serialise import to_dict
from ldseg_auto.progress import Progress, silent
from ldseg_auto.report.dataset import distribution_section, lead, outlier_section, picture_section
from ldseg_auto.report.html import Section, page
from ldseg_auto.report.outliers import Findings, find_outliers
from ldseg_auto.report.pictures import Thumbnail, choose, thumbnail
from ldseg_auto.report.plan import curve_section, memory_section, plan_section
from ldseg_auto.report.trained import Reconstruction, reconstructions, trained_section

logger = logging.getLogger(__name__)
NAME = "report.html"
REPORT_VERSION = 2
HEAD = 1024  # characters within which a page says what it was made from


@dataclass(frozen=True)
class Report:
    """A report that was written, or was up to date."""

    path: Path
    findings: Findings


@dataclass(frozen=True)
class Pictures:
    """What could be drawn."""

    odd: tuple[Thumbnail, ...] = ()
    others: tuple[Thumbnail, ...] = ()
    missing: str = ""  # what could not, and why


def report_path(folder: Path, plans_name: str) -> Path:
    """report.html for the plans of the default name, else report_NAME.html."""
    return folder / (NAME if plans_name == PLANS_NAME else f"report_{plans_name}.html")


def write_report(
    folder: Path, fingerprint: Fingerprint, plans: Plans, dataset: RawDataset | None = None, pool: Executor | None = None,
    progress: Progress = silent, results: Path | None = None,
) -> Report:  # fmt: skip
    """Writes report.html into `folder`, atomically; the same input gives the same bytes, and what is up to date is left alone.

    Pictures of the same data are taken over from a report in the folder; else they are drawn, where the dataset is given.

    Args:
        folder: of the plans.
        dataset: for the pictures.
        pool: draws the pictures; None draws them in this process.
        results: root of the trained models, whose reconstruction stands beside the planned ceiling.

    Returns:
        The path, and the cases that stand out. A picture that cannot be drawn is named on the page and ends nothing.

    Raises:
        OSError: the file cannot be written.
    """
    path = report_path(folder, plans.plans_name)
    findings = find_outliers(fingerprint)
    of_data = hash_json({"version": REPORT_VERSION, "data": fingerprint.data_hash})
    trained = [] if results is None else reconstructions(results, plans.dataset_name, plans.plans_name)
    made_from = {"version": REPORT_VERSION, "fingerprint": to_dict(fingerprint), "plans": plans.to_dict()}
    of_all = hash_json({**made_from, "trained": [asdict(r) for r in trained]})
    there = _keys(path)
    if there[:1] == [of_all] and (there[1:] == [of_data] or dataset is None):
        return Report(path, findings)
    section = _kept_pictures((path, folder / NAME), of_data)
    if section is None:
        pictures = _draw(dataset, findings, pool or InProcess(), progress)
        section = picture_section(fingerprint, findings, pictures.odd, pictures.others, pictures.missing)
        of_data = "" if pictures.missing else of_data
    write_text(path, render(fingerprint, plans, findings, section, trained, (of_all, of_data)))
    return Report(path, findings)


def render(
    fingerprint: Fingerprint, plans: Plans, findings: Findings, pictures: Section, trained: list[Reconstruction],
    keys: tuple[str, str] = ("", ""),
) -> str:  # fmt: skip
    """The page as text; `keys` name what it and its pictures were made from."""
    sections = [
        outlier_section(findings, len(fingerprint.cases)),
        pictures,
        distribution_section(fingerprint, findings),
        plan_section(plans),
        curve_section(plans, fingerprint),
        memory_section(plans),
        trained_section(trained),
    ]
    return page(f"{fingerprint.dataset_name}: dataset and plan", lead(fingerprint, findings), sections, " ".join(keys))


def _keys(path: Path) -> list[str]:
    """What the page at `path` and its pictures were made from; fewer than two where it does not say."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", errors="replace") as stream:
        found = re.search(r'<meta name="made-from" content="([0-9a-f ]*)">', stream.read(HEAD))
    return found[1].split() if found else []


def _kept_pictures(paths: Sequence[Path], of_data: str) -> Section | None:
    """The section of the first page whose pictures are of this data."""
    for path in paths:
        if _keys(path)[1:] == [of_data]:
            found = re.search(r'<section id="pictures"><h2>([^<]*)</h2>\n(.*?)\n</section>', path.read_text(encoding="utf-8"), re.DOTALL)
            if found:
                return Section("pictures", found[1], found[2])
    return None


def _draw(dataset: RawDataset | None, findings: Findings, pool: Executor, progress: Progress) -> Pictures:
    """The pictures of the cases that stand out and of others; what could not be drawn is named."""
    if dataset is None:
        return Pictures(missing="The raw data were not at hand when this page was made: no pictures.")
    cases = {c.identifier: c for c in dataset.cases}
    odd, others = choose(list(cases), [n for n in findings.names if n in cases])
    draw = partial(thumbnail, description=dataset.description)
    try:
        outcomes = run_all(pool, draw, [cases[n] for n in (*odd, *others)], "pictures", progress)
    except LdsegError as cause:
        logger.warning("the report has no pictures: %s", cause)
        return Pictures(missing=f"No pictures: {cause}")
    drawn = {o.item.identifier: o.value for o in outcomes if o.value is not None}
    failed = {o.item.identifier: str(o.error) or type(o.error).__name__ for o in outcomes if o.error is not None}
    for name, why in failed.items():
        logger.warning("no picture of case %s in the report: %s", name, why)
    missing = f"No picture of {', '.join(failed)}: the files could not be read or drawn." if failed else ""

    def of(wanted: Sequence[str]) -> tuple[Thumbnail, ...]:
        return tuple(drawn[n] for n in wanted if n in drawn)

    return Pictures(of(odd), of(others), missing)
