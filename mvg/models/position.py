"""Positions on N-dimensional token grids: relative tables, one per axis, and axial rotary angles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor, nn
from torch.nn import functional as F

from mvg.canvas import to_map, to_tokens

__all__ = ["RotaryPosition", "relative_offsets", "relative_tables", "resize_position", "resize_table", "rotate"]


def relative_tables(grid: Sequence[int], head_dim: int) -> nn.ParameterList:
    """Returns a block's decomposed relative positions: one table of zeros for each axis.

    Row `n - 1 + (query - key)` of a table belongs to that offset along its axis of n tokens.

    Args:
        grid: Tokens along each axis, `(H, W)` or `(D, H, W)`.
        head_dim: Width of an attention head.

    Returns:
        Tables of shape `(2 * n - 1, head_dim)`.
    """
    return nn.ParameterList(nn.Parameter(torch.zeros(2 * size - 1, head_dim)) for size in grid)


def resize_table(table: Tensor, size: int) -> Tensor:
    """Fits a relative table to an axis of another length by linear interpolation.

    Args:
        table: `(rows, head_dim)`.
        size: Tokens along the axis.

    Returns:
        `(2 * size - 1, head_dim)`; the table itself where it fits already.
    """
    rows = 2 * size - 1
    if table.shape[0] == rows:
        return table
    return F.interpolate(table.t()[None], size=rows, mode="linear")[0].t()


def relative_offsets(size: int, device: torch.device | None = None) -> Tensor:
    """Returns the table row of each pair of positions on an axis.

    Args:
        size: Tokens along the axis.
        device: Where the result lives.

    Returns:
        `(size, size)` int64, query first: `query - key + size - 1`.
    """
    position = torch.arange(size, device=device)
    return position[:, None] - position[None, :] + size - 1


class RotaryPosition(nn.Module):
    """Axial rotary positions of an N-dimensional token grid.

    Positions are counted in tokens. The pairs of channels of a head are divided evenly between the axes; what does
    not divide is not rotated (2 of 64 channels on a 3D grid). Pair i of the m of an axis turns by
    `base ** (-i / m)` radians a token, so wavelengths run from 6.3 tokens to almost `6.3 * base`. A score then
    depends on the offset between query and key alone, and any grid size is served at run time. Tiles share these
    positions, so that the same place in query and example is at offset zero; roles tell tiles apart. To place tiles
    along an axis of their own, make it one more axis of the grid.

    Args:
        grid: Tokens along each axis, `(H, W)` or `(D, H, W)`, for which angles are kept ready.
        head_dim: Width of an attention head: even, at least twice the number of axes.
        base: Ratio of the longest to the shortest wavelength, greater than 1.

    Raises:
        ValueError: If `head_dim` is odd or too small for the axes.
    """

    angles: Tensor

    def __init__(self, grid: Sequence[int], head_dim: int, base: float = 100.0) -> None:
        super().__init__()
        if head_dim % 2 or head_dim < 2 * len(grid):
            raise ValueError(
                f"`head_dim` must be even and at least {2 * len(grid)} for {len(grid)} axes, got {head_dim}"
            )
        self.grid = tuple(grid)
        self.head_dim = head_dim
        self.base = base
        self.register_buffer("angles", self._turn(self.grid, torch.device("cpu")), persistent=False)

    def forward(self, grid: Sequence[int] | None = None) -> Tensor:
        """Returns sines and cosines for `rotate`, to be made once a forward pass and shared by all blocks.

        Args:
            grid: Tokens along each axis; None for the grid that the module was built for.

        Returns:
            `(tokens, 2 * head_dim)`, sines then cosines, tokens in row-major order.

        Raises:
            ValueError: If the grid has another number of axes.
        """
        if grid is None or tuple(grid) == self.grid:
            return self.angles
        if len(grid) != len(self.grid):
            raise ValueError(f"`grid` must have {len(self.grid)} axes, as the module was built for, got {tuple(grid)}")
        return self._turn(grid, self.angles.device).to(self.angles.dtype)

    def _turn(self, grid: Sequence[int], device: torch.device) -> Tensor:
        pairs = self.head_dim // (2 * len(grid))
        speed = torch.exp(torch.arange(pairs, device=device) * (-math.log(self.base) / pairs))
        axes = [torch.arange(size, dtype=torch.float32, device=device) for size in grid]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        angle = (place[..., None] * speed).reshape(
            -1, len(grid) * pairs
        )  # (*grid, axes, pairs) -> (tokens, axes * pairs)
        angle = F.pad(angle, (0, self.head_dim // 2 - angle.shape[1])).repeat(1, 2)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turns queries or keys by the angles of their positions.

    Args:
        x: `(..., tokens, head_dim)`.
        angles: `(tokens, 2 * head_dim)`, of `RotaryPosition`.

    Returns:
        The shape and type of `x`, norms unchanged.
    """
    rotated: Tensor = apply_rot_embed_cat(x, angles, half=True)
    return rotated


def resize_position(position: Tensor, grid: Sequence[int]) -> Tensor:
    """Resizes learned absolute positions `(1, n ** dims, width)` to another grid, bicubic in 2D and trilinear in 3D."""
    side = round(position.shape[1] ** (1 / len(grid)))
    maps = to_map(position, (side,) * len(grid))
    mode = "bicubic" if len(grid) == 2 else "trilinear"
    return to_tokens(F.interpolate(maps, size=tuple(grid), mode=mode, align_corners=False))
