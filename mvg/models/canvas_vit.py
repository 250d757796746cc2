"""CanvasViT: a vision transformer over the tiles of an episode (MVG), 2D and 3D."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvg.canvas import enlarge, episode_masks, to_tokens
from mvg.episode import Episode, Pair
from mvg.models.attention import KeyValue
from mvg.models.base import Ask, InContextModel
from mvg.models.block import Block
from mvg.models.checks import check_numbers, check_statistics
from mvg.models.decoder import Decoder, TwoConvHead
from mvg.models.position import RotaryPosition, resize_position
from mvg.models.stem import PatchStem, Pyramid, Stem, map_places
from mvg.models.tiles import CanvasMemory, Tiles
from mvg.models.transfer import Pool
from mvg.objective import Objective


class CanvasViT(InContextModel):
    """Medical Vision Generalist: a plain ViT that sees context pairs and query as one canvas of tiles.

    Every tile is one image with its label. `full` attention lets all tiles see each other, as released; `ordered`
    attention makes the canvas autoregressive: a tile sees itself and the tiles before it, so a context is read once
    (`remember`) whatever the number of queries, and one pass trains the answers after 1, 2, ..., L examples.

    The training objective is MVG's hybrid: an episode drawn as masked (`Episode.mim`) hides random blocks of labels
    and is asked for them; the others hide the whole label of the query (under `ordered`, of every tile in turn).

    Source: Ren et al., "Medical Vision Generalist", arXiv 2406.05565; Wang et al., "Images Speak in Images"
    (Painter), arXiv 2212.02499.

    Args:
        image_size: Size of one image, `(H, W)` or `(D, H, W)`; multiples of the stem's stride.
        in_channels: Channels of images.
        out_channels: Channels of targets.
        width: Numbers in a token.
        depth: Transformer blocks.
        heads: Attention heads.
        mlp_ratio: Width of the hidden layer of a block relative to `width`.
        stem: From pixels to tokens; 16-pixel patches by default.
        decoder: From tokens to paint; the paper's two-convolution head by default.
        attention: `ordered` or `full`.
        position: `rotary` (within a tile, any number of axes) or `relative` (decomposed relative positions over the
            whole canvas, as Painter and MVG).
        absolute: Side of the grid of learned absolute positions, 0 for none; 14 for weights of ViTs at 224 pixels.
        roles: Adds a learned code to the tokens of context and query tiles.
        merge: Number of blocks that image and label streams run apart before they are averaged; 0 adds them at the
            start. Needs `full` attention.
        drop_path: Stochastic depth of the last block; it grows linearly from 0.
        mask_ratio: Share of label tokens that a masked episode hides.
        min_block: Smallest block of hidden tokens.
        zero_shot: Weight of the first tile, painted without an example, in the loss of an ordered canvas.
        objective: What painted pixels cost.
        mean: Subtracted from images and targets, one value a channel or one for all.
        std: Divides them.
        checkpointing: Recomputes blocks in the backward pass to save memory.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        stem: Stem | None = None,
        decoder: Decoder | None = None,
        attention: Literal["ordered", "full"] = "ordered",
        position: Literal["rotary", "relative"] = "rotary",
        absolute: int = 0,
        roles: bool = True,
        merge: int = 0,
        drop_path: float = 0.0,
        mask_ratio: float = 0.5,
        min_block: int = 4,
        zero_shot: float = 0.0,
        objective: Objective | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_numbers(mask_ratio, drop_path, width=width, depth=depth, heads=heads, min_block=min_block)
        stem, decoder = stem or PatchStem(), decoder or TwoConvHead()
        self.image_size, self.in_channels, self.out_channels = tuple(image_size), in_channels, out_channels
        self._check(stem.stride, width, heads, attention, position, merge)
        if decoder.joined and attention == "ordered":
            raise ValueError(
                "a `joined` decoder needs `attention: full`, as tiles of an ordered canvas are painted apart"
            )
        check_statistics(in_channels, out_channels, mean=mean, std=std)
        self.grid = tuple(side // stem.stride for side in self.image_size)
        self.ordered, self.relative, self.merge = attention == "ordered", position == "relative", merge
        self.mask_ratio, self.min_block, self.zero_shot = mask_ratio, min_block, zero_shot
        self.objective, self.checkpointing = objective or Objective(), checkpointing
        dims = len(self.grid)
        self.stem = stem.build(dims, in_channels, out_channels, width)
        self.segments = nn.Parameter(torch.empty(2, width).normal_(std=0.02))
        self.roles = nn.Parameter(torch.empty(2, width).normal_(std=0.02)) if roles else None
        self.absolute = nn.Parameter(torch.zeros(1, 1 + absolute**dims, width)) if absolute else None
        self.rotary = None if self.relative else RotaryPosition(self.grid, width // heads)
        canvas = (2 * self.grid[0], *self.grid[1:])
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, drop_path * i / max(1, depth - 1), canvas if self.relative else None)
            for i in range(depth)
        )
        self.taps, self.needs_pool, self.joined = decoder.taps(depth), decoder.needs_pool, decoder.joined
        self.decoder = decoder.build(dims, stem, width, depth, out_channels)
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(-1, *(1,) * dims), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).view(-1, *(1,) * dims), persistent=False)
        self._initialise()

    def _check(self, stride: int, width: int, heads: int, attention: str, position: str, merge: int) -> None:
        if len(self.image_size) not in (2, 3):
            raise ValueError(f"`image_size` must be (H, W) or (D, H, W), got {self.image_size}")
        if any(side % stride or side < stride for side in self.image_size):
            raise ValueError(f"`image_size` must be a multiple of the stem's stride {stride}, got {self.image_size}")
        if width % heads:
            raise ValueError(f"`width` must be a multiple of `heads`, got {width} and {heads}")
        if attention not in ("ordered", "full"):
            raise ValueError(f"`attention` must be ordered or full, got {attention!r}")
        if position not in ("rotary", "relative"):
            raise ValueError(f"`position` must be rotary or relative, got {position!r}")
        if attention == "ordered" and (position == "relative" or merge):
            raise ValueError("`ordered` attention needs `position: rotary` and `merge: 0`")

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.absolute is not None:
            trunc_normal_(self.absolute, std=0.02)
        if len(self.image_size) == 2:
            self.to(memory_format=torch.channels_last)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tells timm's layer-wise learning-rate decay the depth of each parameter; the decoder comes last."""
        return {"stem": r"^(?:stem|segments|roles|absolute)", "blocks": r"^blocks\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Names the parameters that weight decay leaves alone, for timm's parameter groups: codes and places."""
        places = {name for name, _ in self.named_parameters() if name.rpartition(".")[2] == "place"}
        return {"segments", "roles", "absolute", "stem.mask_token", *places}

    def head_names(self) -> tuple[str, ...]:
        """Names the decoder."""
        return ("decoder",)

    def prompt_places(self) -> dict[str, tuple[int, int]]:
        """Names what the attention of every block looks at, and the blocks of stem and decoder."""
        return {f"blocks.{i}.norm1": (-1, self.segments.shape[1]) for i in range(len(self.blocks))} | map_places(self)

    def units(self) -> dict[str, tuple[str, ...]]:
        """Names the blocks, which sharded training gathers one at a time, and the methods by which they are called."""
        return {f"blocks.{i}": ("read", "ask") for i in range(len(self.blocks))}

    # ------------------------------------------------------------------ embedding

    def embed(self, images: Tensor, targets: Tensor, hidden: Tensor) -> Tiles:
        """Embeds tiles.

        Args:
            images: `(B, T, C_in, *S)`, [0, 1].
            targets: `(B, T, C_out, *S)`, [0, 1].
            hidden: `(B, T, *grid)` bool, label tokens that must not be seen.
        """
        self._check_size(images.shape[3:], images.shape[2], targets.shape[2])
        batch = images.shape[:2]
        pixels, paint = (images - self.mean) / self.std, (targets - self.mean) / self.std
        flat = pixels.flatten(0, 1)
        if pixels.ndim == 5:
            flat = flat.contiguous(memory_format=torch.channels_last)
        image = self.stem.image(flat)
        label = self.stem.label(paint.flatten(0, 1), hidden.flatten(0, 1))
        maps = tuple(x.unflatten(0, batch) for x in image.maps)
        pool = self._pool(maps, label, targets, hidden) if self.needs_pool else None
        tokens = [to_tokens(x.tokens).unflatten(0, batch) for x in (image, label)]
        return Tiles(tokens[0], tokens[1], pixels, maps, pool)

    def _pool(self, maps: tuple[Tensor, ...], label: Pyramid, targets: Tensor, hidden: Tensor) -> Pool:
        batch = targets.shape[:2]
        seen = 1 - enlarge(hidden.flatten(0, 1), targets.shape[3:])
        labels = tuple(x.unflatten(0, batch) for x in label.maps)
        return Pool(maps, labels, targets, seen.unflatten(0, batch).to(targets.dtype))

    def _check_size(self, size: Sequence[int], in_channels: int, out_channels: int) -> None:
        if tuple(size) != self.image_size:
            raise ValueError(f"the network was built for images of {self.image_size}, got {tuple(size)}; resize them")
        if (in_channels, out_channels) != (self.in_channels, self.out_channels):
            raise ValueError(
                f"the network takes {self.in_channels} image and {self.out_channels} target channels, "
                f"got {in_channels} and {out_channels}"
            )

    def _position(self, tiles: int) -> Tensor | float:
        """Absolute positions, `(1, tiles or 1, N, width)`."""
        if self.absolute is None:
            return 0.0
        grid = (tiles * self.grid[0], *self.grid[1:]) if self.relative else self.grid
        place: Tensor = resize_position(self.absolute[:, 1:], grid).unflatten(1, (-1, math.prod(self.grid)))
        return place

    def _tokens(self, tiles: Tiles, queries: int) -> Tensor:
        """Sums image and label tokens and role codes, the last `queries` tiles being queries; `(B, T, N, width)`."""
        number = tiles.image.shape[1]
        return tiles.image + tiles.label + self.segments.sum(0) + self._place(number, queries)

    def _place(self, number: int, queries: int) -> Tensor | float:
        """What tells tokens apart before any content: positions and role codes, `(1, T or 1, N, width)`."""
        if self.roles is None:
            return self._position(number)
        role = torch.arange(number, device=self.roles.device) >= number - queries
        return self._position(number) + self.roles[role.long()][:, None]

    # ------------------------------------------------------------------ full attention

    def _full(self, tiles: Tiles, first: int) -> list[Tensor]:
        """Runs all tiles through the blocks together and paints those from `first` on; see `_paint`."""
        batch, number = tiles.image.shape[:2]
        painted = slice(max(0, first - self.joined), None)
        canvas = (number * self.grid[0], *self.grid[1:])
        rotary = None if self.rotary is None else self.rotary(self.grid).repeat(number, 1)
        taps = []
        if self.merge:
            place = self._place(number, 1)
            streams = [tiles.image + self.segments[0] + place, tiles.label + self.segments[1] + place]
            tokens = torch.cat(streams).flatten(1, 2)
        else:
            tokens = self._tokens(tiles, 1).flatten(1, 2)
        for index, block in enumerate(self.blocks):
            tokens = self._run(cast(Block, block), tokens, rotary, canvas)
            apart = index < self.merge
            merged = tokens.unflatten(0, (2, batch)).mean(0) if apart else tokens
            if index in self.taps:
                taps.append(merged.unflatten(1, (number, -1))[:, painted])
            if index == self.merge - 1:
                tokens = merged
        visible = [tuple(range(number))] * len(range(number)[painted])
        paints = self._paint(taps, tiles.pick(painted), tiles.pool, visible)
        return [paint[:, first - painted.start :] for paint in paints]

    def _run(self, block: Callable[..., Any], *inputs: Any) -> Any:
        if self.checkpointing and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _paint(
        self, taps: list[Tensor], tiles: Tiles, pool: Pool | None, visible: list[tuple[int, ...]]
    ) -> list[Tensor]:
        """Decodes K tiles, `(B, K, C_out, *S)`, back in [0, 1] units; in training, coarser paints may follow."""
        flat = [tokens.flatten(0, 1) for tokens in taps]
        maps = [x.flatten(0, 1) for x in tiles.maps]
        paints = self.decoder(flat, self.grid, tiles.pixels.flatten(0, 1), maps, pool, visible)
        batch = tiles.pixels.shape[:2]
        return [(paint.float() * self.std + self.mean).unflatten(0, batch) for paint in paints]

    # ------------------------------------------------------------------ ordered attention

    def _read(self, context: Tiles, past: Sequence[KeyValue] = ()) -> tuple[KeyValue, ...]:
        """Runs context tiles through all blocks, each seeing those up to itself, and keeps keys and values."""
        tokens, kept = self._tokens(context, 0), []
        rotary = cast(RotaryPosition, self.rotary)(self.grid)
        for index, block in enumerate(self.blocks):
            last, before = index == len(self.blocks) - 1, past[index] if past else None
            tokens, key_value = self._run(cast(Block, block).read, tokens, rotary, last, before)
            kept.append(key_value)
        return tuple(kept)

    def _ask(self, query: Tiles, kept: Sequence[KeyValue], visible: list[tuple[int, ...]]) -> list[Tensor]:
        """Runs K query tiles, each seeing itself and its visible context; returns tapped tokens `(B, K, N, width)`."""
        tokens, taps = self._tokens(query, query.image.shape[1]), []
        rotary = cast(RotaryPosition, self.rotary)(self.grid)
        for index, (block, key_value) in enumerate(zip(self.blocks, kept, strict=True)):
            counts = [len(tiles) for tiles in visible]
            tokens = self._run(cast(Block, block).ask, tokens, rotary, key_value, counts)
            if index in self.taps:
                taps.append(tokens)
        return taps

    # ------------------------------------------------------------------ contract

    def remember(self, context_images: Tensor, context_targets: Tensor) -> CanvasMemory:
        """Embeds the context and, under `ordered` attention, runs it through the network."""
        batch, number = context_images.shape[:2]
        if number < 1:
            raise ValueError("a context needs at least 1 pair, got 0")
        hidden = torch.zeros((batch, number, *self.grid), dtype=torch.bool, device=context_images.device)
        tiles = self.embed(context_images, context_targets, hidden)
        return CanvasMemory(tiles, self._read(tiles) if self.ordered else ())

    def answer(self, image: Tensor, memory: CanvasMemory, coarse: Pair | None = None) -> Tensor:
        """Paints queries after a remembered context; a coarse answer counts as one more example."""
        if coarse is not None and coarse.target is not None:
            return self.answer(image, self._append(memory, coarse.image[:, None], coarse.target[:, None]))
        hidden = torch.ones((len(image), 1, *self.grid), dtype=torch.bool, device=image.device)
        target = image.new_zeros((len(image), 1, self.out_channels, *image.shape[2:]))
        query = self.embed(image[:, None], target, hidden)
        number = memory.tiles.image.shape[1]
        if not self.ordered:
            return self._full(memory.tiles.join(query), number)[0][:, 0]
        visible = [tuple(range(number))]
        taps = self._ask(query, memory.keys_values, visible)
        return self._paint(taps, query, memory.tiles.pool, visible)[0][:, 0]

    def answer_after(
        self, image: Tensor, context_images: Tensor, context_targets: Tensor, asked: Sequence[Ask]
    ) -> list[Tensor]:
        """Answers several times; under `ordered` attention no pair sees a later one, so the context is read once."""
        if not self.ordered:
            return super().answer_after(image, context_images, context_targets, asked)
        memory = self.remember(context_images, context_targets)
        return [self.answer(image, memory.first(count), coarse) for count, coarse in asked]

    def _append(self, memory: CanvasMemory, images: Tensor, targets: Tensor) -> CanvasMemory:
        """Reads one more pair for each query after a memory, which is left as it is."""
        hidden = torch.zeros((len(images), 1, *self.grid), dtype=torch.bool, device=images.device)
        extra = self.embed(images, targets, hidden)
        if not self.ordered:
            return CanvasMemory(memory.tiles.join(extra))
        read = self._read(extra, memory.keys_values)
        joined = (
            tuple(torch.cat([a.expand(len(b), *a.shape[1:]), b], 2) for a, b in zip(old, new, strict=True))
            for old, new in zip(memory.keys_values, read, strict=True)
        )
        return CanvasMemory(memory.tiles.join(extra), cast(tuple[KeyValue, ...], tuple(joined)))

    def loss(self, episode: Episode) -> dict[str, Tensor]:
        """Hybrid objective: hidden label tokens are painted, masked blocks (MIM) or whole labels (AR)."""
        episode = episode.coarse_as_context()
        images = torch.cat([episode.context_images, episode.image[:, None]], 1)
        targets = torch.cat([episode.context_targets, episode.target[:, None]], 1)
        weights = torch.cat([episode.context_weights, episode.weight[:, None]], 1)
        number = images.shape[1]
        masks = episode_masks(
            episode.mim, episode.seed, self.grid, number, self.mask_ratio, self.min_block, self.ordered
        ).to(images.device)
        first = (0 if self.zero_shot else 1) if self.ordered else (0 if bool(episode.mim.any()) else number - 1)
        if self.ordered:
            paints = self._train_ordered(images, targets, masks, first)
        else:
            paints = self._full(self.embed(images, targets, masks), first)
        counts = weights[:, first:] * enlarge(masks[:, first:].flatten(0, 1), images.shape[3:]).unflatten(
            0, (len(images), -1)
        )
        costs = self._cost(paints[0], targets[:, first:], counts, episode, first)
        for coarse in paints[1:]:
            extra = self._cost(coarse, targets[:, first:], counts, episode, first)["loss"]
            costs["loss"] = costs["loss"] + self.decoder.supervision * extra
        return costs

    def _train_ordered(self, images: Tensor, targets: Tensor, masks: Tensor, first: int) -> list[Tensor]:
        number = images.shape[1]
        context = self.embed(images[:, :-1], targets[:, :-1], torch.zeros_like(masks[:, :-1]))
        query = self._embed_queries(images, targets, masks, first, context)
        visible = [tuple(range(count)) for count in range(first, number)]
        taps = self._ask(query, self._read(context), visible)
        return self._paint(taps, query, context.pool, visible)

    def _embed_queries(self, images: Tensor, targets: Tensor, masks: Tensor, first: int, context: Tiles) -> Tiles:
        """Embeds the tiles from `first` on with their hidden labels, taking image features of context tiles over."""
        last = replace(self.embed(images[:, -1:], targets[:, -1:], masks[:, -1:]), pool=None)
        number = images.shape[1]
        if first >= number - 1:
            return last
        paint = (targets[:, first:-1] - self.mean) / self.std
        label = self.stem.label(paint.flatten(0, 1), masks[:, first:-1].flatten(0, 1))
        early = context.pick(slice(first, None))
        tokens = to_tokens(label.tokens).unflatten(0, paint.shape[:2])
        return replace(early, label=tokens, pool=None).join(last)

    def _cost(
        self, painted: Tensor, targets: Tensor, counts: Tensor, episode: Episode, first: int
    ) -> dict[str, Tensor]:
        """Averages over the painted tiles of each episode, then over episodes."""
        tiles = painted.shape[1]
        is_label = episode.is_label[:, None].expand(-1, tiles).flatten()
        each = self.objective(painted.flatten(0, 1), targets.flatten(0, 1), counts.flatten(0, 1), is_label)
        each = each.unflatten(0, (-1, tiles))
        weight = (counts.flatten(2).sum(2) > 0).to(each.dtype)
        if self.ordered and first == 0:
            weight[:, 0] = weight[:, 0] * self.zero_shot
        episodes = (each * weight).sum(1) / weight.sum(1).clamp(min=1e-6)
        return {"loss": episodes.mean(), "episodes": episodes.detach()}
