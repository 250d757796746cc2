"""What is known of every slice of a source, as columns in one file: how much of it is not air, and its classes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvg.data.items import WHOLE, Items
from mvg.files import write_atomically

Marks = tuple[NDArray[np.int32], NDArray[np.uint32]]
"""Numbers of the slices that show a class, ascending, and the number of its pixels in each."""


@dataclass(frozen=True)
class Facts:
    """What is known of some slices, of one case or of all.

    Attributes:
        content: Image role to the share of pixels that are not air, `(n,)`; NaN where a case lacks the role.
        marks: Label role and class, such as `labels=3`, to the slices that show it.
    """

    content: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    marks: Mapping[str, Marks] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Mapping[str, Sequence[float]], counts: Mapping[str, Mapping[str, Sequence[int]]]) -> Facts:
        """Takes over what `prepare` found of a case: shares for each role, pixels for each role and class."""
        return cls(
            {role: np.array(shares, dtype=np.float32) for role, shares in content.items()},
            {
                f"{role}={index}": _sparse(np.array(pixels))
                for role, classes in counts.items()
                for index, pixels in classes.items()
            },
        )

    def renamed(self, names: Mapping[str, str]) -> Facts:
        """Returns the same facts with other names for some role and class."""
        return Facts(self.content, {names.get(key, key): marks for key, marks in self.marks.items()}) if names else self

    def part(self, start: int, stop: int) -> Facts:
        """Returns the facts of a range of slices, numbered from 0."""
        marks = {}
        for key, (numbers, pixels) in self.marks.items():
            first, last = np.searchsorted(numbers, [start, stop])
            if last > first:
                marks[key] = numbers[first:last] - np.int32(start), pixels[first:last]
        content = {role: shares[start:stop] for role, shares in self.content.items()}
        return Facts({role: shares for role, shares in content.items() if not np.isnan(shares).all()}, marks)

    def write(self, path: Path) -> None:
        """Writes an archive, whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {f"content/{role}": shares for role, shares in self.content.items()}
        for key, (numbers, pixels) in self.marks.items():
            arrays |= {f"numbers/{key}": numbers, f"pixels/{key}": pixels}
        write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def _sparse(pixels: NDArray[np.int64]) -> Marks:
    numbers = np.flatnonzero(pixels)
    return numbers.astype(np.int32), pixels[numbers].astype(np.uint32)


def read_facts(path: Path) -> Facts | None:
    """Reads what `Facts.write` wrote; None if it is missing or damaged, as a cache can be made again."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    names = [name.removeprefix("numbers/") for name in found if name.startswith("numbers/")]
    return Facts(
        {name.removeprefix("content/"): values for name, values in found.items() if name.startswith("content/")},
        {key: (found[f"numbers/{key}"], found[f"pixels/{key}"]) for key in names},
    )


def join(parts: Sequence[tuple[int, Facts]]) -> Facts:
    """Puts the facts of cases one after the other.

    Args:
        parts: Number of slices and facts of each case.
    """
    starts = np.cumsum([0, *(count for count, _ in parts)])
    content: dict[str, NDArray[np.float32]] = {}
    numbers: dict[str, list[NDArray[np.int32]]] = {}
    pixels: dict[str, list[NDArray[np.uint32]]] = {}
    for start, (count, facts) in zip(starts.tolist(), parts, strict=False):
        for role, shares in facts.content.items():
            column = content.setdefault(role, np.full(int(starts[-1]), np.nan, dtype=np.float32))
            column[start : start + count] = shares
        for key, (found, sizes) in facts.marks.items():
            numbers.setdefault(key, []).append(found + np.int32(start))
            pixels.setdefault(key, []).append(sizes)
    return Facts(content, {key: (np.concatenate(numbers[key]), np.concatenate(pixels[key])) for key in numbers})


@dataclass(frozen=True)
class Selection:
    """The slices of one split.

    Attributes:
        cases: Numbers of its cases, among all, in the order of the items.
        least: Share of pixels that are not air, below which an image is not offered.
    """

    cases: Sequence[int]
    least: float


def select(
    facts: Facts,
    names: Sequence[str],
    groups: Sequence[str],
    counts: Sequence[int],
    labelled: Mapping[str, Sequence[bool]],
    reference: str,
    min_pixels: int,
    selections: Iterable[Selection],
) -> Iterator[Items]:
    """Makes the items of splits.

    Args:
        facts: Of all slices, case after case.
        names: Names of all cases.
        groups: Patient of each case.
        counts: Slices of each case; one for a whole image.
        labelled: Label role to which cases have it.
        reference: Image role without which a slice is left out.
        min_pixels: Pixels from which on a class counts as present.
        selections: The splits.
    """
    sizes = np.array(counts, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    numbers: dict[str, int] = {}
    group_of = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int32)
    marks = {key: found[pixels >= min_pixels] for key, (found, pixels) in facts.marks.items()}
    for wanted in selections:
        chosen = np.array(wanted.cases, dtype=np.int64)
        lengths = sizes[chosen]
        case = np.repeat(chosen, lengths).astype(np.int32)
        inner = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = np.repeat(starts[chosen], lengths) + inner
        kept = facts.content[reference][rows] >= np.float32(wanted.least)
        case, inner, rows = case[kept], inner[kept], rows[kept]
        bits = {role: np.packbits(shares[rows] >= np.float32(wanted.least)) for role, shares in facts.content.items()}
        bits |= {role: np.packbits(np.array(has, dtype=np.bool_)[case]) for role, has in labelled.items()}
        place = np.full(int(sizes.sum()), len(rows), dtype=np.int32)  # of each slice among the items, or behind them
        place[rows] = np.arange(len(rows), dtype=np.int32)
        shown = np.empty(len(rows) + 1, dtype=np.bool_)
        for key, found in marks.items() if len(rows) else ():
            shown[:] = False
            shown[place[found]] = True
            bits[key] = np.packbits(shown[:-1])
        yield Items(
            cases=names,
            groups=list(numbers),
            group_of=group_of,
            case=case,
            place=np.where(sizes[case] > 1, inner, WHOLE).astype(np.int32),
            position=np.where(sizes[case] > 1, inner / np.maximum(sizes[case] - 1, 1), 0.5),
            bits={key: packed for key, packed in bits.items() if packed.any()},
        )
