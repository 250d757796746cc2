"""UniverSeg: a U-Net in which the query and every example look at each other on every level."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvg.episode import Episode, Pair
from mvg.models.base import InContextModel
from mvg.objective import Objective

SLOPE = 0.01
"""Slope of the leaky rectifier below zero."""


class CrossBlock(nn.Module):
    """One level: query and examples are joined by a convolution, then each goes its own way.

    Args:
        query_channels: Channels of the query's map.
        example_channels: Channels of the examples' maps.
        width: Channels out.
        last: No block follows that would take the examples' maps on.
    """

    def __init__(self, query_channels: int, example_channels: int, width: int, last: bool = False) -> None:
        super().__init__()
        self.query_channels = query_channels
        self.cross = nn.Conv2d(query_channels + example_channels, width, 3, padding=1)
        self.query = nn.Conv2d(width, width, 3, padding=1)
        self.example = None if last else nn.Conv2d(width, width, 3, padding=1)

    def ask(self, query: Tensor) -> Tensor:
        """The query's share of the joining convolution, `(B, 1, width, *s)`."""
        return _each(F.conv2d, query, self.cross.weight[:, : self.query_channels], self.cross.bias, 1, 1)

    def read(self, examples: Tensor) -> Tensor:
        """The examples' share, `(B, L, width, *s)`."""
        return _each(F.conv2d, examples, self.cross.weight[:, self.query_channels :], None, 1, 1)

    def turn(self, joined: Tensor) -> Tensor:
        """Makes the query's next map of the mean over the examples."""
        return F.leaky_relu(_each(self.query, joined), SLOPE)

    def pass_on(self, joined: Tensor) -> Tensor:
        """Makes the examples' next maps."""
        if self.example is None:
            raise ValueError("the last block passes no examples on")
        return F.leaky_relu(_each(self.example, joined), SLOPE)


def _each(function: Callable[..., Tensor], maps: Tensor, *arguments: Any) -> Tensor:
    """Applies a function of `(N, C, *s)` to `(B, L, C, *s)`."""
    made: Tensor = function(maps.flatten(0, 1), *arguments).unflatten(0, maps.shape[:2])
    return made


