"""Fine-tuning: the weights of another training that fit, by name and shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldseg_auto.data.description import Description
from ldseg_auto.errors import ModelError
from ldseg_auto.files import hash_file, read_json
from ldseg_auto.inference.model_folder import CHECKPOINTS, trained_folds
from ldseg_auto.planners.plans import Configuration, Plans
from ldseg_auto.training import checkpoint
from ldseg_auto.training.prepare import Prepared

logger = logging.getLogger(__name__)
IMAGES = "image_encoder."  # what a pretrained model is taken for
CODE = ("label_encoder.", "standardise", "decoder.linear")  # how labels become latents and masks again


@dataclass(frozen=True)
class Pretrained:
    """What a training began with; for the fold's manifest."""

    path: str
    sha256: str
    dataset: str  # that it was trained on
    transferred: tuple[str, ...]  # layers
    left_out: dict[str, str]  # layer -> why; it starts from random weights
    differences: dict[str, str] = field(default_factory=dict)  # what else differs between the two trainings: "theirs -> this one's"
    validation_cases_seen: tuple[str, ...] = ()  # cases of this fold's validation that it was trained on


def find_checkpoint(path: Path) -> Path:
    """The checkpoint meant by a model folder, a fold's folder or a checkpoint file.

    A model folder with several folds means fold_all. Of a fold the final checkpoint is taken, else the best, else the latest.

    Raises:
        ModelError: nothing is there, or several folds are and none is `all`.
    """
    if path.is_file():
        if path.suffix.lower() == ".zip":
            raise ModelError(f"--pretrained {path} is an archive: put it in place with ldseg_import, and name the model folder.")
        return path
    own = next((path / name for name in CHECKPOINTS if (path / name).exists()), None)
    if own is not None:
        return own
    folds = trained_folds(path)
    if not folds:
        raise ModelError(f"--pretrained {path} holds no checkpoint: name a model folder, a fold's folder or a checkpoint file.")
    if len(folds) > 1 and "all" not in folds:
        names = ", ".join(f"fold_{fold}" for fold in folds)
        raise ModelError(
            f"--pretrained {path} holds several folds ({names}): name one of them, for instance {path / f'fold_{next(iter(folds))}'}."
        )
    return folds.get("all") or next(iter(folds.values()))


def load_pretrained(path: Path, models: Sequence[nn.Module], prepared: Prepared) -> Pretrained:
    """Copies the EMA weights that fit into all of `models`, which are of one architecture (the trained and the averaged one).

    A layer is transferred whole or not at all: where its weight has another shape, so do new labels or channels, its bias stays too. So
    is the code of labels: label encoder, the latent's statistics and the decoder's linear half fit each other. A model without
    diffusion has not trained it. Optimiser, schedule and the EMA's warm-up begin anew.

    Args:
        path: see `find_checkpoint`.
        prepared: what is trained now, to name what differs.

    Raises:
        ModelError: no checkpoint, a damaged one, or not one convolution of its image encoder fits.
        PlansError: the plans beside it are damaged or of another version.
    """
    source = find_checkpoint(path)
    content = checkpoint.load(source)
    theirs = content.get("ema")
    if not isinstance(theirs, Mapping) or not all(isinstance(value, torch.Tensor) for value in theirs.values()):
        raise ModelError(f"checkpoint {source} holds no weights under 'ema'; it is no checkpoint of ldseg_auto.")
    plans = _plans_beside(source)
    trained = plans is None or plans.configuration().network.variant != "direct" or prepared.configuration.network.variant == "direct"
    transferred, left_out = compare(theirs, models[0], trained)
    if not any(theirs[name].ndim > 2 for names in transferred.values() for name in names if name.startswith(IMAGES)):
        first = "; ".join(f"{layer}: {reason}" for layer, reason in left_out.items() if layer.startswith(IMAGES))
        raise ModelError(
            f"--pretrained {source}: nothing of its image encoder fits this network ({first[:200]}). Copy its plans first: "
            "ldseg_plan --from-plans, then train with -p."
        )
    chosen = {name: theirs[name] for names in transferred.values() for name in names}
    bad = next((name for name, value in chosen.items() if not torch.isfinite(value).all()), None)
    if bad is not None:
        raise ModelError(f"checkpoint {source}: the weights {bad} hold values that are not finite. Choose another checkpoint.")
    for model in models:
        model.load_state_dict(chosen, strict=False)
    out = Pretrained(
        str(source.resolve()), hash_file(source), str(content.get("dataset_name", "")), tuple(transferred), left_out,
        _differences(source, prepared), _seen(source, content, prepared),
    )  # fmt: skip
    _log(out)
    return out


