"""The predictor: images in, masks and what is known of their doubt out, on the images' own grid."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch

from ldseg_auto.data.dataset import Description
from ldseg_auto.errors import InputError
from ldseg_auto.evaluation.predicted_dice import PredictedDice
from ldseg_auto.files import hash_file
from ldseg_auto.inference.device import choose_device
from ldseg_auto.inference.export import Export, Maps, stream_of, values_of
from ldseg_auto.inference.fallback import Way, out_of_memory, within_memory
from ldseg_auto.inference.folder import CaseStatus, FolderTask, predict_folder
from ldseg_auto.inference.inputs import Input, Prepared, Source, case_of, load, prepare
from ldseg_auto.inference.member import DEFAULT, Member, Options, load_member
from ldseg_auto.inference.model_folder import ModelFolder, check_together, read_model_folder
from ldseg_auto.inference.outputs import Extras
from ldseg_auto.inference.postprocess import Rule, clean, with_mask
from ldseg_auto.inference.prediction import Prediction, Wanted
from ldseg_auto.planners.serialise import to_dict
from ldseg_auto.progress import Progress, silent

__all__ = ["CaseStatus", "Extras", "Input", "Options", "Predictor", "Wanted"]
T = TypeVar("T")
logger = logging.getLogger(__name__)
LARGE = 2**26  # voxels of an image from which on the next one is not read meanwhile
LABELS = Wanted()
NO_EXTRAS = Extras()
UNVALIDATED = "none: the fold was trained without validation, or by an earlier version (ldseg_train --continue validates again)."


class Predictor:
    """Trained networks, ready for images. A context manager; after `close` it holds nothing.

    Threads may share one: reading and preprocessing run side by side, the networks serve one case at a time (a lock). There is no global
    state, and a prediction depends on the image, its case name, the seed, the number of samples and the models alone.

    Args:
        members: model folders, loaded; their draws count the same, over all folders and folds.
        device: where they run.
        samples: posterior samples per model and case, averaged in probability space.
        seed: of the noise; the same seed gives the same masks.
        rules: post-processing of the label map.
        recipe: SHA-256 of the inference.json that is followed (recipe.py); empty for none.

    Raises:
        ModelError: the folders do not fit together.
    """

    def __init__(
        self, members: Sequence[Member], device: torch.device, samples: int, seed: int, rules: Sequence[Rule] = (), recipe: str = ""
    ) -> None:
        check_together([m.folder for m in members])
        self.members, self.device, self.samples, self.seed = tuple(members), device, samples, seed
        self.rules, self.recipe = tuple(rules), recipe
        self._lock = threading.Lock()
        self._networks = ThreadPoolExecutor(1, "ldseg-networks")

    @classmethod
    def from_folder(
        cls, model_folder: Path | str | Sequence[Path | str], folds: Sequence[str] | None = None, device: str = "auto",
        steps: int | None = None, samples: int | None = None, seed: int = 0, tile_batch: int | None = None, options: Options = DEFAULT,
    ) -> Predictor:  # fmt: skip
        """Loads a model folder, or several (configurations of one dataset), whose probabilities are averaged on the image's grid.

        Args:
            folds: None takes all trained ones; their probabilities are averaged.
            device: auto | cpu | cuda | mps.
            steps: None takes what validation chose for one sample or for several; else the planned number.
            samples, tile_batch: None takes the plans', of the first folder.

        Raises:
            ModelError, PlansError, InputError: see read_model_folder, load_network, choose_device.
        """
        for name, value in (("steps", steps), ("samples", samples), ("tile_batch", tile_batch)):
            if value is not None and value < 1:
                raise InputError(f"{name} = {value}: expected 1 or more.")
        names = [model_folder] if isinstance(model_folder, (str, Path)) else list(model_folder)
        folders = [read_model_folder(Path(name), folds) for name in names]
        if not folders:
            raise InputError("no model folder was named; expected one or more.")
        chosen = choose_device(device)
        samples = folders[0].configuration.sampling.samples if samples is None else samples
        try:
            members = [load_member(folder, chosen, steps, samples, tile_batch, options) for folder in folders]
        except RuntimeError as cause:
            if chosen.type == "cpu" or not out_of_memory(cause):
                raise
            logger.warning("%s has no memory for the networks: everything is predicted on the CPU.", chosen)
            chosen = torch.device("cpu")
            members = [load_member(folder, chosen, steps, samples, tile_batch, options) for folder in folders]
        return cls(members, chosen, samples, seed)

    @property
    def folder(self) -> ModelFolder:
        """The first model folder."""
        return self.members[0].folder

    @property
    def steps(self) -> int:
        """Network evaluations per sample, of the first model folder."""
        return self.members[0].steps

    @property
    def description(self) -> Description:
        """The dataset.json that the model was trained with."""
        return self.folder.description

    def provenance(self) -> dict[str, Any]:
        """For a manifest: dataset, steps and hashes of the first model folder, and of all others as `further_models`."""
        first, *others = [
            {
                "model": {fold: hash_file(path) for fold, path in m.folder.folds.items()},
                "plans": hash_file(m.folder.path / "plans.json"),
                "dataset": m.folder.plans.dataset_name,
                "steps": m.steps,
            }  # fmt: skip
            for m in self.members
        ]
        return {**first, "further_models": others} if others else first

    def settings(self) -> dict[str, Any]:
        """For a manifest: how the networks are run."""
        window = self.members[0].window
        tta = "mirror" if len(window.flips) > 1 else "samples" if self.samples > 1 and len(window.turns) > 1 else "none"
        precision = str(window.type).removeprefix("torch.")
        followed = {"recipe": self.recipe, "postprocessing": to_dict(self.rules)} if self.recipe else {}
        run = {"samples": self.samples, "seed": self.seed, "tta": tta, "precision": precision, "tile_batch": window.tile_batch}
        return run | followed

    def about_predicted_dice(self) -> dict[str, str]:
        """Fold (with its model folder's name) -> how far its predicted Dice was off on held-out cases, or why it has none."""
        return self._of_folds(lambda fits: fits.words(self.samples))

    def about_volumes(self) -> dict[str, str]:
        """Fold (with its model folder's name) -> how often the intervals of volumes held on validation cases."""
        return self._of_folds(lambda fits: fits.words_of_volumes(self.samples))

    def _of_folds(self, words: Callable[[PredictedDice], str]) -> dict[str, str]:
        """Fold (with its model folder's name) -> what its predicted_dice.json says, or that there is none."""
        return {
            f"{m.folder.path.name}/fold_{fold}": words(m.predicted[fold]) if fold in m.predicted else UNVALIDATED
            for m in self.members
            for fold in m.folder.folds
        }

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets the networks go. A prediction that runs in another thread ends first."""
        with self._lock:
            self.members = ()
            self._networks.shutdown()

    def predict(
        self, image: Source, spacing: Sequence[float] | None = None, case: str | None = None, wanted: Wanted = LABELS
    ) -> Prediction:  # fmt: skip
        """Predicts one image.

        Args:
            image: a path or one per channel; a SimpleITK image; or a float array `(z, y, x)`, `(c, z, y, x)`, or `(y, x)` in 2D.
            spacing: mm, as many numbers as the array has spatial axes; for arrays only.
            case: names the noise; the same name, seed and image give the same mask. None takes the file's name without channel number,
                and "image" for what is no file.
            wanted: maps beside the label map.

        Raises:
            InputError: see inputs.load; the predictor is closed.
            DatasetError: a file is unreadable.
        """
        given = Input(case or case_of(image), image, None if spacing is None else tuple(spacing))
        return self._run(self._prepare(given), wanted)

    def predict_array(self, image: np.ndarray, spacing: Sequence[float], case: str) -> np.ndarray:
        """Label indices (z, y, x) int16 of a canonical image `(c, z, y, x)` with `spacing` (z, y, x) in mm; see `predict`."""
        prepared = self._prepare(Input(case, image, tuple(spacing)))
        return clean(self._maps(prepared, LABELS)[0].indices, self.description.labels, prepared.spacing, self.rules)

    def predict_folder(
        self, inputs: Path | str, output: Path | str, *, overwrite: bool = False, part: tuple[int, int] = (1, 1),
        extras: Extras = NO_EXTRAS, flag_below: float | None = None, progress: Progress = silent, resume: bool = False,
        stop: threading.Event | None = None,
    ) -> list[CaseStatus]:  # fmt: skip
        """Predicts every case of `inputs` (a folder or one file) into `output`; see folder.predict_folder and FolderTask."""
        task = FolderTask(Path(inputs), Path(output), overwrite, part, extras, flag_below, resume)
        return predict_folder(self, task, progress, stop)

    def stream(self, images: Iterable[Input], wanted: Wanted = LABELS) -> Iterator[Prediction]:
        """Predicts one image after the other; the next one is read and preprocessed meanwhile.

        Raises:
            InputError, DatasetError: at the image that cannot be predicted; the stream then ends. `outcomes` goes on instead.
        """
        with closing(self.outcomes(images, wanted)) as found:
            for _, outcome in found:
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome

    def outcomes(
        self, images: Iterable[Input], wanted: Wanted = LABELS, stop: threading.Event | None = None
    ) -> Generator[tuple[Input, Prediction | Exception], None, None]:
        """As `stream`, but a failure is handed over in the prediction's place, and the next image follows; `stop`, once set, ends it."""
        stop = stop or threading.Event()
        with ThreadPoolExecutor(1, "ldseg-read") as pool:
            source = iter(images)
            following = self._next(source, pool)
            while following is not None and not stop.is_set():
                given, future = following
                outcome: Prediction | Exception
                try:
                    prepared = future.result()
                    small = sum(grid.array.size for grid, _ in prepared.grids) < LARGE
                    following = self._next(source, pool) if small else None
                    outcome = self._run(prepared, wanted, stop)
                    del prepared
                except Exception as cause:  # whatever it is, the other cases go on
                    if stop.is_set():
                        return
                    small, outcome = future.exception() is None and small, cause
                yield given, outcome
                del outcome, future
                if not small:
                    following = self._next(source, pool)

    def _next(self, source: Iterator[Input], pool: Executor) -> tuple[Input, Future[Prepared]] | None:
        given = next(source, None)
        return None if given is None else (given, pool.submit(self._prepare, given))

    def _prepare(self, given: Input) -> Prepared:
        self._check_open()
        start, members = time.monotonic(), self.members
        loaded = load(given, members[0].folder.configuration.channels)
        grids = prepare(loaded, [(m.folder.plans, m.folder.configuration) for m in members], members[0].window.room)
        return Prepared(given.case, loaded.spacing, loaded.geometry, grids, time.monotonic() - start)

    def _run(self, prepared: Prepared, wanted: Wanted, *stops: threading.Event) -> Prediction:
        start = time.monotonic()
        (maps, notes), labels = self._maps(prepared, wanted, *stops), self.description.labels
        values = None if maps.samples is None else values_of(labels, maps.samples)
        score = maps.score.completed([fit for m in self.members for fit in m.predicted.values()], self.samples, prepared.geometry)
        indices = clean(maps.indices, labels, prepared.spacing, self.rules)
        score = score if indices is maps.indices else with_mask(score, indices, labels, prepared.spacing)
        seconds = prepared.seconds + time.monotonic() - start
        return Prediction(
            prepared.case, values_of(labels, indices), prepared.geometry, prepared.spacing, maps.probabilities, maps.entropy,
            maps.mutual_information, values, score, round(seconds, 3), notes,
        )  # fmt: skip

    def _maps(self, prepared: Prepared, wanted: Wanted, *stops: threading.Event) -> tuple[Maps, tuple[str, ...]]:
        """Networks and export, within the device's memory, and notes about that."""
        with self._lock:
            self._check_open()
            return within_memory([m.window for m in self.members], prepared.case, lambda way: self._attempt(way, prepared, wanted, stops))

    def _attempt(self, way: Way, prepared: Prepared, wanted: Wanted, stops: Sequence[threading.Event]) -> Maps:
        """The next planes are computed while the last ones are exported.

        One thread runs the networks of all cases: cuDNN keeps the plans of its convolutions per thread, and finding them anew cost more
        than a small case does.
        """
        failed, members, pool = threading.Event(), [m.adapted(way) for m in self.members], self._networks
        labels, transpose = self.description.labels, self.folder.plans.transpose_forward
        with ExitStack() as ending:
            streams = []
            for member, (grid, properties) in zip(members, prepared.grids, strict=True):
                draws = member.draws(prepared.case, self.seed, self.samples)
                planes = member.window.planes(member.models, grid, draws, failed, *stops)
                ending.callback(_close_in, pool, planes)
                streams.append(stream_of(_ahead(planes, pool), member.volumes(draws), labels, properties))
            total = sum(stream.volumes[0] for stream in streams)
            export = Export(labels, prepared.grids[0][1], transpose, total, wanted)
            try:
                return export.run(streams)
            finally:
                failed.set()  # a tile is finished, not all of them

    def _check_open(self) -> None:
        if not self.members:
            raise InputError("this predictor is closed; load the model again with Predictor.from_folder.")


def _close_in(pool: Executor, planes: Generator[np.ndarray, None, None]) -> None:
    """Closes `planes` once what `pool` still makes of them is made."""
    pool.submit(planes.close).result()


def _ahead(items: Iterator[T], pool: Executor) -> Iterator[T]:
    """The items; while one is used, the next is made in `pool`."""
    end = object()
    future = pool.submit(next, items, end)
    while (item := future.result()) is not end:
        future = pool.submit(next, items, end)
        yield item  # type: ignore[misc]
