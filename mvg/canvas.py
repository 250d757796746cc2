"""Canvases: tiles of an episode laid out as one token grid, and the masks on them. Pure functions on tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def stitch(tiles: Tensor) -> Tensor:
    """Stacks tiles along the first spatial axis: `(B, T, C, D, ...)` to `(B, C, T * D, ...)`."""
    return tiles.transpose(1, 2).flatten(2, 3)


def split(canvas: Tensor, tiles: int) -> Tensor:
    """Undoes `stitch`: `(B, C, T * D, ...)` to `(B, T, C, D, ...)`."""
    return canvas.reshape(*canvas.shape[:2], tiles, -1, *canvas.shape[3:]).transpose(1, 2)


def to_tokens(features: Tensor) -> Tensor:
    """Flattens a feature map `(B, C, *grid)` to tokens `(B, N, C)`."""
    return features.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """Undoes `to_tokens`: `(B, N, C)` to `(B, C, *grid)`."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def enlarge(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Repeats a token mask `(B, *grid)` to the pixels that its tokens cover, `(B, 1, *size)`, float32."""
    return F.interpolate(mask[:, None].float(), size=tuple(size), mode="nearest")


def block_mask(
    grid: Sequence[int],
    count: int,
    rng: np.random.Generator,
    min_block: int = 16,
    max_block: int | None = None,
    aspect: float = 0.3,
) -> np.ndarray:
    """Masks exactly `count` cells of a grid by random boxes (the block-wise masking of BEiT, any number of axes).

    Boxes are drawn with random volume and aspect until the count is reached or no box adds a cell; the rest is filled
    cell by cell, and a surplus taken back, at random.

    Args:
        grid: Cells along each axis.
        count: Number of cells to mask, 0 to their product.
        rng: Source of all randomness.
        min_block: Smallest volume of a box, in cells.
        max_block: Largest volume of a box; a quarter of the grid by default, at least `min_block`.
        aspect: Smallest ratio of two sides of a box; its inverse is the largest.

    Returns:
        Bool array of shape `grid`.

    Raises:
        ValueError: If `count` does not fit the grid, or `min_block` is less than 1.
    """
    cells = math.prod(grid)
    if min_block < 1:
        raise ValueError(f"`min_block` must be at least 1, got {min_block}")
    if not 0 <= count <= cells:
        raise ValueError(f"`count` must be between 0 and the {cells} cells of the grid {tuple(grid)}, got {count}")
    mask = np.zeros(tuple(grid), dtype=bool)
    low = min(min_block, max(1, count))
    high = max(low, max_block if max_block is not None else cells // 4)
    for _ in range(10 * max(1, count // low)):
        missing = count - int(mask.sum())
        if missing <= 0:
            break
        volume = rng.uniform(low, max(low, min(high, missing)))
        stretch = np.exp(-math.log(aspect) / 2 * rng.uniform(-1, 1, size=len(grid)))
        sides = (volume / np.prod(stretch)) ** (1 / len(grid)) * stretch
        box = [min(side, max(1, round(float(wanted)))) for side, wanted in zip(grid, sides, strict=True)]
        start = [int(rng.integers(0, side - extent + 1)) for side, extent in zip(grid, box, strict=True)]
        mask[tuple(slice(s, s + extent) for s, extent in zip(start, box, strict=True))] = True
    flat = mask.reshape(-1)
    surplus = int(flat.sum()) - count
    where = np.flatnonzero(flat if surplus > 0 else ~flat)
    flat[rng.choice(where, abs(surplus), replace=False)] = surplus < 0
    return mask


def episode_masks(
    mim: Tensor, seeds: Tensor, grid: Sequence[int], tiles: int, ratio: float, min_block: int, ordered: bool
) -> Tensor:
    """Draws which label tokens of each episode are hidden, `(B, T, *grid)` bool on the CPU; the query is the last tile.

    An episode trained autoregressively hides the whole label of its query, and in an ordered canvas of every tile, as
    each is asked after those before it. A masked episode (MIM) hides random blocks: over the whole canvas, or in an
    ordered canvas over each tile; at least one token is hidden.

    Args:
        mim: `(B,)` bool.
        seeds: `(B,)` int64, one seed an episode.
        grid: Token grid of one tile.
        tiles: Number of tiles, T.
        ratio: Share of tokens that a masked episode hides, (0, 1].
        min_block: Smallest volume of a masked block, in tokens.
        ordered: Whether tiles are asked one after the other.
    """
    masks = np.zeros((len(mim), tiles, *grid), dtype=bool)
    for number, (masked, seed) in enumerate(zip(mim.tolist(), seeds.tolist(), strict=True)):
        if not masked:
            masks[number, 0 if ordered else -1 :] = True
            continue
        rng = np.random.default_rng(seed)
        if ordered:
            count = max(1, round(ratio * math.prod(grid)))
            for tile in range(tiles):
                masks[number, tile] = block_mask(grid, count, rng, min_block)
        else:
            canvas = (tiles * grid[0], *grid[1:])
            drawn = block_mask(canvas, max(1, round(ratio * math.prod(canvas))), rng, min_block)
            masks[number] = drawn.reshape(tiles, *grid)
    return torch.from_numpy(masks)
