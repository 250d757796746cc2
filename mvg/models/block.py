"""The transformer block of CanvasViT: full attention, or read a context and ask it."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from mvg.models.attention import KeyValue, ask_in_order, attention, read_in_order, relative_attention
from mvg.models.position import relative_tables, rotate


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
        merged: Tensor = self.proj(attended.transpose(-2, -3).flatten(-2))
        return merged

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

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Adds what was attended to, and the perceptron, to the tokens."""
        x = x + self.drop(attended)
        x = x + self.drop(self.mlp(self.norm2(x)))
        return x

    def forward(self, x: Tensor, angles: Tensor | None, canvas: Sequence[int]) -> Tensor:
        """Full attention over `(B, N, width)`."""
        return self.finish(x, self.attn(self.norm1(x), angles, canvas))

    def read(
        self, x: Tensor, angles: Tensor, last: bool = False, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        """Context tiles `(B, L, N, width)`, each seeing those up to itself; returns them with their keys and values.

        `past` holds keys and values of tiles before these. The last block returns its input: nothing reads the tokens
        after it.
        """
        q, k, v = (part.transpose(1, 2) for part in self.attn.project(self.norm1(x), angles))
        if last:
            return x, (k, v)
        return self.finish(x, self.attn.merge(read_in_order(q, k, v, past).transpose(1, 2))), (k, v)

    def ask(self, x: Tensor, angles: Tensor, context: KeyValue, counts: Sequence[int]) -> Tensor:
        """Query tiles `(B, K, N, width)`; tile j sees itself and the first `counts[j]` context tiles."""
        q, k, v = (part.transpose(1, 2) for part in self.attn.project(self.norm1(x), angles))
        return self.finish(x, self.attn.merge(ask_in_order(q, k, v, context, counts).transpose(1, 2)))