class UniverSeg(InContextModel):
    """UniverSeg's U-Net of cross-convolutions: any number of examples, in any order.

    On each level, the query's map is joined with the map of each example and convolved; the mean over the examples
    becomes the query's next map, each result the next map of its example. As a convolution of joined maps is the sum
    of two convolutions, the query's share is computed once, whatever the number of examples.

    The last convolution gives logits; the paint is `0.5 + logit / sharpness` of the objective, so that 0.5 is an even
    chance and the objective's own logit is the network's. The published weights were trained on binary segmentation.

    Source: Butoi et al., "UniverSeg: Universal Medical Image Segmentation", arXiv 2304.06131.

    Args:
        image_size: Size of one image, `(H, W)`; multiples of `2 ** (depth - 1)`.
        in_channels: Channels of images.
        out_channels: Channels of targets.
        width: Channels of every map.
        depth: Levels.
        chunk: Examples that are held at a time where no gradient is asked for; the maps of the others are computed
            anew on every level, which bounds memory and takes about three times as long. 0 holds all.
        objective: What painted pixels cost; soft Dice on labels by default, as published.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (128, 128),
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 64,
        depth: int = 4,
        chunk: int = 0,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 2:
            raise ValueError(f"`width` must be at least 1 and `depth` at least 2, got {width} and {depth}")
        if chunk < 0:
            raise ValueError(f"`chunk` must not be negative, got {chunk}")
        if len(image_size) != 2 or any(side < 1 or side % 2 ** (depth - 1) for side in image_size):
            raise ValueError(f"`image_size` must be (H, W), multiples of {2 ** (depth - 1)}, got {tuple(image_size)}")
        self.image_size, self.in_channels, self.out_channels = tuple(image_size), in_channels, out_channels
        self.depth, self.chunk = depth, chunk
        self.objective = objective or Objective(label_regression=0.0, dice=1.0)
        first = CrossBlock(in_channels, in_channels + out_channels, width)
        down = [CrossBlock(width, width, width) for _ in range(depth - 1)]
        up = [CrossBlock(2 * width, 2 * width, width, last=level == 0) for level in reversed(range(depth - 1))]
        self.blocks = nn.ModuleList([first, *down, *up])
        self.head = nn.Conv2d(width, out_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                nn.init.zeros_(cast(Tensor, module.bias))

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Tells timm's layer-wise learning-rate decay the depth of each parameter; the head comes last."""
        return {"stem": r"^$", "blocks": r"^blocks\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Names the parameters that weight decay leaves alone: none but those it spares anyway."""
        return set()

    def head_names(self) -> tuple[str, ...]:
        """Names the last convolution."""
        return ("head",)

    def remember(self, context_images: Tensor, context_targets: Tensor) -> Tensor:
        """Joins each image with its target, `(B, L, C_in + C_out, *S)`; all else depends on the query."""
        if context_images.shape[1] < 1:
            raise ValueError("a context needs at least 1 pair, got 0")
        self._check(context_images)
        if context_targets.shape[2] != self.out_channels:
            raise ValueError(f"the network takes {self.out_channels} target channels, got {context_targets.shape[2]}")
        return torch.cat([context_images, context_targets], 2)

    def answer(self, image: Tensor, memory: Tensor, coarse: Pair | None = None) -> Tensor:
        """Paints queries; a coarse answer counts as one more example."""
        self._check(image[:, None])
        if coarse is not None and coarse.target is not None:
            more = torch.cat([coarse.image, coarse.target], 1)[:, None]
            memory = torch.cat([memory.expand(len(more), *memory.shape[1:]), more], 1)
        return 0.5 + self.logits(image, memory).float() / self.objective.sharpness

    def logits(self, image: Tensor, memory: Tensor) -> Tensor:
        """Computes what the published network returns, `(B, C_out, *S)`."""
        parts = memory.split(self.chunk or memory.shape[1], 1)
        if torch.is_grad_enabled():
            parts = (memory,)
        asked: list[Tensor] = []
        skips: list[Tensor] = []
        walks = [self._walk(part, asked) for part in parts]
        query = image[:, None]
        for number, block in enumerate(self._levels()):
            query = self._enter(number, query, skips)
            asked.append(block.ask(query))
            if len(parts) > 1:
                walks = [self._skip(part, asked, number) for part in parts]
            total = torch.stack([next(walk).sum(1, keepdim=True) for walk in walks]).sum(0)
            query = block.turn(asked[-1] + total / memory.shape[1])
        painted: Tensor = self.head(query[:, 0])
        return painted

    def _levels(self) -> Iterator[CrossBlock]:
        return cast(Iterator[CrossBlock], iter(self.blocks))

    def _skip(self, support: Tensor, asked: Sequence[Tensor], number: int) -> Iterator[Tensor]:
        """Yields what the block of a number reads of some examples, and forgets their maps."""
        yield next(islice(self._walk(support, asked), number, None))

    def _walk(self, support: Tensor, asked: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields what each block reads of some examples; `asked` grows by the query's share between two steps."""
        skips: list[Tensor] = []
        for number, block in enumerate(self._levels()):
            support = self._enter(number, support, skips)
            read = block.read(support)
            yield read
            if number + 1 < len(self.blocks):
                support = block.pass_on(asked[number] + read)

    def _enter(self, number: int, maps: Tensor, skips: list[Tensor]) -> Tensor:
        """Brings maps `(B, L, C, *s)` to the level of a block: halves them, or doubles them and joins the skip."""
        if number == 0:
            return maps
        if number < self.depth:
            skips.append(maps)
            return _each(F.max_pool2d, maps, 2)
        grown = _each(F.interpolate, maps, None, 2, "bilinear", True)
        skip = skips.pop()
        return torch.cat([grown, skip.expand(len(grown), *skip.shape[1:])], 2)

    def _check(self, images: Tensor) -> None:
        if tuple(images.shape[3:]) != self.image_size:
            raise ValueError(f"the network was built for images of {self.image_size}, got {tuple(images.shape[3:])}")
        if images.shape[2] != self.in_channels:
            raise ValueError(f"the network takes {self.in_channels} image channels, got {images.shape[2]}")

    def loss(self, episode: Episode) -> dict[str, Tensor]:
        """Asks for the whole target of each query, masked episodes too."""
        painted = self(episode.image, episode.context_images, episode.context_targets)
        each = self.objective(painted, episode.target, episode.weight, episode.is_label)
        return {"loss": each.mean(), "episodes": each.detach()}
