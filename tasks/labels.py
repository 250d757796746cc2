"""What the adapters share about label maps: which classes there are, which one is asked, and whether they are valid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from mvg.data.source import Index
from mvg.data.subject import Subject

Balance = Literal["class", "item"]


def key(labels: str, number: int) -> str:
    """Name under which an item offers a class of a label role."""
    return f"{labels}={number}"


def known_classes(index: Index, labels: str) -> list[int]:
    """Numbers of all classes but background that occur in a label role, ascending."""
    prefix = f"{labels}="
    numbers = {int(name[len(prefix) :]) for name in index.keys if name.startswith(prefix)}
    return sorted(numbers - {0})


def draw_class(
    index: Index,
    roles: Sequence[str],
    labels: str,
    allowed: Sequence[int] | None,
    balance: Balance,
    rng: np.random.Generator,
) -> int:
    """Draws the class that an episode asks for, from those that more than one patient shows if there are such.

    Args:
        index: Items to draw from.
        roles: Images that an item must offer beside the class.
        labels: Label role.
        allowed: Classes to choose from; None for all.
        balance: "class" draws all classes alike, "item" as often as they occur.
        rng: Source of randomness.

    Raises:
        ValueError: If no item offers any of the classes.
    """
    known = known_classes(index, labels)
    found = {k: index.find((*roles, labels, key(labels, k))) for k in known if allowed is None or k in allowed}
    shown = [k for k in found if len(found[k])]
    if not shown:
        wanted = "any class" if allowed is None else f"one of the classes {list(allowed)}"
        raise ValueError(f"no item offers {', '.join(roles)} with {wanted} of {labels!r}; it holds the classes {known}")
    shown = [k for k in shown if _several_groups(index, found[k])] or shown
    if balance == "class":
        return shown[int(rng.integers(len(shown)))]
    counts = np.array([len(found[k]) for k in shown], dtype=np.float64)
    return int(rng.choice(shown, p=counts / counts.sum()))


def _several_groups(index: Index, found: np.ndarray) -> bool:
    """Says whether items come from more than one patient; looks at all only if the first and the last agree."""
    first = index.groups[found[0]]
    return bool(first != index.groups[found[-1]] or (index.groups[found] != first).any())


def present(subjects: Sequence[Subject], labels: str) -> list[list[int]]:
    """Classes but background in the label map of each subject; none where it has no label map."""
    maps = [subject.labels.get(labels) for subject in subjects]
    return [[] if values is None else _numbers(values) for values in maps]


def _numbers(labels: Tensor) -> list[int]:
    """Positive values that occur in a label map, ascending."""
    return [number for number in labels.flatten().clamp(min=0).bincount().nonzero().flatten().tolist() if number]


def other_class(
    subjects: Sequence[Subject],
    labels: str,
    asked: Sequence[int],
    allowed: Sequence[int] | None,
    rng: np.random.Generator,
) -> int | None:
    """Draws a class that could have been asked of the same images instead.

    It is present in the query and in as many of the context images as any such class, at least in one.

    Args:
        subjects: Query first, then context.
        labels: Label role.
        asked: The classes that are asked for.
        allowed: Classes to choose from; None for all.
        rng: Source of randomness.

    Returns:
        None if there is no such class.
    """
    query, *context = present(subjects, labels)
    counts = {k: sum(k in shown for shown in context) for k in query if k not in asked}
    counts = {k: count for k, count in counts.items() if count and (allowed is None or k in allowed)}
    best = [k for k, count in counts.items() if count == max(counts.values())]
    return best[int(rng.integers(len(best)))] if best else None


def check_labels(labels: Tensor, highest: int, name: str, case: str) -> None:
    """Checks that a label map `(*S)` holds class indices.

    Raises:
        ValueError: If a value is negative or above the highest class that the source declares.
    """
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high > highest:
        raise ValueError(
            f"{name!r} of case {case!r} holds the value {low if low < 0 else high}, but its source declares the "
            f"classes 0 to {highest}; label maps hold class indices: map a 0/255 mask to 0/1 when it is read"
        )
