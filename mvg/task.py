"""The contract of a task: how a subject becomes a pair, and a painted image an answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from mvg.configuration import Configurable
from mvg.episode import Answer, Pair, Spec

if TYPE_CHECKING:  # the data room builds on this contract
    from mvg.data.source import Index
    from mvg.data.subject import Subject


class Task(metaclass=Configurable):
    """What is asked of a network.

    An episode is drawn in three steps: `draw` decides once what the episode shows (which classes in which colours,
    which noise level, from which contrast to which), `encode` applies it to the query and to every context image
    alike, and `decode` turns the painted answer back. Random choices use only the generators handed in.

    Attributes:
        is_label: The target is a painted label map; networks may train it with a loss of its own.
        mim: Default share of training episodes trained by masked image modelling, [0, 1]; the rest is autoregressive.
        metrics: Names of what `score` returns, with the direction: True where higher is better.
        primary: The metric that stands for the task in summaries.
        keeps_units: A painted image has the units of its query; else those of the targets in its context.
    """

    is_label: ClassVar[bool] = False
    metrics: ClassVar[Mapping[str, bool]] = {}
    primary: ClassVar[str] = ""
    keeps_units: ClassVar[bool] = True
    mim: float = 0.9

    @abstractmethod
    def accepts(self, index: Index) -> bool:
        """Says whether this task can be asked of the items of an index."""

    @abstractmethod
    def draw(self, index: Index, rng: np.random.Generator, training: bool) -> Spec:
        """Draws what one episode shows, before any image is read.

        The spec holds `query` and `context`: lists of the keys (`Item.keys`) that the query and every context
        image must offer. It may name `identity`: the channel of an image that counts as the query itself among
        trivial answers, where the mean of its channels would be no image. The rest is the task's own.
        """

    def complete(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec:
        """Fills in what can be drawn only once the images are read (query first); the spec itself by default."""
        return spec

    @abstractmethod
    def encode(self, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
        """Turns one subject into a pair; `rng` draws what differs between images (the noise itself, not its level).

        Without the role that the target comes from, as at prediction time, the pair's target is None.
        """

    @abstractmethod
    def decode(self, painted: Tensor, spec: Spec) -> Answer:
        """Turns one painted answer `(C_out, *S)`, about [0, 1], into labels, an image or boxes."""

    def pose(self, targets: Sequence[Tensor], rng: np.random.Generator) -> list[Spec]:
        """Says what a context asks whose targets are given, as in files; one spec for each pass of the network.

        Args:
            targets: One for each pair: `(*S)` int64 if `is_label`, else an image `(C, *S)`.
            rng: Draws what the targets leave open (colours).

        Returns:
            The specs; empty if the targets show nothing to ask for.
        """
        return [{"channels": 1 if self.is_label else targets[0].shape[0]}]

    def paint(self, target: Tensor, spec: Spec) -> Tensor:
        """Paints a given target as `encode` would, `(C, *S)`; labels in white by default."""
        return (target > 0).float()[None] if self.is_label else target.clamp(0, 1)

    def claim(self, painted: Tensor, spec: Spec) -> Tensor:
        """Says how far from background each pixel is painted, `(*S)`; of several passes the highest above 0 wins."""
        return painted.float().mean(0) - 0.5

    @abstractmethod
    def score(self, painted: Tensor, pair: Pair, spec: Spec) -> dict[str, float]:
        """Compares a painted answer `(C_out, *S)` with the truth; one number for each of `metrics`, NaN if none."""

    def swap(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec | None:
        """Returns a spec that asks the same images for another structure, for the task-swap control.

        None where there is no other structure, or where the query alone says what is asked (denoising).
        """
        return None
