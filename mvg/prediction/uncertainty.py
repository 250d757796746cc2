"""How far an answer depends on the choice of examples and on the side from which it is looked at.

Further answers (*members*) see other draws of the examples and mirrored images. They do not change the answer: they are
compared with it, one after the other, so that no more than one of them is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 255
"""Largest number of members: what a count of 8 bits holds."""


class Agreement:
    """Compares an answer with members.

    The map holds, for class indices, the share of members that disagree, [0, 1]; for an image the standard deviation of
    answer and members, in its units.

    Args:
        answer: The answer, any shape; class indices, or values.
        classes: Classes that are asked for; empty for images.
    """

    def __init__(self, answer: NDArray[Any], classes: Sequence[int]) -> None:
        self.answer, self.classes, self.members = answer, classes, 0
        self._dice: dict[int, list[float]] = {k: [] for k in classes}
        self._differs = np.zeros(answer.shape, np.uint8 if classes else np.float32)
        self._mean = answer.astype(np.float32) if not classes else None

    def add(self, member: NDArray[Any]) -> None:
        """Takes in the answer of a member."""
        self.members += 1
        if self._mean is not None:
            step = member.astype(np.float32) - self._mean
            self._mean += step / np.float32(self.members + 1)
            self._differs += step * (member - self._mean).astype(np.float32)
            return
        self._differs += member != self.answer
        for k in self.classes:
            ours, theirs = self.answer == k, member == k
            size = int(ours.sum()) + int(theirs.sum())
            self._dice[k].append(2 * int((ours & theirs).sum()) / size if size else 1.0)

    def map(self) -> NDArray[np.float32]:
        """Returns the map, in the shape of the answer."""
        if self._mean is None:
            return self._differs.astype(np.float32) / np.float32(self.members)
        return np.asarray(np.sqrt(self._differs / np.float32(self.members + 1)), dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        """Returns plain values: of class indices the mean Dice of the members with the answer, class by class."""
        if self._mean is not None:
            return {"members": self.members, "mean_deviation": float(self.map().mean())}
        return {"members": self.members, "dice": {str(k): float(np.mean(found)) for k, found in self._dice.items()}}


def flips_of(member: int, examples: int, axes: int) -> tuple[int, ...]:
    """Axes, counted from the end, along which a member sees query and context mirrored.

    Where there are several examples every second member is mirrored, left to right; the others differ by their
    examples alone. With one example all are, along one or more axes in turn.
    """
    if examples > 1:
        return (-1,) if member % 2 else ()
    number = member % (2**axes - 1) + 1
    return tuple(-1 - axis for axis in range(axes) if number >> axis & 1)


def draw_members(shows: Sequence[set[int]], rng: np.random.Generator) -> list[int]:
    """Draws half of the examples, and more where a class would be missing.

    Args:
        shows: What each example shows.
        rng: Source of randomness.

    Returns:
        Their numbers, ascending.
    """
    order = rng.permutation(len(shows)).tolist()
    chosen = order[: (len(order) + 1) // 2]
    for number in order[len(chosen) :]:
        if shows[number] - set().union(*(shows[k] for k in chosen)):
            chosen.append(number)
    return sorted(chosen)
