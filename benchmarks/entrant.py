"""What a benchmark asks: the call that all entrants share, and how their answers become arrays."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.suite import Question

Shown = Path | tuple[Path, ...]
"""An image as a file, or as several where a question takes several contrasts at once, in the order of the question."""


class InvalidAnswerError(ValueError):
    """An answer is there, but cannot be scored: it is damaged, or lies on another grid."""


class Entrant(ABC):
    """What a benchmark asks.

    Attributes:
        name: Its name in tables.
        digest: SHA-256 of all that decides its answers, hexadecimal.
        trained_on: Facts of the data sets that are known to have trained it, by name.
        control: Shows who follows the examples. "swapped": the context shows the targets of another structure;
            "shuffled": the targets of other examples; "" for none.
        tasks: Kinds of task that it answers; all by default.
        needs_context: It looks at examples; else it is asked once, with shot 0 and draw 0.
    """

    name: str
    digest: str
    trained_on: Mapping[str, Mapping[str, Any]] = {}
    control: str = ""
    tasks: Sequence[str] = ()
    needs_context: bool = True

    def answers_to(self, question: Question) -> bool:
        """Tells whether a question can be asked at all; others are left out, and the boards say so."""
        return not self.tasks or question.task in self.tasks

    @abstractmethod
    def ask(self, question: Question, dims: int, shot: int, draw: int) -> None:
        """Says what comes next: the question, 2 or 3 axes, the number of examples and of their draw."""

    @abstractmethod
    def set_context(self, images: Sequence[Shown], targets: Sequence[Path]) -> None:
        """Reads the examples: files as `benchmarks.inputs` describes them."""

    @abstractmethod
    def __call__(self, image: Shown) -> NDArray[Any] | None:
        """Answers one image, `(*S)`, RAS+: above 0 where the structure is, or values in [0, 1]; None for no answer."""

    def answer(self, images: Sequence[Shown]) -> list[NDArray[Any] | None]:
        """Answers several images after one context."""
        return [self(image) for image in images]


def paths_of(shown: Shown) -> tuple[Path, ...]:
    """Lists the files of an image."""
    return (shown,) if isinstance(shown, Path) else shown


def first_of(shown: Shown) -> Path:
    """Returns the first file of an image, whose name is that of the case."""
    return paths_of(shown)[0]


def values_of(answer: Any) -> NDArray[Any] | None:
    """Takes the values out of what an entrant returned."""
    if answer is None:
        return None
    if getattr(answer, "boxes", None) is not None:
        return filled(answer.labels.shape, answer.boxes, answer.scores)
    held = getattr(answer, "labels", None)
    held = getattr(answer, "image", answer) if held is None else held
    values: NDArray[Any] = np.asarray(held.detach().cpu() if isinstance(held, torch.Tensor) else held)
    return values


def filled(shape: Sequence[int], boxes: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.float32]:
    """Fills boxes with their scores, the higher one where they overlap.

    Args:
        shape: Size S of the image.
        boxes: `(n, 2 * dims)`, corners `(low..., high...)` in voxels, high exclusive.
        scores: `(n,)`.
    """
    painted = np.zeros(tuple(shape), np.float32)
    for box, score in sorted(zip(boxes.astype(int).tolist(), scores.tolist(), strict=True), key=lambda pair: pair[1]):
        low, high = box[: len(shape)], box[len(shape) :]
        painted[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = score
    return painted


def digest(*parts: Any) -> str:
    """Hashes plain values, hexadecimal."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
