"""Data sets that lie in folders, one folder a role, one file a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvg.data.file_source import FileSource
from mvg.data.intensity import Intensity
from mvg.data.location import Location, readable
from mvg.data.manifest import is_label
from mvg.data.readers import case_name
from mvg.data.splits import assign_splits, group_of

_SHOWN = 5


class FolderSource(FileSource):
    """A data set whose roles are folders and whose cases are files of one name in each of them.

    Every file is read, verified and prepared once, before training starts, and kept in the cache; afterwards a start
    looks at sizes and times only, and a slice is read from a memory map. Volumes are cut into upright slices for
    networks in 2D. Roles on different grids are resampled by their affines onto that of the reference role, and cut
    to the field of view that all images share.

    Args:
        root: Folder of the data set.
        roles: Role to its folder below `root`, or to a pattern of files such as `labels/a_*`. The first one that is
            no label is the reference: its grid is taken. By default `{image: images, labels: labels}`.
        name: Name of the source in logs and tables; by default that of the folder.
        class_names: Label role to class index to name. Classes that are not named are refused.
        label_roles: Roles that hold class indices; by default those whose name starts with "labels".
        optional: Roles that a case may lack.
        licence: Licence of the data; weights trained on it inherit it.
        modality: Kind of image, for tables.
        intensity: Image role to the rule that brings it to [0, 1]; by default the pixel type's range for pictures and
            percentiles of the foreground for volumes.
        slices: How volumes are cut: "axial", "coronal", "sagittal", "auto" (across the coarser spacing, else axial),
            or null to keep them whole.
        trim: Cut volumes to the box outside of which the reference image is air.
        longest: Reduce pictures until their longer side is at most this; null keeps them.
        spacing: Reduce whole volumes (`slices: null`) to voxels of this size in mm; coarser axes stay. Null keeps them.
        split: Split ("train", "val", "test") to its share of the patients, or to a list of case names with `*`.
        seed: Seed of the split by shares.
        groups: Case to patient, where several cases belong to one patient.
        group_pattern: Regular expression whose first bracket finds the patient in the name of a case.
        group_block: Take cases whose numbers fall into one block of this size for one patient.
        min_pixels: Pixels from which on a class counts as present in an image.
        min_content: Share of pixels that are not air, below which an image is not offered in training; slices whose
            reference image is not are left out. Validation and test hold everything.
        min_size: Cases with fewer pixels along an axis of S are left out.
        cache: Folder of the prepared data; by default that of the user, or `MVG_CACHE`. It can be deleted at any time.
    """

    def __init__(
        self,
        root: str,
        roles: dict[str, str] | None = None,
        name: str | None = None,
        class_names: dict[str, dict[int, str]] | None = None,
        label_roles: list[str] | None = None,
        optional: list[str] | None = None,
        licence: str = "unknown",
        modality: str = "",
        intensity: dict[str, Intensity] | None = None,
        slices: str | None = "auto",
        trim: bool = False,
        longest: int | None = None,
        split: dict[str, float | list[str]] | None = None,
        seed: int = 0,
        groups: dict[str, str] | None = None,
        group_pattern: str | None = None,
        group_block: int | None = None,
        min_pixels: int = 8,
        min_content: float = 0.02,
        min_size: int = 1,
        cache: str | None = None,
        spacing: float | None = None,
    ) -> None:
        super().__init__(
            name or Path(root).name,
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
        self.root, self.roles = root, roles or {"image": "images", "labels": "labels"}
        self.optional = frozenset(optional or ())
        self.label_roles = frozenset(label_roles if label_roles is not None else filter(is_label, self.roles))
        self._images = [role for role in self.roles if role not in self.label_roles and role not in self.optional]
        if not self._images:
            raise ValueError(
                f"source {self.name!r} needs a role with images that every case has, got {sorted(self.roles)}"
            )
        self.split: dict[str, float | list[str]] = split or {"train": 0.7, "val": 0.1, "test": 0.2}
        self.seed, self.groups, self.group_pattern, self.group_block = seed, groups or {}, group_pattern, group_block

    def kinds(self) -> tuple[frozenset[str], str]:
        """Returns the label roles and the first image role that every case has."""
        return self.label_roles, self._images[0]

    def place(self) -> list[Any]:
        """Returns the folder and its roles."""
        return [str(Path(self.root).resolve()), self.roles]

    def assign(self, cases: Sequence[str]) -> tuple[Mapping[str, str], Mapping[str, Sequence[str]]]:
        """Finds patients in the names of cases, and divides them by `split`."""
        groups = {case: group_of(case, self.groups, self.group_pattern, self.group_block) for case in cases}
        return groups, assign_splits(groups, self.split, self.seed)

    def files(self) -> dict[str, dict[str, Location]]:
        """Finds the files: case, in order of names, to role to file.

        Raises:
            ValueError: If a folder is missing or empty, or a case lacks a role that is not optional.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise ValueError(f"source {self.name!r}: folder {root} does not exist; set `root` to the data set")
        found = {role: self._files_of(root, role) for role in self.roles}
        cases = sorted({case for files in found.values() for case in files})
        for role, files in found.items():
            missing = [case for case in cases if case not in files]
            if missing and role not in self.optional:
                raise ValueError(
                    f"source {self.name!r}: {len(missing)} of {len(cases)} cases have no file for role {role!r} "
                    f"({', '.join(missing[:_SHOWN])}); add the files or list the role under `optional`"
                )
        return {case: {role: Location(files[case]) for role, files in found.items() if case in files} for case in cases}

    def _files_of(self, root: Path, role: str) -> dict[str, Path]:
        place = self.roles[role]
        paths = sorted((root / place).iterdir()) if (root / place).is_dir() else sorted(root.glob(place))
        usable = readable(paths)
        if not usable:
            raise ValueError(f"source {self.name!r}: no images of role {role!r} in {root / place}; check `roles`")
        files: dict[str, Path] = {}
        for path in usable:
            first = files.setdefault(case_name(path), path)
            if first != path:
                raise ValueError(f"source {self.name!r}: {first.name} and {path.name} are the same case; rename one")
        return files
