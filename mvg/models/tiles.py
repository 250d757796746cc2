"""Embedded tiles, and what CanvasViT remembers of a context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvg.models.attention import KeyValue
from mvg.models.transfer import Pool


@dataclass(frozen=True)
class Tiles:
    """Embedded tiles: what the stems made of images and labels.

    Attributes:
        image: Image tokens `(B, T, N, width)`.
        label: Label tokens `(B, T, N, width)`.
        pixels: Normalised images `(B, T, C_in, *S)`.
        maps: Finer image maps, each `(B, T, c, *S / s)`.
        pool: The same with label maps, targets and what may be seen; None if the decoder does not ask.
    """

    image: Tensor
    label: Tensor
    pixels: Tensor
    maps: tuple[Tensor, ...]
    pool: Pool | None

    def pick(self, tiles: slice) -> Tiles:
        """Returns some of the tiles."""
        pool = None if self.pool is None else _map_pool(lambda x: x[:, tiles], self.pool)
        maps = tuple(x[:, tiles] for x in self.maps)
        return Tiles(self.image[:, tiles], self.label[:, tiles], self.pixels[:, tiles], maps, pool)

    def join(self, other: Tiles) -> Tiles:
        """Appends the tiles of another, repeating this one along the batch where it holds one episode."""

        def cat(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([a.expand(len(b), *a.shape[1:]), b], 1)

        pool = None
        if self.pool is not None and other.pool is not None:
            pool = Pool(
                tuple(map(cat, self.pool.images, other.pool.images)),
                tuple(map(cat, self.pool.labels, other.pool.labels)),
                cat(self.pool.targets, other.pool.targets),
                cat(self.pool.seen, other.pool.seen),
            )
        maps = tuple(map(cat, self.maps, other.maps))
        return Tiles(
            cat(self.image, other.image), cat(self.label, other.label), cat(self.pixels, other.pixels), maps, pool
        )


@dataclass(frozen=True)
class CanvasMemory:
    """What CanvasViT keeps of a context.

    Attributes:
        tiles: Embedded context tiles.
        keys_values: For each block, keys and values of the context under `ordered` attention; empty under `full`.
    """

    tiles: Tiles
    keys_values: tuple[KeyValue, ...] = ()

    def first(self, count: int) -> CanvasMemory:
        """Returns what is kept of the first pairs alone, which under `ordered` attention no later one has changed."""
        kept = tuple((keys[:, :, :count], values[:, :, :count]) for keys, values in self.keys_values)
        return CanvasMemory(self.tiles.pick(slice(count)), kept)


def _map_pool(change: Callable[[Tensor], Tensor], pool: Pool) -> Pool:
    return Pool(
        tuple(map(change, pool.images)), tuple(map(change, pool.labels)), change(pool.targets), change(pool.seen)
    )
