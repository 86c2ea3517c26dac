"""Which trained model a command works on."""

from __future__ import annotations

from pathlib import Path

from ldseg_auto.errors import InputError


def find_model(
    results: Path, dataset: int | None, configuration: str | None, plans_name: str | None, flag: str = "-d "
) -> Path:  # fmt: skip
    """The one model folder that fits, else an InputError that lists them.

    Args:
        flag: what stands before a dataset's number on the command line.
    """
    from ldseg_auto.inference.model_folder import find_models

    models = find_models(results, dataset, configuration, plans_name)
    if len(models) == 1:
        return models[0]
    fitting = f" of dataset {dataset}" if dataset is not None else ""
    fitting += f" of configuration {configuration}" if configuration else ""
    fitting += f" of plans {plans_name}" if plans_name else ""
    if models:
        raise InputError(f"{len(models)} models{fitting} are trained in {results}; choose one:\n{_choices(models, flag)}")
    there = find_models(results)
    if there:
        raise InputError(f"no model{fitting} is trained in {results}. There are:\n{_choices(there, flag)}")
    raise InputError(f"no trained model in {results}. Train one with ldseg_train, or name its folder with --results or -m.")


def _choices(models: list[Path], flag: str) -> str:
    """A line for each model: the flags that choose it."""
    lines = []
    for model in models:
        number = model.parent.name.removeprefix("Dataset").split("_")[0]
        plans, _, configuration = model.name.rpartition("__")
        twins = [m for m in models if m.parent == model.parent and m.name.endswith(f"__{configuration}")]
        flags = f"{flag}{int(number)} -c {configuration}" + (f" -p {plans}" if len(twins) > 1 else "")
        lines.append(f"  {flags}   ({model.parent.name})")
    return "\n".join(lines)
