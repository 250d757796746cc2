"""A plain vision transformer: not a network for examples, but a start for one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mvg.canvas import to_tokens
from mvg.configuration import Configurable
from mvg.models.block import Block


class ViTEncoder(nn.Module, metaclass=Configurable):
    """The encoder of a plain ViT, such as a masked autoencoder, with timm's parameter names.

    It answers nothing: a folder that holds it is a start for `CanvasViT` (`--model.pretrained FOLDER`).

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377.

    Args:
        image_size: Size of its images, `(H, W)`; multiples of `patch`.
        in_channels: Channels of images.
        width: Numbers in a token.
        depth: Transformer blocks.
        heads: Attention heads.
        mlp_ratio: Width of the hidden layer of a block relative to `width`.
        patch: Side of a patch in pixels.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (224, 224),
        in_channels: int = 3,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        patch: int = 16,
    ) -> None:
        super().__init__()
        if len(image_size) != 2 or any(side % patch or side < patch for side in image_size):
            raise ValueError(f"`image_size` must be (H, W), multiples of {patch}, got {tuple(image_size)}")
        if width % heads:
            raise ValueError(f"`width` must be a multiple of `heads`, got {width} and {heads}")
        self.image_size, self.in_channels = tuple(image_size), in_channels
        self.grid = tuple(side // patch for side in self.image_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], width).normal_(std=0.02))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(in_channels, width, patch, patch)})
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, 0.0, None) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        """Encodes normalised images `(B, C_in, H, W)` to tokens `(B, 1 + N, width)`, the class token first."""
        patches = to_tokens(self.patch_embed["proj"](image))
        tokens = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, None, self.grid)
        encoded: Tensor = self.norm(tokens)
        return encoded
