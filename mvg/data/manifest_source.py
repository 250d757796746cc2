"""Data sets that a manifest lists."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mvg.data.cache import digest
from mvg.data.file_source import Files, FileSource
from mvg.data.intensity import Intensity
from mvg.data.itk import HEADERS, pixel_file
from mvg.data.location import Location, fingerprint
from mvg.data.manifest import FETCHED, Row, Table, is_label, read_table
from mvg.data.remote import fetch
from mvg.data.source import SPLITS


def absent(paths: Iterable[Path]) -> list[str]:
    """Returns which files do not exist, sorted; a folder is looked at once, whatever it holds."""
    listed: dict[str, set[str]] = {}
    missing = []
    for path in map(str, paths):
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        if name not in listed[folder]:
            missing.append(path)
    return sorted(missing)


class ManifestSource(FileSource):
    """A data set that a manifest lists: a table of cases, patients, splits, roles and files.

    `mvg data prepare` writes manifests for the common layouts of data sets. When a case is prepared, its files are
    compared with their hashes in the manifest; a file that changes is prepared anew, and refused if its hash differs.

    Args:
        manifest: The table, CSV or Parquet; see `mvg.data.manifest.read_manifest`.
        name: Name of the source in logs and tables; by default that of the manifest without extension.
        reference: Image role whose grid is taken; by default the first one in the table that every case has.
        class_names: Label role to class index to name. Classes that are not named are refused.
        licence: Licence of the data; weights trained on it inherit it.
        modality: Kind of image, for tables.
        intensity: Image role to the rule that brings it to [0, 1]; by default the pixel type's range for pictures and
            percentiles of the foreground for volumes.
        slices: How volumes are cut: "axial", "coronal", "sagittal", "auto" (across the coarser spacing, else axial),
            or null to keep them whole.
        trim: Cut volumes to the box outside of which the reference image is air.
        longest: Reduce pictures until their longer side is at most this; null keeps them.
        spacing: Reduce whole volumes (`slices: null`) to voxels of this size in mm; coarser axes stay. Null keeps them.
        min_pixels: Pixels from which on a class counts as present in an image.
        min_content: Share of pixels that are not air, below which an image is not offered in training; slices whose
            reference image is not are left out. Validation and test hold everything.
        min_size: Cases with fewer pixels along an axis of S are left out.
        cache: Folder of the prepared data; by default that of the user, or `MVG_CACHE`. It can be deleted at any time.
        terms: What the licence means for weights trained on the data, for their model card.
        commercial: Whether the licence allows commercial use; null where that is not known.
    """

    def __init__(
        self,
        manifest: str,
        name: str | None = None,
        reference: str | None = None,
        class_names: dict[str, dict[int, str]] | None = None,
        licence: str = "unknown",
        modality: str = "",
        intensity: dict[str, Intensity] | None = None,
        slices: str | None = "auto",
        trim: bool = False,
        longest: int | None = None,
        min_pixels: int = 8,
        min_content: float = 0.02,
        min_size: int = 1,
        cache: str | None = None,
        terms: str = "",
        commercial: bool | None = None,
        spacing: float | None = None,
    ) -> None:
        super().__init__(
            name or Path(manifest).stem,
            class_names,
            licence,
            modality,
            intensity,
            slices,
            trim,
            longest,
            min_pixels,
            min_content,
            min_size,
            cache,
            spacing,
        )
        self._prefix = f"{Path(manifest).parent}{os.sep}"
        self.manifest, self.reference = manifest, reference
        self.terms, self.commercial = terms, commercial

    @cached_property
    def table(self) -> Table:
        """The manifest as columns."""
        return read_table(Path(self.manifest))

    @cached_property
    def rows(self) -> dict[str, dict[str, Row]]:
        """Case, in order of names, to role to row."""
        cases: dict[str, dict[str, Row]] = {}
        for row in sorted(self.table.rows(self._fetched), key=lambda row: row.case):
            cases.setdefault(row.case, {})[row.role] = row
        return cases

    @property
    def _fetched(self) -> Path | None:
        return Path(self.cache) / FETCHED if self.cache is not None else None

    def files(self) -> dict[str, dict[str, Location]]:
        """Returns case to role to where its image lies; remote files are fetched if they are not there yet.

        Raises:
            ValueError: If the manifest is wrong or names files that do not exist.
        """
        fetch((row.location, row.sha256) for rows in self.rows.values() for row in rows.values() if row.location.url)
        found = {case: {role: row.location for role, row in rows.items()} for case, rows in self.rows.items()}
        paths = {location.path for files in found.values() for location in files.values()}
        if missing := absent(paths):
            shown = ", ".join(missing[:5])
            raise ValueError(
                f"{self.manifest}: {len(missing)} of {len(paths)} files do not exist ({shown}); restore them"
            )
        return found

    def kinds(self) -> tuple[frozenset[str], str]:
        """Returns the label roles, and the reference.

        Raises:
            ValueError: If no image role is there in every case, or the given reference is not.
        """
        listed, named = self.table.columns["case"], self.table.columns["role"]
        roles, first, count = Counter(named), min(listed), len(set(listed))
        labels = frozenset(role for role in roles if is_label(role))
        leading = [role for case, role in zip(listed, named, strict=True) if case == first]
        whole = [role for role in leading if role not in labels and roles[role] == count]
        if not whole or self.reference not in (None, *whole):
            counts = ", ".join(f"{role} in {found}" for role, found in roles.items() if role not in labels)
            wanted = f"role {self.reference!r}" if self.reference else "one image role"
            raise ValueError(
                f"{self.manifest}: {wanted} must be there in each of the {count} cases, "
                f"found {counts or 'none'}; add the files or remove the cases"
            )
        return labels, self.reference or whole[0]

    def place(self) -> list[Any]:
        """Returns the manifest."""
        return ["manifest", str(Path(self.manifest).resolve())]

    def assign(self, cases: Sequence[str]) -> tuple[Mapping[str, str], Mapping[str, Sequence[str]]]:
        """Returns patients and splits as the manifest states them."""
        columns = self.table.columns
        group_of = dict(zip(columns["case"], columns["group"], strict=True))
        split_of = dict(zip(columns["case"], columns["split"], strict=True))
        ordered = sorted(cases)
        chosen = {split: tuple(case for case in ordered if split_of[case] == split) for split in SPLITS}
        return {case: group_of[case] for case in ordered}, chosen

    def seal(self) -> str | None:
        """Returns what changes with the manifest and with any of its files; None if a file is missing."""
        paths = self.table.files(self._fetched)
        try:
            beside = [pixel_file(Path(path)) for path in paths if path.lower().endswith(HEADERS)]
            seen = [os.stat(path) for path in [*paths, *map(str, filter(None, beside))]]
        except (OSError, ValueError):
            return None
        looks = np.array([(look.st_size, look.st_mtime_ns) for look in seen], dtype=np.int64)
        return hashlib.sha256(self.table.mark.encode() + looks.tobytes()).hexdigest()

    def mark(self, case: str, files: Files) -> str:
        """Returns what changes with the files of a case and with what the manifest says of them."""
        rows = self.rows[case]
        stated = [[role, str(row.location).removeprefix(self._prefix), row.sha256] for role, row in rows.items()]
        return digest(super().mark(case, files), stated)

    def verify(self, case: str, files: Files) -> None:
        """Compares the files of a case with their hashes.

        Raises:
            ValueError: If a file is another one than the manifest was written for.
        """
        for row in self.rows[case].values():
            if row.sha256 and fingerprint(row.location) != row.sha256:
                raise ValueError(
                    f"{row.location}: the file is not the one that the manifest was written for; restore it, or write "
                    "the manifest again"
                )
