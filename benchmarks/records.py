"""Records: one row a case and metric, the only thing that a benchmark stores; tables are computed from them.

A file of records is CSV in UTF-8 with the columns of `COLUMNS`, in their order. A case that got no answer, or none that
can be read, has its rows all the same: with the worst value of the metric and a word in `failure`. A structure that a
case does not hold is scored by the metric `false_alarm` alone, so that no mean of overlaps counts what is not there.
"""

from __future__ import annotations

import csv
import fcntl
import gzip
import hashlib
import io
import math
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from mvg.files import write_whole

SEPARATOR = ";"
"""Between the words of `trained_on` and of `unseen`."""
FAILURES = ("missed", "alarm", "invalid", "unanswered", "error")
"""Why a value is the worst one.

"missed": nothing was painted where there is something. "alarm": something was painted where there is nothing.
"invalid": the answer is not of the size of the case, or holds values that are no numbers. "unanswered": there is no
answer. "error": the entrant failed.
"""
UNSEEN = ("dataset", "centre", "organ", "modality", "task")
"""What the training of an entrant may not have shown, as a suite declares it for a case."""


@dataclass(frozen=True, slots=True)
class Record:
    """One value of one case.

    Attributes:
        suite: Name of the suite, `@`, and the first 12 digits of the hash of its content: `open_small@0123456789ab`.
        protocol: Version of the protocol; rows of different versions are not comparable.
        dataset: Name of the data set.
        task: Name of the task: segmentation, synthesis, denoising, ...
        variant: What the task was asked for beside the structure: kind of degradation, direction of synthesis; or "".
        structure: Name of the structure; "" for image tasks.
        modality: Kind of image.
        entrant: Name of what answered.
        entrant_hash: SHA-256 of its weights and description, hexadecimal.
        trained_on: Names of the data sets known to have trained it.
        case: Name of the case, unique in its data set.
        patient: Its patient.
        case_hash: SHA-256 of the files of the case, hexadecimal.
        shot: Number of context cases.
        draw: Number of the draw of the context, from 0.
        context_hash: SHA-256 of the names and files of the context, in order, hexadecimal.
        metric: Name of the metric.
        value: Its value, finite; the worst one where `failure` is not empty.
        unit: Unit of the value: "", "mm", "dB".
        higher_is_better: Whether a higher value is better.
        failure: "" or one of `FAILURES`.
        unseen: Words of `UNSEEN` that hold for the case.
        seconds: Time of the answer in seconds, on the machine that `run.json` describes.
        version: Version of the software that wrote the row.
    """

    suite: str
    protocol: str
    dataset: str
    task: str
    variant: str
    structure: str
    modality: str
    entrant: str
    entrant_hash: str
    trained_on: tuple[str, ...]
    case: str
    patient: str
    case_hash: str
    shot: int
    draw: int
    context_hash: str
    metric: str
    value: float
    unit: str
    higher_is_better: bool
    failure: str
    unseen: tuple[str, ...]
    seconds: float
    version: str

    def __post_init__(self) -> None:
        for name in _NEEDED:
            if not getattr(self, name):
                raise ValueError(f"`{name}` of a record must not be empty; case {self.case!r}, metric {self.metric!r}")
        if not math.isfinite(self.value):
            raise ValueError(
                f"`value` must be finite, got {self.value} for {self.metric} of case {self.case!r}; "
                "an answer that cannot be scored gets the worst value and a `failure`"
            )
        if self.failure and self.failure not in FAILURES:
            raise ValueError(f"`failure` must be empty or one of {', '.join(FAILURES)}, got {self.failure!r}")
        if unknown := set(self.unseen) - set(UNSEEN):
            raise ValueError(f"`unseen` knows {', '.join(UNSEEN)}, got {', '.join(sorted(unknown))}")
        if self.shot < 0 or self.draw < 0:
            raise ValueError(f"`shot` and `draw` must not be negative, got {self.shot} and {self.draw}")
        if any(SEPARATOR in word for word in (*self.trained_on, *self.unseen)):
            raise ValueError(f"names of data sets must not hold {SEPARATOR!r}, got {self.trained_on}")

    @property
    def key(self) -> tuple[str | int, ...]:
        """What a row answers, metric aside; rows of one key were scored from one answer, rows with one metric clash."""
        names = (self.suite, self.protocol, self.dataset, self.task, self.variant, self.structure)
        return (*names, self.entrant, self.entrant_hash, self.case, self.shot, self.draw)


COLUMNS = tuple(field.name for field in fields(Record))
_NEEDED = ("suite", "protocol", "dataset", "task", "entrant", "entrant_hash", "case", "patient", "case_hash", "metric")
_WORDS = ("trained_on", "unseen")
_NUMBERS = {"shot": int, "draw": int, "value": float, "seconds": float}
_TRUTH = {"true": True, "false": False}
_ROUNDING = 1e-5
"""How far two scores of one answer may differ: it was given in batches of other sizes."""


