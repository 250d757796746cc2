"""SegGPT: CanvasViT's released design with a canvas for each example, and answers averaged inside every block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mvg.models.block import Block
from mvg.models.canvas_vit import CanvasViT
from mvg.models.decoder import TwoConvHead
from mvg.models.stem import PatchStem
from mvg.models.tiles import Tiles
from mvg.objective import Objective

KINDS = ("semantic", "instance")


class SegGPT(CanvasViT):
    """The network of SegGPT: each example makes a canvas of its own with the query, and the canvases share the query.

    In every block the query's tokens attend to each example apart, and what they found is averaged over the examples
    (the feature ensemble of the public code, on from the first block). The query's tokens are therefore the same in
    all canvases and are kept once; one canvas is attended to at a time, so that the memory of attention does not grow
    with the number of examples. The answer is decoded beside the first example.

    Source: Wang et al., "SegGPT: Segmenting Everything In Context", arXiv 2304.03284.

    Args:
        image_size: Size of one image, `(H, W)`; multiples of `patch`.
        in_channels: Channels of images, as many as those of targets.
        out_channels: Channels of targets.
        width: Numbers in a token.
        depth: Transformer blocks.
        heads: Attention heads.
        mlp_ratio: Width of the hidden layer of a block relative to `width`.
        patch: Side of a patch in pixels.
        channels: Channels of the decoder at full resolution.
        absolute: Side of the grid of learned absolute positions.
        merge: Number of blocks that image and label streams run apart before they are averaged.
        kind: Which learned code all tokens carry: that for `instance` or that for `semantic` segmentation.
        drop_path: Stochastic depth of the last block.
        mask_ratio: Share of label tokens that a masked episode hides.
        min_block: Smallest block of hidden tokens.
        objective: What painted pixels cost.
        mean: Subtracted from images and targets, one value a channel or one for all.
        std: Divides them.
        checkpointing: Recomputes blocks in the backward pass to save memory.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (448, 448),
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        patch: int = 16,
        channels: int = 64,
        absolute: int = 14,
        merge: int = 3,
        kind: Literal["instance", "semantic"] = "instance",
        drop_path: float = 0.1,
        mask_ratio: float = 0.5,
        min_block: int = 16,
        objective: Objective | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        checkpointing: bool = False,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"`kind` must be instance or semantic, got {kind!r}")
        super().__init__(
            image_size,
            in_channels,
            out_channels,
            width,
            depth,
            heads,
            mlp_ratio,
            PatchStem(patch, shared=True),
            TwoConvHead(channels, 4, joined=True),
            attention="full",
            position="relative",
            absolute=absolute,
            roles=False,
            merge=merge,
            drop_path=drop_path,
            mask_ratio=mask_ratio,
            min_block=min_block,
            objective=objective,
            mean=mean,
            std=std,
            checkpointing=checkpointing,
        )
        self.kind = KINDS.index(kind)
        self.types = nn.Parameter(torch.empty(len(KINDS), width).normal_(std=0.02))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tells timm's layer-wise learning-rate decay the depth of each parameter; the decoder comes last."""
        return {"stem": r"^(?:stem|segments|types|absolute)", "blocks": r"^blocks\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Names the parameters that weight decay leaves alone."""
        return {*super().no_weight_decay(), "types"}

    def _place(self, number: int, queries: int) -> Tensor:
        """Positions on a canvas of two tiles and the code of the kind, `(1, T, N, width)`."""
        place = torch.as_tensor(self._position(2), device=self.types.device)
        if place.ndim == 0:
            place = place.expand(1, 2, 1, 1)
        return torch.cat([place[:, :1].expand(-1, number - 1, -1, -1), place[:, 1:]], 1) + self.types[self.kind]

    def _full(self, tiles: Tiles, first: int) -> list[Tensor]:
        """Runs the canvases of all examples and paints the tiles from `first` on, `(B, K, C_out, *S)`."""
        batch, number = tiles.image.shape[:2]
        place, taps = self._place(number, 1), []
        streams = [tiles.image + self.segments[0] + place, tiles.label + self.segments[1] + place]
        tokens = torch.cat(streams) if self.merge else streams[0] + tiles.label + self.segments[1]
        context, query = tokens[:, :-1], tokens[:, -1]
        shown = list(range(first, number - 1)) or [0]
        for index, block in enumerate(self.blocks):
            context, query = self._run(self._ensemble, block, context, query)
            if index == self.merge - 1:
                context, query = (x.unflatten(0, (2, batch)).mean(0) for x in (context, query))
            if index in self.taps:
                laid = _beside(context, query, shown)
                taps.append(laid.unflatten(0, (2, -1)).mean(0) if index < self.merge - 1 else laid)
        pixels = _beside(tiles.pixels[:, :-1], tiles.pixels[:, -1], shown)
        painted = self._paint(taps, Tiles(taps[-1], taps[-1], pixels, (), None), None, [(0, 1)] * 2)[0]
        pairs = painted.unflatten(0, (batch, len(shown)))
        return [pairs[:, :1, 1] if first == number - 1 else torch.cat([pairs[:, :, 0], pairs[:, :1, 1]], 1)]

    def _ensemble(self, block: nn.Module, context: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Runs a block over examples `(M, L, N, width)` and the query `(M, N, width)` that they share."""
        part, canvas = cast(Block, block), (2 * self.grid[0], *self.grid[1:])
        own, found, asking = [], torch.zeros_like(query), part.norm1(query)
        for example in context.unbind(1):
            seen = part.attn(torch.cat([part.norm1(example), asking], 1), None, canvas)
            own.append(seen[:, : example.shape[1]])
            found = found + seen[:, example.shape[1] :]
        return part.finish(context, torch.stack(own, 1)), part.finish(query, found / len(own))


def _beside(context: Tensor, query: Tensor, shown: Sequence[int]) -> Tensor:
    """Pairs some examples `(B, L, ...)` with the query `(B, ...)`: `(B * n, 2, ...)`."""
    chosen = context[:, list(shown)]
    return torch.stack([chosen, query[:, None].expand_as(chosen)], 2).flatten(0, 1)
