"""How well predicted Dice matches true Dice on cases that the fit has not seen.

    .venv/bin/python benchmarks/predicted_dice.py RESULTS/Dataset004_Hippocampus/ldsegPlans__3d_fullres/fold_0 \\
        --preprocessed PREPROCESSED/Dataset004_Hippocampus --output benchmarks/output

Several folds of one dataset may be named; each is predicted (its validation cases with one sample, 40 of them with four more), or, with
`--stored`, its predicted_dice.json is taken as training left it, and no network runs. Writes predicted_dice_NAME.png, .md and .json:

- cross-fit: ten parts, as the file stores it; halves: fitted on every other case and checked on the rest, both ways;
- error: mean absolute difference of predicted and true Dice; constant: the same of the mean Dice of the cases fitted to;
- rank: Spearman's correlation; AUGRC beside its bounds: whether the cases with a low Dice come out low. Left out for a constant, whose
  held-out values fall where the left-out Dice rises;
- volumes: how often the intervals of one and of four samples' volumes held that of the reference.

To expect: an error well below the constant's where cases differ in Dice, near it where they do not. A second or two per case on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, table, write_report
from scipy.stats import spearmanr

from ldseg_auto.evaluation.picture import COLOURS, DPI
from ldseg_auto.evaluation.predicted_dice import FEWEST, NAME, Fit, Pair, PredictedDice, fit
from ldseg_auto.evaluation.report import without_nan
from ldseg_auto.evaluation.risk import augrc, augrc_bounds
from ldseg_auto.files import atomic_path, read_json
from ldseg_auto.inference.model_folder import load_network, read_model_folder
from ldseg_auto.planners.serialise import to_dict
from ldseg_auto.training.finish import fit_predicted_dice
from ldseg_auto.training.prepare import Prepared
from ldseg_auto.training.validation import validate_cases

KINDS = ("one sample", "several samples")


@dataclass(frozen=True)
class Checked:
    """Predicted against true Dice of held-out cases."""

    predicted: np.ndarray
    true: np.ndarray
    constant: np.ndarray  # what predicting the mean Dice of the other cases gives

    @property
    def row(self) -> dict[str, float]:
        """The figures of the table."""
        best, random = augrc_bounds(1 - self.true)
        flat = np.ptp(self.predicted) == 0 or np.ptp(self.true) == 0
        return {
            "cases": len(self.true), "dice": float(self.true.mean()), "deviation": float(self.true.std()),
            "error": float(np.abs(self.predicted - self.true).mean()), "constant": float(np.abs(self.constant - self.true).mean()),
            "worst": float(np.abs(self.predicted - self.true).max()),
            "rank": float("nan") if flat else float(spearmanr(self.predicted, self.true)[0]),
            "augrc": augrc(self.predicted, 1 - self.true), "augrc_best": best, "augrc_random": random,
        }  # fmt: skip


def predict_fold(fold: Path, preprocessed: Path, device: torch.device) -> PredictedDice:
    """What training would write for a fold, from its checkpoint."""
    number = fold.name.removeprefix("fold_")
    model = read_model_folder(fold.parent, [number])
    cases = read_json(fold / "manifest.json")
    name = model.plans.default_configuration
    prepared = Prepared(preprocessed, model.plans, name, model.description, cases["train"], cases["validation"])
    predict = partial(
        validate_cases, load_network(model, number, device), folder=preprocessed, plans=model.plans, configuration=model.configuration,
        labels=model.description.labels, device=device, seed=0,
    )  # fmt: skip
    steps = int(read_json(fold / "steps.json")["chosen"])
    return fit_predicted_dice(prepared, fold, predict(identifiers=prepared.validation, steps=steps), predict)


def cross_fit(found: Fit) -> Checked:
    """As the file stores it."""
    true = np.array([p.dice for p in found.pairs])
    return Checked(np.array(found.held_out), true, (true.sum() - true) / (len(true) - 1))


def halves(pairs: Sequence[Pair]) -> Checked | None:
    """Fitted on every other case, checked on the rest, and the other way round; None for too few cases."""
    parts = [list(pairs[0::2]), list(pairs[1::2])]
    if min(map(len, parts)) < FEWEST:
        return None
    predicted, true, constant = [], [], []
    for train, test in (parts, parts[::-1]):
        curve = fit(train).curve
        predicted += [curve(p.evidence) for p in test]
        true += [p.dice for p in test]
        constant += [float(np.mean([p.dice for p in train]))] * len(test)
    return Checked(np.array(predicted), np.array(true), np.array(constant))


def draw(path: Path, name: str, folds: dict[str, PredictedDice]) -> None:
    """Predicted against true Dice of held-out cases, a panel for one sample and one for several."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, kind, samples in zip(figure.subplots(1, 2), KINDS, (1, 2), strict=True):
        ends, errors = [1.0, 0.0], []
        for i, (fold, found) in enumerate(folds.items()):
            if (one := found.of(samples)) is None:
                continue
            checked, shape = cross_fit(one), " on ".join(filter(None, (one.curve.kind, " and ".join(one.curve.features))))
            label = f"{fold}: {shape}, off by {one.error:.3f} (constant {one.baseline:.3f})"
            panel.scatter(checked.predicted, checked.true, s=22, color=COLOURS[(4, 5, 2, 6, 0)[i % 5]], alpha=0.75, label=label)
            ends = [f(end, f(checked.predicted), f(checked.true)) for f, end in zip((min, max), ends, strict=True)]
            errors += np.abs(checked.predicted - checked.true).tolist()
        if errors:
            panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.3))
        panel.plot(ends, ends, color="0.6", linewidth=1)
        shown = f"{len(errors)} held-out cases, off by {np.mean(errors):.3f} on average" if errors else "no fit"
        panel.set(xlabel="predicted Dice", ylabel="true Dice", aspect="equal")
        panel.set_title(f"{name}, {kind}\n{shown}", fontsize=11)
        panel.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def report(folds: dict[str, PredictedDice]) -> tuple[str, dict[str, Any]]:
    """The table, and all figures."""
    rows, content = [], {}
    for fold, found in folds.items():
        for kind, samples in zip(KINDS, (1, 2), strict=True):
            if (one := found.of(samples)) is None:
                rows.append([fold, kind, found.note, *[""] * 8])
                continue
            for check, checked in (("cross-fit", cross_fit(one)), ("halves", halves(one.pairs))):
                if checked is None:
                    continue
                r = checked.row
                content[f"{fold}, {kind}, {check}"] = r
                curve = f"{one.curve.kind} {'+'.join(one.curve.features)}".strip() if check == "cross-fit" else ""
                figures = [f"{r[k]:.3f}" for k in ("error", "constant", "worst")]
                ranks = [f"{r['rank']:.3f}", f"{r['augrc']:.4f} ({r['augrc_best']:.4f} to {r['augrc_random']:.4f})"]
                ranks = ["", ""] if one.curve.kind == "constant" else ranks
                rows.append([fold, kind, check, curve, r["cases"], f"{r['dice']:.3f} +- {r['deviation']:.3f}", *figures, *ranks])
    header = ["fold", "samples", "check", "curve", "cases", "true Dice", "error", "constant", "worst", "rank", "AUGRC (best to random)"]
    volumes = [
        f"- {fold}, volumes, {kind}: {found.words_of_volumes(samples)}."
        for fold, found in folds.items()
        for kind, samples in zip(KINDS, (1, 2), strict=True)
    ]
    return table(header, rows) + "\n\n" + "\n".join(volumes), content


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folds", type=Path, nargs="+", metavar="FOLD", help="results/DatasetXXX_Name/PLANS__CONFIG/fold_K")
    parser.add_argument("--preprocessed", type=Path, help="preprocessed/DatasetXXX_Name; needed without --stored")
    parser.add_argument("--stored", action="store_true", help="take predicted_dice.json as it is")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/output"))
    args = parser.parse_args()
    if not args.stored and args.preprocessed is None:
        parser.error("--preprocessed is needed, or --stored")
    folds = {}
    for path in args.folds:
        folds[path.name] = (
            PredictedDice.load(path / NAME) if args.stored else predict_fold(path, args.preprocessed, torch.device(args.device))
        )
    name = args.folds[0].parent.parent.name
    text, content = report(folds)
    args.output.mkdir(parents=True, exist_ok=True)
    draw(args.output / f"predicted_dice_{name}.png", name, folds)
    files = {fold: to_dict(found) for fold, found in folds.items()}
    write_report(args.output, f"predicted_dice_{name}", text, without_nan({"machine": machine(), "figures": content, "files": files}))


if __name__ == "__main__":
    main()
