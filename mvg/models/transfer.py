"""How a context reaches the skips of a decoder: prototypes, codes and dense matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvg.models.stem import conv


class Pool(NamedTuple):
    """The tiles that a decoder may look at, finest maps first.

    Attributes:
        images: For each level, image maps `(B, T, c, *S / s)`.
        labels: For each level, label maps `(B, T, c', *S / s)`.
        targets: `(B, T, C_out, *S)`.
        seen: `(B, T, 1, *S)`, 1 where the target may be seen.
    """

    images: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    targets: Tensor
    seen: Tensor


def shrink(values: Tensor, size: Sequence[int]) -> Tensor:
    """Averages `(B, T, C, *S)` down to a coarser size that divides S."""
    if tuple(values.shape[3:]) == tuple(size):
        return values
    stride = [large // small for large, small in zip(values.shape[3:], size, strict=True)]
    pool = F.avg_pool2d if len(stride) == 2 else F.avg_pool3d
    small: Tensor = pool(values.flatten(0, 1), stride).unflatten(0, values.shape[:2])
    return small


def sum_pixels(known: Tensor, values: Tensor) -> Tensor:
    """Sums values over pixels, by the share of each pixel: `(B, T, N, P)` and `(B, T, N, C)` to `(B, T, P, C)`.

    Sums over many pixels are too large for float16, so that these are made in single precision.
    """
    if known.dtype != torch.float16:
        return known.transpose(2, 3) @ values.to(known.dtype)
    with torch.autocast(known.device.type, enabled=False):
        return known.float().transpose(2, 3) @ values.float()


class PrototypeTransfer(nn.Module):
    """Compares each query feature with the context's mean features under and beside the paint.

    For every target channel, the prototype is the mean feature weighted by the paint (and by one minus the paint).
    The query's features are scaled by a linear function of the prototypes, and their cosine similarity to each
    prototype, in groups of channels, is appended.

    Args:
        dims: 2 or 3.
        width: Channels of the image maps.
        out_channels: Channels of the targets.
        groups: Groups of channels that are compared apart.
    """

    def __init__(self, dims: int, width: int, out_channels: int, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups
        self.outputs = width + 2 * out_channels * groups
        self.scale = nn.Linear(2 * out_channels * width, width)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.scale.bias)

    def forward(
        self, query: Tensor, images: Tensor, labels: Tensor, pool: Pool, visible: Sequence[Sequence[int]]
    ) -> Tensor:
        """Maps query maps `(B * K, c, *s)` and the pool's maps of one level to `(B * K, outputs, *s)`."""
        size = query.shape[2:]
        target, seen = shrink(pool.targets, size), shrink(pool.seen, size)
        paint = torch.cat([target, 1 - target], 2) * seen
        weights = paint.to(images.dtype).flatten(3).transpose(2, 3)
        total = sum_pixels(weights, images.flatten(3).transpose(2, 3))
        mass = paint.flatten(3).sum(-1)
        features = query.unflatten(0, (-1, len(visible)))
        outputs = []
        for number, tiles in enumerate(visible):
            chosen = list(tiles)
            prototypes = total[:, chosen].sum(1) / (mass[:, chosen].sum(1)[..., None] + 1e-4)
            outputs.append(self._compare(features[:, number], prototypes))
        return torch.stack(outputs, 1).flatten(0, 1)

    def _compare(self, query: Tensor, prototypes: Tensor) -> Tensor:
        """Query maps `(B, c, *s)` against prototypes `(B or 1, P, c)`."""
        prototypes = prototypes.expand(len(query), -1, -1)
        scale = 1 + self.scale(prototypes.flatten(1))
        flat = F.normalize(query.flatten(2).unflatten(1, (self.groups, -1)).float(), dim=2)
        known = F.normalize(prototypes.unflatten(2, (self.groups, -1)).float(), dim=3)
        similar = torch.einsum("bgcn,bpgc->bpgn", flat, known).flatten(1, 2).unflatten(2, query.shape[2:])
        scaled = query * scale.view(*scale.shape, *(1,) * (query.ndim - 2))
        return torch.cat([scaled, similar.to(scaled.dtype)], 1)


