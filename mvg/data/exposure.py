"""What trained weights: the cases, patients and files of a source, as short hashes that name nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from mvg.data.file_source import FileSource
from mvg.data.location import Location, fingerprint
from mvg.data.manifest_source import ManifestSource
from mvg.data.source import Source

NAME, CASES, PATIENTS, FILES = "name", "train_cases", "train_patients", "train_files"
LISTS = (CASES, PATIENTS, FILES)
_DIGITS = 16
_LIMIT = 1 << 31
"""Bytes of image files up to which they are hashed where no manifest has done so."""


def exposure(source: Source) -> dict[str, Any]:
    """Lists what a source showed in training, so that a benchmark can refuse to ask it.

    Returns:
        The name of the source; for data sets of files the sorted hashes of the names of its training cases and
        patients, and of its image files where a manifest states them or they are few.
    """
    facts: dict[str, Any] = {NAME: source.name}
    if not isinstance(source, FileSource):
        return facts
    files = source.files()
    groups, splits = source.assign(sorted(files))
    cases = sorted(splits.get("train", ()))
    facts[CASES] = sorted(map(fingerprint_name, cases))
    facts[PATIENTS] = sorted({fingerprint_name(groups.get(case, case)) for case in cases})
    if marks := _files(source, cases, files):
        facts[FILES] = sorted(marks)
    return facts


def joined(*parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Joins facts of sources by name: of two that share a name all cases, patients and files, else the later facts."""
    found: dict[str, dict[str, Any]] = {}
    for name, facts in (pair for part in parts for pair in part.items()):
        before = found.setdefault(name, {})
        lists = {
            key: sorted({*before.get(key, ()), *facts.get(key, ())}) for key in LISTS if key in {**before, **facts}
        }
        before.update({**facts, **lists})
    return found


def fingerprint_name(name: str) -> str:
    """Hashes the name of a case or a patient, 16 hexadecimal digits."""
    return hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]


def _files(source: FileSource, cases: list[str], files: dict[str, dict[str, Location]]) -> set[str]:
    """Hashes of image files, 16 digits each."""
    if isinstance(source, ManifestSource):
        rows = [row for case in cases for row in source.rows[case].values()]
        return {row.sha256[:_DIGITS] for row in rows if row.sha256 and not row.is_label}
    labels = source.kinds()[0]
    places = [place for case in cases for role, place in files[case].items() if role not in labels]
    if sum(place.path.stat().st_size for place in places) > _LIMIT:
        return set()
    return {fingerprint(place)[:_DIGITS] for place in places}
