"""Parallel-beam projection and filtered back-projection of slices, by one sparse matrix."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float32]

ENTRIES = 2_000_000
"""Most entries of the part of the projection matrix that is held at once; larger ones are made again block by block."""


def bins(shape: tuple[int, int]) -> int:
    """Number of detector bins, one pixel wide, that see every pixel of a slice at every angle."""
    return int(np.ceil(np.hypot(*shape))) + 2


def project(slices: Array, shape: tuple[int, int], angles: int) -> Array:
    """Line integrals of slices in units of the pixel size: `(H * W, n)` to `(angles, bins, n)`.

    The angles fill half a turn evenly. Each pixel is shared linearly by the two bins next to its centre.
    """
    parts = [_matrix(shape, angles, *block) @ slices for block in _blocks(shape, angles)]
    sinogram: Array = np.concatenate(parts).reshape(angles, bins(shape), -1)
    return sinogram


def reconstruct(sinogram: Array, shape: tuple[int, int]) -> Array:
    """Filtered back-projection with the band-limited ramp (Ram-Lak): `(angles, bins, n)` to `(H * W, n)`.

    The inverse of `project` up to discretisation (Kak and Slaney 1988, chapter 3).
    """
    angles = len(sinogram)
    filtered = _ramp(sinogram).reshape(angles * sinogram.shape[1], -1)
    total = np.zeros((shape[0] * shape[1], sinogram.shape[2]), dtype=np.float32)
    for first, last in _blocks(shape, angles):
        rows = slice(first * sinogram.shape[1], last * sinogram.shape[1])
        total += _matrix(shape, angles, first, last).T @ filtered[rows]
    return total * np.float32(np.pi / angles)


def _ramp(sinogram: Array) -> Array:
    """Convolves every view with the ramp filter, sampled in space so that its mean is right."""
    size = sinogram.shape[1]
    length = 2 ** int(np.ceil(np.log2(2 * size)))
    offset = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.zeros(length)
    kernel[0] = 0.25
    odd = offset % 2 == 1
    kernel[odd] = -1 / (np.pi * offset[odd]) ** 2
    response = np.fft.rfft(kernel).real.astype(np.float32)[None, :, None]
    spectrum = np.fft.rfft(sinogram, length, axis=1) * response
    filtered: Array = np.fft.irfft(spectrum, length, axis=1)[:, :size].astype(np.float32)
    return filtered


def _blocks(shape: tuple[int, int], angles: int) -> list[tuple[int, int]]:
    """First and last angle of each part of the matrix."""
    step = max(1, ENTRIES // (2 * shape[0] * shape[1]))
    return [(first, min(first + step, angles)) for first in range(0, angles, step)]


@lru_cache(maxsize=4)
def _matrix(shape: tuple[int, int], angles: int, first: int, last: int) -> sparse.csc_matrix:
    """Projection at the angles from `first` to `last`, `((last - first) * bins, H * W)`."""
    count, size = last - first, bins(shape)
    angle = np.pi * np.arange(first, last) / angles
    row, column = ((np.arange(n) - (n - 1) / 2) for n in shape)
    place = row[:, None, None] * np.sin(angle) + column[None, :, None] * np.cos(angle) + (size - 1) / 2
    lower = np.floor(place).astype(np.int32)
    share = (place - lower).astype(np.float32).reshape(-1, count)
    index = (lower + size * np.arange(count, dtype=np.int32)).reshape(-1, count)
    data, indices = np.stack([1 - share, share], -1), np.stack([index, index + 1], -1)
    starts = np.arange(len(index) + 1, dtype=np.int32) * (2 * count)
    return sparse.csc_matrix((data.ravel(), indices.ravel(), starts), shape=(count * size, len(index)))
