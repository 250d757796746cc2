"""Lines of k-space along one axis of an image: what undersampling, motion and ghosts change.

A degradation that treats all samples of a phase-encoding line alike needs the Fourier transform along that axis only:
the transforms along the other axes cancel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mvg.data.fields import smooth_noise


def to_lines(image: Tensor, axis: int) -> Tensor:
    """Fourier transform `(C, *S)` along one axis of S, unitary, frequency 0 at index n // 2; complex."""
    place = axis + 1
    lines: Tensor = torch.fft.fftshift(torch.fft.fft(image, dim=place, norm="ortho"), dim=place)
    return lines


def from_lines(lines: Tensor, axis: int) -> Tensor:
    """Inverse of `to_lines`; complex."""
    place = axis + 1
    image: Tensor = torch.fft.ifft(torch.fft.ifftshift(lines, dim=place), dim=place, norm="ortho")
    return image


def along(values: Tensor, axis: int, dims: int) -> Tensor:
    """Shapes one value a line `(n,)` so that it multiplies `(C, *S)` along one of `dims` axes."""
    return values.view(*(len(values) if place == axis else 1 for place in range(dims)))


def central(size: int, count: int) -> slice:
    """The `count` lines around frequency 0 of `size`."""
    start = size // 2 - count // 2
    return slice(start, start + count)


def smooth_phase(shape: Sequence[int], amplitude: float, rng: np.random.Generator) -> Tensor:
    """Draws unit complex numbers `(*S)` whose phase varies smoothly, at most by `amplitude` radians from 0."""
    field = smooth_noise(rng, shape, (1,) * len(shape), 1)[0]
    phase = amplitude * field / max(float(np.abs(field).max()), 1e-6)
    return torch.polar(torch.ones(tuple(shape)), torch.from_numpy(phase.astype(np.float32)))