def to_csv(records: Iterable[Record], header: bool = True) -> str:
    """Writes records as CSV; numbers keep all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    writer.writerows(_cells(record) for record in records)
    return text.getvalue()


def _cells(record: Record) -> list[str]:
    values = asdict(record)
    values |= {name: SEPARATOR.join(values[name]) for name in _WORDS}
    values |= {name: repr(kind(values[name])) for name, kind in _NUMBERS.items()}
    return [str(values[name]).lower() if name == "higher_is_better" else str(values[name]) for name in COLUMNS]


def from_csv(text: str, place: str = "records") -> list[Record]:
    """Reads and checks CSV; a last line that was cut off by the end of a process is left out.

    Raises:
        ValueError: If a column is missing or a row is wrong; the sentence names `place` and the row.
    """
    lines = text[: text.rfind("\n") + 1]
    records, reader = list[Record](), csv.DictReader(io.StringIO(lines), strict=True)
    try:
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{place}: the columns {missing} are missing; records have the columns {list(COLUMNS)}")
        for row in reader:
            records.append(_checked(row, f"{place}: row {len(records) + 2}"))
    except csv.Error as error:
        raise ValueError(
            f"{place}: row {len(records) + 2} is no CSV ({error}); remove it or run its case again"
        ) from error
    return records


def _checked(row: dict[str, str], place: str) -> Record:
    try:
        return _record(row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{place} is no record ({error}); remove it or run its case again") from error


def _record(row: dict[str, str]) -> Record:
    values: dict[str, object] = {name: row[name] for name in COLUMNS}
    values |= {name: tuple(word for word in row[name].split(SEPARATOR) if word) for name in _WORDS}
    values |= {name: kind(row[name]) for name, kind in _NUMBERS.items()}
    values["higher_is_better"] = _TRUTH[row["higher_is_better"]]
    return Record(**values)  # type: ignore[arg-type]


def read(path: str | Path) -> list[Record]:
    """Reads a file of records (.csv, .csv.gz), or all `records*` of these kinds in a folder.

    Raises:
        ValueError: If there is none, one is wrong, or two rows claim one metric of one answer with different values.
    """
    path = Path(path)
    files = sorted(each for each in path.glob("records*") if is_file(each)) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(f"{path}: there are no records; `mvg benchmark run` writes them")
    return unique([record for file in files for record in _read_file(file)])


def read_all(paths: Iterable[Path]) -> list[Record]:
    """Reads records from files, and from all `records*.csv` and `records*.csv.gz` below folders.

    Rows that are twice in one folder, as those of an ended process that another one repeated, count once.

    Raises:
        ValueError: If there is no such file, or a row is wrong or contradicts another of its folder.
    """
    found: dict[Path, dict[Path, None]] = {}
    for path in paths:
        files = sorted(path.rglob("records*")) if path.is_dir() else [path]
        files = [file for file in files if is_file(file)]
        if not files:
            raise ValueError(f"{path}: there are no records*.csv; `mvg benchmark run` writes them")
        for file in files:
            found.setdefault(file.resolve().parent, {})[file.resolve()] = None
    return [record for held in found.values() for record in unique(r for file in held for r in _read_file(file))]


def is_file(path: Path) -> bool:
    """Tells whether a path is a file that may hold records."""
    return path.name.endswith((".csv", ".csv.gz")) and path.is_file()


def _read_file(path: Path) -> list[Record]:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        text = content[: content.rfind(b"\n") + 1].decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: the records cannot be read ({error}); copy the file again") from error
    return from_csv(text, str(path))


def unique(records: Iterable[Record]) -> list[Record]:
    """Drops rows that occur twice, whatever the time that they took; values may differ by rounding.

    Raises:
        ValueError: If two rows claim one metric of one answer with different values.
    """
    found: dict[tuple[str | int, ...], Record] = {}
    for record in records:
        first = found.setdefault((*record.key, record.metric), record)
        same = math.isclose(first.value, record.value, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
        if not same or (first.failure, first.case_hash) != (record.failure, record.case_hash):
            raise ValueError(
                f"{record.metric} of case {record.case!r} by {record.entrant!r} is recorded as {first.value} and as "
                f"{record.value}; keep the records of one run"
            )
    return list(found.values())


def append(path: str | Path, records: Sequence[Record]) -> None:
    """Adds rows to a file, and the header to a new one; no other process can write between them.

    The rows are written at once and flushed to the disk. What an earlier process left of a line is cut off first.
    """
    with open(path, "a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        whole = _end_of_lines(stream)
        stream.truncate(whole)
        stream.write(to_csv(records, header=not whole).encode())
        stream.flush()
        os.fsync(stream.fileno())


def _end_of_lines(stream: BinaryIO) -> int:
    """Returns where the last whole line of a file ends, without reading all of it."""
    end = stream.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 2**16)
        stream.seek(start)
        found = stream.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def write(path: str | Path, records: Iterable[Record]) -> None:
    """Writes a file of records in the order of `ordered`, whole or not at all."""
    write_whole({Path(path): to_csv(ordered(records)).encode()})


def ordered(records: Iterable[Record]) -> list[Record]:
    """Sorts records by what they answer, so that files do not depend on the order of work."""
    return sorted(records, key=lambda record: (*map(str, record.key[:-2]), record.shot, record.draw, record.metric))


def digest(records: Iterable[Record]) -> str:
    """SHA-256 of records in the order of `ordered`, the time that they took left out, hexadecimal."""
    place = COLUMNS.index("seconds")
    rows = (cells[:place] + cells[place + 1 :] for cells in map(_cells, ordered(records)))
    return hashlib.sha256("\n".join("\x1f".join(row) for row in rows).encode()).hexdigest()
