"""Entrants: whatever answers as `mvg.Predictor` does; weights, answers without a network, other packages, files."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import mvg
from benchmarks.inputs import read_answer
from benchmarks.suite import Question
from mvg import weights
from mvg.configuration import find_object, to_config
from mvg.data.exposure import joined
from mvg.data.geometry import resize
from mvg.hub import locate
from mvg.prediction.predictor import Predictor
from mvg.prediction.scale_predictor import ScalePredictor
from mvg.prediction.volume_predictor import VolumePredictor
from mvg.weights import CONFIG, MODEL

log = logging.getLogger(__name__)

_SMALL = 24
_ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd", ".npy", ".png")


class Entrant(ABC):
    """What a benchmark asks.

    Attributes:
        name: Its name in tables.
        digest: SHA-256 of all that decides its answers, hexadecimal.
        trained_on: Facts of the data sets that are known to have trained it, by name.
        swaps: Its context shows the targets of another structure: the control that shows who follows the examples.
        needs_context: It looks at examples; else it is asked once, with shot 0 and draw 0.
    """

    name: str
    digest: str
    trained_on: Mapping[str, Mapping[str, Any]] = {}
    swaps: bool = False
    needs_context: bool = True

    @abstractmethod
    def ask(self, question: Question, dims: int, shot: int, draw: int) -> None:
        """Says what comes next: the question, 2 or 3 axes, the number of examples and of their draw."""

    @abstractmethod
    def set_context(self, images: Sequence[Path], targets: Sequence[Path]) -> None:
        """Reads the examples: files as `benchmarks.inputs` describes them."""

    @abstractmethod
    def __call__(self, image: Path) -> NDArray[Any] | None:
        """Answers one image, `(*S)`, RAS+: above 0 where the structure is, or values in [0, 1]; None for no answer."""


class Trained(Entrant):
    """Weights of this package.

    Args:
        folder: `<run>/weights`, or `hub:OWNER/NAME`.
        name: Its name in tables.
        device: Where the network runs.
        slices: Largest number of slices of a context that a pass of a 2D network sees; by default one a case.
        swaps: See `Entrant`.
    """

    def __init__(
        self, folder: str | Path, name: str, device: str = "cpu", slices: int | None = None, swaps: bool = False
    ) -> None:
        self.folder, self.name, self.device, self.slices, self.swaps = locate(folder), name, device, slices, swaps
        facts = weights.describe(self.folder)
        self.trained_on = joined(facts.get("inherited", {}), facts.get("sources", {}))
        self.dims = len(facts["network"]["init_args"]["image_size"])
        files = [hashlib.sha256((self.folder / part).read_bytes()).hexdigest() for part in (CONFIG, MODEL)]
        self.digest = digest("weights", mvg.__version__, *files, slices or 0, swaps)
        self._known = {name: entry["class_path"] for name, entry in facts["tasks"].items()}
        self._predictor: Predictor | VolumePredictor | ScalePredictor | None = None
        self._made: tuple[str, int, int, str] | None = None

    def ask(self, question: Question, dims: int, shot: int, draw: int) -> None:
        """Makes the predictor for a kind of task; the task of the weights is taken if they know it."""
        path = to_config(question.asked)["class_path"]
        task = next((name for name, known in self._known.items() if known == path), path)
        made = (task, dims, shot, question.slices)
        if self._made == made:
            return
        self._made = made
        options: dict[str, Any] = {"device": self.device}
        if self.dims == 3:
            self._predictor = ScalePredictor.from_pretrained(self.folder, task, **options) if dims == 3 else None
            if isinstance(self._predictor, ScalePredictor):
                self._predictor.rule = mvg.data.Window(0, 1)
        elif dims == 2:
            self._predictor = Predictor.from_pretrained(self.folder, task, window=(0.0, 1.0), **options)
        else:
            options |= {"slices": question.slices, "examples": self.slices or shot, "choice": "same-position"}
            self._predictor = VolumePredictor.from_pretrained(self.folder, task, (0.0, 1.0), **options)

    def set_context(self, images: Sequence[Path], targets: Sequence[Path]) -> None:
        """Reads the examples once."""
        if self._predictor is not None:
            self._predictor.set_context(list(images), list(targets))

    def __call__(self, image: Path) -> NDArray[Any] | None:
        """Answers one image; a network for volumes has no answer to a picture."""
        return None if self._predictor is None else values_of(self._predictor(image))


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

    def set_context(self, images: Sequence[Path], targets: Sequence[Path]) -> None:
        """Hands the examples on."""
        self.answerer.set_context(list(images), list(targets))

    def __call__(self, image: Path) -> NDArray[Any] | None:
        """Hands the image on."""
        return values_of(self.answerer(image))


class Saved(Entrant):
    """A folder of answers, one file a case: `QUESTION/SHOT-DRAW/CASE.nii.gz` (or .nii, .mha, .nrrd, .npy, .png).

    Structures are label maps (everything above 0 counts), images hold values in [0, 1]. A file that is not there is no
    answer. `mvg benchmark run --answers DIR` writes such a folder.

    Args:
        folder: The folder.
        name: Its name in tables.
    """

    needs_context = True

    def __init__(self, folder: Path, name: str) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: there is no such folder of answers")
        self.folder, self.name, self.place = folder, name, folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        self.digest = digest(
            "files",
            *((path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files),
        )

    def ask(self, question: Question, dims: int, shot: int, draw: int) -> None:
        """Goes to the folder of a question."""
        self.place = self.folder / question.name / f"{shot}-{draw}"

    def set_context(self, images: Sequence[Path], targets: Sequence[Path]) -> None:
        """Needs no examples: they were seen before."""

    def __call__(self, image: Path) -> NDArray[Any] | None:
        """Reads the answer of a case."""
        stem = image.name.removesuffix(".npy").removesuffix(".nii")
        found = next((path for ending in _ENDINGS if (path := self.place / f"{stem}{ending}").is_file()), None)
        return None if found is None else read_answer(found)


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

    def set_context(self, images: Sequence[Path], targets: Sequence[Path]) -> None:
        """Reads the examples."""
        self.context = [(_tensor(image), _tensor(target)) for image, target in zip(images, targets, strict=True)]

    def __call__(self, image: Path) -> NDArray[Any]:
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


def _tensor(path: Path) -> torch.Tensor:
    """Reads a file of `benchmarks.inputs`, `(1, *S)`."""
    return torch.from_numpy(np.ascontiguousarray(read_answer(path), dtype=np.float32))[None]


def values_of(answer: Any) -> NDArray[Any] | None:
    """Takes the values out of what an entrant returned."""
    if answer is None:
        return None
    held = getattr(answer, "labels", None)
    held = getattr(answer, "image", answer) if held is None else held
    values: NDArray[Any] = np.asarray(held.detach().cpu() if isinstance(held, torch.Tensor) else held)
    return values


def digest(*parts: Any) -> str:
    """Hashes plain values, hexadecimal."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def find_entrant(
    folder: str | None, kind: str | None, predictions: Path | None, name: str | None, device: str, slices: int | None
) -> Entrant:
    """Makes the entrant that options name.

    Args:
        folder: Weights.
        kind: One of `TRIVIAL`, "swapped" (with weights), or the import path of a class.
        predictions: Folder of answers.
        name: Its name in tables.
        device: Where a network runs.
        slices: As in `Trained`.

    Raises:
        ValueError: If they name none, or several.
    """
    if kind == "swapped" and folder and predictions is None:
        return Trained(folder, name or f"{_name_of(folder)}, swapped", device, slices, swaps=True)
    if sum(option is not None for option in (folder, kind, predictions)) != 1:
        raise ValueError(
            "name one entrant: --weights FOLDER, --predictions FOLDER, or --entrant with "
            f"{', '.join(TRIVIAL)} or a class path; --weights FOLDER --entrant swapped is the control"
        )
    if folder is not None:
        return Trained(folder, name or _name_of(folder), device, slices)
    if predictions is not None:
        return Saved(predictions, name or predictions.name)
    assert kind is not None
    if "." in kind:
        return Foreign(kind, name or kind.rpartition(".")[2])
    return Trivial(kind)


def _name_of(folder: str) -> str:
    """Names weights by their run."""
    place = Path(folder.rstrip("/"))
    return place.parent.name if place.name == "weights" else place.name
