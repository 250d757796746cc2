"""Levels of a volume from coarse to fine, and windows on them; 2D and 3D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mvg.data.geometry import Placement, resize

_CHUNK = 1 << 24
"""Numbers that are resized at a time."""


@dataclass(frozen=True)
class Level:
    """One scale of a volume; every tuple holds one number for each axis of S.

    Places on a level are given by `low`, the first voxel of a window. Along axes that are shorter than the window it is
    negative: the volume then lies in the middle of the window, and the rest of the window is 0.

    Attributes:
        size: Size of the whole volume at this scale.
        shape: Its size at full resolution.
        window: Size of the network's images.
    """

    size: tuple[int, ...]
    shape: tuple[int, ...]
    window: tuple[int, ...]

    @property
    def padded(self) -> tuple[int, ...]:
        """Size of the volume with the border that short axes need."""
        return tuple(max(pair) for pair in zip(self.size, self.window, strict=True))

    @property
    def margin(self) -> tuple[int, ...]:
        """Border before the first voxel along each axis."""
        return tuple((whole - size) // 2 for whole, size in zip(self.padded, self.size, strict=True))

    @property
    def scale(self) -> tuple[float, ...]:
        """Voxels at full resolution that a voxel of this level covers along each axis, at least 1."""
        return tuple(full / size for full, size in zip(self.shape, self.size, strict=True))

    def windows(self, overlap: float) -> int:
        """Number of windows in which the level is answered, if neighbours share a part of their side."""
        sides = zip(self.padded, self.window, strict=True)
        return math.prod(math.ceil((size - side) / max(1, int(side * (1 - overlap)))) + 1 for size, side in sides)

    def centre(self, low: Sequence[int]) -> tuple[float, ...]:
        """Relative place of the middle of a window in the volume, [0, 1]."""
        parts = zip(low, self.window, self.size, strict=True)
        return tuple(min(max((first + window / 2) / size, 0.0), 1.0) for first, window, size in parts)

    def around(self, centre: Sequence[float]) -> tuple[int, ...]:
        """First voxel of the window around a relative place, moved so that it stays on the volume."""
        found = []
        for place, size, window, margin in zip(centre, self.size, self.window, self.margin, strict=True):
            low = round(place * size - window / 2)
            found.append(min(max(low, 0), size - window) if size >= window else -margin)
        return tuple(found)

    def placement(self, low: Sequence[int]) -> Placement:
        """Says which box of the full resolution becomes a window, as `fit` takes it."""
        start = [max(0, -first) for first in low]
        inner = [
            min(first + window, size) - max(first, 0)
            for first, window, size in zip(low, self.window, self.size, strict=True)
        ]
        begin = [round(max(first, 0) * scale) for first, scale in zip(low, self.scale, strict=True)]
        end = [
            round((max(first, 0) + length) * scale) for first, length, scale in zip(low, inner, self.scale, strict=True)
        ]
        box = tuple(last - first for first, last in zip(begin, end, strict=True))
        return Placement(self.shape, tuple(begin), box, tuple(start), tuple(inner), self.window)


def levels(shape: Sequence[int], window: Sequence[int]) -> list[Level]:
    """Lists the scales of a volume, coarse to fine; training and inference use this list.

    The first fits into one window, each further one doubles the resolution, the last is the volume itself. Each axis
    goes its own way: one that fits into the window is never resampled (a thin volume keeps its slices), a longer one
    never becomes shorter than the window. There is at least one level.

    Args:
        shape: Size S of the volume, any.
        window: Size of the network's images.

    Raises:
        ValueError: If the numbers of axes differ, or an extent is below 1.
    """
    if len(shape) != len(window) or min(*shape, *window) < 1:
        raise ValueError(f"a volume of {tuple(shape)} does not fit a network for {tuple(window)}; give both alike axes")
    count = max(1, *(math.ceil(math.log2(size / side)) + 1 for size, side in zip(shape, window, strict=True)))
    found = []
    for halvings in reversed(range(count)):
        sizes = (
            size if size <= side else max(side, -(-size >> halvings) if halvings else size)
            for size, side in zip(shape, window, strict=True)
        )
        found.append(Level(tuple(sizes), tuple(shape), tuple(window)))
    return found


def nearest_level(scales: Sequence[Level], spacing: Sequence[float], wanted: Sequence[float]) -> int:
    """Returns the number of the level whose voxels are nearest to a size, over all axes on a logarithmic scale.

    Args:
        scales: The levels of a volume.
        spacing: Size of its voxels at full resolution.
        wanted: The size of voxels that is looked for, in the same unit.
    """

    def distance(number: int) -> float:
        parts = zip(spacing, scales[number].scale, wanted, strict=True)
        return sum(abs(math.log(space * scale / goal)) for space, scale, goal in parts)

    return min(reversed(range(len(scales))), key=distance)


def cut(values: Tensor, low: Sequence[int], window: Sequence[int]) -> Tensor:
    """Cuts a window out of an array, 0 where it leaves it.

    Args:
        values: `(C, *S)`, any floating type; may lie on disk (`torch.from_numpy` of a memory map).
        low: First voxel, negative before the array.
        window: Size of the window.

    Returns:
        `(C, *window)`, float32.
    """
    spans, border = [], []
    for first, side, size in zip(low, window, values.shape[1:], strict=True):
        begin, end = min(max(first, 0), size), max(0, min(first + side, size))
        spans.append(slice(begin, max(begin, end)))
        border.append((min(side, max(0, -first)), max(0, side - min(side, max(0, -first)) - max(0, end - begin))))
    inside = values[(slice(None), *spans)].float()
    return F.pad(inside, [n for pair in reversed(border) for n in pair]) if any(map(any, border)) else inside


def enlarge(values: Tensor, size: Sequence[int], low: Sequence[int], window: Sequence[int]) -> Tensor:
    """Cuts a window out of an array that is brought to a larger size, without making it whole.

    Args:
        values: `(C, *S)`.
        size: Size to which the array is resized linearly, not below S.
        low: First voxel of the window on the resized array.
        window: Size of the window.

    Returns:
        `(C, *window)`, float32, what `cut(resize(values, size), low, window)` returns.
    """
    axes = []
    for axis, (first, side, full) in enumerate(zip(low, window, size, strict=True), start=1):
        held = values.shape[axis]
        place = torch.arange(first, first + side, device=values.device)
        at = ((place + 0.5) * (held / full) - 0.5).clamp(0, held - 1)
        below = at.floor().long()
        above, begin = (below + 1).clamp(max=held - 1), int(below[0])
        values = values.narrow(axis, begin, int(above[-1]) + 1 - begin)
        axes.append((axis, below - begin, above - begin, at - below, (place >= 0) & (place < full)))
    found = values.float()
    for axis, below, above, share, inside in axes:
        lower, upper = found.index_select(axis, below), found.index_select(axis, above)
        found = torch.lerp(lower, upper, _along(share, axis, found.ndim).expand_as(lower))
        found = found * _along(inside, axis, found.ndim)
    return found


def _along(values: Tensor, axis: int, axes: int) -> Tensor:
    """Lays numbers along one of several axes."""
    return values.float().view(*(-1 if number == axis else 1 for number in range(axes)))


def shrink(values: Tensor, size: Sequence[int], largest: bool = False) -> Tensor:
    """Reduces an array; a few planes at a time are held in single precision.

    Args:
        values: `(C, *S)`, any floating type; may lie on disk.
        size: New size, not above S.
        largest: Take the largest value that a new voxel covers, so that small structures stay, instead of the mean.

    Returns:
        `(C, *size)` of the same type.
    """
    if tuple(values.shape[1:]) == tuple(size):
        return values
    if largest:
        pool = F.adaptive_max_pool2d if len(size) == 2 else F.adaptive_max_pool3d
        return torch.cat([pool(channel[None].float(), tuple(size)).to(values.dtype) for channel in values])
    if len(size) == 2:
        return resize(values.float(), size).to(values.dtype)
    channels, depth, height, width = values.shape
    planes = values.new_empty(channels, depth, *size[1:])
    step = max(1, _CHUNK // (channels * height * width))
    for first in range(0, depth, step):
        part = values[:, first : first + step].float()
        small = resize(part.reshape(-1, height, width), size[1:])
        planes[:, first : first + step] = small.view(channels, -1, *size[1:]).to(values.dtype)
    reduced = values.new_empty(channels, *size)
    step = max(1, _CHUNK // (channels * depth * size[2]))
    for first in range(0, size[1], step):
        part = planes[:, :, first : first + step].float()
        reduced[:, :, first : first + step] = resize(part, (size[0], *part.shape[2:])).to(values.dtype)
    return reduced