def begin(path: Path | None, models: Sequence[nn.Module], prepared: Prepared, continued: Path | None) -> dict[str, Any] | None:
    """Loads pretrained weights, if any, and returns what the fold's manifest says of them.

    Args:
        path, models, prepared: see `load_pretrained`; without a path nothing is loaded.
        continued: folder of the fold that goes on; its manifest knows what it began with.
    """
    if continued is not None:
        return _record(continued)
    return asdict(load_pretrained(path, models, prepared)) if path is not None else None


def cases_seen(fold: Path) -> set[str]:
    """Validation cases of a fold that the weights it began with were trained on."""
    return set((_record(fold) or {}).get("validation_cases_seen", []))


def _record(fold: Path) -> dict[str, Any] | None:
    path = fold / "manifest.json"
    return read_json(path).get("pretrained") if path.exists() else None


def compare(theirs: Mapping[str, torch.Tensor], model: nn.Module, code: bool = True) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Layer -> names of its tensors, for those that fit; layer -> why not, for the others.

    A tensor that a model has under two names counts under the first.

    Args:
        code: whether the code of labels was trained.
    """
    mine = _own(model)
    layers: dict[str, list[str]] = {}
    for name in mine:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    left_out: dict[str, str] = {}
    for layer, names in layers.items():
        for name in names:
            if name not in theirs:
                left_out.setdefault(layer, "not there")
            elif theirs[name].shape != mine[name].shape:
                there, here = (" x ".join(map(str, tensor.shape)) for tensor in (theirs[name], mine[name]))
                left_out.setdefault(layer, f"other shape: {there} there, {here} here")
    of_code = [layer for layer in layers if layer.startswith(CODE)]
    if not code or any(layer in left_out for layer in of_code):
        why = (
            "part of its code of labels, which does not fit as a whole" if code else "part of a code of labels that direct has not trained"
        )
        left_out |= {layer: left_out.get(layer, why) for layer in of_code}
    known = set(model.state_dict())
    extra = dict.fromkeys(name.rpartition(".")[0] for name in theirs if name not in known)
    left_out |= {layer: "not in this network" for layer in extra if layer not in layers}
    return {layer: names for layer, names in layers.items() if layer not in left_out}, left_out


def _own(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without second names of one tensor."""
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), name)
    state = model.state_dict()
    return {name: state[name] for name in first.values()}


def _plans_beside(source: Path) -> Plans | None:
    """The fold's plans, else the model folder's, if the checkpoint lies in one."""
    paths = (source.parent / "plans.json", source.parent.parent / "plans.json")
    return next((Plans.load(path) for path in paths if path.exists()), None)


def _differences(source: Path, prepared: Prepared) -> dict[str, str]:
    """What the weights were trained with and are trained with now, where that is known and differs; their shapes say the rest."""
    plans = _plans_beside(source)
    if plans is None:
        return {}
    theirs, mine = _facts(plans.configuration()), _facts(prepared.configuration)
    described = source.parent.parent / "dataset.json"
    if described.exists():
        labels = Description.from_dict(read_json(described, ModelError), str(described)).labels
        theirs["classes"], mine["classes"] = labels.foreground_names, prepared.description.labels.foreground_names
    return {name: f"{_words(theirs[name])} -> {_words(value)}" for name, value in mine.items() if value != theirs[name]}


def _facts(c: Configuration) -> dict[str, Any]:
    """What weights know beside their shapes."""
    known = {"spacing": c.spacing, "patch_size": c.patch_size, "normalisation": c.normalisation, "schedule": c.sampling.schedule}
    return {**known, "variant": c.network.variant, **c.network_parts}


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _seen(source: Path, content: Mapping[str, Any], prepared: Prepared) -> tuple[str, ...]:
    """Cases of this fold's validation that the weights were trained on: those of the same data that the manifest beside them lists."""
    record = source.parent / "manifest.json"
    if content.get("fingerprint_hash") != prepared.plans.fingerprint_hash or not record.exists():
        return ()
    return tuple(sorted(set(prepared.validation) & set(read_json(record, ModelError).get("train", []))))


def _log(found: Pretrained) -> None:
    of = f" (trained on {found.dataset})" if found.dataset else ""
    logger.info("pretrained weights of %s%s: %d layers transferred", found.path, of, len(found.transferred))
    for reason, layers in grouped(found.left_out).items():
        logger.info("  left out, %s: %s", reason, ", ".join(layers))
    for name, words in found.differences.items():
        logger.warning("  other %s: %s", name, words)
    if found.validation_cases_seen:
        logger.warning(
            "  %d validation cases of this fold were trained on by them (first: %s): their Dice says nothing of other cases.",
            len(found.validation_cases_seen), found.validation_cases_seen[0],
        )  # fmt: skip


def grouped(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> layers."""
    out: dict[str, list[str]] = {}
    for layer, reason in left_out.items():
        out.setdefault(reason, []).append(layer)
    return out
