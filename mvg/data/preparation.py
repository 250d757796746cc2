"""One case from its files to what is stored: roles on one grid, grey values in [0, 1], slices cut and counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvg.data.cache import Stored
from mvg.data.geometry import majority_labels, resize, resize_labels, to_slices
from mvg.data.intensity import FullScale, Intensity, Percentiles, normalise
from mvg.data.location import Location, read_grid
from mvg.data.readers import FloatArray, Picture, Volume, check_labels, resample

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
SLICES = (*AXES, "auto")
_AIR = 0.05
_CLEARLY = 1.2
"""How much larger the spacing between acquired planes is, at least, than that within them."""


@dataclass(frozen=True)
class Recipe:
    """How the cases of one source are prepared.

    Attributes:
        label_roles: Roles that hold class indices.
        reference: Role whose grid all others are brought onto.
        intensity: Role to its rule; `FullScale` for pictures and `Percentiles` for volumes where none is given.
        slices: How volumes are cut: an axis, "auto", or None to keep them whole.
        classes: Label role to its known classes; all are allowed for a role that is missing here.
        trim: Cut volumes to the box outside of which the reference image is air.
        longest: Pictures are reduced until their longer side is at most this; None keeps them.
        spacing: Whole volumes are reduced along the axes on which their voxels are smaller, in mm; None keeps them.
    """

    label_roles: frozenset[str]
    reference: str
    intensity: Mapping[str, Intensity]
    slices: str | None
    classes: Mapping[str, frozenset[int]]
    trim: bool = False
    longest: int | None = None
    spacing: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A prepared case.

    Attributes:
        arrays: Role to `(n, *S)`, n slices (1 for whole subjects); images as uint8 or uint16 over their full scale.
        spacing: Pixel size along S in mm; empty where unknown.
        ranges: Image role to the values of the file that became 0 and 1.
        content: Image role to the share of its pixels that are not air, in each of the n.
        counts: Label role to class to the number of its pixels in each of the n.
        axis: How the case was cut ("axial", ...); None for pictures and whole volumes.
    """

    arrays: dict[str, Stored]
    spacing: tuple[float, ...]
    ranges: dict[str, tuple[float, float]]
    content: dict[str, list[float]]
    counts: dict[str, dict[str, list[int]]]
    axis: str | None = None

    def facts(self) -> dict[str, Any]:
        """Returns what is known of the case as a whole as plain values."""
        shape = next(iter(self.arrays.values())).shape
        return {
            "count": shape[0],
            "shape": list(shape[1:]),
            "spacing": list(self.spacing),
            "axis": self.axis,
            "ranges": {role: list(limits) for role, limits in self.ranges.items()},
            "classes": {role: [int(index) for index in classes] for role, classes in self.counts.items()},
        }


def prepare(files: Mapping[str, Location], recipe: Recipe) -> Prepared:
    """Reads, aligns, normalises and counts one case.

    Args:
        files: Role to file; the reference role among them.
        recipe: How.

    Raises:
        ValueError: If a file is damaged or does not fit the others; the message names it.
    """
    reference = read_grid(files[recipe.reference])
    if isinstance(reference, Volume):
        grids, spacing, axis = _read_volumes(files, reference, recipe)
    else:
        grids, spacing, axis = _read_pictures(files, reference, recipe), (), None
    arrays: dict[str, Stored] = {}
    ranges: dict[str, tuple[float, float]] = {}
    for role, (values, inside, full_scale) in grids.items():
        if role in recipe.label_roles:
            check_labels(values, files[role].path, recipe.classes.get(role, frozenset()))
            arrays[role] = values.astype(np.uint8 if values.max() < 256 else np.uint16)
            continue
        rule = recipe.intensity.get(role, Percentiles() if full_scale is None else FullScale())
        ranges[role] = rule.limits(values if inside is None else values[inside], full_scale)
        arrays[role] = store(
            np.where(True if inside is None else inside, normalise(values, ranges[role]), 0), full_scale, ranges[role]
        )
    content = {role: _content(arrays[role]) for role in ranges}
    counts = {role: _count(arrays[role]) for role in arrays if role in recipe.label_roles}
    name = next((name for name, number in AXES.items() if number == axis), None)
    return Prepared(arrays, spacing, ranges, content, counts, name)


