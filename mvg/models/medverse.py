"""Medverse, and its backbone Neuroverse3D: convolutional streams of query and context that read each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mvg.episode import Episode, Pair, check_shapes
from mvg.models.base import Ask, InContextModel
from mvg.models.blockwise import BlockwiseFusion, Fusion, Grouping, Offer, sincos_position
from mvg.models.residual import ResidualUnit
from mvg.models.streams import ContextUNet, TargetDecoder, TargetEncoder, channels_last
from mvg.objective import Objective

Mode = Literal["blockwise", "concat"]
Learning = Literal["last", "all"]
ContextPair = tuple[Tensor, Tensor]
"""Image `(B or 1, C_in, *S)` and target `(B or 1, C_out, *S)` of one context pair, on any device."""


@dataclass(frozen=True)
class VolumeMemory:
    """A context: its pairs as they were given, and what was computed of the first of them.

    Attributes:
        pairs: The pairs in order; read anew for every answer, so a stream serves as often as it can be iterated.
        begun: Features `(B or 1, width, *S)` of the first pairs, before they meet a query.
    """

    pairs: Iterable[ContextPair]
    begun: tuple[Tensor, ...] = ()


class Medverse(InContextModel):
    """Medverse: a 3D network that answers volumes from any number of examples in bounded memory.

    A U-Net reads each example while looking at the query's features; the mean of its features over all examples, and
    those of the query at a coarser scale with its answer if there is one, feed the decoder of the query. Examples are
    read in mini-contexts, in the order in which they are given, so that memory does not grow with their number. With
    `fusion: concat` it is Neuroverse3D. It runs in 2D, too.

    Training hides the whole target of the query, also in episodes drawn as masked (`Episode.mim`), and takes the loss
    of the query alone.

    Source: Hu et al., "Medverse", arXiv 2509.09232; Hu et al., "Neuroverse3D", arXiv 2503.02410.

    Args:
        image_size: Size of the volumes it is trained on, `(D, H, W)` or `(H, W)`. It answers any size whose sides are
            multiples of its stride: 2 for each halving, times `blocks`.
        in_channels: Channels of images.
        out_channels: Channels of targets.
        widths: Channels of each stage, two stages or more.
        fusion: How streams read each other: `blockwise` cross-attention (Medverse) or `concat` (Neuroverse3D).
        grouping: Which voxels share a token of blockwise attention: `lattice`, as in the released weights, or `block`,
            as the text says.
        blocks: Tokens along each axis, p.
        code: Width of the places and scores of tokens, a multiple of twice the number of axes.
        mini_context: Pairs that are read together, l; fewer need less memory.
        gradient: Which mini-contexts learn: the `last`, with its gradient multiplied by their number, as published, or
            `all`, whose memory grows with the context.
        keep: Number of pairs of which `remember` keeps what does not depend on the query, about a third of their cost.
            Each kept pair takes as much memory as one feature map of the first stage.
        objective: What painted voxels cost.
        checkpointing: Recomputes convolutions in the backward pass to save memory.
        copy: Adds the query, times a learned factor in (0, 1) for each voxel, to the paint, so that restoring an image
            is correcting it; an untrained network paints about the query itself. The released networks do not.
        normalise: Group normalisation in every residual unit. The released networks have none and learn at rates of
            1e-5; without it, the rates with which a small network learns in an hour make it diverge.
    """

    position: Tensor

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 1,
        out_channels: int = 1,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        fusion: Mode = "blockwise",
        grouping: Grouping = "lattice",
        blocks: int = 4,
        code: int = 66,
        mini_context: int = 3,
        gradient: Learning = "last",
        keep: int = 1,
        objective: Objective | None = None,
        checkpointing: bool = False,
        copy: bool = False,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.image_size, self.in_channels, self.out_channels = tuple(image_size), in_channels, out_channels
        check_choices(fusion=fusion, grouping=grouping, gradient=gradient)
        check_counts(stages=(len(widths), 2), mini_context=(mini_context, 1), blocks=(blocks, 1), keep=(keep, 0))
        if len(self.image_size) not in (2, 3):
            raise ValueError(f"`image_size` must be (H, W) or (D, H, W), got {self.image_size}")
        self.blockwise, dims = fusion == "blockwise", len(self.image_size)
        self.stride = 2 ** (len(widths) - 1) * (blocks if self.blockwise else 1)
        self._check_size(self.image_size)
        self.mini_context, self.gradient, self.keep = mini_context, gradient, keep
        self.objective = objective or Objective(beta=1.0, power=3, regression=50.0, label_regression=50.0)
        make = partial(BlockwiseFusion, blocks=blocks, grouping=grouping, code=code) if self.blockwise else Fusion
        unit = partial(ResidualUnit, dims, checkpointing=checkpointing, normalise=normalise)
        self.target_encoder = TargetEncoder(dims, in_channels, widths, unit)
        self.context_unet = ContextUNet(dims, in_channels + out_channels, widths, make, unit)
        self.target_decoder = TargetDecoder(dims, out_channels, widths, make, unit, copy)
        if self.blockwise:
            self.register_buffer("position", sincos_position(blocks, code, dims))
            self.target_code = nn.Parameter(0.1 * torch.randn(code))
            self.coarse_code = nn.Parameter(0.1 * torch.randn(code))
            self.coarse_mark = nn.Parameter(0.1 * torch.randn(widths[0]))
        else:
            self.register_buffer("position", torch.zeros(1, 1), persistent=False)
        self.to(memory_format=channels_last(dims))

    def head_names(self) -> tuple[str, ...]:
        """Names the decoder of the query."""
        return ("target_decoder",)

    # ------------------------------------------------------------------ checks

    def _check_size(self, size: Sequence[int]) -> None:
        if any(side % self.stride or side < self.stride for side in size):
            raise ValueError(
                f"sides must be multiples of {self.stride} for this network, got {tuple(size)}; resize or pad, or "
                "change `widths` or `blocks`"
            )

    def _check(self, name: str, maps: Tensor, channels: int, like: Sequence[int], batches: Sequence[int]) -> None:
        """Checks `(B, C, *S)` against what it must be."""
        if maps.ndim != 2 + len(like) or tuple(maps.shape[2:]) != tuple(like):
            raise ValueError(f"the {name} must have the query's size {tuple(like)}, got shape {tuple(maps.shape)}")
        if maps.shape[1] != channels:
            raise ValueError(f"the {name} must have {channels} channels for this network, got {maps.shape[1]}")
        if maps.shape[0] not in batches:
            raise ValueError(f"the {name} must have batch size {batches[-1]} or 1, got {maps.shape[0]}")

    # ------------------------------------------------------------------ contract

    def forward(self, image: Tensor, context_images: Tensor, context_targets: Tensor) -> Tensor:
        """Paints the target of each query; see `InContextModel.forward`. Nothing of the context is kept."""
        check_shapes(image, context_images, context_targets)
        return self.answer(image, VolumeMemory(list(pairs_of(context_images, context_targets))))

    def remember(self, context_images: Tensor, context_targets: Tensor) -> VolumeMemory:
        """Takes a context, and computes what does not depend on the query of its first `keep` pairs."""
        return self.remember_pairs(list(pairs_of(context_images, context_targets)))

    def remember_pairs(self, pairs: Iterable[ContextPair]) -> VolumeMemory:
        """Takes a context as pairs, which may lie on another device, or be read from disk as they are needed.

        Args:
            pairs: Each an image `(B or 1, C_in, *S)` and its target `(B or 1, C_out, *S)`. Every answer iterates over
                them anew: hand in a list, or an object with `__iter__`. A generator serves one answer.
        """
        if isinstance(pairs, Iterator):
            return VolumeMemory(pairs)
        begun = [self._begin(pair) for pair in islice(pairs, self.keep)]
        return VolumeMemory(pairs, tuple(begun))

    def answer(self, image: Tensor, memory: VolumeMemory, coarse: Pair | None = None) -> Tensor:
        """Paints queries after a remembered context, and after their own coarser scale if it is given."""
        self._check("query", image, self.in_channels, image.shape[2:], (len(image),))
        if image.ndim != 2 + len(self.image_size):
            raise ValueError(f"the network was built for {len(self.image_size)} axes, got {tuple(image.shape)}")
        self._check_size(image.shape[2:])
        features, deepest = self.target_encoder(image)
        offers = self.context_unet.offers(features, self._asked)
        streams = [self._read_context(image, memory, offers), *self._read_coarse(image, coarse, offers)]
        del offers
        return self._paint(image, features, deepest, streams)

    def answer_after(
        self, image: Tensor, context_images: Tensor, context_targets: Tensor, asked: Sequence[Ask]
    ) -> list[Tensor]:
        """Paints queries after several numbers of pairs; every pair is read once, whatever the coarser scales are."""
        check_shapes(image, context_images, context_targets)
        features, deepest = self.target_encoder(image)
        offers = self.context_unet.offers(features, self._asked)
        pairs = list(pairs_of(context_images, context_targets))
        means, last = dict[int, list[Tensor]](), 0
        for count in sorted({count for count, _ in asked}):
            read = self._read_context(image, VolumeMemory(pairs[last:count]), offers)
            if last:
                share = (count - last) / count
                read = [torch.lerp(*maps, share) for maps in zip(means[last], read, strict=True)]
            means[count], last = read, count
        return [
            self._paint(image, list(features), deepest, [list(means[n]), *self._read_coarse(image, coarse, offers)])
            for n, coarse in asked
        ]

    @property
    def _asked(self) -> Tensor:
        """Where the tokens of queries are, `(T, code)`."""
        return self.position + self.target_code if self.blockwise else self.position

    @property
    def _led(self) -> Tensor:
        """Where the tokens of the coarser scale are, `(T, code)`."""
        return self.position + self.coarse_code if self.blockwise else self.position

    def _read_coarse(self, image: Tensor, coarse: Pair | None, offers: Sequence[Offer]) -> list[list[Tensor]]:
        """Reads the coarser scale: its maps, coarsest first, in a list; an empty list where there is none."""
        if coarse is None or coarse.target is None:
            return []
        begun = self._begin(self._checked((coarse.image, coarse.target), image))
        return [list(self.context_unet(begun, offers, self._led, mark=self.coarse_mark if self.blockwise else None))]

    def _paint(self, image: Tensor, features: list[Tensor], deepest: Tensor, streams: list[list[Tensor]]) -> Tensor:
        """Paints queries from their maps, finest first, and the streams of the context; all lists are emptied."""
        places = [self.position, self._led][: len(streams)]
        painted: Tensor = self.target_decoder(image, deepest, features, streams, self._asked, places)
        return painted.float().contiguous()

    def loss(self, episode: Episode) -> dict[str, Tensor]:
        """Costs the painted target of each query; the coarser scale of the episode is shown to the network."""
        check_shapes(episode.image, episode.context_images, episode.context_targets)
        memory = VolumeMemory(list(pairs_of(episode.context_images, episode.context_targets)))
        painted = self.answer(episode.image, memory, episode.coarse)
        each = self.objective(painted, episode.target, episode.weight, episode.is_label)
        return {"loss": each.mean(), "episodes": each.detach()}

    # ------------------------------------------------------------------ context

    def _checked(self, pair: ContextPair, query: Tensor) -> ContextPair:
        """Checks a context pair against the query, and brings it to its device."""
        for name, maps, channels in zip(
            ("context image", "context target"), pair, (self.in_channels, self.out_channels), strict=True
        ):
            self._check(name, maps, channels, query.shape[2:], (1, len(query)))
        return pair[0].to(query.device), pair[1].to(query.device)

    def _begin(self, pair: ContextPair) -> Tensor:
        device = self.position.device
        begun: Tensor = self.context_unet.begin(pair[0].to(device), pair[1].to(device))
        return begun

    def _read_context(self, image: Tensor, memory: VolumeMemory, offers: Sequence[Offer]) -> list[Tensor]:
        """Reads all pairs and returns the means of their maps, coarsest first.

        Mini-contexts are read one after another, and only the running mean is held. Where gradients are recorded and
        `gradient` is `last`, all but the last are read without, and its gradient counts as often as there are
        mini-contexts.
        """
        means: list[Tensor] = []
        seen, recording = 0, torch.is_grad_enabled()
        for number, (pairs, last) in enumerate(mini_contexts(memory.pairs, self.mini_context, recording), 1):
            each, learns = len(pairs), recording and (last or self.gradient == "all")
            share, factor = each / (seen + each), number if self.gradient == "last" else 1
            with torch.set_grad_enabled(learns):
                begun = [
                    memory.begun[place] if place < len(memory.begun) else self._begin(self._checked(pair, image))
                    for place, pair in enumerate(pairs, seen)
                ]
                joined = stack(begun)
                pairs.clear()  # whoever streams pairs holds no other
                del begun
                read = self.context_unet(joined, offers, self.position, each)
                del joined  # the stream drops maps as it goes, so nobody else may hold them
                for stage, maps in enumerate(read):
                    mean = scale_gradient(maps.unflatten(0, (each, -1)).mean(0) if each > 1 else maps, factor)
                    if not seen:
                        means.append(mean)
                    elif learns:
                        means[stage] = torch.lerp(means[stage], mean, share)
                    else:
                        means[stage].lerp_(mean, share)
            if recording and not learns:
                torch.clear_autocast_cache()  # else the next pass would take up copies of weights that record nothing
            del maps, mean
            seen += each
        if not seen:
            raise ValueError("a context needs at least 1 pair, got 0; a generator serves one answer only")
        return means


def pairs_of(images: Tensor, targets: Tensor) -> Iterator[ContextPair]:
    """Takes contexts `(B, L, C, *S)` apart into L pairs, without copies."""
    return zip(images.unbind(1), targets.unbind(1), strict=True)


def mini_contexts(
    pairs: Iterable[ContextPair], size: int, ahead: bool = True
) -> Iterator[tuple[list[ContextPair], bool]]:
    """Takes pairs up in order, at most `size` at a time, and says whether these are the last.

    Args:
        pairs: The pairs.
        size: Most pairs that are taken up together.
        ahead: Look one pair ahead to know the last ones; without it none are said to be the last, and no pair more is
            held.
    """
    stream = iter(pairs)
    first = list(islice(stream, 1))
    while first:
        group = [*first, *islice(stream, size - 1)]
        first = list(islice(stream, 1)) if ahead else []
        yield group, ahead and not first
        first = first if ahead else list(islice(stream, 1))


def stack(maps: Sequence[Tensor]) -> Tensor:
    """Joins maps `(B or 1, C, *S)` of several examples, all of the first example first."""
    if len(maps) == 1:
        return maps[0]
    batch = max(len(each) for each in maps)
    return torch.cat([each.expand(batch, *each.shape[1:]) for each in maps])


def scale_gradient(values: Tensor, factor: int) -> Tensor:
    """Returns the same values, through which a factor times the gradient flows back."""
    if factor == 1 or not values.requires_grad:
        return values
    scaled = values.view_as(values)  # what else is computed from `values` keeps its gradient
    scaled.register_hook(lambda gradient: gradient * factor)
    return scaled


def check_choices(**chosen: str) -> None:
    """Raises ValueError unless every option is one of those known."""
    known = {"fusion": get_args(Mode), "grouping": get_args(Grouping), "gradient": get_args(Learning)}
    for name, value in chosen.items():
        if value not in known[name]:
            raise ValueError(f"`{name}` must be {' or '.join(known[name])}, got {value!r}")


def check_counts(**counts: tuple[int, int]) -> None:
    """Raises ValueError unless every count is at least its bound."""
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}")
