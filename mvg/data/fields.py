"""Smooth random fields and blurs as small matrix products, the same in 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@lru_cache(maxsize=512)
def spline_basis(size: int, cells: int) -> Array:
    """Returns the cubic B-splines of `cells` intervals at `size` pixels, `(size, cells + 3)`, rows of unit length."""
    position = (np.arange(size) + 0.5) / size * cells
    distance = np.abs(position[:, None] - (np.arange(cells + 3) - 1)[None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    basis: Array = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
    return basis


@lru_cache(maxsize=512)
def gaussian_basis(size: int, sigma: float) -> Array:
    """Returns the blur of a line of `size` pixels as a matrix, `(size, size)`, rows of sum one; sigma in pixels."""
    distance = np.arange(size)[:, None] - np.arange(size)[None]
    # weights that underflow to denormal numbers would make the product twenty times slower
    weights = np.where(np.abs(distance) > 5 * sigma, 0, np.exp(-0.5 * (distance / sigma) ** 2))
    basis: Array = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return basis


def transform(field: Array, bases: Sequence[Array | None]) -> Array:
    """Multiplies every spatial axis of `(C, *S)` by its matrix `(new size, old size)`; None leaves an axis as it is."""
    for axis, basis in enumerate(bases, start=1):
        if basis is None:
            continue
        before, after = field.shape[:axis], field.shape[axis + 1 :]
        if after:
            lines = field.reshape(int(np.prod(before)), field.shape[axis], -1)
            field = (basis @ lines).reshape(*before, len(basis), *after)
        else:
            field = field @ basis.T
    return field


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], cells: Sequence[int], count: int) -> Array:
    """Draws Gaussian fields of unit variance, `(count, *shape)`, with about `cells` bumps along each axis."""
    bases = [spline_basis(size, min(number, size)) for size, number in zip(shape, cells, strict=True)]
    coarse = rng.standard_normal((count, *(basis.shape[1] for basis in bases)), dtype=np.float32)
    return transform(coarse, bases)


def blur(image: Array, sigmas: Sequence[float]) -> Array:
    """Blurs `(C, *S)` by a Gaussian along each axis; sigmas in pixels, those under a quarter of a pixel do nothing."""
    sizes = image.shape[1:]
    steps = [round(sigma * 10) / 10 for sigma in sigmas]
    bases = [gaussian_basis(n, s) if s >= 0.25 else None for n, s in zip(sizes, steps, strict=True)]
    return transform(image, bases)