Grid = tuple[FloatArray, NDArray[np.bool_] | None, float | None]
"""Values `(n, *S)`, mask of the common field of view (None: all), full scale of the pixel type (None: volumes)."""


def _read_pictures(files: Mapping[str, Location], reference: Picture, recipe: Recipe) -> dict[str, Grid]:
    pictures: dict[str, Picture] = {}
    wanted = reference.values.shape
    for role, file in files.items():
        picture = reference if role == recipe.reference else read_grid(file, role in recipe.label_roles)
        if isinstance(picture, Volume):
            raise ValueError(f"{file}: role {role!r} is a volume, but {files[recipe.reference].name} is a picture")
        if picture.values.shape != wanted:
            raise ValueError(f"{file}: must be of size {wanted} like its image, got {picture.values.shape}")
        pictures[role] = picture
    return {
        role: (_shorten(picture.values, recipe.longest, role in recipe.label_roles), None, picture.full_scale)
        for role, picture in pictures.items()
    }


def _shorten(values: FloatArray, longest: int | None, is_label: bool) -> FloatArray:
    """Reduces `(H, W)` until the longer side is at most `longest`; returns `(1, H, W)`."""
    if longest is None or max(values.shape) <= longest:
        return values[None]
    size = [max(1, round(extent * longest / max(values.shape))) for extent in values.shape]
    picture = torch.from_numpy(np.array(values))
    reduced: FloatArray = (resize_labels(picture, size)[None] if is_label else resize(picture[None], size)).numpy()
    return reduced


def _read_volumes(
    files: Mapping[str, Location], reference: Volume, recipe: Recipe
) -> tuple[dict[str, Grid], tuple[float, ...], int | None]:
    """Brings all roles onto the reference's grid, cut to the box that all images see; also spacing and axis of cuts."""
    seen = np.ones(reference.values.shape, dtype=bool)
    volumes: dict[str, Volume] = {}
    for role, file in files.items():
        is_label = role in recipe.label_roles
        volume = reference if role == recipe.reference else read_grid(file, is_label)
        if isinstance(volume, Picture):
            raise ValueError(f"{file}: role {role!r} is a picture, but {files[recipe.reference].name} is a volume")
        volumes[role], field = resample(volume, reference, is_label)
        seen &= True if is_label else field
    if not seen.any():
        raise ValueError(f"{reference.path}: the images of this case do not overlap; check their affines")
    rule = recipe.intensity.get(recipe.reference, Percentiles())
    box = content_box(reference.values, seen, rule) if recipe.trim else box_of(seen)
    inside = None if seen[box].all() else seen[box]
    axis = slicing_axis(replace(reference, values=reference.values[box]), recipe.slices)
    grids: dict[str, Grid] = {}
    for role, volume in volumes.items():
        values = volume.values[box] if inside is None else np.where(inside, volume.values[box], 0)
        grids[role] = (_cut(values, axis), None if inside is None else _cut(inside, axis), None)
    spacing = reference.spacing
    if axis is not None:
        column, row = (other for other in range(3) if other != axis)
        return grids, (spacing[row], spacing[column]), axis
    if recipe.spacing is not None:
        return *_coarsen(grids, spacing, recipe.spacing, recipe.label_roles), None
    return grids, spacing, None


