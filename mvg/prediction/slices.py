"""Slices that a context may show, and the choice of those that it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvg.prediction.context import Example
from mvg.prediction.retrieval import Features, far_apart, nearest

ENOUGH = 8
"""Pixels from which on a class counts as shown, where other slices show more."""


@dataclass(frozen=True)
class Slice:
    """A slice, or a whole volume, that a context may show.

    Attributes:
        example: Image and target of the size at which they are shown, mostly the network's.
        position: Relative position in its volume along the slicing axis, [0, 1].
        pixels: Number of pixels, of that size, of each class that the target shows at its own; where targets
            are images, class 0 stands for what is not air.
        spacing: Size of the voxels of a whole volume in mm.
    """

    example: Example
    position: float
    pixels: Mapping[int, int]
    spacing: tuple[float, ...] = ()


Pick = Callable[[Sequence[Slice], int], Sequence[int]]
"""Picks from slices in order of their position, at most so many; returns their numbers."""


def spread_out(slices: Sequence[Slice], share: int) -> list[int]:
    """Picks slices evenly over all positions."""
    count = min(share, len(slices))
    found: list[int] = np.floor((np.arange(count) + 0.5) * len(slices) / count).astype(int).tolist()
    return found


def beside(position: float) -> Pick:
    """Picks the slices nearest to a relative position."""

    def pick(slices: Sequence[Slice], share: int) -> list[int]:
        found: list[int] = np.argsort([abs(entry.position - position) for entry in slices], kind="stable")[
            :share
        ].tolist()
        return found

    return pick


def drawn(rng: np.random.Generator) -> Pick:
    """Picks at random, at most half of the slices where there are several."""

    def pick(slices: Sequence[Slice], share: int) -> list[int]:
        count = min(share, (len(slices) + 1) // 2)
        return sorted(rng.permutation(len(slices))[:count].tolist())

    return pick


class Looks:
    """Picks slices by what they look like; each is described once.

    Args:
        describe: Describes an image.
    """

    def __init__(self, describe: Features) -> None:
        self.describe = describe
        self._kept: dict[int, Tensor] = {}

    def of(self, slices: Sequence[Slice]) -> Tensor:
        """Returns the descriptions, `(n, D)`."""
        for entry in slices:
            if id(entry) not in self._kept:
                self._kept[id(entry)] = self.describe(entry.example.image)
        return torch.stack([self._kept[id(entry)] for entry in slices])

    def like(self, query: Tensor) -> Pick:
        """Picks the slices nearest to a description `(D,)`."""
        return lambda slices, share: nearest(self.of(slices), query, share)

    def apart(self, slices: Sequence[Slice], share: int) -> list[int]:
        """Picks slices that look as different as possible."""
        return far_apart(self.of(slices), share)


def choose_slices(slices: Sequence[Slice], classes: Sequence[int], number: int, pick: Pick = spread_out) -> list[Slice]:
    """Chooses the slices that a context shows, in order of their position.

    Args:
        slices: All of them.
        classes: Classes that are asked for together; every one must occur.
        number: Largest number of slices; each class gets an equal share of it, but at least one slice.
        pick: Which of the slices that show a class.
    """
    share = max(1, number // len(classes))
    chosen: dict[int, Slice] = {}
    for asked in classes:
        found = _showing(slices, asked)
        chosen.update((id(found[place]), found[place]) for place in pick(found, share))
    return sorted(chosen.values(), key=lambda entry: entry.position)


def _showing(slices: Sequence[Slice], asked: int) -> list[Slice]:
    """Slices that show a class well, or else at all, by position."""
    for least in (ENOUGH, 1):
        found = [entry for entry in slices if entry.pixels.get(asked, 0) >= least]
        if found:
            return sorted(found, key=lambda entry: entry.position)
    raise ValueError(f"no slice of the context shows class {asked}")


def bin_of(position: float, bins: int) -> int:
    """Number of the bin of a relative position in [0, 1]."""
    return min(int(position * bins), bins - 1)
