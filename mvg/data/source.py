"""The contract of a data source: a list of items, an inverted index over them, and a reader."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from mvg.configuration import Configurable
from mvg.data.subject import Item, Subject

SPLITS = ("train", "val", "test")


class Source(metaclass=Configurable):
    """A data set: items in three splits, and a reader.

    A subclass lists its items and reads one of them. Both must be pure functions of their arguments and of the
    constructor's: the same item gives the same tensors in every process. Where a source holds many small data sets
    that do not share their classes (synthetic anatomies), each is a *cohort*: query and context come from one cohort.

    Attributes:
        name: Name of the source, used in logs and tables.
        licence: Licence of the data; weights trained on it inherit it.
        class_names: Class index to name, for each label role.
        dims: 2 or 3, number of spatial axes of its subjects.
    """

    name: str = ""
    licence: str = "unknown"
    class_names: dict[str, dict[int, str]]
    dims: int = 2

    def cohorts(self, split: str) -> int:
        """Number of cohorts of one of the splits "train", "val" and "test"."""
        return 1

    @abstractmethod
    def items(self, split: str, cohort: int = 0) -> Sequence[Item]:
        """Returns the items of one cohort of a split, in a fixed order."""

    @abstractmethod
    def read(self, item: Item) -> Subject:
        """Reads one item. Raises ValueError naming the file if it is damaged."""


class Index:
    """Items of one cohort by what they offer, so that drawing costs the same for ten and for ten million.

    Args:
        items: The items, in a fixed order.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self._found: dict[tuple[str, ...], np.ndarray] = {}

    @cached_property
    def keys(self) -> frozenset[str]:
        """Everything that at least one item offers."""
        return frozenset().union(*(item.keys for item in self.items)) if len(self.items) else frozenset()

    @cached_property
    def groups(self) -> np.ndarray:
        """Number of the group of each item."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(item.group, len(numbers)) for item in self.items], dtype=np.int64)

    @cached_property
    def positions(self) -> np.ndarray:
        """Relative position of each item."""
        return np.array([item.position for item in self.items], dtype=np.float32)

    def find(self, keys: tuple[str, ...]) -> np.ndarray:
        """Returns the numbers of all items that offer every one of `keys`, ascending."""
        keys = tuple(sorted(set(keys)))
        if keys not in self._found:
            wanted = set(keys)
            self._found[keys] = np.array(
                [i for i, item in enumerate(self.items) if wanted <= item.keys], dtype=np.int64
            )
        return self._found[keys]
