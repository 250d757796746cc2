"""Cases that cannot be read while a run is under way: left out, told once, listed, and counted against a limit."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from mvg.data.source import Source
from mvg.data.subject import Item, Subject

logger = logging.getLogger(__name__)

V = TypeVar("V")
G = TypeVar("G")


class UnreadableError(ValueError):
    """A case cannot be read.

    Attributes:
        source: Name of the source.
        case: Name of the case.
        reason: What its source said.
    """

    def __init__(self, source: str, case: str, reason: str) -> None:
        super().__init__(f"case {case!r} of source {source!r} cannot be read: {reason}")
        self.source, self.case, self.reason = source, case, reason


class Quarantine:
    """The cases that this process leaves out, and a table that all processes of a run share.

    Episodes that need such a case are drawn anew, so that every process takes as many steps as without it.

    Args:
        limit: Largest share of the cases of a source that may be left out, [0, 1]; 0 refuses the first.
        table: CSV file (source, case, reason) that gets a row for each case; None for no table.
    """

    def __init__(self, limit: float = 0.0, table: Path | None = None) -> None:
        if not 0 <= limit <= 1:
            raise ValueError(f"`quarantine` must be a share of the cases in [0, 1], got {limit}")
        self.limit, self.table = limit, table
        self.reasons: dict[tuple[str, str], str] = {}

    def read(self, name: str, source: Source, item: Item) -> Subject:
        """Reads an item.

        Raises:
            UnreadableError: If its case is left out, or cannot be read.
        """
        if reason := self.reasons.get((name, item.case)):
            raise UnreadableError(name, item.case, reason)
        try:
            return source.read(item)
        except (ValueError, OSError) as error:
            raise UnreadableError(name, item.case, str(error)) from error

    def first(self, build: Callable[[G], V], tries: Iterable[G], count: Callable[[str], int]) -> V:
        """Builds from one generator after the other until no case that is needed is unreadable.

        Args:
            build: Draws and makes an episode.
            tries: What it is called with.
            count: Source to the number of its cases.

        Raises:
            ValueError: If too many cases are unreadable.
        """
        fault: UnreadableError | None = None
        for each in tries:
            try:
                return build(each)
            except UnreadableError as error:
                self.add(error, count)
                fault = error
        raise ValueError(f"no episode without unreadable cases was found; the last one: {fault}")

    def add(self, fault: UnreadableError, count: Callable[[str], int]) -> None:
        """Leaves a case out from now on.

        Raises:
            ValueError: If that makes more cases of its source than the limit allows.
        """
        key = (fault.source, fault.case)
        if key in self.reasons:
            return
        known = self.cases()
        left_out = {case for source, case in (*known, *self.reasons, key) if source == fault.source}
        total = count(fault.source)
        if len(left_out) > self.limit * total:
            raise ValueError(
                f"{fault}; {len(left_out)} of {total} cases of this source cannot be read, more than `quarantine` "
                f"{self.limit:g} allows; mend the source and continue with --resume"
            ) from fault
        self.reasons[key] = fault.reason
        if key not in known:
            logger.warning("%s; it is left out from now on", fault)
            self._write(fault)

    def cases(self) -> dict[tuple[str, str], str]:
        """Returns source and case of all that is left out by any process of the run, with the reason."""
        if self.table is None or not self.table.exists():
            return dict(self.reasons)
        with self.table.open(newline="", encoding="utf-8") as file:
            return {(row[0], row[1]): row[2] for row in csv.reader(file) if len(row) == 3}

    def _write(self, fault: UnreadableError) -> None:
        if self.table is None:
            return
        self.table.parent.mkdir(parents=True, exist_ok=True)
        with self.table.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow((fault.source, fault.case, fault.reason))
