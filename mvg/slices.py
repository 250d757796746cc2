"""Slices that a context may show, and the choice of those that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mvg.context import Example

ENOUGH = 8
"""Pixels from which on a class counts as shown, where other slices show more."""


@dataclass(frozen=True)
class Slice:
    """A slice that a context may show.

    Attributes:
        example: Image and target at the network's size.
        position: Relative position in its volume along the slicing axis, [0, 1].
        pixels: Number of pixels, at the network's size, of each class that the target shows at its own; where targets
            are images, class 0 stands for what is not air.
    """

    example: Example
    position: float
    pixels: Mapping[int, int]


def choose_slices(
    slices: Sequence[Slice], classes: Sequence[int], number: int, position: float | None = None
) -> list[Slice]:
    """Chooses the slices that a context shows, in order of their position.

    Args:
        slices: All of them.
        classes: Classes that are asked for together; every one must occur.
        number: Largest number of slices; each class gets an equal share of it, but at least one slice.
        position: Take those nearest to this relative position; None spreads them over all positions.
    """
    share = max(1, number // len(classes))
    chosen: dict[int, Slice] = {}
    for asked in classes:
        found = _showing(slices, asked)
        if position is None:
            picks = np.floor((np.arange(min(share, len(found))) + 0.5) * len(found) / min(share, len(found))).astype(
                int
            )
        else:
            picks = np.argsort([abs(entry.position - position) for entry in found], kind="stable")[:share]
        chosen.update((id(found[pick]), found[pick]) for pick in picks.tolist())
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
