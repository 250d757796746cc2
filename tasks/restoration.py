"""What tasks that paint an image share: decoding, scoring, and a clean image degraded by a drawn strength."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from mvg.data.source import Index
from mvg.data.subject import Subject
from mvg.episode import Answer, Pair, Spec
from mvg.task import Task
from tasks.painting import (
    balanced_weight,
    channels_of,
    check_range,
    check_share,
    clamped,
    clamped_image,
    clean_image,
    foreground,
    image_scores,
    truth,
)

Unit = Literal["pixel", "mm"]


class ImageTask(Task):
    """A task that paints one image, scored inside of masks with the data range 1.

    A subclass whose spec holds `channels`, the number of channels of the target, has only to say how pairs are made.

    Args:
        ranges: Name of each strength that query and context share to its range, 0 < low <= high; those that count
            things are named in `whole`, too.
        foreground: Least share of the loss weight that the foreground of the target gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    metrics: ClassVar[Mapping[str, bool]] = {"psnr": True, "ssim": True, "mae": False}
    primary: ClassVar[str] = "psnr"
    whole: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, ranges: Mapping[str, Sequence[float]], foreground: float, mim: float) -> None:
        if not 0 <= foreground < 1:
            raise ValueError(f"`foreground` must be in [0, 1), got {foreground}")
        check_share("mim", mim)
        self.foreground, self.mim = foreground, mim
        self.ranges = {name: check_range(name, values) for name, values in ranges.items()}
        for name in sorted(self.whole & ranges.keys()):
            if any(int(value) != value for value in ranges[name]):
                raise ValueError(f"`{name}` must be whole numbers, got {list(ranges[name])}")

    def strengths(self, rng: np.random.Generator) -> Spec:
        """Draws what query and context share, as plain values: one number for each range."""
        return {name: self.strength(name, rng) for name in self.ranges}

    def strength(self, name: str, rng: np.random.Generator) -> float | int:
        """Draws from one range: evenly on a logarithmic scale, or evenly among whole numbers."""
        low, high = self.ranges[name]
        if name in self.whole:
            return int(rng.integers(int(low), int(high) + 1))
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    def weigh(self, target: Tensor | None) -> Tensor | None:
        """Weights of the loss, `(1, *S)`; None for ones."""
        return None if target is None or not self.foreground else balanced_weight(foreground(target), self.foreground)

    def masks(self, pair: Pair, target: Tensor) -> Mapping[str, Tensor]:
        """Where a pair is scored: what the names of the scores end in, to pixels `(*S)`; by default the foreground."""
        return {"": foreground(target)}

    def decode(self, painted: Tensor, spec: Spec) -> Answer:
        """Clamps the painted image to [0, 1]."""
        return Answer(image=clamped(painted, spec["channels"]))

    def score(self, painted: Tensor, pair: Pair, spec: Spec) -> dict[str, float]:
        """PSNR, SSIM and mean absolute error inside of each mask; NaN where one is empty."""
        target = truth(pair, spec["channels"])
        return image_scores(clamped(painted, spec["channels"]), target, self.masks(pair, target))


class Restoration(ImageTask):
    """Paints the clean image from a degraded one.

    Every strength is drawn once for an episode, evenly on a logarithmic scale, and shared by query and context; the
    realisation (noise, poses, lines, places) is drawn for each image. What is degraded is the clean image clamped to
    [0, 1]; the result is neither clipped nor normalised again, so that the target keeps its units. Scores are taken in
    the foreground of the clean image (values above 0.01), with the data range 1.

    A subclass implements `degrade`; it overrides `strengths` for choices that are no ranges, and `orient` for those
    that need the number of axes.

    Args:
        role: The clean image, the target.
        degraded: Role of an image that is degraded already. Where a subject offers it, it is shown as it is, and the
            target is the clean image if that is there too. At prediction time the query offers this role alone.
        ranges: Name of each strength to its range.
        foreground: Least share of the loss weight that the foreground of the clean image gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    def __init__(
        self, role: str, degraded: str, ranges: Mapping[str, Sequence[float]], foreground: float, mim: float
    ) -> None:
        super().__init__(ranges, foreground, mim)
        self.role, self.degraded = role, degraded

    def accepts(self, index: Index) -> bool:
        """Says whether an index offers the clean image."""
        return self.role in index.keys

    def draw(self, index: Index, rng: np.random.Generator, training: bool) -> Spec:
        """Draws the kind and the strength of the degradation."""
        roles = {"query": [self.role], "context": [self.role], "inputs": [self.degraded]}
        return {**roles, **self.strengths(rng), "channels": 1}

    def complete(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec:
        """Notes the number of channels of the clean image, and draws what depends on the number of axes."""
        dims = len(subjects[0].shape)
        return {**spec, "channels": channels_of(subjects, self.role), **self.orient(dims, rng)}

    def orient(self, dims: int, rng: np.random.Generator) -> Spec:
        """Draws what query and context share and what depends on the number of axes; nothing by default."""
        return {}

    def encode(self, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
        """Degrades one image, or takes the degraded one that the subject offers."""
        clean = clean_image(subject, self.role)
        if self.degraded in subject.images:
            return Pair(subject.images[self.degraded], clean, self.weigh(clean))
        clean = clamped_image(subject, self.role)
        return Pair(self.degrade(clean, subject, spec, rng), clean, self.weigh(clean))

    @abstractmethod
    def degrade(self, clean: Tensor, subject: Subject, spec: Spec, rng: np.random.Generator) -> Tensor:
        """Returns a degraded copy of a clean image.

        Args:
            clean: `(C, *S)`, float32, [0, 1].
            subject: Where it comes from, for its spacing and its units.
            spec: What was drawn for the episode.
            rng: Draws the realisation.
        """


def choose(kinds: Sequence[str], rng: np.random.Generator) -> str:
    """Draws one of some kinds."""
    return kinds[int(rng.integers(len(kinds)))]


def draw_axis(axis: int | None, dims: int, rng: np.random.Generator) -> int:
    """Returns the number of a spatial axis, from 0; draws one of all where none is named.

    Raises:
        ValueError: If images have no such axis.
    """
    if axis is None:
        return int(rng.integers(dims))
    if not -dims <= axis < dims:
        raise ValueError(f"`axis` must be one of the {dims} axes of the images, from 0 or -1 on, got {axis}")
    return axis % dims


def pixels(unit: Unit, subject: Subject) -> tuple[float, ...]:
    """Number of pixels along each axis of S in one unit of length.

    Raises:
        ValueError: If lengths are in mm and the subject does not say its spacing.
    """
    if unit == "pixel":
        return (1.0,) * len(subject.shape)
    if len(subject.spacing) != len(subject.shape) or min(subject.spacing) <= 0:
        raise ValueError(
            f"case {subject.item.case!r} does not say its pixel size in mm (spacing {subject.spacing}); "
            "use `unit: pixel`, or a source of volumes"
        )
    return tuple(1 / space for space in subject.spacing)


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Checks that a constructor's argument is one of some names.

    Raises:
        ValueError: If it is not; the message lists them.
    """
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}")


def check_kinds(kinds: Sequence[str], known: Sequence[str]) -> None:
    """Checks a list of kinds of degradation.

    Raises:
        ValueError: If it is empty or holds an unknown one; the message lists them.
    """
    if not kinds or set(kinds) - set(known):
        raise ValueError(f"`kinds` must name some of {', '.join(known)}, got {list(kinds)}")
