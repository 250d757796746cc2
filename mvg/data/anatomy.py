"""Anatomies as lists of analytic shapes: what the recipes write and the painter draws, in 2D and 3D alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mvg.data.fields import Array

TRANSPARENT = -1
"""Label of a shape that leaves the labels under it as they are."""


@dataclass(frozen=True)
class Shape:
    """One structure of an anatomy: a wavy ellipsoid, a number of small ones, or a chain of capsules.

    Positions are local: (0, 0) is the centre of the parent and 1 its surface along each of its own axes. Sizes are in
    units of half the image. Axes are (y, x) or (z, y, x); y points to the back of the patient.

    Attributes:
        name: Structures of one name are one material, and one class if they are labelled.
        tissue: What it is made of, a key of `mvg.data.appearance.TISSUES`.
        centre: `(d,)`, local.
        radii: `(d,)`, half axes.
        angles: `(1,)` or `(3,)`, radians: turn in the (y, x) plane, then in (z, y) and (z, x).
        waves: `(J, d + 2)`, ripples of the surface: frequency along each direction, phase, amplitude.
        parent: Number of the shape whose position, turn and size it inherits; -1 for the image itself.
        host: Number of the shape that clips it; -1 for none.
        boxy: Superellipsoid of power 4 in place of 2.
        organ: May become a class (else it is packing: fat, skin, ribs).
        jitter: How much its position and size differ between subjects; 1 is usual.
        copies: Range of the number of small copies scattered in the parent, drawn for each subject; None for one.
        segments: `(n, 2, d)`, ends of the capsules, local; None for an ellipsoid.
        thickness: `(n, 2)`, radii of the capsules at their ends.
        side: 1 for the mirror image of another shape, else 0.
        label: Class index, 0 for background, or TRANSPARENT.
    """

    name: str
    tissue: str
    centre: Array
    radii: Array
    angles: Array
    waves: Array
    parent: int = -1
    host: int = -1
    boxy: bool = False
    organ: bool = True
    jitter: float = 1.0
    copies: tuple[int, int] | None = None
    segments: Array | None = None
    thickness: Array | None = None
    side: int = 0
    label: int = 0

    @cached_property
    def swell(self) -> float:
        """Largest factor by which its ripples can widen it."""
        return 1 + float(np.abs(self.waves[:, -1]).sum())

    def zoomed(self, factor: float, focus: Array) -> Shape:
        """Magnifies it around a point of the image, `(d,)`; scattered copies keep their size."""
        thickness = None if self.thickness is None else self.thickness * np.float32(factor)
        radii = self.radii if self.copies else self.radii * np.float32(factor)
        centre = self.centre if self.parent >= 0 else (self.centre - focus) * np.float32(factor)
        return replace(self, radii=radii, thickness=thickness, centre=centre)


class Builder:
    """Collects the shapes of an anatomy; later shapes are painted over earlier ones.

    Sizes and positions are given in the (y, x) plane; `z` and `depth` complete them in 3D.

    Args:
        dims: 2 or 3.
        rng: Draws how the anatomy differs from the textbook.
        looseness: How far; 1 is usual.
    """

    def __init__(self, dims: int, rng: np.random.Generator, looseness: float = 1.0) -> None:
        self.dims, self.rng, self.looseness = dims, rng, looseness
        self.shapes: list[Shape] = []

    def between(self, low: float, high: float) -> float:
        """Draws a number from a range."""
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        """Draws yes or no."""
        return bool(self.rng.random() < share)

    def size(self, height: tuple[float, float], width: tuple[float, float]) -> tuple[float, float]:
        """Draws (y, x) from a range for each."""
        return self.between(*height), self.between(*width)

    def vector(self, plane: Sequence[float], along: float) -> Array:
        """Completes `(y, x)` by z in 3D."""
        return np.array(plane if self.dims == 2 else (along, *plane), dtype=np.float32)

    def waves(self, amplitude: float, count: int = 3, frequency: float = 2.5) -> Array:
        """Draws surface ripples, `(count, d + 2)`."""
        direction = self.rng.standard_normal((count, self.dims))
        direction *= (
            frequency * self.rng.uniform(0.5, 1.5, (count, 1)) / np.linalg.norm(direction, axis=1, keepdims=True)
        )
        phase = self.rng.uniform(0, 2 * np.pi, (count, 1))
        height = amplitude * self.rng.uniform(0.5, 1.2, (count, 1)) / np.sqrt(count)
        return np.concatenate([direction, phase, height], 1).astype(np.float32)

    def add(
        self,
        name: str,
        tissue: str,
        at: Sequence[float] = (0.0, 0.0),
        size: Sequence[float] = (0.1, 0.1),
        *,
        z: float = 0.0,
        depth: float | None = None,
        parent: int = 0,
        host: int | None = None,
        angle: float = 0.0,
        wobble: float = 0.08,
        boxy: bool = False,
        organ: bool = True,
        loose: float = 1.0,
        jitter: float = 1.0,
        copies: tuple[int, int] | None = None,
    ) -> int:
        """Adds a blob and returns its number.

        Args:
            name: Name of the structure.
            tissue: What it is made of.
            at: Centre (y, x) in the parent, local.
            size: Half axes (y, x), in units of half the image.
            z: Centre along z, local.
            depth: Half axis along z; by default the mean of `size`.
            parent: The shape it belongs to.
            host: The shape that clips it; by default the parent. -1 for none.
            angle: Turn in degrees.
            wobble: Amplitude of its ripples, as a share of its size.
            boxy: Superellipsoid of power 4.
            organ: May become a class.
            loose: How much the anatomy differs from the textbook here.
            jitter: How much the subjects differ here.
            copies: Range of the number of scattered copies.
        """
        loose *= self.looseness
        shift = self.rng.normal(0, 0.05 * loose, 2)
        stretch = np.exp(self.rng.normal(0, 0.12 * loose, self.dims))
        turn = np.radians(angle + self.rng.normal(0, 8 * loose))
        tilt = self.rng.normal(0, 0.1 if depth is None else 0.0, 2 * (self.dims - 2))
        shape = Shape(
            name=name,
            tissue=tissue,
            centre=self.vector((at[0] + shift[0], at[1] + shift[1]), z),
            radii=(self.vector(size, sum(size) / 2 if depth is None else depth) * stretch).astype(np.float32),
            angles=np.array([turn, *tilt], dtype=np.float32),
            waves=self.waves(wobble),
            parent=parent if self.shapes else -1,
            host=-1 if not self.shapes else parent if host is None else host,
            boxy=boxy,
            organ=organ,
            jitter=jitter,
            copies=copies,
        )
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def pack(self, name: str, tissue: str, at: Sequence[float], size: Sequence[float], **options: Any) -> int:
        """Adds packing (skin, ribs): as `add`, but close to the textbook and no class by itself."""
        settings: dict[str, Any] = {"organ": False, "loose": 0.3, **options}
        return self.add(name, tissue, at, size, **settings)

    def layer(
        self,
        name: str,
        tissue: str,
        inset: float,
        parent: int,
        *,
        folds: tuple[float, float] | None = None,
        organ: bool = False,
    ) -> int:
        """Adds a copy of the parent, smaller by `inset` all around, and returns its number.

        Args:
            name: Name of the structure.
            tissue: What it is made of.
            inset: In units of half the image.
            parent: The shape it is a copy of.
            folds: Frequency and amplitude of fine ripples of its own (gyri).
            organ: May become a class.
        """
        outer = self.shapes[parent]
        radii = np.maximum(outer.radii - inset, 0.25 * outer.radii)
        waves = outer.waves if folds is None else np.concatenate([outer.waves, self.waves(folds[1], 6, folds[0])])
        shape = replace(
            outer,
            name=name,
            tissue=tissue,
            centre=np.zeros(self.dims, dtype=np.float32),
            radii=radii,
            angles=np.zeros_like(outer.angles),
            waves=waves,
            parent=parent,
            host=parent,
            organ=organ,
            jitter=0.25,
        )
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def pair(
        self, name: str, tissue: str, at: Sequence[float], size: Sequence[float], **options: Any
    ) -> tuple[int, int]:
        """Adds a structure at `at` and its mirror image in x, and returns both numbers."""
        one = self.add(name, tissue, at, size, **options)
        return one, self.mirror(one)

    def mirror(self, number: int, parent: int | None = None) -> int:
        """Adds the mirror image in x of a shape, in another parent if one is given, and returns its number."""
        shape = self.shapes[number]
        flip = np.ones(self.dims, dtype=np.float32)
        flip[-1] = -1
        turns = np.array([-1, 1, -1][: len(shape.angles)], dtype=np.float32)
        waves = shape.waves.copy()
        waves[:, : self.dims] *= flip
        home = shape.parent if parent is None else parent
        host = home if shape.host == shape.parent else shape.host
        segments = None if shape.segments is None else shape.segments * flip
        mirrored = replace(
            shape,
            centre=shape.centre * flip,
            angles=shape.angles * turns,
            waves=waves,
            parent=home,
            host=host,
            segments=segments,
            side=1,
        )
        self.shapes.append(mirrored)
        return len(self.shapes) - 1

    def tube(
        self,
        name: str,
        tissue: str,
        path: Sequence[Sequence[float]],
        thickness: tuple[float, float],
        *,
        parent: int = 0,
        host: int | None = None,
        branches: int = 0,
        organ: bool = True,
    ) -> int:
        """Adds a tube through the points (y, x) or (z, y, x) of `path`, local to the parent, and returns its number.

        Args:
            name: Name of the structure.
            tissue: What it is made of.
            path: At least two points.
            thickness: Radius at the start and at the end.
            parent: The shape it belongs to.
            host: The shape that clips it; by default the parent. -1 for none.
            branches: Number of side branches that leave it at random.
            organ: May become a class.
        """
        points = np.array([p if len(p) == self.dims else self.vector(p, 0.0) for p in path], dtype=np.float32)
        radii = np.linspace(*thickness, len(points))
        segments, widths = [np.stack([points[:-1], points[1:]], 1)], [np.stack([radii[:-1], radii[1:]], 1)]
        for _ in range(branches):
            start = int(self.rng.integers(0, len(points) - 1))
            heading = points[start + 1] - points[start]
            line = [points[start] + self.rng.uniform(0, 1) * heading]
            for _ in range(2):
                heading = 0.8 * heading + 0.6 * np.linalg.norm(heading) * self.rng.standard_normal(self.dims)
                line.append(line[-1] + 0.8 * heading)
            slim = radii[start] * np.array([0.7, 0.55, 0.4])
            segments.append(np.stack([line[:-1], line[1:]], 1))
            widths.append(np.stack([slim[:-1], slim[1:]], 1))
        shape = Shape(
            name=name,
            tissue=tissue,
            centre=np.zeros(self.dims, dtype=np.float32),
            radii=np.ones(self.dims, dtype=np.float32),
            angles=np.zeros(1 if self.dims == 2 else 3, dtype=np.float32),
            waves=np.zeros((0, self.dims + 2), dtype=np.float32),
            parent=parent,
            host=parent if host is None else host,
            organ=organ,
            segments=np.concatenate(segments).astype(np.float32),
            thickness=np.concatenate(widths).astype(np.float32),
        )
        self.shapes.append(shape)
        return len(self.shapes) - 1