class CodeTransfer(nn.Module):
    """Carries targets over from context pixels to query pixels of the same learned code.

    One convolution assigns every pixel softly to codes. A code's entry is the mean, over the context pixels that carry
    it and whose target may be seen, of the target and of the label map. A query pixel reads the mixture of entries that
    its own codes select: E[target | code]. With codes that follow intensity this is the context's intensity transfer
    curve; with codes that follow texture or place it is label propagation.

    Args:
        dims: 2 or 3.
        width: Channels of the image maps.
        label_width: Channels of the label maps.
        out_channels: Channels of the targets.
        codes: Number of codes.
        place: Side of the grid on which codes may prefer places; 0 for none.
    """

    def __init__(
        self, dims: int, width: int, label_width: int, out_channels: int, codes: int = 32, place: int = 8
    ) -> None:
        super().__init__()
        self.outputs = out_channels + label_width
        self.assign = conv(dims, width, codes, 1)
        self.place = nn.Parameter(0.02 * torch.randn(1, codes, *(place,) * dims)) if place else None
        self.sharpness = nn.Parameter(torch.tensor(4.0))

    def forward(
        self, query: Tensor, images: Tensor, labels: Tensor, pool: Pool, visible: Sequence[Sequence[int]]
    ) -> Tensor:
        """Maps query maps `(B * K, c, *s)` and the pool's maps of one level to `(B * K, outputs, *s)`."""
        size = query.shape[2:]
        seen = shrink(pool.seen, size)
        values = torch.cat([torch.cat([shrink(pool.targets, size), labels], 2) * seen, seen], 2)
        values = values.flatten(3).transpose(2, 3)
        known = self._codes(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        table = sum_pixels(known, values)
        asked = self._codes(query).unflatten(0, (-1, len(visible)))
        outputs = []
        for number, tiles in enumerate(visible):
            entries = table[:, list(tiles)].sum(1)
            mean = entries[..., :-1] / (entries[..., -1:] + 1e-2)
            outputs.append(asked[:, number] @ mean.expand(len(asked), -1, -1).to(asked.dtype))
        found: Tensor = torch.stack(outputs, 1).flatten(0, 1).transpose(1, 2).unflatten(2, tuple(size))
        return found

    def _codes(self, maps: Tensor) -> Tensor:
        """Assigns `(M, c, *s)` to codes, `(M, N, codes)`, each pixel's codes summing to 1."""
        logits: Tensor = self.assign(maps)
        if self.place is not None:
            mode = "bilinear" if maps.ndim == 4 else "trilinear"
            place = F.interpolate(self.place, size=maps.shape[2:], mode=mode, align_corners=False)
            logits = logits + place.to(logits.dtype)
        logits = (self.sharpness.to(logits.dtype) * logits).flatten(2).transpose(1, 2)
        with torch.autocast(logits.device.type, enabled=False):
            return logits.softmax(-1)


class Matching(nn.Module):
    """Dense matching: each query pixel attends to all pixels of the visible tiles and takes their labels over.

    Args:
        dims: 2 or 3.
        width: Channels of the image maps.
        label_width: Channels of the label maps.
        heads: Attention heads.
        dim: Width of a head.
    """

    def __init__(self, dims: int, width: int, label_width: int, heads: int = 4, dim: int = 16) -> None:
        super().__init__()
        self.heads, self.outputs = heads, heads * dim
        self.query = conv(dims, width, heads * dim, 1)
        self.key = conv(dims, width, heads * dim, 1)
        self.value = conv(dims, width + label_width, heads * dim, 1)
        self.place = nn.Parameter(0.02 * torch.randn(1, heads * dim, *(8,) * dims))

    def forward(
        self, query: Tensor, images: Tensor, labels: Tensor, pool: Pool, visible: Sequence[Sequence[int]]
    ) -> Tensor:
        """Maps query maps `(B * K, c, *s)` and the pool's maps of one level to `(B * K, outputs, *s)`."""
        size = query.shape[2:]
        mode = "bilinear" if len(size) == 2 else "trilinear"
        place = F.interpolate(self.place, size=size, mode=mode, align_corners=False)
        tiles = images.shape[1]
        q = self._split(self.query(query) + place, len(visible))
        k = self._split(self.key(images.flatten(0, 1)) + place, tiles)
        v = self._split(self.value(torch.cat([images, labels], 2).flatten(0, 1)), tiles)
        painted = []
        for number, seen in enumerate(visible):
            if not seen:
                painted.append(q.new_zeros(len(q), self.outputs, *size))
                continue
            keys, values = (torch.cat([x[:, tile] for tile in seen], 2) for x in (k, v))
            batch = (q.shape[0], *keys.shape[1:])
            found = F.scaled_dot_product_attention(q[:, number], keys.expand(batch), values.expand(batch))
            painted.append(found.transpose(2, 3).flatten(1, 2).unflatten(2, tuple(size)))
        return torch.stack(painted, 1).flatten(0, 1)

    def _split(self, maps: Tensor, tiles: int) -> Tensor:
        """`(B * T, heads * dim, *s)` to `(B, T, heads, N, dim)`."""
        heads: Tensor = maps.flatten(2).unflatten(1, (self.heads, -1)).unflatten(0, (-1, tiles)).transpose(3, 4)
        return heads