def _coarsen(
    grids: Mapping[str, Grid], spacing: Sequence[float], wanted: float, label_roles: Collection[str]
) -> tuple[dict[str, Grid], tuple[float, ...]]:
    """Reduces whole volumes to voxels of about `wanted` mm; axes that are as coarse already stay.

    Images are averaged, a new voxel has the class that covers most of it, and was seen if at least half of it was.
    """
    old = next(iter(grids.values()))[0].shape[1:]
    size = [max(1, min(side, round(side * step / wanted))) for side, step in zip(old, spacing, strict=True)]
    reduced: dict[str, Grid] = {}
    for role, (values, inside, full_scale) in grids.items():
        known = torch.from_numpy(np.ascontiguousarray(values))
        small = majority_labels(known[0], size)[None] if role in label_roles else resize(known.float(), size)
        seen = None if inside is None else resize(torch.from_numpy(inside).float(), size).numpy() >= 0.5
        reduced[role] = (small.numpy(), seen, full_scale)
    return reduced, tuple(step * side / new for step, side, new in zip(spacing, old, size, strict=True))


def box_of(mask: NDArray[np.bool_], margin: int = 0) -> tuple[slice, ...]:
    """Returns the smallest box that holds what a mask marks and a margin, inside of the image; empty for nothing."""
    box = []
    for axis in range(mask.ndim):
        places = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        low, high = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
        box.append(slice(max(0, low - margin), min(mask.shape[axis], high + margin)))
    return tuple(box)


def content_box(values: FloatArray, seen: NDArray[np.bool_], rule: Intensity) -> tuple[slice, ...]:
    """Returns the box outside of which a volume is air, or was not seen; all that was seen if all is air."""
    content = seen & (normalise(values, rule.limits(values[seen], None)) > _AIR)
    return box_of(content if content.any() else seen)


def slicing_axis(volume: Volume, slices: str | None) -> int | None:
    """Returns the axis along which a volume is cut.

    "auto" takes that of a single voxel, else the one across the planes in which the volume was acquired: of the largest
    spacing, if it is larger than the others by more than a fifth. Volumes that are about as fine in all directions are
    cut into axial slices, so that those of one data set are cut alike.
    """
    if slices is None:
        return None
    if slices != "auto":
        return AXES[slices]
    single = [axis for axis in range(3) if volume.values.shape[axis] == 1]
    if single:
        return single[-1]
    coarse = [axis for axis in range(3) if volume.spacing[axis] > max(volume.spacing) / _CLEARLY]
    return AXES["axial"] if AXES["axial"] in coarse else max(coarse, key=lambda axis: volume.spacing[axis])


def _cut(values: Any, axis: int | None) -> Any:
    """Cuts `(X, Y, Z)` into `(n, H, W)`, or keeps it whole as `(1, X, Y, Z)`."""
    if axis is None:
        return values[None]
    return np.ascontiguousarray(to_slices(torch.from_numpy(np.ascontiguousarray(values)), axis).numpy())


def _content(image: Stored) -> list[float]:
    """Returns the share of pixels that are not air in each slice of `(n, *S)`."""
    shares = (load(image) > _AIR).reshape(len(image), -1).mean(1)
    return [round(float(share), 4) for share in shares]


def _count(label: Stored) -> dict[str, list[int]]:
    """Counts the pixels of each class but 0 in each slice of `(n, *S)`."""
    flat = label.reshape(len(label), -1)
    return {str(int(index)): (flat == index).sum(1).tolist() for index in np.unique(flat) if index != 0}


def store(values: FloatArray, full_scale: float | None, limits: tuple[float, float]) -> Stored:
    """Turns [0, 1] into whole numbers: 8 bits where that loses nothing, else 16 (an error below 1e-5); any shape."""
    exact = full_scale == 255.0 and limits == (0.0, 255.0)
    kind, scale = (np.uint8, 255) if exact else (np.uint16, 65535)
    stored: Stored = np.round(values * np.float32(scale)).astype(kind)
    return stored


def load(stored: Stored) -> FloatArray:
    """Turns stored whole numbers back into [0, 1]; any shape."""
    scale = 255 if stored.dtype == np.uint8 else 65535
    return np.multiply(stored, np.float32(1 / scale), dtype=np.float32)
