"""Data sets that lie in folders, one folder a role, one file a case."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvg.configuration import to_config
from mvg.data.cache import default_folder, digest, open_array, read_json, stamp, write_array, write_json
from mvg.data.intensity import Intensity
from mvg.data.preparation import SLICES, Recipe, load, prepare
from mvg.data.readers import PICTURES, VOLUMES, case_name
from mvg.data.source import Source
from mvg.data.splits import assign_splits, group_of
from mvg.data.subject import Item, Subject

logger = logging.getLogger(__name__)

_FORMAT = 2
_SHOWN = 5


class FolderSource(Source):
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
        slices: How volumes are cut: "axial", "coronal", "sagittal", "auto" (across the largest spacing), or null to
            keep them whole.
        trim: Cut volumes to the box outside of which the reference image is air.
        longest: Reduce pictures until their longer side is at most this; null keeps them.
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
    ) -> None:
        if slices is not None and slices not in SLICES:
            raise ValueError(f"`slices` must be one of {SLICES} or null, got {slices!r}")
        roles = roles or {"image": "images", "labels": "labels"}
        name = name or Path(root).name
        labels = frozenset(
            label_roles if label_roles is not None else (role for role in roles if role.startswith("labels"))
        )
        images = [role for role in roles if role not in labels and role not in (optional or ())]
        if not images:
            raise ValueError(f"source {name!r} needs a role with images that every case has, got {sorted(roles)}")
        self.root, self.roles, self.name, self.licence, self.modality = root, roles, name, licence, modality
        self.class_names, self.intensity = class_names or {}, intensity or {}
        self.optional = frozenset(optional or ())
        classes = {role: frozenset(names) - {0} for role, names in self.class_names.items()}
        self.recipe = Recipe(labels, images[0], self.intensity, slices, classes, trim, longest)
        self.split: dict[str, float | list[str]] = split or {"train": 0.7, "val": 0.1, "test": 0.2}
        self.seed, self.groups, self.group_pattern, self.group_block = seed, groups or {}, group_pattern, group_block
        self.min_pixels, self.min_content, self.min_size = min_pixels, min_content, min_size
        self.cache = cache
        self._records: dict[str, Any] = {}
        self._items: dict[str, list[Item]] = {}

    @property
    def dims(self) -> int:  # type: ignore[override]
        """Number of spatial axes of the subjects; files are looked up for it only where volumes stay whole."""
        if self.recipe.slices is not None:
            return 2
        return len(next(iter(self.records().values()))["shape"])

    @cached_property
    def folder(self) -> Path:
        """Folder of the prepared data of this source."""
        recipe = self.recipe
        key = digest(
            _FORMAT,
            str(Path(self.root).resolve()),
            self.roles,
            sorted(recipe.label_roles),
            to_config(dict(recipe.intensity)),
            {role: sorted(names) for role, names in recipe.classes.items()},
            [recipe.reference, recipe.slices, recipe.trim, recipe.longest],
        )
        base = Path(self.cache) if self.cache is not None else default_folder()
        return base / f"{self.name.replace('/', '_')}-{key}"

    def files(self) -> dict[str, dict[str, Path]]:
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
        return {case: {role: files[case] for role, files in found.items() if case in files} for case in cases}

    def _files_of(self, root: Path, role: str) -> dict[str, Path]:
        place = self.roles[role]
        paths = sorted((root / place).iterdir()) if (root / place).is_dir() else sorted(root.glob(place))
        usable = [path for path in paths if path.name.lower().endswith(VOLUMES + PICTURES) and path.name[0] != "."]
        if not usable:
            raise ValueError(f"source {self.name!r}: no images of role {role!r} in {root / place}; check `roles`")
        files: dict[str, Path] = {}
        for path in usable:
            first = files.setdefault(case_name(path), path)
            if first != path:
                raise ValueError(f"source {self.name!r}: {first.name} and {path.name} are the same case; rename one")
        return files

    def records(self) -> dict[str, Any]:
        """Returns what is known of every case, preparing the cases that are new or have changed.

        Raises:
            ValueError: If files are missing or damaged; the message names them.
        """
        if self._records:
            return self._records
        cases, folder = self.files(), self.folder
        known = read_json(folder / "index.json") or {}
        records, faults, fresh = {}, [], 0
        for case, files in cases.items():
            mark = stamp(list(files.values()))
            record = known.get(case)
            if (
                record is None
                or record["stamp"] != mark
                or not all((folder / n).exists() for n in record["files"].values())
            ):
                try:
                    record = self._prepare(case, files, mark)
                    fresh += 1
                except ValueError as error:
                    faults.append(str(error))
                    continue
            records[case] = record
        if fresh:
            write_json(folder / "index.json", records)
            logger.info("source %s: prepared %d of %d cases in %s", self.name, fresh, len(cases), folder)
        if faults:
            raise ValueError(
                f"source {self.name!r}: {len(faults)} of {len(cases)} cases fail: {'; '.join(faults[:_SHOWN])}"
            )
        self._records = records
        return records

    def _prepare(self, case: str, files: dict[str, Path], mark: str) -> dict[str, Any]:
        prepared = prepare(files, self.recipe)
        names = {role: f"{digest(case, mark)}-{digest(role)}.npy" for role in prepared.arrays}
        for role, values in prepared.arrays.items():
            write_array(self.folder / names[role], values)
        return {"stamp": mark, "files": names, **prepared.facts()}

    def items(self, split: str, cohort: int = 0) -> Sequence[Item]:
        """Returns the items of a split by case and slice; training leaves out slices of nothing but air."""
        if split not in self._items:
            records = {case: record for case, record in self.records().items() if min(record["shape"]) >= self.min_size}
            groups = {case: group_of(case, self.groups, self.group_pattern, self.group_block) for case in records}
            chosen = assign_splits(groups, self.split, self.seed)
            for name, cases in chosen.items():
                least = self.min_content if name == "train" else 0.0
                self._items[name] = [
                    self._item(case, groups[case], records[case], number, least)
                    for case in cases
                    for number in range(records[case]["count"])
                    if records[case]["content"][self.recipe.reference][number] >= least
                ]
        return self._items[split]

    def _item(self, case: str, group: str, record: dict[str, Any], number: int, least: float) -> Item:
        count = record["count"]
        keys = {role for role, shares in record["content"].items() if shares[number] >= least} | set(record["counts"])
        for role, classes in record["counts"].items():
            keys.update(f"{role}={index}" for index, pixels in classes.items() if pixels[number] >= self.min_pixels)
        position = number / (count - 1) if count > 1 else 0.5
        return Item(case, group, frozenset(keys), position, number if count > 1 else None)

    def read(self, item: Item) -> Subject:
        """Reads one slice or whole image from the prepared data."""
        record = self.records()[item.case]
        images, labels = {}, {}
        for role, name in record["files"].items():
            stored = open_array(self.folder / name)[item.slice or 0]
            if role in self.recipe.label_roles:
                labels[role] = torch.from_numpy(stored.astype(np.int64))
            else:
                images[role] = torch.from_numpy(load(stored))[None]
        ranges = {role: (limits[0], limits[1]) for role, limits in record["ranges"].items()}
        return Subject(images, labels, item, tuple(record["spacing"]), ranges)
