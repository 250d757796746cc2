"""Items as columns: millions of slices in a few arrays, an object only for the one that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from mvg.data.subject import Item

WHOLE = -1
"""Stands for the slice of a whole image."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Items(Sequence[Item]):
    """Items in a fixed order; n of them need about 22 bytes each, and a bit for every key.

    Attributes:
        cases: Names of the cases.
        groups: Names of the groups.
        group_of: `(cases,)` number of the group of each case.
        case: `(n,)` number of the case of each item.
        place: `(n,)` index of each slice in its volume; `WHOLE` for whole images.
        position: `(n,)` relative position of each slice in its volume, [0, 1].
        bits: Key to one bit for each item, packed as `numpy.packbits` does: whether the item offers it.
    """

    cases: Sequence[str]
    groups: Sequence[str]
    group_of: NDArray[np.int32]
    case: NDArray[np.int32]
    place: NDArray[np.int32]
    position: NDArray[np.float64]
    bits: Mapping[str, NDArray[np.uint8]]

    @classmethod
    def gather(cls, items: Iterable[Item]) -> Items:
        """Turns items into columns, where they are not columns already."""
        if isinstance(items, Items):
            return items
        listed = list(items)
        cases: dict[tuple[str, str], int] = {}
        groups: dict[str, int] = {}
        offered: dict[str, list[int]] = {}
        case = [cases.setdefault((item.case, item.group), len(cases)) for item in listed]
        for number, item in enumerate(listed):
            for key in item.keys:
                offered.setdefault(key, []).append(number)
        return cls(
            cases=[name for name, _ in cases],
            group_of=np.array([groups.setdefault(group, len(groups)) for _, group in cases], dtype=np.int32),
            groups=list(groups),
            case=np.array(case, dtype=np.int32),
            place=np.array([WHOLE if item.slice is None else item.slice for item in listed], dtype=np.int32),
            position=np.array([item.position for item in listed], dtype=np.float64),
            bits={key: _pack(numbers, len(listed)) for key, numbers in offered.items()},
        )

    @cached_property
    def group(self) -> NDArray[np.int32]:
        """`(n,)` number of the group of each item."""
        return self.group_of[self.case]

    @cached_property
    def group_numbers(self) -> dict[str, int]:
        """Name of a group to its number."""
        return {name: number for number, name in enumerate(self.groups)}

    @cached_property
    def case_numbers(self) -> dict[str, int]:
        """Name of a case to its number."""
        return {name: number for number, name in enumerate(self.cases)}

    def offers(self, keys: Iterable[str]) -> NDArray[np.int32]:
        """Returns the numbers of all items that offer every one of some keys, ascending."""
        found = np.full((len(self) + 7) // 8, 255, dtype=np.uint8)
        for key in keys:
            found &= self.bits.get(key, np.uint8(0))
        return np.flatnonzero(np.unpackbits(found, count=len(self))).astype(np.int32)

    def allowed(
        self, numbers: NDArray[np.integer], query: Item, near: float | None = None, same_patient: bool = False
    ) -> Mask:
        """Says which items may be context of a query.

        Args:
            numbers: `(m,)` numbers of items.
            query: The query, of these items or of others.
            near: Largest distance along the slicing axis, as a share of the volume; None for any.
            same_patient: Allow other slices of the query's patient.

        Returns:
            `(m,)` mask.
        """
        if same_patient:
            place = WHOLE if query.slice is None else query.slice
            same_case = self.case[numbers] == self.case_numbers.get(query.case, -1)
            mask: Mask = ~(same_case & (self.place[numbers] == place))
        else:
            mask = self.group[numbers] != self.group_numbers.get(query.group, -1)
        if near is not None:
            mask &= np.abs(self.position[numbers] - query.position) <= near
        return mask

    def __len__(self) -> int:
        return len(self.case)

    @overload
    def __getitem__(self, number: int) -> Item: ...

    @overload
    def __getitem__(self, number: slice) -> list[Item]: ...

    def __getitem__(self, number: int | slice) -> Item | list[Item]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"item {number} is outside of the {len(self)} items")
        number %= len(self)
        byte, bit = number >> 3, 128 >> (number & 7)
        keys = frozenset(key for key, bits in self.bits.items() if bits[byte] & bit)
        case, place = int(self.case[number]), int(self.place[number])
        group = self.groups[int(self.group_of[case])]
        return Item(self.cases[case], group, keys, float(self.position[number]), None if place == WHOLE else place)

    def __iter__(self) -> Iterator[Item]:
        return (self[number] for number in range(len(self)))


def _pack(numbers: Sequence[int], count: int) -> NDArray[np.uint8]:
    """Returns bits that are set at some numbers below `count`."""
    mask = np.zeros(count, dtype=np.bool_)
    mask[list(numbers)] = True
    return np.packbits(mask)
