"""How one stream of volumes reads another: joined voxel by voxel, or by attention between blocks of voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mvg.models.residual import activate, pointwise_pair

Grouping = Literal["lattice", "block"]

_CHUNK = 1 << 20
"""Numbers of which tokens are copied at once."""


def group(maps: Tensor, blocks: int, grouping: Grouping) -> Tensor:
    """Views maps as tokens; writing into the view writes into the maps.

    Along every axis, a token of `block` grouping is a contiguous piece of the volume, as the text of Medverse has it.
    Token i of `lattice` grouping holds the voxels i, i + blocks, i + 2 * blocks, ...: what Medverse's released weights
    were trained with.

    Args:
        maps: `(B, C, *S)`, sides divisible by `blocks`.
        blocks: Tokens along each axis, p.
        grouping: Which voxels share a token.

    Returns:
        `(B, *(p, ...), *S / p, C)`: the grid of tokens, the voxels of each token, channels.
    """
    dims, view = maps.ndim - 2, maps
    for axis in reversed(range(2, maps.ndim)):
        view = view.unflatten(axis, (-1, blocks) if grouping == "lattice" else (blocks, -1))
    outer, inner = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    token, voxel = (inner, outer) if grouping == "lattice" else (outer, inner)
    return view.permute(0, *token, *voxel, 1)


def block_means(maps: Tensor, blocks: int, grouping: Grouping) -> Tensor:
    """Averages the voxels of each token, `(B, C, *S)` to `(B, T, C)` in float32.

    Axes are summed up one by one, in the order of memory, and sums are divided when they are small: a strided sum over
    all of them, and its gradient, take several times as long.
    """
    sums = maps.movedim(1, -1)
    for axis in range(1, maps.ndim - 1):
        cells, inner = ((-1, blocks), axis) if grouping == "lattice" else ((blocks, -1), axis + 1)
        sums = sums.unflatten(axis, cells).sum(inner, dtype=torch.float32)
    share: float = blocks ** (maps.ndim - 2) / math.prod(maps.shape[2:])
    return sums.flatten(1, -2) * share


def mix_into(maps: Tensor, shares: Tensor, values: Tensor, blocks: int, grouping: Grouping) -> None:
    """Adds to every token of `maps` a mixture of the tokens of `values`, voxel by voxel, in place.

    Voxels of large maps are taken in slices, so that no further copy is held; nothing is differentiated.

    Args:
        maps: `(B, C, *S)`, written to.
        shares: `(B, T, T)`, how much each token (rows) takes of each token of the values.
        values: `(B or 1, C, *S)`.
        blocks: Tokens along each axis.
        grouping: Which voxels share a token.
    """
    dims = maps.ndim - 2
    written, read = group(maps, blocks, grouping), group(values, blocks, grouping)
    slices = read.shape[1 + dims] if maps.numel() > _CHUNK else 1
    for out, part in zip(pieces(written, slices, 1 + dims), pieces(read, slices, 1 + dims), strict=True):
        mixed = shares.to(part.dtype) @ part.flatten(1, dims).flatten(2)
        out.add_(mixed.view(out.shape))


class Mix(torch.autograd.Function):
    """What `mix_into` does, differentiated: the library's gradient of writing into a view copies the maps three times.

    The maps are `(each * B, C, *S)`, the shares `(each, B, T, T)` and the values `(B or 1, C, *S)`.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, shares: Tensor, values: Tensor, blocks: int, grouping: Grouping) -> Tensor:
        """Adds to the maps in place."""
        shares, dims = shares.to(values.dtype), maps.ndim - 2
        tokens = group(values, blocks, grouping).flatten(1, dims).flatten(2)
        for part, share in zip(pieces(maps, len(shares)), shares, strict=True):
            written = group(part, blocks, grouping)
            written.add_((share @ tokens).view(written.shape))
        ctx.save_for_backward(shares, tokens)
        ctx.layout = blocks, grouping, values.shape
        ctx.mark_dirty(maps)
        return maps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of maps, shares and values; those of the maps are those of the result."""
        (gradient,), (shares, tokens) = gradients, ctx.saved_tensors
        blocks, grouping, shape = ctx.layout
        of_shares, of_tokens, dims = [], torch.zeros_like(tokens), len(shape) - 2
        for part, share in zip(pieces(gradient, len(shares)), shares, strict=True):
            each = group(part, blocks, grouping).flatten(1, dims).flatten(2).to(tokens.dtype)
            of_shares.append(each @ tokens.mT)
            of_tokens = of_tokens + (share.mT @ each).sum_to_size(tokens.shape)
        of_values = tokens.new_empty((shape[0], *shape[2:], shape[1])).movedim(-1, 1)  # channels last, as all maps
        written = group(of_values, blocks, grouping)
        written.copy_(of_tokens.view(written.shape))
        return gradient, torch.stack(of_shares), of_values, None, None


def pieces(values: Tensor, number: int, axis: int = 0) -> list[Tensor]:
    """Cuts an axis into equal pieces: views, each of which may be written to while gradients are recorded."""
    length = values.shape[axis] // number
    return [values.narrow(axis, index * length, length) for index in range(number)]


def sincos_position(blocks: int, width: int, dims: int, temperature: float = 10000.0) -> Tensor:
    """Makes fixed sine-cosine positions of a grid of tokens, `(blocks ** dims, width)`.

    The first two axes are swapped among the numbers of a position, as in the released weights of Medverse.

    Raises:
        ValueError: If the width is no multiple of `2 * dims`.
    """
    if width % (2 * dims):
        raise ValueError(f"`code` must be a multiple of {2 * dims} for {dims} axes, got {width}")
    number = width // (2 * dims)
    speed = temperature ** -(torch.arange(number) / number)
    places = torch.meshgrid([torch.arange(blocks).float()] * dims, indexing="ij")
    angles = [places[axis].flatten()[:, None] * speed for axis in (1, 0, *range(2, dims))]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)


class Offer(NamedTuple):
    """What a stream offers to those that read it.

    Attributes:
        values: `(B, C, *S)`, projected maps.
        keys: `(B, T, code)`, None where voxels meet their like.
    """

    values: Tensor
    keys: Tensor | None = None


class Fusion(nn.Module):
    """Lets maps read other maps: a residual 1x1 convolution over both, joined along channels, and GELU.

    The other maps' share of the convolution is computed once, by `offer`, for all who read them. Several streams count
    by their mean. As Neuroverse3D does it.

    Args:
        width: Channels of both.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.other = pointwise_pair(width, width, width)

    def offer(self, maps: Tensor, place: Tensor) -> Offer:
        """Prepares maps `(B, C, *S)` at places `(T, code)` for being read."""
        return Offer(self.other(maps))

    def forward(self, maps: Tensor, offers: Sequence[Offer], place: Tensor, each: int = 1) -> Tensor:
        """Reads.

        Args:
            maps: `(each * b, C, *S)`; b is the number B of episodes of the offers, or 1 where they share the maps.
            offers: One or more streams of B episodes.
            place: `(T, code)`, where the tokens of `maps` are.
            each: Number of maps of an episode; all first maps come first, then all second maps.

        Returns:
            `(each * B, C, *S)`.
        """
        fused = self.own(maps).add_(maps)
        times = each * len(offers[0].values) // len(maps)
        if times > 1:
            fused = fused.repeat_interleave(times, 0)
        return activate(self._read(fused, maps, offers, place, each))

    def _read(self, fused: Tensor, maps: Tensor, offers: Sequence[Offer], place: Tensor, each: int) -> Tensor:
        """Adds to `fused`, in place, what each of `maps` reads of the offers; returns it."""
        for part in pieces(fused, each) if each > 1 else [fused]:
            for offer in offers:
                part.add_(offer.values, alpha=1 / len(offers))
        return fused


