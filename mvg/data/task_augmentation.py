"""Random changes of the task itself, the same for query and context: what is painted, and in which contrast images are.

A network that meets inverted masks, outlines, grown and shrunk structures and contrasts that no scanner makes has to
read its examples to know what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvg.configuration import Configurable
from mvg.episode import Pair

_CONVOLUTIONS = {2: F.conv2d, 3: F.conv3d}
_POOLS = {2: F.max_pool2d, 3: F.max_pool3d}


@dataclass(frozen=True)
class TaskChange:
    """A drawn change of a task.

    Attributes:
        invert: Targets become 1 minus what they were.
        edges: Targets become their outlines.
        grow: Pixels by which bright parts of targets grow; negative to shrink them.
        contrast: Seed of the random network that changes the contrast of images; None for none.
    """

    invert: bool = False
    edges: bool = False
    grow: int = 0
    contrast: int | None = None

    def facts(self) -> dict[str, Any]:
        """Returns the change as plain values, for the spec of an episode."""
        return asdict(self)


class TaskAugmentation(metaclass=Configurable):
    """Draws one change of the task for each episode and applies it to the query and every pair of the context alike.

    Growing comes first, then edges, then inversion. Images keep their mean and spread when their contrast is changed.

    Args:
        invert: Probability that targets are inverted, [0, 1].
        edges: Probability that targets become their outlines (Sobel), [0, 1].
        grow: Probability that bright parts of targets grow or shrink, [0, 1].
        contrast: Probability that images pass a random convolutional network, [0, 1].
        radius: Largest number of pixels by which parts grow or shrink.
        layers: Layers of the random network.
        channels: Channels between its layers.
    """

    def __init__(
        self,
        invert: float = 0.1,
        edges: float = 0.1,
        grow: float = 0.1,
        contrast: float = 0.3,
        radius: int = 2,
        layers: int = 4,
        channels: int = 2,
    ) -> None:
        for name, share in (("invert", invert), ("edges", edges), ("grow", grow), ("contrast", contrast)):
            if not 0 <= share <= 1:
                raise ValueError(f"`{name}` is a probability, got {share}")
        for name, number in (("radius", radius), ("layers", layers), ("channels", channels)):
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}")
        self.invert, self.edges, self.grow, self.contrast = invert, edges, grow, contrast
        self.radius, self.layers, self.channels = radius, layers, channels

    def draw(self, rng: np.random.Generator) -> TaskChange:
        """Draws the change of one episode."""
        invert, edges, grow, contrast = rng.random(4) < (self.invert, self.edges, self.grow, self.contrast)
        size = int(rng.integers(1, self.radius + 1)) * int(rng.choice([-1, 1]))
        return TaskChange(bool(invert), bool(edges), size * int(grow), int(rng.integers(2**31)) if contrast else None)

    def apply(self, pairs: Sequence[Pair], change: TaskChange, is_label: bool) -> list[Pair]:
        """Applies a change to all pairs of an episode.

        Args:
            pairs: Images `(C_in, *S)` and targets `(C_out, *S)`.
            change: What was drawn.
            is_label: Outlines are drawn at full brightness.
        """
        return [
            replace(
                pair,
                image=self.recolour(pair.image, change.contrast),
                target=None if pair.target is None else change_target(pair.target, change, is_label),
            )
            for pair in pairs
        ]

    def recolour(self, image: Tensor, seed: int | None) -> Tensor:
        """Passes the channels of an image `(C, *S)` through the random network of a seed, mixed with the image."""
        if seed is None:
            return image
        rng, dims = np.random.default_rng(seed), image.ndim - 1
        share, values = float(rng.random()), image[:, None]
        for layer in range(self.layers):
            size = int(rng.choice([1, 3]))
            last = layer == self.layers - 1
            shape = (1 if last else self.channels, values.shape[1], *(size,) * dims)
            weight = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
            bias = torch.from_numpy(rng.normal(size=shape[0]).astype(np.float32))
            padded = F.pad(values, (size // 2,) * (2 * dims), mode="replicate")
            values = _CONVOLUTIONS[dims](padded, weight, bias)
            values = values if last else F.leaky_relu(values)
        mixed = share * values[:, 0] + (1 - share) * image
        axes = tuple(range(1, image.ndim))
        spread = mixed.std(axes, keepdim=True).clamp(min=1e-6)
        level = (mixed - mixed.mean(axes, keepdim=True)) / spread
        changed: Tensor = level * image.std(axes, keepdim=True) + image.mean(axes, keepdim=True)
        return changed.clamp(0, 1)


def change_target(target: Tensor, change: TaskChange, is_label: bool) -> Tensor:
    """Applies a change to a target `(C, *S)` in [0, 1]."""
    if change.grow:
        size, sign = 2 * abs(change.grow) + 1, 1 if change.grow > 0 else -1
        target = sign * _POOLS[target.ndim - 1](sign * target[None], size, 1, abs(change.grow))[0]
    if change.edges:
        target = edges(target)
        target = (target > 0).float() if is_label else target
    return 1 - target if change.invert else target


def edges(image: Tensor) -> Tensor:
    """Returns the length of the Sobel gradient of `(C, *S)`, at most 1; a step from 0 to 1 has length 1."""
    dims = image.ndim - 1
    padded, total = F.pad(image[:, None], (1,) * (2 * dims), mode="replicate"), torch.zeros_like(image)
    for axis in range(dims):
        kernel = torch.ones((1,) * dims)
        for other in range(dims):
            line = torch.tensor([-1.0, 0.0, 1.0] if other == axis else [0.25, 0.5, 0.25])
            kernel = kernel * line.reshape([3 if each == other else 1 for each in range(dims)])
        total += _CONVOLUTIONS[dims](padded, kernel[None, None])[:, 0] ** 2
    return total.sqrt().clamp(max=1)
