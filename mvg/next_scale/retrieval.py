"""Which windows of a context a window of the query is shown."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from mvg.configuration import Configurable
from mvg.next_scale.level import Level
from mvg.next_scale.pyramid import Pyramid


class Crop(NamedTuple):
    """A window of a context.

    Attributes:
        example: Number of the pair.
        level: Number of its level.
        low: First voxel on that level.
    """

    example: int
    level: int
    low: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """A window of the query.

    Attributes:
        image: `(C_in, *window)`.
        level: The scale of the query.
        low: First voxel on it.
        spacing: Size of its voxels, in the units of the context's.
    """

    image: Tensor
    level: Level
    low: tuple[int, ...]
    spacing: tuple[float, ...]


class Retrieval(metaclass=Configurable):
    """A rule that chooses windows of the context; equal arguments give equal windows.

    Attributes:
        shared: All windows of one level of the query are shown the same, so that they can be answered together.
        number: Windows of each pair that are shown.
    """

    shared = False
    number = 1

    @abstractmethod
    def choose(self, asked: Asked, context: Sequence[Pyramid]) -> tuple[Crop, ...]:
        """Returns the windows that are shown for one window of the query, at least one."""


class SamePlace(Retrieval):
    """The window at the same relative place in every pair, at the level whose voxels are of nearest size.

    Right where subjects are roughly registered, as scans of one protocol are.
    """

    def choose(self, asked: Asked, context: Sequence[Pyramid]) -> tuple[Crop, ...]:
        """Returns one window of each pair."""
        centre = asked.level.centre(asked.low)
        numbers = [pyramid.nearest(asked.spacing) for pyramid in context]
        return tuple(
            Crop(k, number, pyramid.levels[number].around(centre))
            for k, (number, pyramid) in enumerate(zip(numbers, context, strict=True))
        )


class Whole(Retrieval):
    """All of every pair in one window, at its coarsest level."""

    shared = True

    def choose(self, asked: Asked, context: Sequence[Pyramid]) -> tuple[Crop, ...]:
        """Returns one window of each pair, the same for every query."""
        return tuple(Crop(k, 0, pyramid.whole()) for k, pyramid in enumerate(context))


class Foreground(Retrieval):
    """The windows of every pair that show most of what is asked for, whatever the query shows.

    The context of a level is then the same for all windows of the query, and is read once.

    Args:
        number: Windows of each pair; half of a window is common to two at most.
    """

    shared = True

    def __init__(self, number: int = 1) -> None:
        if number < 1:
            raise ValueError(f"`number` of windows must be at least 1, got {number}")
        self.number = number
        self._kept: WeakKeyDictionary[Pyramid, dict[int, list[tuple[int, ...]]]] = WeakKeyDictionary()

    def choose(self, asked: Asked, context: Sequence[Pyramid]) -> tuple[Crop, ...]:
        """Returns the best windows of each pair."""
        found = []
        for k, pyramid in enumerate(context):
            level, kept = pyramid.nearest(asked.spacing), self._kept.setdefault(pyramid, {})
            if level not in kept:
                kept[level] = self._best(pyramid, level)
            found += [Crop(k, level, low) for low in kept[level]]
        return tuple(found)

    def _best(self, pyramid: Pyramid, number: int) -> list[tuple[int, ...]]:
        places, level = pyramid.candidates(number), pyramid.levels[number]
        order = pyramid.painted(number).argsort(descending=True, stable=True).tolist()
        chosen: list[tuple[int, ...]] = []
        for low in (places[k] for k in order):
            shared = [sum(2 * abs(a - b) < s for a, b, s in zip(low, old, level.window, strict=True)) for old in chosen]
            if all(axes < len(low) for axes in shared):
                chosen.append(low)
        return (chosen * self.number)[: self.number]


class Nearest(Retrieval):
    """The windows of every pair that look most like the query's, by the correlation of their images on a coarse grid.

    Args:
        number: Windows of each pair.
        grid: Side of the grid.
    """

    def __init__(self, number: int = 1, grid: int = 8) -> None:
        if number < 1 or grid < 2:
            raise ValueError(f"`number` must be at least 1 and `grid` at least 2, got {number} and {grid}")
        self.number, self.grid = number, grid
        self._kept: WeakKeyDictionary[Pyramid, dict[int, Tensor]] = WeakKeyDictionary()

    def choose(self, asked: Asked, context: Sequence[Pyramid]) -> tuple[Crop, ...]:
        """Returns the nearest windows of each pair."""
        feature, found = look(asked.image, self.grid), []
        for k, pyramid in enumerate(context):
            level, kept = pyramid.nearest(asked.spacing), self._kept.setdefault(pyramid, {})
            places = pyramid.candidates(level)
            if level not in kept:
                kept[level] = torch.stack([look(pyramid.image(level, low), self.grid) for low in places])
            order = (kept[level] @ feature).argsort(descending=True, stable=True).tolist()
            found += [Crop(k, level, places[place]) for place in (order * self.number)[: self.number]]
        return tuple(found)


def look(image: Tensor, grid: int = 8) -> Tensor:
    """Describes what an image looks like: its coarse pattern, whatever its brightness and contrast.

    Args:
        image: `(C, *S)`.
        grid: Side of the grid that the image is averaged over.

    Returns:
        `(D,)`, of length 1 unless the image is even; products of two are correlations.
    """
    pool = F.adaptive_avg_pool2d if image.ndim == 3 else F.adaptive_avg_pool3d
    small = pool(image.float(), grid).flatten(1)
    return F.normalize((small - small.mean(1, keepdim=True)).flatten(), dim=0)


class Several(Retrieval):
    """What several rules choose, one after the other; windows that are chosen twice are shown once.

    Args:
        rules: The rules.
    """

    def __init__(self, rules: list[Retrieval]) -> None:
        if not rules:
            raise ValueError("`rules` must hold at least one rule, got none")
        self.rules, self.shared = list(rules), all(rule.shared for rule in rules)
        self.number = sum(rule.number for rule in rules)

    def choose(self, asked: Asked, context: Sequence[Pyramid]) -> tuple[Crop, ...]:
        """Returns the windows of all rules."""
        return tuple(dict.fromkeys(crop for rule in self.rules for crop in rule.choose(asked, context)))


Windows = Literal["same-place", "foreground", "nearest", "whole"]
"""Names of rules with their usual arguments, for command lines."""

_RULES = {"same-place": SamePlace, "foreground": Foreground, "nearest": Nearest, "whole": Whole}


def retrieval_of(names: Sequence[Windows] | None) -> Retrieval:
    """Makes a rule from names; without any, `SamePlace`.

    Raises:
        ValueError: If there is no such rule.
    """
    if unknown := sorted(set(names or ()) - set(_RULES)):
        raise ValueError(f"there is no rule {unknown[0]!r} for windows of the context; choose of {', '.join(_RULES)}")
    rules: list[Retrieval] = [_RULES[name]() for name in names or ["same-place"]]
    return rules[0] if len(rules) == 1 else Several(rules)
