"""The folder of the prepared data of a source: arrays of cases, what is known of each case, and of all slices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mvg.data.cache import digest, read_json, write_json
from mvg.data.facts import Facts, join, read_facts

Record = dict[str, Any]

_TRIES = 3
_SEAL = "seal.json"


def part_name(case: str, mark: str) -> str:
    """Names the arrays of a case, and the two files with what is known of it until all cases are prepared."""
    return digest(case, mark)


class Store:
    """What a folder holds already; a killed process leaves every finished case in it.

    The index names the file with the facts of all slices, so that both change in one step. Until then each case has
    two small files of its own.

    Args:
        folder: The folder; it may be missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.present = set(os.listdir(folder)) if folder.is_dir() else set()
        self._name, self._known, self._all = self._open()
        self._fresh: dict[str, Facts] = {}

    def _open(self) -> tuple[str, dict[str, Record], Facts]:
        """Reads the index and the facts that it names, again where another process renewed both in between."""
        for _ in range(_TRIES):
            index = read_json(self.folder / "index.json")
            if not isinstance(index, dict) or not {"facts", "cases"} <= index.keys():
                break
            facts = read_facts(self.folder / index["facts"])
            if facts is not None:
                return index["facts"], index["cases"], facts
        return "", {}, Facts()

    def sealed(self, seal: str | None) -> tuple[dict[str, Record], Facts] | None:
        """Returns all that is known if the index was sealed with this very word, and no array is missing."""
        if not seal or not self._known or read_json(self.folder / _SEAL) != [self._name, seal]:
            return None
        wanted = {name for record in self._known.values() for name in record["files"].values()}
        return (self._known, self._all) if wanted <= self.present else None

    def seal(self, records: Mapping[str, Record], seal: str | None) -> None:
        """Notes that the index holds just these cases as long as the word stays; a cache may be read-only."""
        if seal is not None:
            with suppress(OSError):
                write_json(self.folder / _SEAL, [index_name(records), seal])

    def find(self, case: str, mark: str) -> Record | None:
        """Returns the record of a case if its arrays are there and those of the present files."""
        record = self._known.get(case)
        if record is None or record["stamp"] != mark:
            record = self._find_part(case, mark)
        if record is None or not self.present.issuperset(record["files"].values()):
            return None
        return record

    def _find_part(self, case: str, mark: str) -> Record | None:
        name = part_name(case, mark)
        if not self.present.issuperset((f"{name}.json", f"{name}.npz")):
            return None
        record, facts = read_json(self.folder / f"{name}.json"), read_facts(self.folder / f"{name}.npz")
        if record is None or facts is None:
            return None
        self._fresh[case] = facts
        return dict(record)

    def add(self, case: str, record: Record, facts: Facts) -> Record:
        """Takes up a case whose arrays are written, so that it stays prepared whatever happens next."""
        name = part_name(case, record["stamp"])
        facts.write(self.folder / f"{name}.npz")
        write_json(self.folder / f"{name}.json", record)
        self._fresh[case] = facts
        return record

    def keep(self, records: Mapping[str, Record]) -> Facts:
        """Makes the index hold these cases and no others.

        Returns:
            The facts of all their slices, case after case.
        """
        if self._name and list(records) == list(self._known) and not self._fresh:
            return self._all
        ends = np.cumsum([int(record["count"]) for record in self._known.values()], dtype=np.int64).tolist()
        starts = dict(zip(self._known, [0, *ends], strict=False))
        parts = []
        for case, record in records.items():
            start = starts.get(case, 0)
            facts = self._fresh[case] if case in self._fresh else self._all.part(start, start + record["count"])
            parts.append((record["count"], facts))
        joined = join(parts)
        name = write_index(self.folder, records, joined)
        for case in self._fresh.keys() & records.keys():
            for ending in (".json", ".npz"):
                (self.folder / f"{part_name(case, records[case]['stamp'])}{ending}").unlink(missing_ok=True)
        if self._name not in ("", name):
            (self.folder / self._name).unlink(missing_ok=True)
        return joined


def index_name(records: Mapping[str, Record]) -> str:
    """Names the file with the facts of all slices of some cases."""
    return f"facts-{digest({case: record['stamp'] for case, record in records.items()})}.npz"


def write_index(folder: Path, records: Mapping[str, Record], facts: Facts) -> str:
    """Writes the facts of all slices and then the index, which names their file; returns that name."""
    name = index_name(records)
    facts.write(folder / name)
    write_json(folder / "index.json", {"facts": name, "cases": dict(records)})
    return name
