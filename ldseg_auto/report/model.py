"""The page on a trained model: what it is worth case by case, how it was trained, and what is missing."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from statistics import median

from PIL import Image

from ldseg_auto.data.description import Description
from ldseg_auto.evaluation.calibration import Reliability
from ldseg_auto.evaluation.cut import Cut
from ldseg_auto.planners.fingerprint import Fingerprint
from ldseg_auto.planners.plans import Plans
from ldseg_auto.report.html import Section, charts, figure, key, page, paragraph, table, tiles
from ldseg_auto.report.model_charts import calibration_figure, predicted_figures, step_figures, training_figures
from ldseg_auto.report.model_files import FoldFiles, Score
from ldseg_auto.report.pictures import PLANES, gallery, layered
from ldseg_auto.report.plan import curve_section, plan_section
from ldseg_auto.report.trained import Reconstruction, trained_section
from ldseg_auto.report.units import times

WORST, BEST = 3, 1  # cases that have pictures
ROWS, AT_TOP = 300, 250  # of the table of cases, and of those the worst; of more cases the middle is left out
COLUMNS = 8  # classes that have a column each; of more the three lowest are named
OVERLAYS = 2  # per fold: the first and the last
QUALITY = 80  # of their JPEG


@dataclass(frozen=True)
class Looked:
    """A validation case predicted anew."""

    case: str
    fold: str
    cut: Cut
    """its masks: of the raters, then the prediction."""


@dataclass(frozen=True)
class Anew:
    """What was made of cases predicted for the report."""

    pictures: Sequence[Looked] = ()
    reliability: Reliability | None = None
    note: str = ""  # which cases, on which grid, or why there is nothing


@dataclass(frozen=True)
class Model:
    """All that the page shows."""

    name: str  # PLANS__CONFIGURATION
    plans: Plans
    description: Description
    fingerprint: Fingerprint | None
    folds: Sequence[FoldFiles]
    anew: Anew
    wanting: Mapping[str, str]  # what is missing -> the command that makes it

    @property
    def scores(self) -> list[Score]:
        """Validation cases of the folds that left them out of training, lowest Dice first; those without any Dice last."""
        found = [s for f in self.folds for s in f.scores if s.case not in f.manifest.get("train", ())]
        return sorted(found, key=lambda s: (s.dice is None, s.dice, s.case, s.fold))


def render_model(model: Model) -> str:
    """The page as text."""
    sections = [
        cases_section(model),
        training_section(model.folds, model.description.labels.foreground_names),
        calibration_section(model.anew),
        predicted_section(model.folds),
        steps_section(model.folds),
        latent_section(model),
        dataset_section(model),
        *_plan_sections(model),
        record_section(model.folds),
        missing_section(model),
    ]
    return page(f"{model.plans.dataset_name}: model {model.name}", lead(model), sections, "")


def lead(model: Model) -> str:
    """The model in a few numbers."""
    scores = model.scores
    dice = [s.dice for s in scores if s.dice is not None]
    seconds = sum(row.get("seconds") or 0 for f in model.folds for row in f.rows)
    numbers = [
        (", ".join(f.fold for f in model.folds) or "none", "folds trained"),
        (f"{sum(dice) / len(dice):.4f}" if dice else "-", "mean validation Dice of the cases"),
        (f"{dice[0]:.4f}" if dice else "-", "lowest"),
        (str(len(scores)), "validation cases"),
        (f"{seconds / 3600:.2f} h", "training, without validation"),
    ]
    text = f"{len(model.wanting)} parts are missing: see the end of the page for the commands that make them." if model.wanting else ""
    return (
        tiles(numbers)
        + (paragraph(text, "warning") if text else "")
        + paragraph("This page shows images of the training data: keep it where the data may be.", "muted")
    )


def cases_section(model: Model) -> Section:
    """Classes, pictures of the worst and the best, and every validation case."""
    scores, names = model.scores, model.description.labels.foreground_names
    if not scores:
        text = "No validation case that was not trained on. Fold all has none; other folds are validated when their training ends."
        return Section("cases", "Validation cases", paragraph(text, "muted"))
    parts = ["<h3>Classes</h3>", _class_table(scores, names), *_pictures(model, scores), "<h3>All cases, lowest Dice first</h3>"]
    shown = scores if len(scores) <= ROWS else [*scores[:AT_TOP], *scores[AT_TOP - ROWS :]]
    if len(shown) < len(scores):
        text = f"The {AT_TOP} lowest and the {ROWS - AT_TOP} highest of {len(scores)}; validation/summary.json of each fold has all."
        parts.append(paragraph(text, "muted"))
    parts.append(_case_table(shown, names, {pair: guess for f in model.folds for pair, guess in _guesses(f).items()}))
    text = "Whole cases on their own grid with the final averaged weights, each predicted by the fold that did not train on it. "
    text += "Dice: 1 is perfect overlap. A class that both masks lack has no Dice."
    return Section("cases", "Validation cases", paragraph(text, "muted") + "".join(parts))


def _class_table(scores: Sequence[Score], names: Sequence[str]) -> str:
    rows = []
    for name in names:
        values = sorted(d for s in scores if (d := s.classes.get(name)) is not None)
        figures = (sum(values) / len(values), median(values), values[0], values[-1]) if values else (None,) * 4
        rows.append((name, *(_dice(v) for v in figures), str(len(values))))
    return table(("class", "mean Dice", "median", "lowest", "highest", "cases"), rows, (1, 2, 3, 4, 5))


def _case_table(scores: Sequence[Score], names: Sequence[str], guesses: Mapping[tuple[str, str], float]) -> str:
    """Case, fold, Dice, its classes, volumes, predicted Dice."""
    few = len(names) <= COLUMNS
    volumes, predicted = any(s.volumes for s in scores), bool(guesses)
    head = ["case", "fold", "Dice", *(names if few else ("lowest classes",))]
    head += ["reference, ml", "predicted, ml"] if volumes else []
    head += ["predicted Dice"] if predicted else []
    rows = []
    for s in scores:
        row = [s.case, s.fold, _dice(s.dice), *([_dice(s.classes.get(n)) for n in names] if few else [_lowest(s)])]
        row += [f"{v:.3g}" for v in s.volumes] if s.volumes else ["-", "-"] if volumes else []
        row += [_dice(guesses.get((s.fold, s.case)))] if predicted else []
        rows.append(row)
    numbers = [i for i in range(1, len(head)) if few or i != 3]
    return table(head, rows, numbers)


def _lowest(score: Score) -> str:
    ranked = sorted((d, n) for n, d in score.classes.items() if d is not None)
    return ", ".join(f"{n} {d:.3f}" for d, n in ranked[:3])


def _guesses(f: FoldFiles) -> dict[tuple[str, str], float]:
    """Predicted Dice of each held-out case."""
    fit = f.predicted.single if f.predicted else None
    return {} if fit is None else {(f.fold, p.case): guess for p, guess in zip(fit.pairs, fit.held_out, strict=True)}


def _pictures(model: Model, scores: Sequence[Score]) -> list[str]:
    """Reference and prediction of the worst and of the best cases."""
    labels = model.description.labels
    dice = {(s.fold, s.case): s.dice for s in scores}
    parts = ["<h3>The worst and the best</h3>"]
    if not model.anew.pictures:
        return [*parts, paragraph(model.anew.note, "muted")]
    thumbnails = []
    for looked in model.anew.pictures:
        seen = looked.cut
        extent = seen.extent[1], seen.extent[0]
        where = "" if seen.count == 1 else f"{PLANES[seen.axis]} slice {seen.index + 1} of {seen.count}"
        note = f"fold {looked.fold}, Dice {_dice(dice.get((looked.fold, looked.case)))}"
        for what, masks, text in (("reference", seen.masks[:-1], where), ("prediction", seen.masks[-1:], note)):
            thumbnails.append(layered(f"{looked.case}, {what}", seen.image[:1], masks, extent, labels, text))
    return [*parts, paragraph(model.anew.note, "muted"), key(labels.foreground_names), gallery(thumbnails, {})]


def training_section(folds: Sequence[FoldFiles], classes: Sequence[str]) -> Section:
    """Curves and overlays of each fold."""
    parts = []
    for f in folds:
        figures = training_figures(f.rows, classes, f.fold)
        parts.append(f"<h3>Fold {escape(f.fold)}</h3>" + (charts(figures) if figures else paragraph("No training log.", "muted")))
        chosen = [*f.overlays[:1], *f.overlays[1:][-(OVERLAYS - 1) :]]
        shown = [_overlay(path, f.fold) for path in chosen]
        parts.append(f'<div class="charts pictures">{"".join(shown)}</div>' if any(shown) else "")
    return Section("training", "Training", "".join(parts))


def _overlay(path: Path, fold: str) -> str:
    """A picture of fixed patches as JPEG; nothing where it cannot be read."""
    epoch = path.stem.removeprefix("epoch_").lstrip("0")
    stream = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.convert("RGB").save(stream, "JPEG", quality=QUALITY)
    except OSError:
        return ""
    uri = base64.b64encode(stream.getvalue()).decode("ascii")
    alt = f"reference, prediction and one draw of fixed validation patches after epoch {epoch} of fold {fold}"
    return figure(f"Fixed patches after epoch {epoch}", f'<img src="data:image/jpeg;base64,{uri}" alt="{escape(alt)}">')


def calibration_section(anew: Anew) -> Section:
    """Whether a confidence of 0.9 means that 90 % of such voxels are right."""
    if anew.reliability is None:
        return Section("calibration", "Calibration", paragraph(anew.note, "muted"))
    what = "voxels within two steps of either foreground"
    return Section("calibration", "Calibration", paragraph(anew.note, "muted") + charts([calibration_figure(anew.reliability, what)]))


def predicted_section(folds: Sequence[FoldFiles]) -> Section:
    """What predictions say of their own Dice."""
    what = "softmax response, soft Dice, agreement of samples, size"
    text = f"From what a prediction says of itself ({what}) to the Dice it has. Each case was held out."
    figures = predicted_figures(folds)
    notes = [f"Fold {f.fold}: {f.predicted.note}" for f in folds if f.predicted and f.predicted.note]
    body = charts(figures) if figures else paragraph("There is no fit.", "muted")
    return Section("predicted", "Predicted Dice", paragraph(text, "muted") + body + "".join(paragraph(n, "muted") for n in notes))


def steps_section(folds: Sequence[FoldFiles]) -> Section:
    """The measured curve over sampling steps."""
    figures = step_figures(folds)
    text = "Measured on the fixed patches after training. The ring is what prediction takes."
    return Section("steps", "Steps", paragraph(text, "muted") + (charts(figures) if figures else paragraph("Not measured.", "muted")))


def dataset_section(model: Model) -> Section:
    """The dataset in a few lines."""
    labels, channels = model.description.labels, model.description.channel_names
    rows = [("dataset", model.plans.dataset_name), ("channels", ", ".join(channels)), ("classes", ", ".join(labels.foreground_names))]
    if labels.has_regions:
        rows.append(("regions", "classes may overlap: each is a region of label values"))
    if labels.ignore_value is not None:
        rows.append(("ignore label", str(labels.ignore_value)))
    if model.fingerprint is not None:
        cases = model.fingerprint.cases
        rows.append(("training cases", str(len(cases))))
        rows.append(("raters", str(model.fingerprint.raters)))
        rows.append(("median spacing, mm (z, y, x)", times(tuple(float(median(c.spacing[a] for c in cases)) for a in range(3)))))
        rows.append(("median size, voxels (z, y, x)", times(tuple(float(median(c.shape[a] for c in cases)) for a in range(3)))))
    text = "The dataset's own page, report.html in its preprocessed folder, shows its cases and what stands out."
    return Section("dataset", "Dataset", table(("", ""), rows) + paragraph(text, "muted"))


def _plan_sections(model: Model) -> list[Section]:
    """Plan and curves of the trained configuration."""
    name = model.plans.default_configuration
    own = replace(model.plans, configurations={name: model.plans.configuration(name)})
    curves = [curve_section(own, model.fingerprint)] if model.fingerprint is not None else []
    return [plan_section(own), *(replace(s, title="Planned latent and steps") for s in curves)]


def latent_section(model: Model) -> Section:
    """What the label autoencoder reconstructs of each class, beside the planned ceiling."""
    name = model.plans.default_configuration
    found: list[Reconstruction] = []
    for f in model.folds:
        measured, planned = f.latent.get("reconstruction") or {}, f.latent.get("ceilings") or {}
        found += [Reconstruction(name, f.fold, c, planned.get(c), dice) for c, dice in measured.items()]
    if found:
        return replace(trained_section(found), anchor="latent", title="Latent")
    direct = model.plans.configuration().network.variant == "direct"
    text = "A direct network has no label autoencoder." if direct else "Not measured."
    return Section("latent", "Latent", paragraph(text, "muted"))


def record_section(folds: Sequence[FoldFiles]) -> Section:
    """Versions, device, seed, length."""
    keys = ("ldseg_auto", "torch", "python", "device", "precision", "seed", "started")
    rows = [(k, *(str(f.manifest.get(k, "-")) for f in folds)) for k in keys]
    rows += [(f"{k} cases", *(str(len(f.manifest.get(k, ()))) for f in folds)) for k in ("train", "validation")]
    last = [f.rows[-1] if f.rows else {} for f in folds]
    rows.append(("epochs", *(_count(r.get("epoch")) for r in last)))
    rows.append(("iterations", *(_count(r.get("iteration")) for r in last)))
    rows.append(("seconds of training", *(f"{sum(r.get('seconds') or 0 for r in f.rows):.0f}" for f in folds)))
    rows.append(("finished", *("yes" if f.finished else "no" for f in folds)))
    return Section("record", "Training record", table(("", *(f"fold {f.fold}" for f in folds)), rows))


def missing_section(model: Model) -> Section:
    """What is missing, and the command that makes it."""
    if not model.wanting:
        return Section("missing", "Missing", paragraph("Nothing.", "muted"))
    rows = "".join(f"<tr><td>{escape(what)}</td><td><code>{escape(how)}</code></td></tr>" for what, how in model.wanting.items())
    head = "<thead><tr><th>missing</th><th>made by</th></tr></thead>"
    return Section("missing", "Missing", f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>')


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
