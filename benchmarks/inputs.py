# The header classes of nibabel carry no types.
# mypy: disable-error-code="no-untyped-call"
"""What entrants are shown: queries and contexts as files, the same for all of them, and what answers are compared with.

Volumes are NIfTI in RAS+ orientation on their own grid, pictures are NPY `(H, W)`: float32, brought to [0, 1] by the
rule of the data set; masks are uint8, 1 where the structure is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.protocol import Truth
from benchmarks.suite import Case, Question, Suite, SuiteSet, case_hash, files_of
from benchmarks.surfaces import Mask
from mvg.data.file_source import FileSource
from mvg.data.geometry import resize, resize_labels
from mvg.data.intensity import FullScale, Percentiles, normalise
from mvg.data.location import Location, read_grid
from mvg.data.preparation import box_of
from mvg.data.readers import Picture, Volume, resample, same_grid
from mvg.data.source import Index
from mvg.data.subject import Item, Subject
from mvg.episode import Pair, Spec
from tasks import Detection, Inpainting, Segmentation
from tasks.painting import marked

SHOWN = 0.001
"""Share of a picture that a structure has to cover before the picture is an example of it."""
KEPT = 2**28
"""Voxels of the files that are kept for the next context of a question; two GiB with what they are compared with."""
ASKED_AT_ONCE = 32
"""Queries that are in use at once, which are kept however large they are."""


@dataclass(frozen=True)
class Example:
    """A case that is shown or asked.

    Attributes:
        images: File of the image; one for each contrast where a question takes several at once.
        target: File of the mask or of the clean image.
        truth: What an answer is compared with.
        affine: `(4, 4)`, voxel indices to millimetres; None for pictures.
    """

    images: tuple[Path, ...]
    target: Path
    truth: Truth
    affine: NDArray[np.float64] | None

    @property
    def image(self) -> Path:
        """File of the first image."""
        return self.images[0]

    @property
    def shown(self) -> Path | tuple[Path, ...]:
        """What an entrant is given."""
        return self.images if len(self.images) > 1 else self.images[0]

    @property
    def size(self) -> int:
        """Voxels of all its files together."""
        return int(np.prod(self.truth.shape)) * (len(self.images) + 1)

    def remove(self) -> None:
        """Removes the files."""
        for path in (*self.images, self.target):
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
    """Makes the files of the cases of one question, and keeps those made last: all contexts ask the same cases.

    Args:
        suite: Gives the seed.
        question: What is asked.
        folder: Where files are written.
    """

    def __init__(self, suite: Suite, question: Question, folder: Path) -> None:
        self.suite, self.question, self.folder = suite, question, folder
        self.held: SuiteSet = suite.sets[question.dataset]
        self.source: FileSource = self.held.source
        self._made: dict[str, Example] = {}
        self._shown: set[str] = set()
        self._shows: dict[tuple[str, int | None], bool] = {}

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

    def make(self, case: Case, label: int | None = None) -> Example:
        """Writes one case, if it is not there yet.

        Args:
            case: Which one.
            label: Class that the target shows, instead of the one that is asked for.

        Raises:
            ValueError: If its files are not those of the list, or do not hold what is asked for.
        """
        name = _file_of(case, label)
        found = self._made.pop(name, None) or self._write_case(case, label, name)
        self._made[name] = found
        total = sum(example.size for example in self._made.values())
        for older in [held for held in self._made if held not in self._shown][:-ASKED_AT_ONCE]:
            if total <= KEPT:
                break
            total -= self._made[older].size
            self._made.pop(older).remove()
        return found

    def show(self, cases: Sequence[Case], label: int | None = None) -> list[Example]:
        """Writes the examples of a context; they stay until the next one is shown. See `make`."""
        self._shown = {_file_of(case, label) for case in cases}
        return [self.make(case, label) for case in cases]

    def _write_case(self, case: Case, label: int | None, name: str) -> Example:
        check_files(self.source, case)
        asked = self.question.asked
        if isinstance(asked, Segmentation | Detection):
            image, grid = self._image(case.case, self.role)
            shown = self._labels(case.case, asked.labels, self.role) == (label or self.question.label)
            if isinstance(asked, Detection):
                shown = fill_objects(shown, asked)
            truth = self._truth(grid, mask=shown)
            return self._write(name, grid, [image], shown.astype(np.uint8), truth)
        pair, grid = self._degrade(case)
        if pair.target is None:
            raise ValueError(f"case {case.case!r} of {case.dataset} lacks the image that {self.question.name} asks for")
        clean = pair.target[0].numpy()
        hole = marked(pair).numpy() if isinstance(asked, Inpainting) else None
        shown_images = list(pair.image[: self.question.inputs].clamp(0, 1).numpy())
        return self._write(name, grid, shown_images, clean, self._truth(grid, image=clean, hole=hole))

    def mismatch(self, examples: Sequence[Example]) -> list[Example]:
        """Gives each example the target of the next one, stretched to its size: no pair belongs together."""
        made = []
        for example, other in zip(examples, [*examples[1:], *examples[:1]], strict=True):
            is_label, size = example.truth.mask is not None, example.truth.shape
            values = torch.from_numpy(np.ascontiguousarray(read_values(other.target)))
            moved = resize_labels(values, size) if is_label else resize(values[None].float(), size)[0]
            path = self.folder / "mismatched" / f"{example.target.stem} {other.target.name}"
            path.parent.mkdir(exist_ok=True)
            write_grid(path, moved.numpy().astype(np.uint8 if is_label else np.float32), example.affine)
            made.append(replace(example, target=path))
        return made

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
        key = (case.case, label)
        if key not in self._shows:
            self._shows[key] = self._shows_enough(case, asked, label)
        return self._shows[key]

    def _shows_enough(self, case: Case, asked: Segmentation | Detection, label: int | None) -> bool:
        shown = self._labels(case.case, asked.labels, self.role) == (label or self.question.label)
        least = SHOWN * shown.size if shown.ndim == 2 else 0
        return int(shown.sum()) >= max(self.source.min_pixels, least)

    def _truth(
        self, grid: Grid, mask: Mask | None = None, image: NDArray[np.float32] | None = None, hole: Mask | None = None
    ) -> Truth:
        length, boxes = "px" if grid.affine is None else "mm", isinstance(self.question.asked, Detection)
        return Truth(mask, image, hole, grid.spacing, length, self.held.tolerance, boxes)

    def _read(self, case: str, role: str) -> Volume | Picture:
        files = files_of(self.source)[case]
        if role not in files:
            raise ValueError(f"case {case!r} of {self.held.name!r} has no role {role!r}, only {', '.join(files)}")
        return _read(files[role], role in self.source.kinds()[0])

    def _image(self, case: str, role: str) -> tuple[NDArray[np.float32], Grid]:
        """Reads an image in [0, 1], and its grid."""
        found = self._read(case, role)
        grid = (
            Grid(found.values.shape, found.affine, found.spacing)
            if isinstance(found, Volume)
            else Grid(found.values.shape, None, (1.0, 1.0))
        )
        return normalise(found.values, self._limits(role, found)), grid

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
        first = next(role for role in roles if role not in labels)
        read, grid, box = self._on_one_grid(case.case, [role for role in roles if role not in labels])
        images = {role: torch.from_numpy(np.ascontiguousarray(values))[None] for role, values in read.items()}
        masks = {role: self._labels(case.case, role, first)[box].astype(np.int64) for role in labels}
        subject = Subject(
            images,
            {role: torch.from_numpy(np.ascontiguousarray(mask)) for role, mask in masks.items()},
            item,
            grid.spacing,
        )
        spec = asked.complete(spec, [subject], self._generator())
        return asked.encode(subject, spec, self._generator(case.case)), grid

    def _on_one_grid(
        self, case: str, roles: Sequence[str]
    ) -> tuple[dict[str, NDArray[np.float32]], Grid, tuple[slice, ...]]:
        """Reads images on the grid of the first one, in the field of view that they share.

        Returns:
            The images in [0, 1], their grid, and which part of the first one it is.
        """
        read, grid = {roles[0]: self._image(case, roles[0])[0]}, self._image(case, roles[0])[1]
        seen = np.ones(grid.shape, dtype=bool)
        for role in roles[1:]:
            found, onto = self._read(case, role), self._read(case, roles[0])
            if isinstance(found, Volume) and isinstance(onto, Volume):
                moved, field = resample(found, onto)
                seen &= field
                read[role] = normalise(moved.values, self._limits(role, found))
            elif found.values.shape == grid.shape:
                read[role] = self._image(case, role)[0]
            else:
                raise ValueError(f"case {case!r}: {role!r} has not the size of {roles[0]!r}; bring them to one size")
        if not seen.any():
            raise ValueError(f"case {case!r}: {', '.join(roles)} do not overlap; check their affines")
        box = box_of(seen)
        affine = None if grid.affine is None else grid.affine.copy()
        if affine is not None:
            affine[:3, 3] += affine[:3, :3] @ [side.start for side in box]
        inside = seen[box]
        kept = {role: np.where(inside, values[box], 0).astype(np.float32) for role, values in read.items()}
        return kept, Grid(inside.shape, affine, grid.spacing), box

    def _limits(self, role: str, found: Volume | Picture) -> tuple[float, float]:
        """The values of an image that become 0 and 1."""
        rule = self.source.intensity.get(role, Percentiles() if isinstance(found, Volume) else FullScale())
        return rule.limits(found.values, None if isinstance(found, Volume) else found.full_scale)

    def _generator(self, *names: str) -> np.random.Generator:
        words = (self.question.name, *names)
        return np.random.default_rng([self.suite.seed, *(zlib.crc32(word.encode()) for word in words)])

    def _write(
        self, name: str, grid: Grid, images: Sequence[NDArray[Any]], target: NDArray[Any], truth: Truth
    ) -> Example:
        file = f"{name}{'.npy' if grid.affine is None else '.nii'}"
        folders = [f"images_{number}" if number else "images" for number in range(len(images))]
        paths = [self.folder / part / file for part in (*folders, "targets")]
        for path, values in zip(paths, (*images, target), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_grid(path, values, grid.affine)
        return Example(tuple(paths[:-1]), paths[-1], truth, grid.affine)


def _file_of(case: Case, label: int | None) -> str:
    """Name of the files of a case, whose own name may hold what separates folders."""
    name = quote(case.case, safe=" !#$&'()+,;=@[]{}~")
    return name if label is None else f"{name}@{label}"


def fill_objects(mask: Mask, asked: Detection) -> Mask:
    """Fills the boxes around the objects of a mask `(*S)`, as the task paints them."""
    image = torch.zeros(1, *mask.shape)
    subject = Subject(
        {"image": image}, {asked.labels: torch.from_numpy(mask.astype(np.int64))}, Item("", "", frozenset())
    )
    objects = type(asked)(labels=asked.labels, min_size=asked.min_size)
    target = objects.encode(subject, {"inputs": ["image"], "class": 1, "highest": 1}, np.random.default_rng(0)).target
    assert target is not None
    filled: Mask = target[0].numpy() > 0
    return filled


def write_grid(path: Path, values: NDArray[Any], affine: NDArray[np.float64] | None) -> None:
    """Writes a picture as NPY, or a volume as NIfTI in millimetres."""
    if affine is None:
        np.save(path, np.ascontiguousarray(values), allow_pickle=False)
        return
    image = nibabel.Nifti1Image(np.ascontiguousarray(values), affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)


def read_values(path: Path) -> NDArray[Any]:
    """Reads a file that `write_grid` wrote, `(*S)`."""
    if path.suffix == ".npy":
        values: NDArray[Any] = np.load(path, allow_pickle=False)
        return values
    return read_grid(Location(path), labels=True).values


def read_answer(path: Path, query: Path, is_label: bool) -> NDArray[Any]:
    """Reads an answer in RAS+ orientation, `(*S)`; pictures of images are brought to [0, 1].

    Args:
        path: The answer.
        query: What was asked, as `write_grid` wrote it.
        is_label: It is a mask.

    Raises:
        ValueError: If it cannot be read, or is a volume that does not lie on the grid of the query.
    """
    if path.suffix == ".npy":
        return read_values(path)
    found = read_grid(Location(path), labels=is_label)
    if isinstance(found, Picture):
        return found.values if is_label else found.values / found.full_scale
    asked = None if query.suffix == ".npy" else read_grid(Location(query))
    if isinstance(asked, Volume) and not same_grid(found, asked):
        raise ValueError(f"{path}: it does not lie on the grid of the scan, {query.name}")
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
