"""The manifest: a table with a row for each file of a data set, as CSV or Parquet."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvg.data.cache import default_folder
from mvg.data.location import Location
from mvg.data.remote import is_remote, locate
from mvg.data.source import SPLITS
from mvg.files import write_atomically

COLUMNS = ("case", "group", "split", "role", "path", "modality", "sha256")
REQUIRED = ("case", "split", "role", "path")
PARQUET = ".parquet"
LABELS = "labels"
"""How the names of label roles start."""
FETCHED = "fetched"
"""Folder, in the cache, of files from remote stores."""
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a case.

    Attributes:
        case: Name of the scan, unique in its data set.
        group: The patient.
        split: "train", "val" or "test"; empty while it is not decided.
        role: What the image is to its case; label roles start with "labels".
        location: Where it lies.
        modality: Kind of image, for tables.
        sha256: Hash of the file, or of the pixels of an entry of an archive; empty where unknown.
    """

    case: str
    group: str
    split: str
    role: str
    location: Location
    modality: str = ""
    sha256: str = ""

    @property
    def is_label(self) -> bool:
        """Whether the image holds class indices."""
        return is_label(self.role)


def is_label(role: str) -> bool:
    """Tells label roles by their names, `labels` and what starts so."""
    return role.startswith(LABELS)


@dataclass(frozen=True, eq=False)
class Table:
    """A manifest as columns, which hold millions of cells without an object for each row.

    Attributes:
        path: Where it lies.
        columns: Each name of `COLUMNS` to its cells; patients and hashes are filled in.
        mark: Hash of the file.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    mark: str

    def rows(self, fetched: Path | None = None) -> list[Row]:
        """Returns its rows; files from remote stores lie below `fetched`, by default in the user's cache."""
        folder = fetched or default_folder() / FETCHED
        case, group, split, role, place, modality, sha256 = (self.columns[name] for name in COLUMNS)
        where = (_locate(*cells, self.path.parent, folder) for cells in zip(place, sha256, strict=True))
        return list(map(Row, case, group, split, role, where, modality, sha256))

    def files(self, fetched: Path | None = None) -> list[str]:
        """Returns the paths of all files, each once, in the order of the rows."""
        folder, home = fetched or default_folder() / FETCHED, str(self.path.parent)
        return list(
            dict.fromkeys(
                str(_locate(place, sha256, self.path.parent, folder).path)
                if "#" in place or ":" in place
                else os.path.join(home, place)
                for place, sha256 in zip(self.columns["path"], self.columns["sha256"], strict=True)
            )
        )


def _locate(place: str, sha256: str, folder: Path, fetched: Path) -> Location:
    return locate(place, sha256, fetched) if is_remote(place) else Location.parse(place, folder)


def read_manifest(path: Path, fetched: Path | None = None) -> list[Row]:
    """Reads a manifest as rows; see `read_table`.

    Args:
        path: `.csv` (UTF-8, commas) or `.parquet`.
        fetched: Folder of fetched files; by default `fetched` in the user's cache.

    Raises:
        ValueError: If the manifest is missing, unreadable or empty, or `find_faults` finds something.
    """
    return read_table(path).rows(fetched)


def read_table(path: Path) -> Table:
    """Reads a manifest and checks what its rows say, but not whether the files are there.

    The columns are `case, group, split, role, path, modality, sha256`; further ones are ignored. `group`, `modality`
    and `sha256` may be missing or empty: every case is then a patient of its own, or nothing is known. Paths are
    relative to the folder of the manifest; `Location` describes how they name a part of a file. Addresses such as
    `s3://bucket/brain.nii.gz` are files in remote stores, which need a hash.

    Args:
        path: `.csv` (UTF-8, commas) or `.parquet`.

    Raises:
        ValueError: If the manifest is missing, unreadable or empty, or `find_faults` finds something.
    """
    read = _read_parquet if path.suffix.lower() == PARQUET else _read_csv
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the manifest does not exist; `mvg data prepare` writes one") from error
    except OSError as error:
        raise ValueError(f"{path}: the manifest cannot be read ({error})") from error
    columns = read(path, content)
    count = len(columns["case"])
    if not count:
        raise ValueError(f"{path}: the manifest holds no rows; add one for each file")
    _check_cells(path, columns)
    columns = {name: columns.get(name, [""] * count) for name in COLUMNS}
    columns["group"] = [group or case for group, case in zip(columns["group"], columns["case"], strict=True)]
    columns["sha256"] = list(map(str.lower, columns["sha256"]))
    table = Table(path, columns, hashlib.sha256(content).hexdigest())
    if not _agrees(columns):
        check_rows(table.rows(), path)
    return table


def _read_csv(path: Path, content: bytes) -> dict[str, list[str]]:
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        names, *table = [line for line in lines if line] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: the manifest cannot be read as CSV in UTF-8 ({error})") from error
    names = list(map(str.strip, names))
    _check_columns(path, names)
    if any(len(line) < len(names) for line in table):
        table = [line + [""] * (len(names) - len(line)) for line in table]
    cells = zip(*table, strict=False) if table else ((),) * len(names)
    return {name: list(map(str.strip, column)) for name, column in zip(names, cells, strict=False) if name in COLUMNS}


def _read_parquet(path: Path, content: bytes) -> dict[str, list[str]]:
    try:
        table = _parquet(path).read_table(io.BytesIO(content))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: the manifest cannot be read as Parquet ({error})") from error
    _check_columns(path, table.column_names)
    return {
        name: ["" if value is None else str(value) for value in table.column(name).to_pylist()]
        for name in COLUMNS
        if name in table.column_names
    }


