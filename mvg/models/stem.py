"""Stems: from pixels to tokens, for images and for labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvg.configuration import Configurable


class Pyramid(NamedTuple):
    """What a stem makes of a batch of images: tokens as a map, and the finer maps before it (finest first)."""

    tokens: Tensor
    maps: tuple[Tensor, ...] = ()


def conv(dims: int, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """Makes a 2D or 3D convolution that keeps the size at stride 1 and divides it at any other."""
    layer = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    padding = kernel // 2 if kernel % 2 else (kernel - stride) // 2
    return layer(inputs, outputs, kernel, stride, padding)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with group normalisation and GELU, and a residual path.

    Args:
        dims: 2 or 3.
        inputs: Channels in.
        outputs: Channels out, a multiple of 8.
    """

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = conv(dims, inputs, outputs, 3)
        self.second = conv(dims, outputs, outputs, 3)
        self.norm_first = nn.GroupNorm(max(1, outputs // 16), outputs)
        self.norm_second = nn.GroupNorm(max(1, outputs // 16), outputs)
        self.skip = conv(dims, inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, inputs, *S)` to `(B, outputs, *S)`."""
        hidden = F.gelu(self.norm_first(self.first(x)))
        return F.gelu(self.skip(x) + self.norm_second(self.second(hidden)))


class FineBlock(nn.Module):
    """Two 3x3 convolutions with GELU and no normalisation: for full resolution, where every pass over memory counts.

    Args:
        dims: 2 or 3.
        inputs: Channels in.
        outputs: Channels out.
    """

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = conv(dims, inputs, outputs, 3)
        self.second = conv(dims, outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, inputs, *S)` to `(B, outputs, *S)`."""
        return F.gelu(self.second(F.gelu(self.first(x))))


class Stem(metaclass=Configurable):
    """The plan of a stem; the network builds one for images and one for labels.

    Attributes:
        stride: Pixels a token covers along each axis.
        widths: Channels of the finer maps, finest first; empty where a stem has none.
    """

    stride: int
    widths: tuple[int, ...] = ()

    @abstractmethod
    def build(self, dims: int, image_channels: int, label_channels: int, width: int) -> StemModule:
        """Builds the module for images of `dims` axes and tokens of `width` numbers."""


class StemModule(nn.Module):
    """Turns images and partly hidden labels into tokens."""

    @abstractmethod
    def image(self, image: Tensor) -> Pyramid:
        """Embeds images `(B, C_in, *S)`."""

    @abstractmethod
    def label(self, target: Tensor, hidden: Tensor) -> Pyramid:
        """Embeds targets `(B, C_out, *S)` of which the tokens `hidden`, `(B, *grid)` bool, must not be seen."""


class PatchStem(Stem):
    """Patch embedding: one convolution whose stride is its kernel, as in ViT, Painter and MVG.

    Args:
        patch: Side of a patch in pixels.
        shared: Images and labels share one embedding (as released; needs equal channels).
    """

    def __init__(self, patch: int = 16, shared: bool = False) -> None:
        if patch < 1:
            raise ValueError(f"`patch` must be at least 1, got {patch}")
        self.stride, self.shared = patch, shared

    def build(self, dims: int, image_channels: int, label_channels: int, width: int) -> StemModule:
        """Builds the module."""
        if self.shared and image_channels != label_channels:
            raise ValueError(
                f"a shared patch embedding needs equal channels, got {image_channels} for images and "
                f"{label_channels} for labels; set `shared: false`"
            )
        return _Patches(dims, image_channels, label_channels, width, self.stride, self.shared)


class _Patches(StemModule):
    def __init__(
        self, dims: int, image_channels: int, label_channels: int, width: int, patch: int, shared: bool
    ) -> None:
        super().__init__()
        self.embed_image = conv(dims, image_channels, width, patch, patch)
        self.embed_label = self.embed_image if shared else conv(dims, label_channels, width, patch, patch)
        self.mask_token = nn.Parameter(torch.empty(width).normal_(std=0.02))

    def image(self, image: Tensor) -> Pyramid:
        return Pyramid(self.embed_image(image))

    def label(self, target: Tensor, hidden: Tensor) -> Pyramid:
        embedded = self.embed_label(target)
        token = self.mask_token.view(1, -1, *(1,) * (target.ndim - 2)).to(embedded.dtype)
        return Pyramid(torch.where(hidden[:, None], token, embedded))


class ConvStem(Stem):
    """A convolutional pyramid: one residual block a level, strided convolutions between, stride `2 ** len(widths)`.

    Labels get a narrower pyramid of their own, fed with the target, zero where it is hidden, and a channel that says
    where.

    Args:
        widths: Channels of the maps at stride 1, 2, 4, ...
        label_share: Width of the label pyramid relative to the image pyramid.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128), label_share: float = 0.5) -> None:
        if any(value % 16 for value in widths):
            raise ValueError(f"`widths` must be multiples of 16, got {list(widths)}")
        self.widths, self.label_share = tuple(widths), label_share
        self.stride = 2 ** len(self.widths)

    @property
    def label_widths(self) -> tuple[int, ...]:
        """Channels of the label maps, finest first."""
        return tuple(max(8, 8 * round(value * self.label_share / 8)) for value in self.widths)

    def build(self, dims: int, image_channels: int, label_channels: int, width: int) -> StemModule:
        """Builds the module."""
        return _Convolutions(dims, image_channels, label_channels, width, self)


class _Tower(nn.Module):
    """One pyramid: blocks at stride 1, 2, 4, ... and a last strided convolution to the tokens."""

    def __init__(self, dims: int, channels: int, widths: Sequence[int], width: int) -> None:
        super().__init__()
        inputs = (channels, *widths[:-1])
        self.blocks = nn.ModuleList(
            ConvBlock(dims, after, after) if level else FineBlock(dims, before, after)
            for level, (before, after) in enumerate(zip(inputs, widths, strict=True))
        )
        self.down = nn.ModuleList(
            conv(dims, before, after, 2, 2) for before, after in zip(widths, (*widths[1:], width), strict=True)
        )

    def forward(self, x: Tensor) -> Pyramid:
        maps = []
        for block, down in zip(self.blocks, self.down, strict=True):
            maps.append(block(x))
            x = down(maps[-1])
        return Pyramid(x, tuple(maps))


class _Convolutions(StemModule):
    def __init__(self, dims: int, image_channels: int, label_channels: int, width: int, plan: ConvStem) -> None:
        super().__init__()
        self.image_tower = _Tower(dims, image_channels, plan.widths, width)
        self.label_tower = _Tower(dims, label_channels + 1, plan.label_widths, width)

    def image(self, image: Tensor) -> Pyramid:
        made: Pyramid = self.image_tower(image)
        return made

    def label(self, target: Tensor, hidden: Tensor) -> Pyramid:
        covered = F.interpolate(hidden[:, None].to(target.dtype), size=target.shape[2:], mode="nearest")
        made: Pyramid = self.label_tower(torch.cat([target * (1 - covered), covered], 1))
        return made


def map_places(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Names the blocks of a network that make maps, for `InContextModel.prompt_places`."""
    blocks = {name: part for name, part in network.named_modules() if isinstance(part, ConvBlock | FineBlock)}
    return {name: (1, len(block.second.get_parameter("weight"))) for name, block in blocks.items()}
