"""Point spread and slice profiles as small matrices along single axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.kspace import along, from_lines, to_lines

Profile = Literal["gaussian", "box"]


def profile_matrix(size: int, centres: NDArray[np.floating], width: float, profile: Profile) -> Tensor:
    """Weights with which a detector at each centre sees the pixels of a line; rows sum to 1.

    Args:
        size: Number of pixels n; pixel j reaches from j - 0.5 to j + 0.5.
        centres: `(m,)`, in pixels.
        width: Full width at half maximum, in pixels.
        profile: "gaussian", or "box" for a rectangle of that width.

    Returns:
        `(m, n)`, float32.
    """
    pixels = np.arange(size)[None]
    if profile == "gaussian":
        weights = np.exp(-4 * np.log(2) * ((pixels - centres[:, None]) / width) ** 2)
    else:
        low, high = centres[:, None] - width / 2, centres[:, None] + width / 2
        weights = np.clip(np.minimum(pixels + 0.5, high) - np.maximum(pixels - 0.5, low), 0, None)
    return torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32))


def linear_matrix(size: int, centres: NDArray[np.floating]) -> Tensor:
    """Interpolates samples at ascending centres linearly to all pixels of a line, constant beyond; `(size, m)`."""
    columns = [np.interp(np.arange(size), centres, unit) for unit in np.eye(len(centres))]
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32))


def multiply(image: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Multiplies every axis of S of `(C, *S)` by its matrix `(new size, old size)`; None leaves an axis as it is."""
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is not None:
            image = torch.tensordot(matrix, image, dims=([1], [axis])).movedim(0, axis)
    return image.contiguous()


def truncate(image: Tensor, axis: int, factor: float) -> Tensor:
    """Drops the frequencies of an axis of S from `1 / (2 factor)` cycles a pixel on, as where none was acquired."""
    size = image.shape[axis + 1]
    frequency = torch.arange(size) - size // 2
    kept = frequency.abs() < size / (2 * factor)
    return from_lines(to_lines(image, axis) * along(kept.float(), axis, image.ndim - 1), axis).real
