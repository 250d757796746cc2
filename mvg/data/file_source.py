"""What all sources of files share: preparation, the cache, items and reading; a subclass lists its cases."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvg.configuration import to_config
from mvg.data.archive import close_archives
from mvg.data.cache import collector_paused, default_folder, digest, read_part, stamp, write_array
from mvg.data.facts import Facts, Selection, select
from mvg.data.intensity import Intensity
from mvg.data.itk import pixel_file
from mvg.data.location import Location
from mvg.data.preparation import SLICES, Recipe, load, prepare
from mvg.data.source import Source
from mvg.data.store import Store, part_name
from mvg.data.subject import Item, Subject

logger = logging.getLogger(__name__)

_FORMAT = 4
_SHOWN = 5

Files = Mapping[str, Location]
"""Role to where its image lies, for one case."""


class FileSource(Source):
    """A data set of files, each of which is read, verified and prepared once and then kept in the cache.

    Afterwards a start looks at sizes and times only, and a slice is read from a memory map. Volumes are cut into
    upright slices for networks in 2D. Roles on different grids are resampled by their affines onto that of the
    reference role, and cut to the field of view that all images share.

    Args:
        name: Name of the source in logs and tables.
        class_names: Label role to class index to name. Classes that are not named are refused.
        licence: Licence of the data; weights trained on it inherit it.
        modality: Kind of image, for tables.
        intensity: Image role to the rule that brings it to [0, 1].
        slices: How volumes are cut: "axial", "coronal", "sagittal", "auto", or null to keep them whole.
        trim: Cut volumes to the box outside of which the reference image is air.
        longest: Reduce pictures until their longer side is at most this; null keeps them.
        spacing: Reduce whole volumes (`slices: null`) to voxels of this size in mm; coarser axes stay. Null keeps them.
        min_pixels: Pixels from which on a class counts as present in an image.
        min_content: Share of pixels that are not air, below which an image is not offered in training.
        min_size: Cases with fewer pixels along an axis of S are left out.
        cache: Folder of the prepared data; by default that of the user, or `MVG_CACHE`.
    """

    def __init__(
        self,
        name: str,
        class_names: dict[str, dict[int, str]] | None,
        licence: str,
        modality: str,
        intensity: dict[str, Intensity] | None,
        slices: str | None,
        trim: bool,
        longest: int | None,
        min_pixels: int,
        min_content: float,
        min_size: int,
        cache: str | None,
        spacing: float | None = None,
    ) -> None:
        if slices is not None and slices not in SLICES:
            raise ValueError(f"`slices` must be one of {SLICES} or null, got {slices!r}")
        if spacing is not None and (slices is not None or not spacing > 0):
            raise ValueError(
                f"`spacing` reduces whole volumes to voxels above 0 mm; set `slices` to null, got {spacing}"
            )
        self.name, self.licence, self.modality = name, licence, modality
        # written configurations hold the numbers of classes as words
        named = {
            role: {int(number): name for number, name in names.items()} for role, names in (class_names or {}).items()
        }
        self.class_names, self.intensity = named, intensity or {}
        self.slices, self.trim, self.longest, self.spacing = slices, trim, longest, spacing
        self.min_pixels, self.min_content, self.min_size = min_pixels, min_content, min_size
        self.cache = cache
        self._records: dict[str, Any] = {}
        self._facts = Facts()
        self._items: dict[str, Sequence[Item]] = {}

    @abstractmethod
    def files(self) -> dict[str, dict[str, Location]]:
        """Lists the files: case, in a fixed order, to role to where its image lies."""

    @abstractmethod
    def kinds(self) -> tuple[frozenset[str], str]:
        """Returns the roles that hold class indices, and the role whose grid all others are brought onto."""

    @abstractmethod
    def place(self) -> list[Any]:
        """Returns plain values that tell this data set from all others, for the name of its cache."""

    @abstractmethod
    def assign(self, cases: Sequence[str]) -> tuple[Mapping[str, str], Mapping[str, Sequence[str]]]:
        """Returns the patient of each of some cases, and the cases of each split, sorted."""

    def mark(self, case: str, files: Files) -> str:
        """Returns what changes when a case has to be prepared again: its files, and those that hold their pixels."""
        paths = [location.path for location in files.values()]
        return stamp([*paths, *filter(None, map(pixel_file, paths))])

    def seal(self) -> str | None:
        """Returns what changes when any case may have to be prepared again, if that is known without listing them."""
        return None

    def verify(self, case: str, files: Files) -> None:
        """Looks at the files of a case before they are prepared. Raises ValueError naming a file that is wrong."""

    @cached_property
    def recipe(self) -> Recipe:
        """How the cases are prepared."""
        labels, reference = self.kinds()
        classes = {role: frozenset(names) - {0} for role, names in self.class_names.items()}
        return Recipe(labels, reference, self.intensity, self.slices, classes, self.trim, self.longest, self.spacing)

    @property
    def dims(self) -> int:  # type: ignore[override]
        """Number of spatial axes of the subjects; files are looked up for it only where volumes stay whole."""
        if self.slices is not None:
            return 2
        return len(next(iter(self.records().values()))["shape"])

    @cached_property
    def folder(self) -> Path:
        """Folder of the prepared data of this source."""
        recipe = self.recipe
        key = digest(
            _FORMAT,
            *self.place(),
            sorted(recipe.label_roles),
            to_config(dict(recipe.intensity)),
            {role: sorted(names) for role, names in recipe.classes.items()},
            [recipe.reference, recipe.slices, recipe.trim, recipe.longest],
            *([] if recipe.spacing is None else [recipe.spacing]),
        )
        base = Path(self.cache) if self.cache is not None else default_folder()
        return base / f"{self.name.replace('/', '_')}-{key}"

    def records(self) -> dict[str, Any]:
        """Returns what is known of every case, preparing the cases that are new or have changed.

        A case that was prepared stays so even if the process is killed before all are.

        Raises:
            ValueError: If files are missing or damaged; the message names them.
        """
        if self._records:
            return self._records
        faults: list[str] = []
        with collector_paused():
            seal, store = self.seal(), Store(self.folder)
            if known := store.sealed(seal):
                self._records, self._facts = known
                return self._records
            cases = self.files()
            kept = self._find(store, cases, faults)
        records, fresh = {}, 0
        for case, (mark, record) in kept.items():
            try:
                records[case] = record or self._prepare(case, cases[case], mark, store)
            except ValueError as error:
                faults.append(str(error))
            fresh += record is None
        close_archives()
        if fresh:
            logger.info("source %s: prepared %d of %d cases in %s", self.name, fresh, len(cases), self.folder)
        facts = store.keep(records) if fresh or not faults else Facts()
        if faults:
            raise ValueError(
                f"source {self.name!r}: {len(faults)} of {len(cases)} cases fail: {'; '.join(faults[:_SHOWN])}"
            )
        store.seal(records, seal)
        self._records, self._facts = records, facts
        return records

    def _find(
        self, store: Store, cases: Mapping[str, Files], faults: list[str]
    ) -> dict[str, tuple[str, dict[str, Any] | None]]:
        """Returns the mark of each case, and its record if it is prepared; adds a sentence for each that fails."""
        kept = {}
        for case, files in cases.items():
            try:
                mark = self.mark(case, files)
                kept[case] = mark, store.find(case, mark)
            except ValueError as error:
                faults.append(str(error))
        return kept

    def _prepare(self, case: str, files: Files, mark: str, store: Store) -> dict[str, Any]:
        self.verify(case, files)
        prepared = prepare(files, self.recipe)
        names = {role: f"{part_name(case, mark)}-{digest(role)}.npy" for role in prepared.arrays}
        for role, values in prepared.arrays.items():
            write_array(self.folder / names[role], values)
        record = {"stamp": mark, "files": names, **prepared.facts()}
        return store.add(case, record, Facts.of(prepared.content, prepared.counts))

    @cached_property
    def masks(self) -> frozenset[str]:
        """Label roles without names that hold 0 and 255 alone in all cases; 255 is class 1, as in prediction."""
        found: dict[str, set[int]] = {}
        for record in self.records().values():
            for role, classes in record["classes"].items():
                found.setdefault(role, set()).update(classes)
        return frozenset(role for role, classes in found.items() if classes == {255} and role not in self.class_names)

    def items(self, split: str, cohort: int = 0) -> Sequence[Item]:
        """Returns the items of a split by case and slice; training leaves out slices of nothing but air."""
        if split not in self._items:
            records = self.records()
            numbers = {case: number for number, case in enumerate(records)}
            groups, chosen = self.assign(
                [case for case, record in records.items() if min(record["shape"]) >= self.min_size]
            )
            labels = sorted({role for record in records.values() for role in record["files"]} & self.recipe.label_roles)
            made = select(
                self._facts.renamed({f"{role}=255": f"{role}=1" for role in self.masks}),
                list(records),
                [groups.get(case, case) for case in records],
                [record["count"] for record in records.values()],
                {role: [role in record["files"] for record in records.values()] for role in labels},
                self.recipe.reference,
                self.min_pixels,
                [
                    Selection([numbers[case] for case in cases], self.min_content if name == "train" else 0.0)
                    for name, cases in chosen.items()
                ],
            )
            self._items = dict(zip(chosen, made, strict=True))
        return self._items[split]

    def read(self, item: Item) -> Subject:
        """Reads one slice or whole image from the prepared data."""
        record = self.records()[item.case]
        images, labels = {}, {}
        for role, name in record["files"].items():
            stored = read_part(self.folder / name, item.slice or 0, (record["count"], *record["shape"]))
            if role in self.recipe.label_roles:
                labels[role] = torch.from_numpy((stored > 0 if role in self.masks else stored).astype(np.int64))
            else:
                images[role] = torch.from_numpy(load(stored))[None]
        ranges = {role: (limits[0], limits[1]) for role, limits in record["ranges"].items()}
        return Subject(images, labels, item, tuple(record["spacing"]), ranges)
