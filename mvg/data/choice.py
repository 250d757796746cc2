"""How many and which items become the context of a query: distinct, of other patients, near ones if that is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mvg.data.source import Index
from mvg.data.subject import Item

_TRIES = 16
_MANY = (1 << 10, 1 << 13, 1 << 16)
"""Where there are more items than the last of these, so many are looked at before all are."""


def check_context_size(context_size: int | Sequence[int]) -> tuple[int, int]:
    """Returns the smallest and the largest number of context pairs.

    Raises:
        ValueError: If it is neither a number from 1 on nor two ascending ones.
    """
    sizes = (context_size, context_size) if isinstance(context_size, int) else tuple(context_size)
    if len(sizes) != 2 or not 1 <= sizes[0] <= sizes[1]:
        raise ValueError(f"`context_size` must be at least 1, or two ascending numbers, got {context_size}")
    return sizes[0], sizes[1]


def choose_context(
    query: Item,
    contexts: Index,
    keys: tuple[str, ...],
    context_size: int,
    near: float | None,
    same_patient: bool,
    rng: np.random.Generator,
) -> list[int] | None:
    """Draws distinct context items, at a cost that does not grow with their number.

    Args:
        query: The query; its patient is left out.
        contexts: The items to draw from.
        keys: What a context item must offer.
        context_size: Number of items, at least 1.
        near: Largest distance from the query, as a share of the volume, where enough such items exist; None for no
            preference.
        same_patient: Whether other items of the query's patient may be drawn.
        rng: Source of randomness.

    Returns:
        Numbers of items, or None if there are too few.
    """
    found = contexts.find(keys)
    if len(found) < context_size:
        return None
    chosen: dict[int, None] = {}
    for tries in (_TRIES * context_size, *(_MANY if len(found) > _MANY[-1] else ())):
        tried = found[rng.integers(len(found), size=tries)]
        for number in tried[contexts.columns.allowed(tried, query, near, same_patient)].tolist():
            chosen[number] = None
            if len(chosen) == context_size:
                return list(chosen)
    every = list(chosen)
    for distance in (near, None):
        every += _missing(query, contexts, found, every, context_size, distance, same_patient, rng)
    return every if len(every) == context_size else None


def _missing(
    query: Item,
    contexts: Index,
    found: NDArray[np.int32],
    chosen: list[int],
    context_size: int,
    near: float | None,
    same_patient: bool,
    rng: np.random.Generator,
) -> list[int]:
    """Completes a choice by looking at every item that was found."""
    rest = found[contexts.columns.allowed(found, query, near, same_patient)]
    rest = rest[~np.isin(rest, chosen)]
    missing: list[int] = rest[rng.permutation(len(rest))[: context_size - len(chosen)]].tolist()
    return missing
