"""Decoders: from the tokens of a tile to its painted target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvg.canvas import split, to_map
from mvg.configuration import Configurable
from mvg.models.stem import ConvBlock, ConvStem, FineBlock, Stem, conv
from mvg.models.transfer import CodeTransfer, Matching, Pool, PrototypeTransfer

_SLOPE = 4.0
"""Slope of the gate that copies the query: its logit is 4 before training."""


class Decoder(metaclass=Configurable):
    """The plan of a decoder.

    Attributes:
        needs_pool: Whether it looks at the context.
        joined: Whether the tiles of an episode are painted as one canvas.
    """

    needs_pool: bool = False
    joined: bool = False

    @abstractmethod
    def taps(self, depth: int) -> tuple[int, ...]:
        """Returns the numbers of the blocks whose tokens it reads."""

    @abstractmethod
    def build(self, dims: int, stem: Stem, width: int, depth: int, out_channels: int) -> DecoderModule:
        """Builds the module."""


class DecoderModule(nn.Module):
    """Paints tiles.

    Attributes:
        supervision: Weight in the loss of the coarser paints that it returns in training.
    """

    supervision: float = 0.0

    @abstractmethod
    def forward(
        self,
        taps: Sequence[Tensor],
        grid: Sequence[int],
        image: Tensor,
        maps: Sequence[Tensor],
        pool: Pool | None,
        visible: Sequence[Sequence[int]],
    ) -> tuple[Tensor, ...]:
        """Paints `M = B * K` tiles, K of each episode.

        Args:
            taps: Tokens `(M, N, width)` of the tapped blocks.
            grid: Token grid of a tile.
            image: `(M, C_in, *S)`.
            maps: Image maps of the painted tiles, `(M, c, *S / s)`, finest first.
            pool: What may be looked at, if the decoder needs it.
            visible: For each of the K tiles, the numbers of the pool's tiles that it may look at.

        Returns:
            The paint `(M, C_out, *S)`; in training, coarser paints of the same size may follow (deep supervision).
        """


class TwoConvHead(Decoder):
    """The head of MVG and Painter: tokens of four depths, a linear map to pixels, and two convolutions.

    Args:
        channels: Channels at full resolution.
        number: Number of taps, evenly spaced over the depth; each passes one shared layer normalisation.
        joined: The convolutions run over the stacked tiles, so that the edge of a tile sees its neighbour, as in the
            public code; needs `full` attention.
    """

    def __init__(self, channels: int = 64, number: int = 4, joined: bool = False) -> None:
        self.channels, self.number, self.joined = channels, number, joined

    def taps(self, depth: int) -> tuple[int, ...]:
        """Returns the last block of each quarter."""
        number = min(self.number, depth)
        return tuple(depth * (i + 1) // number - 1 for i in range(number))

    def build(self, dims: int, stem: Stem, width: int, depth: int, out_channels: int) -> DecoderModule:
        """Builds the module."""
        return _Head(dims, stem.stride, width, len(self.taps(depth)), self.channels, out_channels, self.joined)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of `(B, C, *S)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each position by itself."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _Head(DecoderModule):
    def __init__(
        self, dims: int, stride: int, width: int, taps: int, channels: int, out_channels: int, joined: bool
    ) -> None:
        super().__init__()
        self.stride, self.dims, self.channels, self.joined = stride, dims, channels, joined
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width * taps, channels * stride**dims)
        self.refine = nn.Sequential(
            conv(dims, channels, channels, 3),
            ChannelNorm(channels, eps=1e-6),
            nn.GELU(),
            conv(dims, channels, out_channels, 1),
        )

    def forward(
        self,
        taps: Sequence[Tensor],
        grid: Sequence[int],
        image: Tensor,
        maps: Sequence[Tensor],
        pool: Pool | None,
        visible: Sequence[Sequence[int]],
    ) -> tuple[Tensor, ...]:
        pixels = self.expand(torch.cat([self.norm(tokens) for tokens in taps], -1))
        if not self.joined:
            return (self.refine(self.unfold(pixels, grid)),)
        tiles = len(visible)
        stacked = pixels.unflatten(0, (-1, tiles)).flatten(1, 2)
        canvas = self.refine(self.unfold(stacked, (tiles * grid[0], *grid[1:])))
        return (split(canvas, tiles).flatten(0, 1),)

    def unfold(self, pixels: Tensor, grid: Sequence[int]) -> Tensor:
        """Lays the pixels of each token out: `(M, N, p^dims * C)` to `(M, C, *S)`."""
        return unfold(pixels, grid, self.stride, self.channels)


def unfold(pixels: Tensor, grid: Sequence[int], patch: int, channels: int) -> Tensor:
    """Lays out the pixels that each token holds.

    Args:
        pixels: `(M, N, patch ** dims * channels)`.
        grid: Token grid, N tokens on `dims` axes.
        patch: Pixels of a token along each axis.
        channels: Channels of a pixel.

    Returns:
        `(M, channels, *(grid * patch))`, channels last in memory.
    """
    dims = len(grid)
    cells = pixels.view(len(pixels), *grid, *(patch,) * dims, channels)
    cell_axes, pixel_axes = range(1, dims + 1), range(dims + 1, 2 * dims + 1)
    order = [axis for pair in zip(cell_axes, pixel_axes, strict=True) for axis in pair]
    cells = cells.permute(0, *order, 2 * dims + 1)
    return cells.reshape(len(pixels), *(g * patch for g in grid), channels).movedim(-1, 1)


class UNetDecoder(Decoder):
    """A U-shaped decoder whose skips the context modulates.

    From the tokens up, each level doubles the resolution, joins the query's own map of that level with what the
    context says of it, and passes one residual block. The context speaks through `skips`:

    * `plain`: not at all (only the tokens have seen it);
    * `prototype`: each query feature is compared with the mean feature under the paint, and beside it, of each target
      channel of the context;
    * `codes`: every pixel of query and context is softly assigned to learned codes, and each code carries over the
      mean target (and label features) that its pixels have in the context: a learned, spatially exact look-up whose
      cost is linear in the number of pixels.

    Args:
        widths: Channels of the levels, finest first; the stem's by default.
        skips: How the context reaches the skips.
        codes: Number of codes a level.
        matching: Strides at which query pixels attend to context pixels (cost quadratic in their number).
        copy: Adds the query image, times a factor in (0, 1) for each pixel, to the paint; an untrained network paints
            about the query itself.
        supervision: Weight of deep supervision: the tokens alone paint a sketch at twice their resolution, which the
            lowest level refines and whose loss is added in training. Without it the tokens of a network that trains
            for minutes are hardly used: the maps of the stem learn faster. 0 for no sketch.
    """

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        skips: Literal["plain", "prototype", "codes"] = "codes",
        codes: int = 32,
        matching: Sequence[int] = (),
        copy: bool = True,
        supervision: float = 0.0,
    ) -> None:
        if supervision < 0:
            raise ValueError(f"`supervision` must not be negative, got {supervision}")
        if skips not in ("plain", "prototype", "codes"):
            raise ValueError(f"`skips` must be plain, prototype or codes, got {skips!r}")
        self.widths = None if widths is None else tuple(widths)
        self.skips, self.codes, self.matching, self.copy = skips, codes, tuple(matching), copy
        self.supervision = supervision
        self.needs_pool = skips != "plain" or bool(self.matching)

    def taps(self, depth: int) -> tuple[int, ...]:
        """Returns the last block."""
        return (depth - 1,)

    def build(self, dims: int, stem: Stem, width: int, depth: int, out_channels: int) -> DecoderModule:
        """Builds the module."""
        if not isinstance(stem, ConvStem):
            raise ValueError(f"a U-shaped decoder needs the maps of a ConvStem, got {type(stem).__name__}")
        unknown = set(self.matching) - {2**level for level in range(len(stem.widths))}
        if unknown:
            raise ValueError(f"`matching` must be among the strides of the stem's maps, got {sorted(unknown)}")
        return _UShape(dims, stem, width, out_channels, self)


class _UShape(DecoderModule):
    def __init__(self, dims: int, stem: ConvStem, width: int, out_channels: int, plan: UNetDecoder) -> None:
        super().__init__()
        widths = plan.widths or stem.widths
        if len(widths) != len(stem.widths):
            raise ValueError(f"the decoder needs one width a level of the stem ({len(stem.widths)}), got {len(widths)}")
        self.copy, self.supervision, self.out_channels = plan.copy, plan.supervision, out_channels
        self.sketch = nn.Linear(width, out_channels * 2**dims) if plan.supervision else None
        self.transfers = nn.ModuleList()
        self.matches = nn.ModuleList()
        self.blocks = nn.ModuleList()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for level, (skip, label) in enumerate(zip(stem.widths, stem.label_widths, strict=True)):
            transfer: CodeTransfer | PrototypeTransfer | None = None
            if plan.skips == "codes":
                transfer = CodeTransfer(dims, skip, label, out_channels, plan.codes, place=8 if level else 0)
            elif plan.skips == "prototype":
                transfer = PrototypeTransfer(dims, skip, out_channels)
            match = Matching(dims, skip, label) if 2**level in plan.matching else None
            below = widths[level + 1] if level + 1 < len(widths) else width
            extra = (transfer.outputs if transfer is not None else 0) + (match.outputs if match is not None else 0)
            if level == len(stem.widths) - 1 and self.sketch is not None:
                extra += out_channels
            self.transfers.append(transfer if transfer is not None else nn.Identity())
            self.matches.append(match if match is not None else nn.Identity())
            self.blocks.append(_Up(dims, below, skip + extra, widths[level], fine=level == 0))
        self.last = conv(dims, widths[0], out_channels * (2 if plan.copy else 1), 1)
        if plan.copy:
            nn.init.zeros_(self.last.get_parameter("weight"))
            nn.init.zeros_(self.last.get_parameter("bias")[:out_channels])
            nn.init.ones_(self.last.get_parameter("bias")[out_channels:])

    def forward(
        self,
        taps: Sequence[Tensor],
        grid: Sequence[int],
        image: Tensor,
        maps: Sequence[Tensor],
        pool: Pool | None,
        visible: Sequence[Sequence[int]],
    ) -> tuple[Tensor, ...]:
        tokens = self.norm(taps[-1])
        x, sketch = to_map(tokens, grid), None
        if self.sketch is not None:
            sketch = unfold(self.sketch(tokens), grid, 2, self.out_channels)
        for level in reversed(range(len(self.blocks))):
            skips = [maps[level]]
            if sketch is not None and level == len(self.blocks) - 1:
                skips.append(sketch)
            if pool is not None:
                for part in (self.transfers[level], self.matches[level]):
                    if not isinstance(part, nn.Identity):
                        skips.append(part(maps[level], pool.images[level], pool.labels[level], pool, visible))
            x = self.blocks[level](x, torch.cat(skips, 1))
        painted: Tensor = self.last(x)
        if self.copy:
            value, gate = painted.chunk(2, 1)
            painted = value + torch.sigmoid(_SLOPE * gate) * image.mean(1, keepdim=True)
        if sketch is None or not self.training:
            return (painted,)
        return painted, F.interpolate(sketch, size=image.shape[2:], mode=_smooth(sketch), align_corners=False)


class _Up(nn.Module):
    """One level: enlarge by two, join the skips, one residual block."""

    def __init__(self, dims: int, below: int, skips: int, outputs: int, fine: bool) -> None:
        super().__init__()
        self.reduce = conv(dims, below, outputs, 1)
        self.block = (FineBlock if fine else ConvBlock)(dims, outputs + skips, outputs)

    def forward(self, x: Tensor, skips: Tensor) -> Tensor:
        x = F.interpolate(self.reduce(x), size=skips.shape[2:], mode=_smooth(x), align_corners=False)
        refined: Tensor = self.block(torch.cat([x, skips], 1))
        return refined


def _smooth(maps: Tensor) -> str:
    return "bilinear" if maps.ndim == 4 else "trilinear"