class BlockwiseFusion(Fusion):
    """Blockwise cross-attention (BAM of Medverse): tokens of one stream attend to those of others, then as `Fusion`.

    A token is a group of voxels. Queries and keys are its mean, projected, plus a place; its values are all its voxels
    as they are. One head, no projection after it. The scores do not grow with the volume.

    Source: Hu et al., "Medverse", arXiv 2509.09232.

    Args:
        width: Channels of both.
        blocks: Tokens along each axis, p.
        grouping: Which voxels share a token, see `group`.
        code: Width of queries, keys and places.
    """

    def __init__(self, width: int, blocks: int, grouping: Grouping, code: int) -> None:
        super().__init__(width)
        self.blocks, self.grouping = blocks, grouping
        self.query, self.key = nn.Linear(width, code), nn.Linear(width, code)

    def offer(self, maps: Tensor, place: Tensor) -> Offer:
        """Prepares maps `(B, C, *S)` at places `(T, code)` for being read."""
        return Offer(self.other(maps), self.key(block_means(maps, self.blocks, self.grouping)) + place)

    def _read(self, fused: Tensor, maps: Tensor, offers: Sequence[Offer], place: Tensor, each: int) -> Tensor:
        queries = self.query(block_means(maps, self.blocks, self.grouping)) + place
        keys = torch.cat([offer.keys for offer in offers if offer.keys is not None], 1)
        scores = queries.unflatten(0, (each, -1)) @ keys.mT * queries.shape[-1] ** -0.5
        shares = scores.float().softmax(-1).chunk(len(offers), -1)
        for offer, share in zip(offers, shares, strict=True):
            if torch.is_grad_enabled():
                fused = Mix.apply(fused, share, offer.values, self.blocks, self.grouping)
                continue
            for part, mixed in zip(pieces(fused, each), share, strict=True):
                mix_into(part, mixed, offer.values, self.blocks, self.grouping)
        return fused
