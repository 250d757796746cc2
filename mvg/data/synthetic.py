"""Synthetic anatomies: a data set without files, as many patients and body regions as asked for, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvg.data.anatomy import TRANSPARENT, Builder, Shape
from mvg.data.appearance import Look, Window, draw_look, draw_window, expose
from mvg.data.painting import deformation, grid, paint, pose
from mvg.data.recipes import RECIPES, Recipe
from mvg.data.source import SPLITS, Source
from mvg.data.subject import Item, Subject

LESION = "lesion"
"""Name of the class of small scattered blobs."""
VISIBLE = 0.006
"""Share of the pixels that a structure must cover to become a class; in 3D, to the power of 1.5."""
MODALITIES = ("modality_a", "modality_b", "modality_c")


@dataclass(frozen=True)
class Plan:
    """What decides the cohorts of a source; hashable, so that prototypes can be cached.

    Attributes:
        image_size: Image size S.
        seed: Seed of everything.
        classes: Smallest and largest number of classes of an anatomy.
        lesions: Share of the anatomies that have a class of small lesions.
        recipes: Body regions and how often each is drawn; the shares sum to 1.
    """

    image_size: tuple[int, ...]
    seed: int
    classes: tuple[int, int]
    lesions: float
    recipes: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Prototype:
    """What all subjects of a cohort share.

    Attributes:
        recipe: Body region.
        names: Structure that each class stands for, class 1 first.
        shapes: The anatomy.
        look: The scanners.
        orientation: Signed order of the axes of its finished images.
        keys: What every subject offers.
    """

    recipe: Recipe
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    look: Look
    orientation: tuple[int, ...]
    keys: frozenset[str]


class SyntheticAnatomy(Source):
    """Seeded anatomies that look like MR, CT, PET, X-ray, ultrasound and microscopy.

    Each cohort is one anatomy: a body region with its own layout, shapes, contrasts and artefacts, and classes that
    belong to it alone. Its subjects are patients: the same structures moved, bent and resized, scanned by the same
    scanners. A subject has three registered modalities; a tissue has one intensity in each of them throughout the
    cohort, so that one modality can be painted from another after an example.

    Nothing is stored: an item is made again whenever it is read, from (seed, split, cohort, subject) alone.

    Args:
        image_size: `(H, W)` or `(D, H, W)`, at least 16 along each axis.
        seed: Seed of everything.
        anatomies: Number of cohorts of the split "train".
        val_anatomies: Number of cohorts of the split "val"; no two splits share an anatomy.
        test_anatomies: Number of cohorts of the split "test".
        subjects: Subjects of each cohort.
        classes: Smallest and largest number of classes of an anatomy; an anatomy that shows fewer structures has fewer.
        lesions: Share of the anatomies that have a class of small scattered lesions, [0, 1].
        variation: How much the subjects of a cohort differ in shape; 0 is not at all, 1 is usual.
        recipes: Body regions to draw from, with their relative shares; by default all. See
            `mvg.data.recipes.RECIPES` for the names.

    Raises:
        ValueError: If an argument is out of range or a body region does not exist.
    """

    name = "synthetic"
    licence = "CC0-1.0"

    def __init__(
        self,
        image_size: Sequence[int] = (64, 64),
        seed: int = 0,
        anatomies: int = 100_000,
        val_anatomies: int = 64,
        test_anatomies: int = 64,
        subjects: int = 12,
        classes: Sequence[int] = (3, 8),
        lesions: float = 0.4,
        variation: float = 1.0,
        recipes: Mapping[str, float] | None = None,
    ) -> None:
        size = tuple(int(n) for n in image_size)
        if len(size) not in (2, 3) or min(size) < 16:
            raise ValueError(f"`image_size` must be two or three numbers of at least 16, got {tuple(image_size)}")
        if len(classes) != 2 or not 1 <= classes[0] <= classes[1]:
            raise ValueError(f"`classes` must be a range (low, high) with 1 <= low <= high, got {tuple(classes)}")
        counts = {"anatomies": anatomies, "val_anatomies": val_anatomies, "test_anatomies": test_anatomies}
        for argument, count in {**counts, "subjects": subjects}.items():
            if count < 1:
                raise ValueError(f"`{argument}` must be at least 1, got {count}")
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, got {seed}")
        if not 0 <= lesions <= 1:
            raise ValueError(f"`lesions` must be a share in [0, 1], got {lesions}")
        if variation < 0:
            raise ValueError(f"`variation` must not be negative, got {variation}")
        self.dims = len(size)
        self.plan = Plan(size, seed, (int(classes[0]), int(classes[1])), lesions, shares(recipes, self.dims))
        self.variation, self.subjects = variation, subjects
        self.class_names = {"labels": {number: f"structure {number}" for number in range(1, int(classes[1]) + 1)}}
        self._cohorts = dict(zip(SPLITS, counts.values(), strict=True))

    def cohorts(self, split: str) -> int:
        """Number of anatomies of a split."""
        if split not in self._cohorts:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return self._cohorts[split]

    def items(self, split: str, cohort: int = 0) -> Sequence[Item]:
        """Returns the subjects of one anatomy; no image is made."""
        if not 0 <= cohort < self.cohorts(split):
            raise ValueError(f"split {split!r} has the cohorts 0 to {self.cohorts(split) - 1}, got {cohort}")
        keys = prototype(self.plan, SPLITS.index(split), cohort).keys
        cases = [f"{split}-{cohort}-{subject}" for subject in range(self.subjects)]
        return [Item(case=case, group=case, keys=keys) for case in cases]

    def read(self, item: Item) -> Subject:
        """Makes the images and labels of one subject.

        Raises:
            ValueError: If the item belongs to another source.
        """
        parts = item.case.split("-")
        if len(parts) != 3 or parts[0] not in SPLITS or not (parts[1].isdigit() and parts[2].isdigit()):
            raise ValueError(f"case {item.case!r} is not from this source; its cases are called split-cohort-subject")
        split, cohort, number = SPLITS.index(parts[0]), int(parts[1]), int(parts[2])
        found = prototype(self.plan, split, cohort)
        size = self.plan.image_size
        rng = np.random.default_rng([self.plan.seed, split, cohort, 1 + number])
        coordinates = grid(size) + deformation(rng, size, self.variation)
        placed = pose(found.shapes, rng, self.variation)
        painting = paint(found.shapes, placed, coordinates, found.look.table, found.recipe.look == "projection")
        images, labels = expose(painting.canvas, found.look, rng), painting.labels
        if found.look.window is not None:
            mask = found.look.window.mask(size)
            images, labels = images * mask, labels * (mask > 0.5)
        scans = torch.from_numpy(orient(images, found.orientation))
        roles = {role: scans[index : index + 1] for index, role in enumerate(MODALITIES)}
        spacing = tuple(found.recipe.extent / n for n in size)
        return Subject(
            {"image": scans[:1], **roles},
            {"labels": torch.from_numpy(orient(labels, found.orientation))},
            item,
            spacing,
        )


def shares(recipes: Mapping[str, float] | None, dims: int) -> tuple[tuple[str, float], ...]:
    """Returns the body regions that can be drawn and how often; the shares sum to 1."""
    wanted = {name: recipe.share for name, recipe in RECIPES.items()} if recipes is None else dict(recipes)
    unknown = sorted(set(wanted) - set(RECIPES))
    if unknown:
        raise ValueError(f"unknown body regions {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    if any(share < 0 for share in wanted.values()):
        raise ValueError(f"`recipes` must hold shares that are not negative, got {wanted}")
    usable = {name: share for name, share in wanted.items() if share > 0 and (dims == 2 or RECIPES[name].volume)}
    if not usable:
        raise ValueError(f"`recipes` holds no body region that can be drawn in {dims}D, got {wanted}")
    return tuple((name, share / sum(usable.values())) for name, share in usable.items())


@lru_cache(maxsize=128)
def prototype(plan: Plan, split: int, cohort: int) -> Prototype:
    """Draws the anatomy and the look of one cohort."""
    rng = np.random.default_rng([plan.seed, split, cohort, 0])
    regions, weights = zip(*plan.recipes, strict=True)
    recipe = RECIPES[str(rng.choice(regions, p=weights))]
    builder = Builder(len(plan.image_size), rng)
    recipe.build(builder)
    shapes = builder.shapes
    if rng.random() >= plan.lesions:
        shapes = [replace(s, copies=(0, 0), organ=False) if s.name == LESION else s for s in shapes]
    if recipe.look == "section" and rng.random() < 0.6:
        focus = rng.uniform(-0.25, 0.25, len(plan.image_size)).astype(np.float32)
        factor = float(rng.uniform(1.0, 1.6))
        shapes = [shape.zoomed(factor, focus) for shape in shapes]
    window = draw_window(recipe.look, rng)
    classes = choose_classes(shapes, plan, window, rng)
    shapes = labelled(shapes, classes, recipe.look == "projection")
    look = draw_look(recipe.look, shapes, window, len(plan.image_size), len(MODALITIES), rng)
    keys = frozenset({"image", "labels", *MODALITIES, *(f"labels={number}" for number in range(1, len(classes) + 1))})
    orientation = draw_orientation(recipe.look, plan.image_size, rng)
    return Prototype(recipe, tuple(name for name, _ in classes), tuple(shapes), look, orientation, keys)


def choose_classes(
    shapes: Sequence[Shape], plan: Plan, window: Window | None, rng: np.random.Generator
) -> list[tuple[str, int]]:
    """Draws which structures of an anatomy are classes, as (name, side); only those that its typical subject shows.

    Left and right are one class in most anatomies, and two in some. Packing (fat, skin, bones) fills up where an
    anatomy has too few organs.
    """
    split = bool(rng.random() < 0.25)
    structures = list(dict.fromkeys((s.name, s.side if split else 0) for s in shapes if s.tissue != "air"))
    numbers = {structure: number for number, structure in enumerate(structures, start=1)}
    marked = [replace(s, label=numbers.get((s.name, s.side if split else 0), 0)) for s in shapes]
    size = tuple(min(n, 48 if len(plan.image_size) == 2 else 28) for n in plan.image_size)
    labels = paint(marked, pose(marked, rng, 0.0), grid(size), np.zeros((len(marked), 0), np.float32)).labels
    labels = labels if window is None else labels * (window.mask(size) > 0.5)
    seen = np.bincount(labels.ravel(), minlength=len(structures) + 1)
    least = np.prod(size) * (VISIBLE if len(size) == 2 else VISIBLE**1.5)
    visible = [structure for structure in structures if seen[numbers[structure]] >= least and structure[0] != LESION]
    order = [visible[index] for index in rng.permutation(len(visible))]
    organs = {shape.name for shape in shapes if shape.organ}
    order.sort(key=lambda structure: structure[0] not in organs)
    count = int(rng.integers(plan.classes[0], plan.classes[1] + 1))
    enough = max(plan.classes[0], sum(name in organs for name, _ in order))
    chosen = order[: min(count, enough)]
    if any(s.name == LESION and s.organ for s in shapes):
        chosen = [*chosen[: count - 1], (LESION, 0)]
    return [chosen[index] for index in rng.permutation(len(chosen))]


def labelled(shapes: Sequence[Shape], classes: Sequence[tuple[str, int]], projection: bool) -> list[Shape]:
    """Gives each shape its class; packing inside of a class (marrow in a bone) belongs to it, organs do not.

    In a projection nothing hides what lies behind it.
    """
    split = any(side for _, side in classes)
    numbers = {structure: number for number, structure in enumerate(classes, start=1)}
    found: list[Shape] = []
    for shape in shapes:
        label = numbers.get((shape.name, shape.side), 0) or (0 if split else numbers.get((shape.name, 0), 0))
        inside = not shape.organ and shape.host >= 0 and bool(found[shape.host].label)
        if not label and (inside or projection):
            label = TRANSPARENT
        found.append(replace(shape, label=label))
    return found


def draw_orientation(look: str, size: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """Draws how the images of a cohort are stored: a one-based order of axes, negative where flipped."""
    order = np.arange(1, len(size) + 1)
    if rng.random() < 0.5:
        order[-1] *= -1
    if look in ("section", "slide") and rng.random() < 0.15:
        order[-2] *= -1
    if look in ("section", "slide") and len(set(size)) == 1 and rng.random() < 0.2:
        order = rng.permutation(order)
    return tuple(int(axis) for axis in order)


def orient(array: NDArray[Any], orientation: tuple[int, ...]) -> NDArray[Any]:
    """Reorders and flips the last axes of an array, `(..., *S)` to `(..., *S)`."""
    lead = array.ndim - len(orientation)
    moved = array.transpose(*range(lead), *(lead + abs(axis) - 1 for axis in orientation))
    flips = tuple(lead + place for place, axis in enumerate(orientation) if axis < 0)
    return np.ascontiguousarray(np.flip(moved, flips))
