# The header classes of nibabel carry no types.
# mypy: disable-error-code="no-untyped-call"
"""What entrants are shown: queries and contexts as files, the same for all of them, and what answers are compared with.

Volumes are NIfTI in RAS+ orientation on their own grid, pictures are NPY `(H, W)`: float32, brought to [0, 1] by the
rule of the data set; masks are uint8, 1 where the structure is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.protocol import Mask, Truth
from benchmarks.suite import Case, Question, Suite, SuiteSet, case_hash, files_of
from mvg.data.file_source import FileSource
from mvg.data.intensity import FullScale, Percentiles, normalise
from mvg.data.location import Location, read_grid
from mvg.data.readers import Picture, Volume, resample
from mvg.data.source import Index
from mvg.data.subject import Item, Subject
from mvg.episode import Pair, Spec
from tasks import Detection, Inpainting, Segmentation
from tasks.painting import marked

SHOWN = 0.001
"""Share of a picture that a structure has to cover before the picture is an example of it."""


@dataclass(frozen=True)
class Example:
    """A case that is shown or asked.

    Attributes:
        image: File of the image.
        target: File of the mask or of the clean image.
        truth: What an answer is compared with.
        affine: `(4, 4)`, voxel indices to millimetres; None for pictures.
    """

    image: Path
    target: Path
    truth: Truth
    affine: NDArray[np.float64] | None

    def remove(self) -> None:
        """Removes the files."""
        for path in (self.image, self.target):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Grid:
    """A case without its values.

    Attributes:
        shape: Size of its images.
        affine: `(4, 4)`, voxel indices to millimetres; None for pictures.
        spacing: Length of a voxel along each axis, in mm, or 1 pixel.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64] | None
    spacing: tuple[float, ...]


