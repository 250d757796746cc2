"""Attention that never holds tokens x tokens numbers of all heads: with relative positions, and in the order of tiles.

Relative positions are computed in one of two ways, with the same result. On a CPU in full precision, `_BlockAttention`
works through blocks of scores, and makes them again for the gradients: about twice as fast there as all scores at once,
and faster than the fused kernel, which has to multiply the extra channels. Everywhere else PyTorch's fused attention
runs, with relative positions written as extra channels of queries and keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mvg.models.position import relative_offsets, resize_table

__all__ = ["KeyValue", "ask_in_order", "attention", "read_in_order", "relative_attention"]

DIRECT_SCORES = 1 << 16
"""Scores of a head up to which attention in half precision on a CPU holds them all."""

BLOCK_SCORES = 1 << 22
"""Scores that are held at a time, 16 MiB in float32: little beside a network, enough for operations to be long."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention without a mask, scaled by `head_dim ** -0.5`.

    Args:
        q: Queries, `(B, heads, tokens, head_dim)`.
        k: Keys, `(B, heads, keys, head_dim)`.
        v: Values, `(B, heads, keys, head_dim)`.

    Returns:
        `(B, heads, tokens, head_dim)`.
    """
    if q.device.type == "cpu" and _reduced(q) and q.shape[2] * k.shape[2] <= DIRECT_SCORES:
        return _direct_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _reduced(q: Tensor) -> bool:
    return q.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")


def _direct_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by two products: on a CPU, the fused kernel's gradients of short sequences take three times as long."""
    scores = torch.bmm(q.flatten(0, 1) * q.shape[-1] ** -0.5, k.flatten(0, 1).mT)
    return torch.bmm(scores.softmax(-1).to(v.dtype), v.flatten(0, 1)).view(*q.shape[:3], v.shape[-1])


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, tables: Sequence[Tensor], grid: Sequence[int], *, scale: float | None = None
) -> Tensor:
    """Softmax attention over a token grid with decomposed relative positions.

    The score of a query and a key is `scale * q . k`, plus `q . table[n - 1 + (query - key)]` for each axis, where
    query and key are positions along this axis of n tokens; there q is not scaled.

    Args:
        q: Queries, `(B, heads, tokens, head_dim)`, tokens of the grid in row-major order.
        k: Keys, like `q`.
        v: Values, like `q`.
        tables: One a grid axis, `(rows, head_dim)`, interpolated where `rows` is not `2 * n - 1`.
        grid: Tokens along each axis, `(H, W)` or `(D, H, W)`.
        scale: Factor of the scores; None for `head_dim ** -0.5`.

    Returns:
        `(B, heads, tokens, head_dim)`.

    Raises:
        ValueError: If tables, grid and tokens do not fit together.
    """
    if len(tables) != len(grid):
        raise ValueError(f"a grid of {len(grid)} axes needs as many tables, got {len(tables)}")
    if {math.prod(grid)} != {q.shape[2], k.shape[2]}:
        raise ValueError(f"grid {tuple(grid)} must hold every token, got {q.shape[2]} queries and {k.shape[2]} keys")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    tables = [resize_table(table, size) for table, size in zip(tables, grid, strict=True)]
    if _blocks_pay(q):
        out: Tensor = _BlockAttention.apply(q, k, v, scale, tuple(grid), *tables)
        return out
    return _fused_attention(q, k, v, tables, grid, scale)


def _blocks_pay(q: Tensor) -> bool:
    full = q.device.type == "cpu" and q.dtype in (torch.float32, torch.float64)
    return full and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def _relative_terms(q: Tensor, tables: Sequence[Tensor], grid: Sequence[int]) -> list[Tensor]:
    """Computes what queries add to their scores with each position along an axis.

    Args:
        q: `(G, tokens, head_dim)`.
        tables: `(2 * n - 1, head_dim)` for each axis.
        grid: Tokens along each axis.

    Returns:
        For each axis `(G, n, tokens)`, the position of the key first.
    """
    terms = []
    for axis, (table, size) in enumerate(zip(tables, grid, strict=True)):
        offsets = table[relative_offsets(size, table.device)]
        term = torch.einsum("gbnad,nkd->gkbna", _lines(q, grid, axis), offsets)
        terms.append(term.reshape(q.shape[0], size, q.shape[1]))
    return terms


def _lines(q: Tensor, grid: Sequence[int], axis: int) -> Tensor:
    """Views `(G, tokens, c)` as `(G, before, n, after, c)`, n the tokens along one axis."""
    return q.view(q.shape[0], math.prod(grid[:axis]), grid[axis], math.prod(grid[axis + 1 :]), q.shape[-1])


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, tables: Sequence[Tensor], grid: Sequence[int], scale: float
) -> Tensor:
    """Relative attention as PyTorch's fused attention: queries carry their terms, keys one-hot coordinates.

    Widths of q, k and v are made equal, and a multiple of 8, as the fused kernels ask for.
    """
    terms = [term.mT.reshape(*q.shape[:3], -1).to(q.dtype) for term in _relative_terms(_flat(q), tables, grid)]
    axes = [torch.eye(size, dtype=k.dtype, device=k.device) for size in grid]
    places = torch.meshgrid(*[torch.arange(size, device=k.device) for size in grid], indexing="ij")
    one_hot = torch.cat([axis[place.flatten()] for axis, place in zip(axes, places, strict=True)], dim=1)
    extra = sum(grid)
    padding = -(q.shape[-1] + extra) % 8
    wide_q = F.pad(torch.cat([q * scale, *terms], dim=-1), (0, padding))
    wide_k = F.pad(torch.cat([k, one_hot.expand(*k.shape[:3], extra)], dim=-1), (0, padding))
    wide_v = F.pad(v, (0, extra + padding))
    return F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=1.0)[..., : v.shape[-1]]


