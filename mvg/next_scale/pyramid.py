"""A volume of a context, or the query, at all of its scales."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mvg.next_scale.level import Level, cut, levels, nearest_level, shrink


class Pyramid:
    """A volume and its target at every level.

    The finest level is the arrays themselves (they may lie on disk); the coarser ones together are at most a third of
    their size in 3D. Reduced masks are soft: the share of a voxel that is painted. `largest` keeps structures that are
    smaller than a coarse voxel, and makes all others a little larger.

    Args:
        image: `(C_in, *S)`, about [0, 1], any floating type.
        window: Size of the network's images.
        target: `(C_out, *S)`, [0, 1]; None for a query.
        spacing: Size of a voxel along each axis, in mm; by default volumes are taken to show the same body, whatever
            their number of voxels.
        largest: Reduce the target by its largest instead of its mean value.

    Raises:
        ValueError: If the target or the spacing does not fit the image.
    """

    def __init__(
        self,
        image: Tensor,
        window: Sequence[int],
        target: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        largest: bool = False,
    ) -> None:
        shape = tuple(image.shape[1:])
        if target is not None and tuple(target.shape[1:]) != shape:
            raise ValueError(f"a target must be of the size of its image {shape}, got {tuple(target.shape[1:])}")
        if spacing is not None and len(spacing) != len(shape):
            raise ValueError(f"`spacing` needs one number for each of the {len(shape)} axes, got {tuple(spacing)}")
        self.levels, self.window = levels(shape, window), tuple(window)
        self.spacing = tuple(spacing) if spacing is not None else tuple(1 / size for size in shape)
        self.images = self._reduce(image, False)
        self.targets = None if target is None else self._reduce(target, largest)

    def shows(self, target: Tensor, largest: bool = False) -> Pyramid:
        """Returns the same image with another target, `(C_out, *S)`."""
        other = copy.copy(self)
        other.targets = other._reduce(target, largest)
        return other

    def _reduce(self, values: Tensor, largest: bool) -> list[Tensor]:
        found = [values]
        for level in reversed(self.levels[:-1]):
            found.insert(0, shrink(found[0], level.size, largest))
        return found

    def spacing_at(self, number: int) -> tuple[float, ...]:
        """Size of a voxel of a level."""
        return tuple(space * scale for space, scale in zip(self.spacing, self.levels[number].scale, strict=True))

    def nearest(self, spacing: Sequence[float]) -> int:
        """Number of the level whose voxels are nearest to a size."""
        return nearest_level(self.levels, self.spacing, spacing)

    def whole(self) -> tuple[int, ...]:
        """First voxel of the one window of the coarsest level."""
        return tuple(-margin for margin in self.levels[0].margin)

    def image(self, number: int, low: Sequence[int]) -> Tensor:
        """Image in a window of a level, `(C_in, *window)`."""
        return cut(self.images[number], low, self.window)

    def target(self, number: int, low: Sequence[int]) -> Tensor:
        """Target in a window of a level, `(C_out, *window)`."""
        if self.targets is None:
            raise ValueError("a volume without target cannot be shown as context; give its target")
        return cut(self.targets[number], low, self.window)

    def starts(self, number: int) -> list[list[int]]:
        """First voxels along each axis of windows that cover a level, each half a window further than the last."""
        level: Level = self.levels[number]
        axes = []
        for size, side, margin in zip(level.size, level.window, level.margin, strict=True):
            count = 1 + max(0, math.ceil((size - side) / max(1, side // 2)))
            steps = torch.linspace(0, size - side, count).round().long().tolist() if size >= side else [-margin]
            axes.append(sorted(set(steps)))
        return axes

    def candidates(self, number: int) -> list[tuple[int, ...]]:
        """First voxels of windows that cover a level, the last axis changing fastest."""
        return list(itertools.product(*self.starts(number)))

    def painted(self, number: int) -> Tensor:
        """How much is painted in each of the windows of `candidates`, `(n,)`."""
        assert self.targets is not None
        sums = self.targets[number]
        for axis, (starts, side) in enumerate(zip(self.starts(number), self.window, strict=True), start=1):
            spans = [sums.narrow(axis, max(0, first), min(side, sums.shape[axis])) for first in starts]
            sums = torch.stack([span.sum(axis, dtype=torch.float32) for span in spans], axis)
        return sums.sum(0).flatten()
