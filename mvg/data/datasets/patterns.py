"""Layouts as patterns: a line for each kind of file, read by one function."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mvg.data.datasets.made import map_labels
from mvg.data.importers.dataset import Dataset, complain
from mvg.data.location import Location
from mvg.data.manifest import Row

_FIELD = re.compile(r"\{(\w+)\}")
_SHOWN = 5


@dataclass(frozen=True)
class Pattern:
    """Files of one role.

    Attributes:
        role: The role.
        path: Path below any folder of the data set, with fields in braces: `imagesTr/{case}.nii.gz`.
        split: "train", "val" or "test" where the layout states it; files of one case share it.
        prefix: Put before the names of cases and patients, where another split has the same ones.
        optional: A case may lack it.
        modality: Kind of image, for tables.
        values: Stored value to class, where the file holds others than classes; the map is written anew.
    """

    role: str
    path: str
    split: str = ""
    prefix: str = ""
    optional: bool = False
    modality: str = ""
    values: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Files:
    """Reads the files that fit patterns; all others are ignored.

    Attributes:
        patterns: A pattern for each kind of file.
        fields: Field to regular expression.
        case: Name of a case, from the fields.
        patient: Name of its patient.
        labelled: Label role without which a case of the test split is of no use and is left out.
        whole: Refuse cases that lack a file; else they are left out, where the data set itself is incomplete.
    """

    patterns: tuple[Pattern, ...]
    fields: Mapping[str, str]
    case: str = "{case}"
    patient: str = "{case}"
    labelled: str = ""
    whole: bool = True

    def __call__(self, root: Path, work: Path) -> Dataset:
        """Lists the files below a folder.

        Args:
            root: The downloaded folder, one above it, or one that patterns begin with.
            work: Takes label maps whose values had to be changed.

        Raises:
            ValueError: If no file fits, two files are the same, or a case lacks one.
        """
        found: dict[str, dict[str, tuple[Pattern, Row]]] = {}
        fits: dict[str, dict[str, str]] = {}
        for path in walk(root):
            for pattern, match in self._matches(path.absolute().as_posix()):
                row = self._row(pattern, match, path)
                files = found.setdefault(row.case, {})
                if row.role in files:
                    raise ValueError(f"{path}: {files[row.role][1].location} is the same file of the case; keep one")
                files[row.role] = (pattern, row)
                fits.setdefault(row.case, {}).update(match)
        if not found:
            raise ValueError(f"{root}: no file {self.words[0]} is here; is this the folder of this data set?")
        found, remarks = self._with_labels(found)
        lacking = {case: names for case, files in sorted(found.items()) if (names := self._missing(files, fits[case]))}
        if lacking and not self.whole:
            found = {case: files for case, files in found.items() if case not in lacking}
            remarks.append(f"left out {len(lacking)} cases that lack a file")
        if self.whole or not found:
            complain(root, _sentences(lacking))
        rows = [self._made(*file, work) for _, files in sorted(found.items()) for file in files.values()]
        return Dataset(self._ordered(rows), remarks=remarks)

    @property
    def words(self) -> tuple[str, ...]:
        """The patterns, for people."""
        return tuple(pattern.path for pattern in self.patterns)

    @cached_property
    def _expressions(self) -> list[tuple[Pattern, re.Pattern[str]]]:
        return [(pattern, re.compile(rf"(?:.*/)?{self._expression(pattern.path)}")) for pattern in self.patterns]

    def _expression(self, path: str) -> str:
        """Turns a pattern into a regular expression; a field that comes again must be the same."""
        parts, seen = [], set()
        for number, part in enumerate(_FIELD.split(path)):
            if number % 2 == 0:
                parts.append(re.escape(part))
            else:
                parts.append(f"(?P={part})" if part in seen else f"(?P<{part}>{self.fields[part]})")
                seen.add(part)
        return "".join(parts)

    def _matches(self, path: str) -> Iterator[tuple[Pattern, dict[str, str]]]:
        for pattern, expression in self._expressions:
            if match := expression.fullmatch(path):
                yield pattern, match.groupdict()

    def _row(self, pattern: Pattern, match: Mapping[str, str], path: Path) -> Row:
        case, patient = (pattern.prefix + name.format(**match) for name in (self.case, self.patient))
        return Row(case, patient, pattern.split, pattern.role, Location(path), pattern.modality)

    def _with_labels(
        self, found: dict[str, dict[str, tuple[Pattern, Row]]]
    ) -> tuple[dict[str, dict[str, tuple[Pattern, Row]]], list[str]]:
        """Leaves test cases out that cannot be scored."""
        bare = [
            case
            for case, files in found.items()
            if self.labelled and self.labelled not in files and {row.split for _, row in files.values()} == {"test"}
        ]
        words = f"left out {len(bare)} test cases without {self.labelled}"
        return {case: files for case, files in found.items() if case not in bare}, [words] if bare else []

    def _missing(self, files: Mapping[str, tuple[Pattern, Row]], fields: Mapping[str, str]) -> list[str]:
        """Names the files that a case lacks."""
        first = next(iter(files.values()))[0]
        return [
            _FIELD.sub(lambda match: fields.get(match[1], "*"), pattern.path)
            for pattern in self.patterns
            if (pattern.split, pattern.prefix) == (first.split, first.prefix)
            and not pattern.optional
            and pattern.role not in files
        ]

    def _made(self, pattern: Pattern, row: Row, work: Path) -> Row:
        if not pattern.values:
            return row
        target = work / f"{row.case}_{row.role}.nii.gz"
        map_labels(row.location.path, target, pattern.values)
        return replace(row, location=Location(target))

    def _ordered(self, rows: Sequence[Row]) -> list[Row]:
        """Puts the roles of a case in the order of the patterns."""
        order = list(dict.fromkeys(pattern.role for pattern in self.patterns))
        return sorted(rows, key=lambda row: (row.case, order.index(row.role)))


def _sentences(lacking: Mapping[str, Sequence[str]]) -> list[str]:
    found = [f"case {case!r} lacks {' and '.join(names)}" for case, names in lacking.items()]
    more = [f"and {len(found) - _SHOWN} more cases lack files"] if len(found) > _SHOWN else []
    return found[:_SHOWN] + more


def walk(root: Path) -> Iterator[Path]:
    """Yields the files below a folder in order, without hidden ones and what a Mac adds to archives.

    Raises:
        ValueError: If there is no such folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: the folder does not exist; name the folder that was downloaded")
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
        yield from (Path(place, name) for name in sorted(files) if name[0] != ".")