def _flat(x: Tensor) -> Tensor:
    """Joins batch and heads, and packs rows: a copy costs little, products of spread-out rows take twice the time."""
    return x.flatten(0, 1).contiguous()


class _Blocks:
    """Scores of relative attention, block by block, written over each other in one piece of memory.

    Keys come before queries: relative terms, their gradients and the softmax then work on long runs of memory.

    Args:
        q: Queries times scale, `(G, tokens, head_dim)`, G heads of all items of the batch.
        k: `(G, tokens, head_dim)`.
        terms: What is added for the position of the key along each axis, `(G, n, tokens)`.
        grid: Tokens along each axis.
    """

    def __init__(self, q: Tensor, k: Tensor, terms: Sequence[Tensor], grid: Sequence[int]) -> None:
        self.q, self.k, self.terms, self.grid = q, k, terms, grid
        heads, tokens = q.shape[:2]
        rows = math.ceil(tokens / math.ceil(tokens / max(1, BLOCK_SCORES // tokens)))
        group = max(1, min(heads, BLOCK_SCORES // (rows * tokens)))
        self.spans = [(head, row) for head in _spans(heads, group) for row in _spans(tokens, rows)]
        self.size = group * rows * tokens

    def buffer(self) -> Tensor:
        """Returns memory for the largest block."""
        return self.q.new_empty(self.size)

    def fit(self, buffer: Tensor, q: Tensor) -> Tensor:
        """Views the part of a buffer that holds the scores of `q`."""
        shape = (q.shape[0], self.k.shape[1], q.shape[1])
        return buffer[: math.prod(shape)].view(shape)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yields heads, query rows and their scores `(heads, keys, rows)`, which the next block overwrites."""
        buffer = self.buffer()
        for heads, rows in self.spans:
            q = self.q[heads, rows]
            scores = torch.bmm(self.k[heads], q.mT, out=self.fit(buffer, q))
            for axis, term in enumerate(self.terms):
                along = [size if axis == other else 1 for other, size in enumerate(self.grid)]
                on_grid = scores.view(scores.shape[0], *self.grid, scores.shape[2])
                on_grid.add_(term[heads, :, rows].reshape(scores.shape[0], *along, scores.shape[2]))
            yield heads, rows, scores


def _spans(total: int, step: int) -> list[slice]:
    return [slice(start, end) for start, end in pairwise([*range(0, total, step), total])]


class _BlockAttention(torch.autograd.Function):
    """Relative attention by blocks of queries; keeps inputs, output and one number a query for the gradients."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, grid: tuple[int, ...], *tables: Tensor
    ) -> Tensor:
        queries, values = _flat(q), _flat(v.mT)
        blocks = _Blocks(queries * scale, _flat(k), _relative_terms(queries, tables, grid), grid)
        out, log_sum = torch.empty_like(values), queries.new_empty(queries.shape[0], 1, queries.shape[1])
        for heads, rows, scores in blocks:
            highest = scores.amax(dim=1, keepdim=True)
            weights = scores.sub_(highest).exp_()
            total = weights.sum(dim=1, keepdim=True)
            out[heads, :, rows] = torch.bmm(values[heads], weights).div_(total)
            log_sum[heads, :, rows] = total.log_().add_(highest)
        # (B * heads, head_dim, tokens) to (B, heads, tokens, head_dim), heads inside tokens in memory: a block joins
        # heads next, which then costs and keeps no copy
        out = out.view(*q.shape[:2], -1, q.shape[2]).permute(0, 3, 1, 2).contiguous().transpose(1, 2)
        ctx.save_for_backward(q, k, v, out, log_sum, *tables)
        ctx.scale, ctx.grid = scale, grid
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sum, *tables = ctx.saved_tensors
        mean = (grad * out).sum(dim=-1).flatten(0, 1)[:, None]
        queries, values, grad, keys = _flat(q), _flat(v), _flat(grad), _flat(k.mT)
        blocks = _Blocks(queries * ctx.scale, _flat(k), _relative_terms(queries, tables, ctx.grid), ctx.grid)
        grad_q, grad_k, grad_v = torch.empty_like(keys), torch.zeros_like(queries), torch.zeros_like(values)
        grad_terms = [torch.empty_like(term) for term in blocks.terms]
        buffer = blocks.buffer()
        for heads, rows, scores in blocks:
            weights = scores.sub_(log_sum[heads, :, rows]).exp_()
            block = grad[heads, rows]
            grad_v[heads].baddbmm_(weights, block)
            grad_scores = torch.bmm(values[heads], block.mT, out=blocks.fit(buffer, block))
            grad_scores.sub_(mean[heads, :, rows]).mul_(weights)
            grad_k[heads].baddbmm_(grad_scores, blocks.q[heads, rows])
            grad_q[heads, :, rows] = torch.bmm(keys[heads], grad_scores)
            for axis, grad_term in enumerate(grad_terms):
                grad_term[heads, :, rows] = _sum_but(grad_scores, ctx.grid, axis)
        grad_queries, grad_tables = _relative_backward(queries, grad_terms, tables, ctx.grid)
        grad_queries.add_(grad_q.mT, alpha=ctx.scale)
        return grad_queries.view(q.shape), grad_k.view(k.shape), grad_v.view(v.shape), None, None, *grad_tables


def _sum_but(x: Tensor, grid: Sequence[int], axis: int) -> Tensor:
    """Sums `(G, keys, rows)` over the keys of every position along one axis, to `(G, n, rows)`."""
    folded = x.view(x.shape[0], math.prod(grid[:axis]), grid[axis], math.prod(grid[axis + 1 :]), x.shape[2])
    others = [dim for dim in (1, 3) if folded.shape[dim] > 1]
    return (folded.sum(dim=others, keepdim=True) if others else folded).reshape(x.shape[0], grid[axis], -1)


def _relative_backward(
    q: Tensor, grad_terms: Sequence[Tensor], tables: Sequence[Tensor], grid: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Returns the gradients of q `(G, tokens, head_dim)` and of the tables that come through `_relative_terms`."""
    grad_q, grad_tables = torch.zeros_like(q), []
    for axis, (grad_term, table) in enumerate(zip(grad_terms, tables, strict=True)):
        offsets = relative_offsets(grid[axis], table.device)
        lines = _lines(q, grid, axis)
        grad_lines = grad_term.view(*grad_term.shape[:2], *lines.shape[1:4])
        _lines(grad_q, grid, axis).add_(torch.einsum("gkbna,nkd->gbnad", grad_lines, table[offsets]))
        grad_pairs = torch.einsum("gkbna,gbnad->nkd", grad_lines, lines)
        grad_tables.append(torch.zeros_like(table).index_add_(0, offsets.flatten(), grad_pairs.flatten(0, 1)))
    return grad_q, grad_tables


KeyValue = tuple[Tensor, Tensor]
"""Keys and values of context tiles, `(B, heads, T, tokens, head_dim)` each."""


def read_in_order(q: Tensor, k: Tensor, v: Tensor, past: KeyValue | None = None) -> Tensor:
    """Attention among context tiles: a tile sees itself and the tiles before it.

    Args:
        q: `(B, heads, T, tokens, head_dim)`, T of any number from 1.
        k: Like `q`.
        v: Like `q`.
        past: Keys and values of tiles that were read before these; a batch of 1 serves any batch.

    Returns:
        The shape of `q`.
    """
    known = 0 if past is None else past[0].shape[2]
    if past is not None:
        k, v = (_after(old, new) for old, new in zip(past, (k, v), strict=True))
    seen = [attention(q[:, :, tile], *_first(k, v, known + tile + 1)) for tile in range(q.shape[2])]
    return torch.stack(seen, dim=2)


def ask_in_order(q: Tensor, k: Tensor, v: Tensor, context: KeyValue, counts: Sequence[int]) -> Tensor:
    """Attention of query tiles: tile j sees itself and the first `counts[j]` context tiles, never another query.

    Args:
        q: `(B, heads, Q, tokens, head_dim)`; tokens may be another number than in the context.
        k: Like `q`.
        v: Like `q`.
        context: Keys and values of the context; a batch of 1 serves any batch.
        counts: For each query tile, how many context tiles it sees, from 0 on.

    Returns:
        The shape of `q`.

    Raises:
        ValueError: If `counts` does not fit the queries or the context.
    """
    if len(counts) != q.shape[2] or max(counts) > context[0].shape[2]:
        raise ValueError(f"{q.shape[2]} queries and {context[0].shape[2]} context tiles do not fit counts {counts}")
    seen = []
    for tile, count in enumerate(counts):
        keys, values = (
            torch.cat([old.expand(len(q), *old.shape[1:]), new[:, :, tile]], dim=2)
            for old, new in zip(_first(*context, count), (k, v), strict=True)
        )
        seen.append(attention(q[:, :, tile], keys, values))
    return torch.stack(seen, dim=2)


def _first(k: Tensor, v: Tensor, tiles: int) -> KeyValue:
    """Joins the first tiles: `(B, heads, tiles * tokens, head_dim)` each."""
    return k[:, :, :tiles].flatten(2, 3), v[:, :, :tiles].flatten(2, 3)


def _after(old: Tensor, new: Tensor) -> Tensor:
    """Joins cached and new tiles; a cache of batch size 1 serves any batch."""
    return torch.cat([old.expand(new.shape[0], *old.shape[1:]), new], dim=2)
