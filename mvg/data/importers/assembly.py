"""From the rows of an importer to those of a manifest: every file is read, patients are found and splits decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mvg.data.archive import close_archives
from mvg.data.importers.dataset import Dataset
from mvg.data.location import Location, fingerprint, read_grid
from mvg.data.manifest import Row, copies_of
from mvg.data.readers import check_labels
from mvg.data.source import SPLITS
from mvg.data.splits import assign_splits, group_of


def name_image(rows: Sequence[Row], role: str | None) -> list[Row]:
    """Calls one role `image`, which tasks look for first.

    Args:
        rows: All rows.
        role: Which; by default the image role that most cases have, the first of several.

    Raises:
        ValueError: If there is no such role, or one called `image` already.
    """
    counts = Counter(row.role for row in rows if not row.is_label)
    if role is None:
        role = "image" if "image" in counts else max(counts, key=lambda name: counts[name], default="image")
    if role not in counts or (role != "image" and "image" in counts):
        raise ValueError(f"role {role!r} cannot be the image; the image roles are {sorted(counts)}")
    return [replace(row, role="image") if row.role == role else row for row in rows]


def find_groups(rows: Sequence[Row], pattern: str | None) -> list[Row]:
    """Finds patients in the names of cases, where a pattern is given."""
    if pattern is None:
        return list(rows)
    return [replace(row, group=group_of(row.case, {}, pattern, None)) for row in rows]


def decide_splits(rows: Sequence[Row], shares: Mapping[str, float], seed: int) -> list[Row]:
    """Divides the patients whose split the layout does not state; a patient of a stated split stays in it.

    Args:
        rows: All rows.
        shares: Share of the patients for each split.
        seed: Seed of the division.
    """
    stated = {row.group: row.split for row in rows if row.split}
    free = {row.case: row.group for row in rows if not row.split and row.group not in stated}
    chosen = assign_splits(free, dict(shares), seed) if free else {}
    where = {free[case]: split for split, cases in chosen.items() for case in cases}
    return [replace(row, split=row.split or stated.get(row.group) or where[row.group]) for row in rows]


def examine(dataset: Dataset) -> tuple[list[Row], list[str]]:
    """Reads every file to its end and adds its hash.

    Args:
        dataset: What an importer found.

    Returns:
        The rows with hashes, and a sentence for each file that cannot be used.
    """
    hashes: dict[Location, str] = {}
    faults: dict[str, None] = {}
    for row in dataset.rows:
        known = frozenset(dataset.class_names.get(row.role, {}))
        try:
            grid = read_grid(row.location, row.is_label)
            if row.is_label:
                check_labels(grid.values, Path(str(row.location)), known)
            hashes[row.location] = fingerprint(row.location)
        except ValueError as error:
            faults[str(error)] = None
    close_archives()
    return [replace(row, sha256=hashes.get(row.location, "")) for row in dataset.rows], list(faults)


def drop_copies(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Leaves cases out whose image another split holds too: test keeps it, then validation.

    Returns:
        The remaining rows, and the names of the cases that were left out.
    """
    dropped = {
        row.case
        for copies in copies_of(rows).values()
        for row in copies
        if SPLITS.index(row.split) < max(SPLITS.index(copy.split) for copy in copies)
    }
    return [row for row in rows if row.case not in dropped], sorted(dropped)
