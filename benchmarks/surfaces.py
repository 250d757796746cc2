# SciPy and scikit-image carry no types.
# mypy: disable-error-code="no-untyped-call"
"""Surfaces of masks and how far they lie from each other: voxels for HD95, pieces of surface for the NSD.

A piece lies between the voxels of a cell of two along each axis; which of these the mask holds decides how large it is.
Sizes come from the mesh of each of the 256 (in 2D 16) possible cells, so that nothing is tabulated by hand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import find_contours, marching_cubes, mesh_surface_area

from mvg.data.preparation import box_of

Mask = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]

_SPARSE = 24
"""A search among points costs about as much for one of them as the distance map for so many voxels."""


def surface_scores(
    found: Mask, true: Mask, spacing: Sequence[float], tolerance: float, worst: float
) -> dict[str, float]:
    """Compares the surfaces of two masks.

    Args:
        found: `(*S)`.
        true: `(*S)`.
        spacing: Length of a voxel along each axis.
        tolerance: Distance that `nsd` forgives, in this unit.
        worst: Value of `hd95` if one of the masks is empty.

    Returns:
        `nsd` in [0, 1]; `hd95` in the unit of the spacing.

    Raises:
        ValueError: If the masks differ in shape, or the spacing is not one number for each axis.
    """
    if found.shape != true.shape or len(spacing) != true.ndim:
        raise ValueError(
            f"masks must have one shape, and a spacing for each axis, got {found.shape}, {true.shape}, {len(spacing)}"
        )
    box = box_of(found | true)
    found, true = found[box], true[box]
    return {"nsd": nsd(found, true, spacing, tolerance), "hd95": hd95(found, true, spacing, worst)}


def nsd(found: Mask, true: Mask, spacing: Sequence[float], tolerance: float) -> float:
    """Returns the share of the area (in 2D: length) of both surfaces within a tolerance of the other one, [0, 1].

    Distances are measured between the middles of pieces of surface; the tolerance itself is forgiven.

    Returns:
        1 if both masks are empty, 0 if one of them is.
    """
    sizes = piece_sizes(tuple(map(float, spacing)))
    cells = [cells_of(mask) for mask in (found, true)]
    areas = [sizes[codes] for codes in cells]
    first, second = (area > 0 for area in areas)
    whole = sum(float(area.sum()) for area in areas)
    if not first.any() or not second.any():
        return 0.0 if whole else 1.0
    limit = tolerance * (1 + 1e-9)
    near = areas[0][first][distances(first, second, spacing) <= limit].sum()
    near += areas[1][second][distances(second, first, spacing) <= limit].sum()
    return min(1.0, float(near) / whole)


def hd95(found: Mask, true: Mask, spacing: Sequence[float], worst: float) -> float:
    """Returns the larger one of the 95th percentiles of the two lists of distances between surface voxels.

    A surface voxel shares a face with one outside of its mask; outside of the image is outside.

    Returns:
        0 if both masks are empty, `worst` if one of them is.
    """
    first, second = (mask & ~ndimage.binary_erosion(mask) for mask in (found, true))
    if not first.any() or not second.any():
        return worst if first.any() or second.any() else 0.0
    there, back = distances(first, second, spacing), distances(second, first, spacing)
    return max(float(np.percentile(part, 95)) for part in (there, back))


def distances(points: Mask, others: Mask, spacing: Sequence[float]) -> FloatArray:
    """Measures how far each point of a grid lies from the nearest one of others, between centres.

    Args:
        points: `(*S)`, n points.
        others: `(*S)`, at least one.
        spacing: Length of a voxel along each axis.

    Returns:
        `(n,)`, in the unit of the spacing, in the order of `points.nonzero()`.
    """
    found: FloatArray
    if _SPARSE * (np.count_nonzero(points) + np.count_nonzero(others)) > points.size:
        found = ndimage.distance_transform_edt(~others, sampling=spacing)[points]
        return found
    tree = cKDTree(np.argwhere(others) * np.asarray(spacing))
    found = tree.query(np.argwhere(points) * np.asarray(spacing))[0]
    return found


def cells_of(mask: Mask) -> NDArray[np.uint8]:
    """Says of every cell of two voxels along each axis which of them a mask holds, one bit for each.

    Args:
        mask: `(*S)`; outside of it is nothing.

    Returns:
        `(*(S + 1))`.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([side + 1 for side in mask.shape], np.uint8)
    for bit, corner in enumerate(itertools.product((0, 1), repeat=mask.ndim)):
        part = tuple(slice(at, at + side + 1) for at, side in zip(corner, mask.shape, strict=True))
        codes |= padded[part] << np.uint8(bit)
    return codes


@lru_cache(maxsize=64)
def piece_sizes(spacing: tuple[float, ...]) -> FloatArray:
    """Area of the surface (in 2D: length of the outline) inside a cell, by the code of `cells_of`.

    Args:
        spacing: Length of a voxel along each axis, two or three.

    Returns:
        `(16,)` or `(256,)`, in the unit of the spacing, to the power of one or two.
    """
    corners = 2 ** len(spacing)
    sizes = np.zeros(2**corners)
    for code in range(1, len(sizes) - 1):
        cell = (code >> np.arange(corners) & 1).reshape((2,) * len(spacing)).astype(float)
        if len(spacing) == 2:
            lines = [line * spacing for line in find_contours(cell, 0.5)]
            sizes[code] = sum(float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum()) for line in lines)
        else:
            vertices, faces, _, _ = marching_cubes(cell, 0.5, spacing=spacing, method="lorensen")
            sizes[code] = mesh_surface_area(vertices, faces)
    return sizes


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Returns the diagonal of an image, in the unit of its spacing."""
    return math.sqrt(sum((count * step) ** 2 for count, step in zip(shape, spacing, strict=True)))
