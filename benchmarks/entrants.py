"""Entrants: whatever answers as `mvg.Predictor` does; weights, answers without a network, other packages, files."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.entrant import Entrant, InvalidAnswerError, Shown, digest, first_of, paths_of, values_of
from benchmarks.inputs import read_answer, read_values
from benchmarks.suite import Question
from benchmarks.trained import Trained
from mvg.configuration import find_object
from mvg.data.geometry import resize
from mvg.prediction.precision import Precision
from mvg.prediction.scales import Scales

log = logging.getLogger(__name__)

_SMALL = 24
_ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd", ".npy", ".png")


class Foreign(Entrant):
    """An object of another package with the call of `mvg.Predictor`: `set_context(images, targets)`, then `(image)`.

    It is given files. What it returns has `labels` or `image`, or is an array. If it has a method `ask`, that is told
    the name of the task first.

    Args:
        class_path: Import path of its class.
        name: Its name in tables.
        init_args: Arguments of the class.
        trained_on: Names of the data sets that are known to have trained it.
    """

    def __init__(
        self,
        class_path: str,
        name: str,
        init_args: Mapping[str, Any] | None = None,
        trained_on: Sequence[str] = (),
    ) -> None:
        made = find_object(class_path)
        self.answerer, self.name = made(**(init_args or {})), name
        if lacking := [
            part for part in ("set_context", "__call__") if not callable(getattr(self.answerer, part, None))
        ]:
            raise ValueError(f"{class_path} lacks {' and '.join(lacking)}; an entrant is called as mvg.Predictor is")
        self.trained_on = {name: {} for name in trained_on}
        module = importlib.import_module(class_path.rpartition(".")[0])
        self.digest = digest("class", class_path, sorted((init_args or {}).items()), inspect.getsource(module))

    def ask(self, question: Question, dims: int, shot: int, draw: int) -> None:
        """Tells the name of the task."""
        if hasattr(self.answerer, "ask"):
            self.answerer.ask(question.task)

    def set_context(self, images: Sequence[Shown], targets: Sequence[Path]) -> None:
        """Hands the examples on."""
        self.answerer.set_context(list(images), list(targets))

    def __call__(self, image: Shown) -> NDArray[Any] | None:
        """Hands the image on."""
        return values_of(self.answerer(image))


class Saved(Entrant):
    """A folder of answers, one file a case: `QUESTION/SHOT-DRAW/CASE.nii.gz` (or .nii, .mha, .nrrd, .npy, .png).

    Structures are label maps (everything above 0 counts), images hold values in [0, 1], or in PNG the whole range of
    its pixels. A file that is not there is no answer; one that is damaged or lies on another grid is invalid. A `/` in
    the name of a case is `%2F` in that of its file. `mvg benchmark run --answers DIR` writes such a folder.

    Args:
        folder: The folder.
        name: Its name in tables.
    """

    needs_context = True

    def __init__(self, folder: Path, name: str) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: there is no such folder of answers")
        self.folder, self.name, self.place, self.is_label = folder, name, folder, False
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        self.digest = digest(
            "files",
            *((path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files),
        )

    def ask(self, question: Question, dims: int, shot: int, draw: int) -> None:
        """Goes to the folder of a question."""
        self.place, self.is_label = self.folder / question.name / f"{shot}-{draw}", question.label is not None

    def set_context(self, images: Sequence[Shown], targets: Sequence[Path]) -> None:
        """Needs no examples: they were seen before."""

    def __call__(self, image: Shown) -> NDArray[Any] | None:
        """Reads the answer of a case.

        Raises:
            InvalidAnswerError: If it is damaged, or lies on another grid than the case.
        """
        query = first_of(image)
        stem = query.name.removesuffix(".npy").removesuffix(".nii")
        found = next((path for ending in _ENDINGS if (path := self.place / f"{stem}{ending}").is_file()), None)
        try:
            return None if found is None else read_answer(found, query, self.is_label)
        except (ValueError, EOFError) as error:
            raise InvalidAnswerError(error) from error


class Trivial(Entrant):
    """Answers that need no network; targets of the context are stretched to the size of the query.

    "identity": the query itself, for structures its values above 0.5. "nearest": the target of the context image that
    is most like the query. "mean": the mean of all targets, for structures where it is above 0.5.

    Args:
        kind: Which one.
    """

    def __init__(self, kind: str) -> None:
        if kind not in TRIVIAL:
            raise ValueError(f"an answer without a network is one of {', '.join(TRIVIAL)}, got {kind!r}")
        self.name, self.kind, self.digest = kind, kind, digest("trivial", kind)
        self.needs_context = kind != "identity"
        self.is_label = False
        self.context: list[tuple[torch.Tensor, torch.Tensor]] = []

    def ask(self, question: Question, dims: int, shot: int, draw: int) -> None:
        """Notes whether a structure is asked for."""
        self.is_label = question.label is not None

    def set_context(self, images: Sequence[Shown], targets: Sequence[Path]) -> None:
        """Reads the examples."""
        self.context = [(_tensor(image), _tensor(target)) for image, target in zip(images, targets, strict=True)]

    def __call__(self, image: Shown) -> NDArray[Any]:
        """Answers one image."""
        query = _tensor(image)
        painted = query if self.kind == "identity" else self._from_targets(query)
        values: NDArray[Any] = painted[0].numpy()
        return (values > 0.5).astype(np.uint8) if self.is_label else values

    def _from_targets(self, query: torch.Tensor) -> torch.Tensor:
        if self.kind == "mean":
            return torch.stack([resize(target, query.shape[1:]) for _, target in self.context]).mean(0)
        small = (_SMALL,) * (query.ndim - 1)
        shown = resize(query, small)
        unlike = [float((resize(image, small) - shown).square().mean()) for image, _ in self.context]
        return resize(self.context[int(np.argmin(unlike))][1], query.shape[1:])


TRIVIAL = ("identity", "nearest", "mean")
UNETS = "u-nets:"
"""Before the folder of U-Nets that `benchmarks.contest` trained."""
CONTROLS = ("swapped", "shuffled")
"""Weights after examples that mislead; see `Entrant.control`."""


def _tensor(shown: Shown) -> torch.Tensor:
    """Reads a file of `benchmarks.inputs`, or the mean of several, `(1, *S)`."""
    read = [np.asarray(read_values(path), dtype=np.float32) for path in paths_of(shown)]
    return torch.from_numpy(np.ascontiguousarray(np.mean(read, axis=0) if len(read) > 1 else read[0]))[None]


def find_entrant(
    folder: str | None,
    kind: str | None,
    predictions: Path | None,
    name: str | None = None,
    device: str = "cpu",
    slices: int | None = None,
    precision: Precision = "32",
    scales: Scales = "auto",
) -> Entrant:
    """Makes the entrant that options name.

    Args:
        folder: Weights.
        kind: One of `TRIVIAL`, one of `CONTROLS` (with weights), or the import path of a class.
        predictions: Folder of answers.
        name: Its name in tables.
        device: Where a network runs.
        slices: As in `Trained`.
        precision: As in `Trained`.
        scales: As in `Trained`.

    Raises:
        ValueError: If they name none, or several.
    """
    if kind in CONTROLS and folder and predictions is None:
        return Trained(folder, name or f"{_name_of(folder)}, {kind}", device, slices, kind, precision, scales)
    if sum(option is not None for option in (folder, kind, predictions)) != 1:
        raise ValueError(
            "name one entrant: --weights FOLDER, --predictions FOLDER, or --entrant with "
            f"{', '.join(TRIVIAL)} or a class path; --weights FOLDER --entrant {' or '.join(CONTROLS)} is a control"
        )
    if folder is not None:
        return Trained(folder, name or _name_of(folder), device, slices, precision=precision, scales=scales)
    if predictions is not None:
        return Saved(predictions, name or predictions.name)
    assert kind is not None
    if kind.startswith(UNETS):
        from benchmarks.specialists import UNetSpecialists

        return UNetSpecialists(Path(kind.removeprefix(UNETS)), name or "u-nets")
    if "." in kind:
        return Foreign(kind, name or kind.rpartition(".")[2])
    return Trivial(kind)


def _name_of(folder: str) -> str:
    """Names weights by their run."""
    place = Path(folder.rstrip("/"))
    return place.parent.name if place.name == "weights" else place.name