class Inputs:
    """Makes the files of the cases of one question.

    Args:
        suite: Gives the seed.
        question: What is asked.
        folder: Where files are written.
    """

    def __init__(self, suite: Suite, question: Question, folder: Path) -> None:
        self.suite, self.question, self.folder = suite, question, folder
        self.held: SuiteSet = suite.sets[question.dataset]
        self.source: FileSource = self.held.source

    @property
    def role(self) -> str:
        """The image that a structure is looked for in.

        Raises:
            ValueError: If the task takes several images at once.
        """
        roles = self.question.asked.roles  # type: ignore[attr-defined]
        if len(roles) != 1:
            raise ValueError(f"{self.question.name} takes the images {', '.join(roles)} at once; ask for one of them")
        return str(roles[0])

    @property
    def dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        case = self.suite.cases[self.question.dataset][0].case
        return 2 if isinstance(self._read(case, self.source.kinds()[1]), Picture) else 3

    def make(self, case: Case, label: int | None = None, name: str = "") -> Example:
        """Writes one case.

        Args:
            case: Which one.
            label: Class that the target shows, instead of the one that is asked for.
            name: Beginning of the names of its files; that of the case by default.

        Raises:
            ValueError: If its files are not those of the list, or do not hold what is asked for.
        """
        check_files(self.source, case)
        asked = self.question.asked
        if isinstance(asked, Segmentation | Detection):
            image, grid = self._image(case.case, self.role)
            shown = self._labels(case.case, asked.labels, self.role) == (label or self.question.label)
            truth = self._truth(grid, mask=shown)
            return self._write(name or case.case, grid, image, shown.astype(np.uint8), truth)
        pair, grid = self._degrade(case)
        if pair.target is None:
            raise ValueError(f"case {case.case!r} of {case.dataset} lacks the image that {self.question.name} asks for")
        clean = pair.target[0].numpy()
        hole = marked(pair).numpy() if isinstance(asked, Inpainting) else None
        shown_image = pair.image[0].clamp(0, 1).numpy()
        return self._write(name or case.case, grid, shown_image, clean, self._truth(grid, image=clean, hole=hole))

    def holds(self, case: Case) -> bool:
        """Tells whether a case has the images and the label map that are needed, whatever they show."""
        asked = self.question.asked
        if isinstance(asked, Segmentation | Detection):
            return {asked.labels, self.role}.issubset(files_of(self.source)[case.case])
        return asked.accepts(Index([self._item(case)]))

    def shows(self, case: Case, label: int | None = None) -> bool:
        """Tells whether a case can be an example: whether it holds what is needed, and enough of the structure."""
        asked = self.question.asked
        if not self.holds(case) or not isinstance(asked, Segmentation | Detection):
            return self.holds(case)
        shown = self._labels(case.case, asked.labels, self.role) == (label or self.question.label)
        least = SHOWN * shown.size if shown.ndim == 2 else 0
        return int(shown.sum()) >= max(self.source.min_pixels, least)

    def _truth(
        self, grid: Grid, mask: Mask | None = None, image: NDArray[np.float32] | None = None, hole: Mask | None = None
    ) -> Truth:
        return Truth(mask, image, hole, grid.spacing, "px" if grid.affine is None else "mm", self.held.tolerance)

    def _read(self, case: str, role: str) -> Volume | Picture:
        files = files_of(self.source)[case]
        if role not in files:
            raise ValueError(f"case {case!r} of {self.held.name!r} has no role {role!r}, only {', '.join(files)}")
        return _read(files[role], role in self.source.kinds()[0])

    def _image(self, case: str, role: str) -> tuple[NDArray[np.float32], Grid]:
        """Reads an image in [0, 1], and its grid."""
        found = self._read(case, role)
        volume = isinstance(found, Volume)
        rule = self.source.intensity.get(role, Percentiles() if volume else FullScale())
        limits = rule.limits(found.values, None if isinstance(found, Volume) else found.full_scale)
        grid = (
            Grid(found.values.shape, found.affine, found.spacing)
            if isinstance(found, Volume)
            else Grid(found.values.shape, None, (1.0, 1.0))
        )
        return normalise(found.values, limits), grid

    def _labels(self, case: str, role: str, reference: str) -> NDArray[Any]:
        """Reads a label map on the grid of an image."""
        found, onto = self._read(case, role), self._read(case, reference)
        if isinstance(found, Volume) and isinstance(onto, Volume):
            return resample(found, onto, labels=True)[0].values
        if found.values.shape != onto.values.shape:
            raise ValueError(f"case {case!r} of {self.held.name!r}: {role!r} has not the size of {reference!r}")
        return found.values

    def _item(self, case: Case) -> Item:
        return Item(case.case, case.patient, frozenset(files_of(self.source)[case.case]))

    def _degrade(self, case: Case) -> tuple[Pair, Grid]:
        """Lets the task make the pair; the degradation depends on nothing but suite, question and case."""
        asked, item = self.question.asked, self._item(case)
        spec: Spec = asked.draw(Index([item]), self._generator(), training=False)
        roles = dict.fromkeys([*spec["query"], *(role for role in spec.get("inputs", ()) if role in item.keys)])
        labels = {role for role in roles if role in self.source.kinds()[0]}
        read = {role: self._image(case.case, role) for role in roles if role not in labels}
        grid = next(iter(read.values()))[1]
        if len({found.shape for _, found in read.values()}) > 1:
            raise ValueError(f"case {case.case!r}: {', '.join(read)} lie on different grids; resample them onto one")
        images = {role: torch.from_numpy(np.ascontiguousarray(values))[None] for role, (values, _) in read.items()}
        masks = {role: self._labels(case.case, role, next(iter(read))).astype(np.int64) for role in labels}
        subject = Subject(
            images,
            {role: torch.from_numpy(np.ascontiguousarray(mask)) for role, mask in masks.items()},
            item,
            grid.spacing,
        )
        spec = asked.complete(spec, [subject], self._generator())
        return asked.encode(subject, spec, self._generator(case.case)), grid

    def _generator(self, *names: str) -> np.random.Generator:
        words = (self.question.name, *names)
        return np.random.default_rng([self.suite.seed, *(zlib.crc32(word.encode()) for word in words)])

    def _write(self, name: str, grid: Grid, image: NDArray[Any], target: NDArray[Any], truth: Truth) -> Example:
        paths = [
            self.folder / part / f"{name}{'.npy' if grid.affine is None else '.nii'}" for part in ("images", "targets")
        ]
        for path, values in zip(paths, (image, target), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_grid(path, values, grid.affine)
        return Example(paths[0], paths[1], truth, grid.affine)


def write_grid(path: Path, values: NDArray[Any], affine: NDArray[np.float64] | None) -> None:
    """Writes a picture as NPY, or a volume as NIfTI in millimetres."""
    if affine is None:
        np.save(path, np.ascontiguousarray(values), allow_pickle=False)
        return
    image = nibabel.Nifti1Image(np.ascontiguousarray(values), affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)


def read_answer(path: Path) -> NDArray[Any]:
    """Reads an answer in RAS+ orientation, `(*S)`.

    Raises:
        ValueError: If it cannot be read.
    """
    if path.suffix == ".npy":
        values: NDArray[Any] = np.load(path, allow_pickle=False)
        return values
    found = read_grid(Location(path), labels=True)
    return found.values


@lru_cache(maxsize=4)
def _read(place: Location, is_label: bool) -> Volume | Picture:
    return read_grid(place, is_label)


def check_files(source: FileSource, case: Case) -> None:
    """Checks that the files of a case are those of the list.

    Raises:
        ValueError: If the case is missing, or its files are others.
    """
    if case.case not in files_of(source):
        raise ValueError(
            f"case {case.case!r} of {case.dataset} is missing; restore it, or write the list of cases anew"
        )
    if case_hash(source, case.case) != case.sha256:
        raise ValueError(
            f"case {case.case!r} of {case.dataset}: its files are not those of the suite; restore them, "
            "or write a list of cases of your own with `mvg benchmark cases`"
        )


def draw_context(inputs: Inputs, pool: list[Case], number: int, draw: int, other: int | None = None) -> list[Case]:
    """Draws the cases of a context; a smaller context of the same draw is the beginning of a larger one.

    Args:
        inputs: Tells which cases show what is asked for.
        pool: Training cases, in order.
        number: How many.
        draw: Number of the draw.
        other: Class that the cases have to show, too.

    Returns:
        As many cases of different patients as there are, at most `number`.
    """
    names = [zlib.crc32(inputs.question.name.encode()), draw]
    order = np.random.default_rng([inputs.suite.seed, *names]).permutation(len(pool))
    chosen: list[Case] = []
    for place in order.tolist():
        case = pool[place]
        if len(chosen) == number:
            break
        is_new = case.patient not in {held.patient for held in chosen}
        if is_new and inputs.shows(case) and (other is None or inputs.shows(case, other)):
            chosen.append(case)
    return chosen


@contextmanager
def workplace() -> Iterator[Path]:
    """Yields a folder for the files of a block, which is removed afterwards."""
    with TemporaryDirectory(prefix="mvg-benchmark-") as folder:
        yield Path(folder)
