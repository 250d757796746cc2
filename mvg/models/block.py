"""The transformer block of CanvasViT: full attention, or read a context and ask it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from mvg.models.attention import attention, relative_attention
from mvg.models.position import relative_tables, rotate

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of context tiles in one block, each `(B, heads, L, N, head_dim)`."""


class Attention(nn.Module):
    """Multi-head self-attention with rotary or decomposed relative positions.

    Args:
        width: Numbers in a token.
        heads: Attention heads.
        canvas: Token grid for which tables of relative positions are learned; None for none.
    """

    def __init__(self, width: int, heads: int, canvas: Sequence[int] | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.tables = None if canvas is None else relative_tables(canvas, width // heads)

    def project(self, x: Tensor, angles: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Makes queries, keys and values `(..., heads, N, head_dim)` of tokens `(..., N, width)`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3).unbind(0)
        if angles is not None:
            q, k = rotate(q, angles.to(q.dtype)), rotate(k, angles.to(k.dtype))
        return q, k, v

    def merge(self, attended: Tensor) -> Tensor:
        """Joins heads: `(..., heads, N, head_dim)` to `(..., N, width)`."""
        return self.proj(attended.transpose(-2, -3).flatten(-2))

    def forward(self, x: Tensor, angles: Tensor | None, canvas: Sequence[int]) -> Tensor:
        """Lets all tokens `(B, N, width)` of a canvas see each other."""
        q, k, v = self.project(x, angles)
        if self.tables is not None:
            return self.merge(relative_attention(q, k, v, list(self.tables), canvas))
        return self.merge(attention(q, k, v))


class Block(nn.Module):
    """Pre-norm transformer block; parameter names follow timm's, so that its weights load.

    Args:
        width: Numbers in a token.
        heads: Attention heads.
        mlp_ratio: Width of the hidden layer relative to `width`.
        drop_path: Probability that an episode skips a branch in training.
        canvas: Token grid for tables of relative positions; None for none.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, drop_path: float, canvas: Sequence[int] | None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, canvas)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, round(width * mlp_ratio))
        self.drop = DropPath(drop_path)

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.drop(attended)
        return x + self.drop(self.mlp(self.norm2(x)))

    def forward(self, x: Tensor, angles: Tensor | None, canvas: Sequence[int]) -> Tensor:
        """Full attention over `(B, N, width)`."""
        return self._rest(x, self.attn(self.norm1(x), angles, canvas))

    def read(self, x: Tensor, angles: Tensor, last: bool) -> tuple[Tensor, KeyValue]:
        """Context tiles `(B, L, N, width)`, each seeing those up to itself; returns them with their keys and values.

        The last block returns its input: nothing reads the tokens after it.
        """
        q, k, v = self.attn.project(self.norm1(x), angles)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if last:
            return x, (k, v)
        seen = [attention(q[:, tile], *_upto(k, v, tile + 1)) for tile in range(x.shape[1])]
        return self._rest(x, self.attn.merge(torch.stack(seen, 1))), (k, v)

    def ask(self, x: Tensor, angles: Tensor, context: KeyValue, counts: Sequence[int]) -> Tensor:
        """Query tiles `(B, K, N, width)`; tile j sees itself and the first `counts[j]` context tiles."""
        q, k, v = self.attn.project(self.norm1(x), angles)
        seen = []
        for tile, count in enumerate(counts):
            keys, values = (_join(old, new[:, tile]) for old, new in zip(_upto(*context, count), (k, v), strict=True))
            seen.append(attention(q[:, tile], keys, values))
        return self._rest(x, self.attn.merge(torch.stack(seen, 1)))


def _upto(k: Tensor, v: Tensor, tiles: int) -> KeyValue:
    """Keys and values `(B, heads, L, N, head_dim)` of the first tiles, as `(B, heads, tiles * N, head_dim)`."""
    return k[:, :, :tiles].flatten(2, 3), v[:, :, :tiles].flatten(2, 3)


def _join(old: Tensor, new: Tensor) -> Tensor:
    """Appends a query's own keys or values to those of its context; a context of batch size 1 serves any batch."""
    return torch.cat([old.expand(len(new), *old.shape[1:]), new], 2)
