"""The three streams of Medverse: encoder of the query, U-Net of the context, decoder of the query."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from mvg.models.blockwise import Fusion, Offer
from mvg.models.residual import MakeUnit, Pointwise, Up
from mvg.models.stem import conv

MakeFusion = Callable[[int], Fusion]
"""Makes the fusion of a stage from its channels."""

_SLOPE = 4.0
"""Slope of the gate that copies the query: its logit is 4 before training."""


def channels_last(dims: int) -> torch.memory_format:
    """Returns the memory format in which convolutions of 2 or 3 axes are quick and need no copies."""
    return torch.channels_last if dims == 2 else torch.channels_last_3d


class TargetEncoder(nn.Module):
    """Encodes queries.

    Args:
        dims: 2 or 3.
        inputs: Channels of images.
        widths: Channels of each stage.
        unit: Makes the residual unit of a stage.
    """

    def __init__(self, dims: int, inputs: int, widths: Sequence[int], unit: MakeUnit) -> None:
        super().__init__()
        self.embed = Pointwise(inputs, widths[0])
        self.units = nn.ModuleList(unit(width) for width in widths[:-1])
        self.downs = nn.ModuleList(conv(dims, fine, coarse, 4, 2) for fine, coarse in pairwise(widths))

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps images `(B, inputs, *S)` to the maps of each stage, finest first, and the input of the last stage."""
        maps, features = self.embed(image), []
        for unit, down in zip(self.units, self.downs, strict=True):
            maps = unit(maps)
            features.append(maps)
            maps = down(maps)
        return features, maps


class ContextUNet(nn.Module):
    """Reads examples with an eye on the query.

    Args:
        dims: 2 or 3.
        inputs: Channels of an image and its target.
        widths: Channels of each stage.
        fusion: Makes the fusion of a stage.
        unit: Makes the residual unit of a stage.
    """

    def __init__(self, dims: int, inputs: int, widths: Sequence[int], fusion: MakeFusion, unit: MakeUnit) -> None:
        super().__init__()
        self.embed = Pointwise(inputs, widths[0])
        self.units = nn.ModuleList(unit(width) for width in widths)
        self.fusions = nn.ModuleList(fusion(width) for width in widths[:-1])
        self.downs = nn.ModuleList(conv(dims, fine, coarse, 4, 2) for fine, coarse in pairwise(widths))
        self.ups = nn.ModuleList(Up(coarse, fine) for fine, coarse in reversed(list(pairwise(widths))))
        self.up_units = nn.ModuleList(unit(width) for width in reversed(widths[:-1]))

    def offers(self, features: Sequence[Tensor], place: Tensor) -> list[Offer]:
        """Prepares the query's maps at `place` for being read: once, whatever the number of examples."""
        return [cast(Fusion, fusion).offer(maps, place) for fusion, maps in zip(self.fusions, features, strict=True)]

    def begin(self, image: Tensor, target: Tensor) -> Tensor:
        """Does what does not depend on the query: images and targets `(B, C, *S)` to `(B, widths[0], *S)`."""
        joined = torch.cat([image.movedim(1, -1), target.movedim(1, -1)], -1).movedim(-1, 1)
        begun: Tensor = self.units[0](self.embed(joined))
        return begun

    def forward(
        self, begun: Tensor, offers: Sequence[Offer], place: Tensor, each: int = 1, mark: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Reads examples.

        Args:
            begun: What `begin` returned, `(each * b, widths[0], *S)`, b = B or 1.
            offers: What `offers` returned for B queries.
            place: Where the tokens of examples are, `(T, code)`.
            each: Number of examples of a query; all first examples come first, then all second examples.
            mark: Added to the maps after the first fusion, `(widths[0],)`.

        Yields:
            Maps `(each * B, width, *S / 2 ** stage)` of each stage, coarsest first.
        """
        maps, skips = begun, list[Tensor]()
        del begun
        for stage, (fusion, down) in enumerate(zip(self.fusions, self.downs, strict=True)):
            if stage:
                maps = self.units[stage](maps)
            maps = fusion(maps, [offers[stage]], place, each)
            if mark is not None and not stage:
                maps = maps + mark.to(maps.dtype).view(-1, *[1] * (maps.ndim - 2))
            skips.append(maps)
            maps = down(maps)
        maps = self.units[-1](maps)
        yield maps
        for up, unit in zip(self.ups, self.up_units, strict=True):
            maps = unit(up(maps, skips.pop()))
            yield maps


class TargetDecoder(nn.Module):
    """Paints queries from their own maps and those of the context.

    Args:
        dims: 2 or 3.
        outputs: Channels of targets.
        widths: Channels of each stage.
        fusion: Makes the fusion of a stage.
        unit: Makes the residual unit of a stage.
        copy: Adds the query, times a factor in (0, 1) for each voxel, to the paint.
    """

    def __init__(
        self,
        dims: int,
        outputs: int,
        widths: Sequence[int],
        fusion: MakeFusion,
        unit: MakeUnit,
        copy: bool = False,
    ) -> None:
        super().__init__()
        order = list(reversed(widths))
        self.units = nn.ModuleList(unit(width) for width in order)
        self.fusions = nn.ModuleList(fusion(width) for width in order)
        self.ups = nn.ModuleList(Up(coarse, fine) for coarse, fine in pairwise(order))
        self.last, self.paint = unit(order[-1]), Pointwise(order[-1], outputs)
        self.gate = Pointwise(order[-1], outputs) if copy else None
        if self.gate is not None:
            for part in (self.paint, self.gate):
                nn.init.zeros_(part.weight)
                nn.init.zeros_(part.bias)
            nn.init.ones_(self.gate.bias)

    def forward(
        self,
        image: Tensor,
        maps: Tensor,
        skips: list[Tensor],
        streams: Sequence[list[Tensor]],
        place: Tensor,
        places: Sequence[Tensor],
    ) -> Tensor:
        """Paints.

        Args:
            image: The queries, `(B, C, *S)`; their mean over channels is what may be copied.
            maps: Input of the last stage, `(B, widths[-1], *S / stride)`.
            skips: Maps of the query's other stages, finest first; emptied.
            streams: For each stream of context its maps, coarsest first; emptied.
            place: Where the query's tokens are, `(T, code)`.
            places: Where those of each stream are, `(T, code)`.

        Returns:
            `(B, outputs, *S)`.
        """
        for stage, (unit, fusion) in enumerate(zip(self.units, self.fusions, strict=True)):
            if stage:
                maps = self.ups[stage - 1](maps, skips.pop())
            maps = unit(maps)
            read = cast(Fusion, fusion)
            offers = [read.offer(stream.pop(0), where) for stream, where in zip(streams, places, strict=True)]
            maps = fusion(maps, offers, place)
        maps = self.last(maps)
        painted: Tensor = self.paint(maps)
        if self.gate is not None:
            painted = painted + torch.sigmoid(_SLOPE * self.gate(maps)) * image.mean(1, keepdim=True)
        return painted
