"""Jobs of a comparison: each leaves one file of records, and what is there is not done again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from benchmarks.evaluation import Record
from mvg.files import write_whole

logger = logging.getLogger(__name__)


def write(path: Path, text: str) -> None:
    """Writes a text whole or not at all."""
    write_whole({path: text.encode()})


def run_job(path: Path, work: Callable[[], Sequence[Record]], columns: Sequence[str] = ()) -> None:
    """Does the work of a job and writes its records, unless they are there.

    Args:
        path: The file of its records.
        work: Returns them.
        columns: Columns of a file without records.
    """
    if path.is_file():
        return
    records = list(work())
    frame = pd.DataFrame(records) if records else pd.DataFrame(columns=list(columns))
    write(path, frame.to_csv(index=False))
    logger.info("%s: %d records", path, len(records))


def run_jobs(jobs: Mapping[Path, Callable[[], Sequence[Record]]], columns: Sequence[str] = ()) -> list[Record]:
    """Does the work of the jobs that left no records yet, and returns the records of all.

    Args:
        jobs: File of the records of each job to what returns them, in the order in which they are done.
        columns: Columns of a file without records.
    """
    for number, (path, work) in enumerate(jobs.items(), 1):
        if not path.is_file():
            logger.info("job %d of %d: %s", number, len(jobs), path.stem)
            run_job(path, work, columns)
    return read_all(jobs)


def read_records(path: Path) -> list[Record]:
    """Reads records from a CSV."""
    frame = pd.read_csv(path, dtype={"case": str, "patient": str, "variant": str}, keep_default_na=False)
    return cast(list[Record], frame.to_dict("records"))


def read_all(paths: Iterable[Path]) -> list[Record]:
    """Reads the records of several files."""
    return [record for path in paths for record in read_records(path)]


def check_asked(path: Path, asked: Mapping[str, Any]) -> None:
    """Notes what is asked of all jobs of a folder, or compares it with what was noted before.

    Args:
        path: The JSON file that holds it.
        asked: Plain values by name.

    Raises:
        ValueError: If the folder holds jobs that were asked otherwise; their scores could not be compared.
    """
    known = json.loads(path.read_text()) if path.is_file() else {}
    asked = json.loads(json.dumps(asked))
    for name, value in asked.items():
        if known.get(name, value) != value:
            raise ValueError(f"{path} says {name} {known[name]}, asked is {value}; give another --output, or delete it")
    write(path, json.dumps({**known, **asked}, indent=2) + "\n")
