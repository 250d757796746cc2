"""The contract of a data source: a list of items, an inverted index over them, and a reader."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mvg.configuration import Configurable
from mvg.data.items import Items
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
        self._found: dict[tuple[str, ...], NDArray[np.int32]] = {}

    @cached_property
    def columns(self) -> Items:
        """The items as columns."""
        return Items.gather(self.items)

    @property
    def keys(self) -> frozenset[str]:
        """Everything that at least one item offers."""
        return frozenset(self.columns.bits)

    @property
    def groups(self) -> NDArray[np.int32]:
        """Number of the group of each item."""
        return self.columns.group

    @property
    def positions(self) -> NDArray[np.float64]:
        """Relative position of each item."""
        return self.columns.position

    def find(self, keys: tuple[str, ...]) -> NDArray[np.int32]:
        """Returns the numbers of all items that offer every one of `keys`, ascending."""
        keys = tuple(sorted(set(keys)))
        if keys not in self._found:
            self._found[keys] = self.columns.offers(keys)
        return self._found[keys]
