"""Data sets that a manifest lists."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mvg.data.cache import digest, stamp
from mvg.data.file_source import Files, FileSource
from mvg.data.intensity import Intensity
from mvg.data.itk import pixel_file
from mvg.data.location import Location, fingerprint
from mvg.data.manifest import FETCHED, Row, is_label, read_manifest
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
        slices: How volumes are cut: "axial", "coronal", "sagittal", "auto" (across the largest spacing), or null to
            keep them whole.
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
    def rows(self) -> dict[str, dict[str, Row]]:
        """Case, in order of names, to role to row."""
        cases: dict[str, dict[str, Row]] = {}
        fetched = Path(self.cache) / FETCHED if self.cache is not None else None
        for row in sorted(read_manifest(Path(self.manifest), fetched), key=lambda row: row.case):
            cases.setdefault(row.case, {})[row.role] = row
        return cases

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
        roles = Counter(role for rows in self.rows.values() for role in rows)
        labels = frozenset(role for role in roles if is_label(role))
        whole = [role for role, count in roles.items() if role not in labels and count == len(self.rows)]
        if not whole or self.reference not in (None, *whole):
            counts = ", ".join(f"{role} in {count}" for role, count in roles.items() if role not in labels)
            wanted = f"role {self.reference!r}" if self.reference else "one image role"
            raise ValueError(
                f"{self.manifest}: {wanted} must be there in each of the {len(self.rows)} cases, "
                f"found {counts or 'none'}; add the files or remove the cases"
            )
        return labels, self.reference or whole[0]

    def place(self) -> list[Any]:
        """Returns the manifest."""
        return ["manifest", str(Path(self.manifest).resolve())]

    def assign(self, cases: Sequence[str]) -> tuple[Mapping[str, str], Mapping[str, Sequence[str]]]:
        """Returns patients and splits as the manifest states them."""
        first = {case: next(iter(self.rows[case].values())) for case in sorted(cases)}
        chosen = {split: tuple(case for case, row in first.items() if row.split == split) for split in SPLITS}
        return {case: row.group for case, row in first.items()}, chosen

    def mark(self, case: str, files: Files) -> str:
        """Returns what changes with the files of a case and with what the manifest says of them."""
        rows = self.rows[case]
        stated = [[role, str(row.location).removeprefix(self._prefix), row.sha256] for role, row in rows.items()]
        beside = [path for location in files.values() if (path := pixel_file(location.path))]
        return digest(super().mark(case, files), stated, *([stamp(beside)] if beside else []))

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
