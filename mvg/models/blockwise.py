"""How one stream of volumes reads another: joined voxel by voxel, or by attention between blocks of voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mvg.models.residual import activate, pointwise_pair

Grouping = Literal["lattice", "block"]


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
    """Averages the voxels of each token, `(B, C, *S)` to `(B, T, C)` in float32."""
    dims = maps.ndim - 2
    voxels = tuple(range(1 + dims, 1 + 2 * dims))
    return group(maps, blocks, grouping).mean(voxels, dtype=torch.float32).flatten(1, dims)


def mix_into(maps: Tensor, shares: Tensor, values: Tensor, blocks: int, grouping: Grouping) -> None:
    """Adds to every token of `maps` a mixture of the tokens of `values`, voxel by voxel, in place.

    Where nothing is differentiated, voxels are taken in slices, so that no further copy of the maps is held.

    Args:
        maps: `(B, C, *S)`, written to.
        shares: `(B, T, T)`, how much each token (rows) takes of each token of the values.
        values: `(B or 1, C, *S)`.
        blocks: Tokens along each axis.
        grouping: Which voxels share a token.
    """
    dims = maps.ndim - 2
    written, read = group(maps, blocks, grouping), group(values, blocks, grouping)
    slices = 1 if torch.is_grad_enabled() else read.shape[1 + dims]
    for out, part in zip(pieces(written, slices, 1 + dims), pieces(read, slices, 1 + dims), strict=True):
        mixed = shares.to(part.dtype) @ part.flatten(1, dims).flatten(2)
        out.add_(mixed.view(out.shape))


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
        self._read(fused, maps, offers, place, each)
        return activate(fused)

    def _read(self, fused: Tensor, maps: Tensor, offers: Sequence[Offer], place: Tensor, each: int) -> None:
        """Adds to `fused`, in place, what each of `maps` reads of the offers."""
        for part in pieces(fused, each):
            for offer in offers:
                part.add_(offer.values, alpha=1 / len(offers))


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

    def _read(self, fused: Tensor, maps: Tensor, offers: Sequence[Offer], place: Tensor, each: int) -> None:
        queries = self.query(block_means(maps, self.blocks, self.grouping)) + place
        keys = torch.cat([offer.keys for offer in offers if offer.keys is not None], 1)
        scores = queries.unflatten(0, (each, -1)) @ keys.mT * queries.shape[-1] ** -0.5
        shares = scores.float().softmax(-1).chunk(len(offers), -1)
        for number, part in enumerate(pieces(fused, each)):
            for offer, share in zip(offers, shares, strict=True):
                mix_into(part, share[number], offer.values, self.blocks, self.grouping)