def _check_cells(path: Path, columns: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError for the first row that lacks something."""
    needed = [name for name in REQUIRED if name != "split"]
    if all(all(columns[name]) for name in needed):
        return
    number = min(columns[name].index("") for name in needed if "" in columns[name])
    empty = [name for name in needed if not columns[name][number]]
    raise ValueError(f"{path}: row {number + 2} has no {' and no '.join(empty)}; fill it in or remove the row")


def _parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path}: Parquet needs the package pyarrow; install it, or name the manifest .csv") from error
    return pyarrow.parquet


def _check_columns(path: Path, found: Iterable[str]) -> None:
    names = [str(name).strip() for name in found]
    if missing := [name for name in REQUIRED if name not in names]:
        raise ValueError(f"{path}: columns {missing} are missing, found {names}; the columns are {list(COLUMNS)}")


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    """Writes a manifest, whole or not at all; paths below its folder are written relative to it.

    Args:
        path: `.csv`, or `.parquet` where pyarrow is installed.
        rows: What it holds; `read_manifest` gives the same rows.

    Raises:
        ValueError: If `find_faults` finds something, or pyarrow is needed and missing.
    """
    check_rows(rows, path)
    table = [_fields(row, path.parent) for row in rows]
    if path.suffix.lower() == PARQUET:
        parquet = _parquet(path)
        import pyarrow

        write_atomically(path, lambda file: parquet.write_table(pyarrow.Table.from_pylist(table), file))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def _fields(row: Row, folder: Path) -> dict[str, str]:
    values = (row.case, row.group, row.split, row.role, row.location.text(folder), row.modality, row.sha256)
    return dict(zip(COLUMNS, values, strict=True))


def check_rows(rows: Sequence[Row], place: Path) -> None:
    """Raises ValueError, naming `place`, with the first ten sentences of `find_faults`, if it finds something."""
    if faults := find_faults(rows):
        more = [f"and {len(faults) - _SHOWN} more of this kind"] if len(faults) > _SHOWN else []
        raise ValueError(f"{place}: {'; '.join(faults[:_SHOWN] + more)}")


def _agrees(columns: Mapping[str, Sequence[str]]) -> bool:
    """Says that `find_faults` finds nothing, quickly; where it may find something, False."""
    case, group, split, role, _, _, sha256 = (columns[name] for name in COLUMNS)
    owners = set(zip(case, group, split, strict=True))
    homes = {(group, split) for _, group, split in owners}
    images = {
        (mark, split)
        for mark, split, role in zip(sha256, split, role, strict=True)
        if mark and not role.startswith(LABELS)
    }
    return (
        set(split) <= set(SPLITS)
        and len(set(zip(case, role, strict=True))) == len(case)
        and len({case for case, _, _ in owners}) == len(owners)
        and len({group for group, _ in homes}) == len(homes)
        and len({mark for mark, _ in images}) == len(images)
    )


def find_faults(rows: Sequence[Row]) -> list[str]:
    """Says in sentences what contradicts itself in a table of rows.

    Found are: unknown splits; a role that a case has twice; a case with two patients or two splits; a patient in two
    splits; and an image, but no label map, that is byte by byte in two splits.
    """
    faults = [
        f"case {case!r} is in the unknown split {split!r}; the splits are {', '.join(SPLITS)}"
        for case, split in dict.fromkeys((row.case, row.split) for row in rows)
        if split not in SPLITS
    ]
    places: dict[tuple[str, str], Location] = {}
    for row in rows:
        first = places.setdefault((row.case, row.role), row.location)
        if first is not row.location:
            faults.append(f"case {row.case!r} has role {row.role!r} twice, {first} and {row.location}; keep one")
    return faults + _divided_cases(rows) + _divided_patients(rows) + _divided_images(rows)


def _divided_cases(rows: Sequence[Row]) -> list[str]:
    faults = []
    for name, kind in (("group", "patients"), ("split", "splits")):
        first: dict[str, str] = {}
        for case, value in dict.fromkeys((row.case, str(getattr(row, name))) for row in rows):
            if first.setdefault(case, value) != value:
                faults.append(f"case {case!r} has two {kind}, {first[case]!r} and {value!r}; give all its rows one")
    return faults


def _divided_patients(rows: Sequence[Row]) -> list[str]:
    faults = []
    first: dict[str, Row] = {}
    for row in {(row.case, row.group, row.split): row for row in rows}.values():
        other = first.setdefault(row.group, row)
        if other.split != row.split and other.case != row.case:
            faults.append(
                f"patient {row.group!r} is in two splits, case {other.case!r} in {other.split} and case {row.case!r} "
                f"in {row.split}; move one of them"
            )
    return faults


def _divided_images(rows: Sequence[Row]) -> list[str]:
    faults = []
    for copies in copies_of(rows).values():
        other = next((row for row in copies if row.split != copies[0].split), None)
        if other is not None:
            faults.append(
                f"the same image is in two splits, {copies[0].location} in {copies[0].split} and {other.location} in "
                f"{other.split}; remove one of the cases {copies[0].case!r} and {other.case!r}"
            )
    return faults


def copies_of(rows: Sequence[Row]) -> Mapping[tuple[str, str], list[Row]]:
    """Gathers the rows of images, but not of label maps, by their content, where that is known."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.sha256 and not row.is_label:
            found[row.sha256, "" if row.location.is_entry else row.location.part].append(row)
    return found
