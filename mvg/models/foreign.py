"""Checks of state dictionaries that other code wrote: every name and every shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

SHOWN = 5
"""Names that an error lists before it only counts the rest."""


def find(state: Mapping[str, Tensor], name: str, axes: int) -> Tensor:
    """Returns a tensor from which a size is read.

    Raises:
        ValueError: If it is missing or has another number of axes.
    """
    if name not in state:
        raise ValueError(f"these weights lack {name}; name the format that they are in")
    if state[name].ndim != axes:
        raise ValueError(f"{name} has shape {tuple(state[name].shape)}, expected {axes} axes; name the right format")
    return state[name]


def axis(table: Tensor) -> int:
    """Returns the number of tokens along the axis that a table of relative positions belongs to."""
    return (table.shape[0] + 1) // 2


def count_blocks(state: Mapping[str, Tensor], prefix: str = "blocks") -> int:
    """Returns one more than the highest number after a prefix."""
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    return 1 + max((int(found[1]) for name in state if (found := pattern.match(name))), default=-1)


def check_names(state: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]]) -> None:
    """Checks that a state dictionary holds what is expected, no more and no less.

    Raises:
        ValueError: If it does not; the sentence names the keys.
    """
    faults = []
    if missing := [name for name in expected if name not in state]:
        faults.append(f"lack {listed(missing)}")
    if extra := [name for name in state if name not in expected]:
        faults.append(f"hold {listed(extra)}, for which the network has no place")
    wrong = [name for name in expected if name in state and tuple(state[name].shape) != tuple(expected[name])]
    if wrong:
        shown = [f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name])}" for name in wrong]
        faults.append(f"have other shapes: {listed(shown)}")
    if faults:
        raise ValueError(f"these weights do not fit the format: they {'; they '.join(faults)}")


def listed(names: Sequence[str]) -> str:
    """Joins the first names, and counts the rest."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
