"""Draws anatomies: a pose for each subject, then soft-edged shapes painted over one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mvg.data.anatomy import TRANSPARENT, Shape
from mvg.data.fields import Array, smooth_noise

TINY = np.float32(1e-5)
"""Keeps divisions finite at the centre of a shape."""


@dataclass(frozen=True)
class Part:
    """One ellipsoid or capsule, where it lies in one subject.

    Attributes:
        shape: Number of the shape it belongs to.
        centre: `(d,)`, world coordinates: [-1, 1] along each axis of the image. One end of a capsule.
        matrix: `(d, d)`, from the unit ball to the world, without the shift.
        waves: `(J, d + 2)`, surface ripples.
        boxy: Superellipsoid of power 4.
        end: `(d,)`, other end of a capsule; None for an ellipsoid.
        thickness: Radii of a capsule at its two ends.
    """

    shape: int
    centre: Array
    matrix: Array
    waves: Array
    boxy: bool = False
    end: Array | None = None
    thickness: tuple[float, float] = (0.0, 0.0)


@lru_cache(maxsize=16)
def grid(size: tuple[int, ...]) -> Array:
    """Returns the world coordinates of all pixels, `(d, *size)`, [-1, 1] along each axis."""
    axes = [(np.arange(n, dtype=np.float32) + 0.5) * 2 / n - 1 for n in size]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def rotations(angles: Array) -> Array:
    """Returns the rotation matrices `(n, d, d)` of `(n, 1)` angles (2D) or `(n, 3)` (3D), radians."""
    dims = 2 if angles.shape[1] == 1 else 3
    turned = np.broadcast_to(np.eye(dims, dtype=np.float32), (len(angles), dims, dims))
    planes = [(dims - 2, dims - 1), (0, 1), (0, 2)]
    for column in range(angles.shape[1]):
        cosine, sine = np.cos(angles[:, column]), np.sin(angles[:, column])
        first, second = planes[column]
        step = np.broadcast_to(np.eye(dims, dtype=np.float32), turned.shape).copy()
        step[:, first, first] = step[:, second, second] = cosine
        step[:, first, second], step[:, second, first] = -sine, sine
        turned = turned @ step
    return turned


def pose(shapes: Sequence[Shape], rng: np.random.Generator, variation: float) -> list[Part]:
    """Places the shapes of an anatomy in one subject.

    Args:
        shapes: Parents come before their children.
        rng: Draws how the subject differs from the anatomy.
        variation: How much; 0 is the anatomy itself, 1 is usual.

    Returns:
        The parts in painting order.
    """
    dims = len(shapes[0].centre)
    loose = variation * np.array([shape.jitter for shape in shapes], dtype=np.float32)[:, None]
    most = max(len(shape.waves) for shape in shapes)
    draws = rng.standard_normal((len(shapes) + 1, 2 * dims + 4 + most), dtype=np.float32)
    turn = rotations(np.stack([s.angles for s in shapes]) + 0.08 * loose * draws[:-1, : len(shapes[0].angles)])
    scale = np.exp(0.05 * loose * draws[:-1, 3 : 3 + 1] + 0.035 * loose * draws[:-1, 4 : 4 + dims])
    shift = 0.035 * loose * draws[:-1, 4 + dims : 4 + 2 * dims]
    whole = rotations(0.06 * variation * draws[-1:, : len(shapes[0].angles)])[0]
    frames: list[tuple[Array, Array, Array]] = []
    parts: list[Part] = []
    for number, shape in enumerate(shapes):
        if shape.parent < 0:
            centre, basis = shape.centre + 0.04 * variation * draws[-1, 4 : 4 + dims], whole @ turn[number]
            growth = scale[number] * (1 + 0.02 * variation * draws[-1, 3])
        else:
            origin, ancestor, inherited = frames[shape.parent]
            host_matrix = ancestor * (shapes[shape.parent].radii * inherited)
            centre = origin + host_matrix @ (shape.centre + shift[number])
            basis, growth = ancestor @ turn[number], inherited * scale[number]
        frames.append((centre, basis, growth))
        if shape.copies is not None:
            parts.extend(scatter(shape, number, origin, host_matrix, rng))
        elif shape.segments is not None:
            parts.extend(chain(shape, number, origin, host_matrix, variation, rng))
        else:
            waves = shape.waves.copy()
            waves[:, dims] += 0.35 * variation * draws[number, -len(waves) :]
            parts.append(Part(number, centre, basis * (shape.radii * growth), waves, shape.boxy))
    return parts


def scatter(shape: Shape, number: int, origin: Array, matrix: Array, rng: np.random.Generator) -> list[Part]:
    """Draws the scattered copies of a shape inside of its parent, away from its surface and from the image's edge."""
    assert shape.copies is not None
    dims, count = len(shape.centre), int(rng.integers(shape.copies[0], shape.copies[1] + 1))
    direction = rng.standard_normal((count, dims), dtype=np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    place = shape.centre + direction * (0.8 * rng.random((count, 1), dtype=np.float32) ** (1 / dims))
    turn = rotations(rng.uniform(-np.pi, np.pi, (count, len(shape.angles))).astype(np.float32))
    radii = shape.radii * np.exp(0.2 * rng.standard_normal((count, dims), dtype=np.float32))
    phase = rng.uniform(0, 2 * np.pi, (count, len(shape.waves))).astype(np.float32)
    world = origin + place @ matrix.T
    world = 2 * np.clip(world, -0.9, 0.9) - world
    parts = []
    for index in range(count):
        waves = shape.waves.copy()
        waves[:, dims] = phase[index]
        parts.append(Part(number, world[index], turn[index] * radii[index], waves))
    return parts


def chain(
    shape: Shape, number: int, origin: Array, matrix: Array, variation: float, rng: np.random.Generator
) -> list[Part]:
    """Places the capsules of a tube; a smooth displacement of the whole keeps their ends together."""
    assert shape.segments is not None
    assert shape.thickness is not None
    dims = len(shape.centre)
    wave = rng.standard_normal((2, dims, dims), dtype=np.float32)
    points = shape.segments
    points = points + 0.02 * variation * np.sin(2.5 * points @ wave[0] + wave[1, 0]) @ wave[1].T
    world = points @ matrix.T + origin
    swell = float(np.exp(0.1 * variation * rng.standard_normal()))
    unit, nothing = np.eye(dims, dtype=np.float32), np.zeros((0, dims + 2), dtype=np.float32)
    return [
        Part(number, start, unit, nothing, end=end, thickness=(first * swell, last * swell))
        for (start, end), (first, last) in zip(world, shape.thickness.tolist(), strict=True)
    ]


def deformation(rng: np.random.Generator, size: tuple[int, ...], variation: float) -> Array:
    """Draws a smooth displacement field in world units, `(d, *size)`: a broad one and a fine one."""
    dims = len(size)
    broad = smooth_noise(rng, size, (3,) * dims, dims)
    fine = smooth_noise(rng, size, (8,) * dims, dims)
    field: Array = np.float32(0.03 * variation) * broad + np.float32(0.009 * variation) * fine
    return field


@dataclass(frozen=True)
class Painting:
    """A painted subject.

    Attributes:
        canvas: `(C, *S)`, what the table says of the tissue at each pixel, mixed at edges.
        labels: `(*S)`, class indices.
    """

    canvas: Array
    labels: NDArray[np.int64]


def paint(
    shapes: Sequence[Shape], parts: Sequence[Part], coordinates: Array, table: Array, projection: bool = False
) -> Painting:
    """Paints parts over one another.

    Args:
        shapes: The shapes of the anatomy.
        parts: Their parts in one subject, in painting order.
        coordinates: `(d, *S)`, where each pixel lies in the world before the subject is deformed.
        table: `(len(shapes), C)`, the values of each shape.
        projection: Adds up what lies behind one another, as X-rays do, in place of covering it.
    """
    size = coordinates.shape[1:]
    canvas = np.zeros((table.shape[1], *size), dtype=np.float32)
    labels = np.zeros(size, dtype=np.int64)
    hosts = {number: np.zeros(size, dtype=np.float32) for number in {s.host for s in shapes} - {-1}}
    sharpness = np.float32(len(size) / sum(2 / n for n in size))
    values = table.reshape(*table.shape, *(1,) * len(size))
    parents = [shape.parent for shape in shapes]
    steps = values - np.where(np.array(parents)[(..., *(None,) * (values.ndim - 1))] >= 0, values[parents], 0)
    depth: dict[str, Array] = {}
    inverses = np.linalg.inv(np.stack([part.matrix for part in parts]))
    for part, inverse, box in zip(parts, inverses, boxes(shapes, parts, coordinates), strict=True):
        shape = shapes[part.shape]
        points = coordinates[(slice(None), *box)]
        if not points.size:
            continue
        flat = points.reshape(len(size), -1)
        distance, relative = capsule(part, flat) if part.end is not None else ellipsoid(part, inverse, flat)
        cover = np.minimum(np.maximum(0.5 - distance * sharpness, 0), 1).reshape(points.shape[1:])
        if shape.host >= 0:
            cover = cover * hosts[shape.host][box]
        if part.shape in hosts:
            region = hosts[part.shape][box]
            np.maximum(region, cover, out=region)
        if shape.label != TRANSPARENT:
            labels[box][cover > 0.5] = shape.label
        patch = canvas[(slice(None), *box)]
        if projection:
            ball = np.sqrt(np.maximum(1 - relative * relative, 0)).reshape(cover.shape)
            behind = depth.setdefault(shape.name, np.zeros(size, dtype=np.float32))[box]
            more = np.maximum(0.6 * ball * cover + 0.4 * cover - behind, 0)
            behind += more
            patch += more * steps[part.shape]
        else:
            change = values[part.shape] - patch
            change *= cover
            patch += change
    return Painting(canvas, labels)


def boxes(shapes: Sequence[Shape], parts: Sequence[Part], coordinates: Array) -> list[tuple[slice, ...]]:
    """Returns the part of the image that each part can reach, as slices."""
    size = np.array(coordinates.shape[1:])
    slack = np.abs(coordinates - grid(coordinates.shape[1:])).max(tuple(range(1, coordinates.ndim)))
    start = np.stack([part.centre for part in parts])
    end = np.stack([part.centre if part.end is None else part.end for part in parts])
    width = np.array([max(part.thickness) for part in parts], dtype=np.float32)[:, None]
    matrices = np.stack([part.matrix for part in parts])
    boxy = np.array([part.boxy for part in parts])[:, None]
    swell = np.array([shapes[part.shape].swell for part in parts], dtype=np.float32)[:, None]
    reach = np.where(boxy, np.abs(matrices).sum(2), np.sqrt((matrices**2).sum(2))) * swell
    solid = np.array([part.end is None for part in parts])[:, None]
    reach = np.where(solid, reach, width) + slack
    low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
    first = np.clip(np.floor((low + 1) / 2 * size) - 1, 0, size).astype(int).tolist()
    last = np.clip(np.ceil((high + 1) / 2 * size) + 1, 0, size).astype(int).tolist()
    return [tuple(map(slice, one, two)) for one, two in zip(first, last, strict=True)]


def ellipsoid(part: Part, inverse: Array, points: Array) -> tuple[Array, Array]:
    """Returns the distance of points to a wavy ellipsoid, negative inside, and their relative radius.

    Points are `(d, N)`, the results `(N,)`. The distance is exact to first order at the surface.
    """
    dims = len(points)
    local = inverse @ points
    local -= (inverse @ part.centre)[:, None]
    square = local * local
    if part.boxy:
        radius = np.sqrt(np.sqrt((square * square).sum(0))) + TINY
        slope = inverse.T @ (square * local / radius**3)
        local /= radius
    else:
        radius = np.sqrt(square.sum(0)) + TINY
        local /= radius
        slope = inverse.T @ local
    ripples = part.waves[:, :dims] @ local
    ripples += part.waves[:, dims, None]
    limit = part.waves[:, dims + 1] @ np.cos(ripples, out=ripples) + np.float32(1)
    slope *= slope
    return (radius - limit) / (np.sqrt(slope.sum(0)) + TINY), radius / limit


def capsule(part: Part, points: Array) -> tuple[Array, Array]:
    """Returns the distance of points `(d, N)` to a capsule, negative inside, and their relative radius, `(N,)` each."""
    assert part.end is not None
    axis = part.end - part.centre
    offset = points - part.centre[:, None]
    along = np.minimum(np.maximum(axis @ offset / (axis @ axis + 1e-8), 0), 1)
    offset -= axis[:, None] * along
    radius = np.sqrt((offset * offset).sum(0))
    width = part.thickness[0] + (part.thickness[1] - part.thickness[0]) * along
    return radius - width, radius / width
