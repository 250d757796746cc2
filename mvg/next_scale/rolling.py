"""The roll-out: a volume is answered at its coarsest scale, and each answer leads the next, finer one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from mvg.configuration import Configurable
from mvg.episode import Pair, check_shapes
from mvg.models.base import InContextModel, Memory
from mvg.next_scale.level import Level, enlarge
from mvg.next_scale.pyramid import Pyramid
from mvg.next_scale.retrieval import Asked, Crop, Retrieval, SamePlace


@dataclass(frozen=True)
class Scale:
    """The answer at one scale.

    Attributes:
        level: The scale.
        painted: `(C_out, *level.size)`, float32, about [0, 1], not clamped.
    """

    level: Level
    painted: Tensor


class NextScale(metaclass=Configurable):
    """Rolls an in-context network out over volumes of any size, coarse to fine.

    At each scale windows of the network's size are answered and blended where they overlap. The window's image and
    answer at the coarser scale, enlarged and clamped to [0, 1], are handed to the network with it. Masks stay soft
    between scales; a threshold is set once, where the task decodes the last answer. Coarse axes are antialiased, short
    axes are padded with 0 and never resampled.

    Memory: the arrays of the volume and of the context with their coarser levels, one answer of the volume in single
    precision with its weights, and the windows of one batch. Images and contexts may lie on disk.

    Args:
        single: Answer the finest scale alone, without a coarser one.
        overlap: Share of a window that it has in common with the next one, [0, 1).
        blend: How overlapping answers are weighted: "gaussian" or "constant".
        batch: Windows that are answered together, where they share their context.
        retrieval: Which windows of the context are shown; by default those at the same place.
        largest: Reduce targets of the context by their largest instead of their mean value.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        single: bool = False,
        overlap: float = 0.25,
        blend: Literal["gaussian", "constant"] = "gaussian",
        batch: int = 1,
        retrieval: Retrieval | None = None,
        largest: bool = False,
    ) -> None:
        if not 0 <= overlap < 1:
            raise ValueError(f"`overlap` must be in [0, 1), got {overlap}")
        if batch < 1:
            raise ValueError(f"`batch` must be at least 1, got {batch}")
        if blend not in ("gaussian", "constant"):
            raise ValueError(f"`blend` must be gaussian or constant, got {blend!r}")
        self.single, self.overlap, self.blend, self.batch = single, overlap, blend, batch
        self.retrieval, self.largest = retrieval or SamePlace(), largest

    def read(
        self, network: InContextModel, pairs: Sequence[Pair], spacings: Sequence[Sequence[float]] | None = None
    ) -> list[Pyramid]:
        """Prepares a context, for any number of queries.

        Args:
            network: The network that will see it.
            pairs: Images `(C_in, *S)` and targets `(C_out, *S)`, each pair of its own size.
            spacings: Size of the voxels of each pair; see `Pyramid`.

        Raises:
            ValueError: If there is no pair.
        """
        if not pairs:
            raise ValueError("a context needs at least 1 pair, got 0")
        known: Sequence[Sequence[float] | None] = spacings if spacings is not None else [None] * len(pairs)
        return [
            Pyramid(pair.image, network.image_size, pair.target, spacing, self.largest)
            for pair, spacing in zip(pairs, known, strict=True)
        ]

    def __call__(
        self,
        network: InContextModel,
        image: Tensor | Pyramid,
        context: Sequence[Pyramid],
        spacing: Sequence[float] | None = None,
    ) -> Tensor:
        """Answers one volume; see `scales`. Returns the answer at full resolution, `(C_out, *S)`."""
        *_, last = self.scales(network, image, context, spacing)
        return last.painted

    @torch.inference_mode()
    def scales(
        self,
        network: InContextModel,
        image: Tensor | Pyramid,
        context: Sequence[Pyramid],
        spacing: Sequence[float] | None = None,
    ) -> Iterator[Scale]:
        """Answers one volume, scale by scale.

        Args:
            network: The network, on any device.
            image: `(C_in, *S)`, about [0, 1], of any size and floating type, or its pyramid.
            context: What `read` returned.
            spacing: Size of its voxels, if those of the context are known.

        Yields:
            The answers, coarse to fine; the last one is at full resolution.

        Raises:
            ValueError: If the image or the context does not fit the network.
        """
        query = image if isinstance(image, Pyramid) else Pyramid(image, network.image_size, spacing=spacing)
        if len(query.images[-1]) != network.in_channels:
            raise ValueError(f"the network takes {network.in_channels} image channels, got {len(query.images[-1])}")
        painted: Tensor | None = None
        last = len(query.levels) - 1
        for number in range(last if self.single else 0, last + 1):
            before = None if painted is None else painted.clamp(0, 1)
            painted = _Pass(self, network, query, number, context, before).paint()
            yield Scale(query.levels[number], painted)


def answer_batch(
    network: InContextModel,
    image: Tensor,
    context_images: Tensor,
    context_targets: Tensor,
    plan: NextScale | None = None,
) -> Tensor:
    """Answers a batch: at once where it has the network's size, else volume by volume from coarse to fine.

    Args:
        network: The network.
        image: `(B, C_in, *S)`.
        context_images: `(B, L, C_in, *S)`.
        context_targets: `(B, L, C_out, *S)`.
        plan: How volumes are rolled out.

    Returns:
        `(B, C_out, *S)`.
    """
    if tuple(image.shape[2:]) == tuple(network.image_size):
        painted: Tensor = network(image, context_images, context_targets)
        return painted
    check_shapes(image, context_images, context_targets)
    plan, answers = plan or NextScale(), []
    for query, images, targets in zip(image.cpu(), context_images.cpu(), context_targets.cpu(), strict=True):
        pairs = [Pair(*pair) for pair in zip(images, targets, strict=True)]
        answers.append(plan(network, query, plan.read(network, pairs)))
    return torch.stack(answers).to(image.device)


class _Pass:
    """One scale of one volume: hands windows with their context to the network."""

    def __init__(
        self,
        plan: NextScale,
        network: InContextModel,
        query: Pyramid,
        number: int,
        context: Sequence[Pyramid],
        before: Tensor | None,
    ) -> None:
        self.plan, self.network, self.query, self.context = plan, network, query, context
        self.number, self.before, self.level = number, before, query.levels[number]
        self.device = next(network.parameters()).device
        self._shown: tuple[Crop, ...] | None = None
        self._memory: Memory = None

    def paint(self) -> Tensor:
        """Paints the whole level, `(C_out, *size)`, float32."""
        level = self.level
        if level.padded == level.window:
            painted = self._answer([tuple(-margin for margin in level.margin)]).float().cpu()
        else:
            from monai.inferers.inferer import SlidingWindowInferer  # takes a second, which training need not wait for

            inferer = SlidingWindowInferer(
                level.window, self.plan.batch, self.plan.overlap, self.plan.blend, sw_device="cpu", device="cpu",
                with_coord=True,
            )  # fmt: skip
            frame = torch.zeros(()).expand(1, 1, *level.padded)  # MONAI asks for windows of it; we cut our own
            painted = cast(Tensor, inferer(frame, self._window))
        for axis, (margin, size) in enumerate(zip(level.margin, level.size, strict=True), start=2):
            painted = painted.narrow(axis, margin, size)
        return painted[0]

    def _window(self, frame: Tensor, spans: Sequence[Sequence[Any]]) -> Tensor:
        """Answers the windows that MONAI asks for, `(B, C_out, *window)`."""
        lows = [
            tuple(span.start - margin for span, margin in zip(each[2:], self.level.margin, strict=True))
            for each in spans
        ]
        return self._answer(lows).float().cpu()

    def _answer(self, lows: Sequence[tuple[int, ...]]) -> Tensor:
        images = [self.query.image(self.number, low) for low in lows]
        spacing = self.query.spacing_at(self.number)
        chosen = [
            self.plan.retrieval.choose(Asked(image, self.level, low, spacing), self.context)
            for image, low in zip(images, lows, strict=True)
        ]
        groups = [list(range(len(lows)))] if len(set(chosen)) == 1 else [[k] for k in range(len(lows))]
        painted = [self._ask([images[k] for k in g], [lows[k] for k in g], chosen[g[0]]) for g in groups]
        return torch.cat(painted)

    def _ask(self, images: Sequence[Tensor], lows: Sequence[tuple[int, ...]], crops: tuple[Crop, ...]) -> Tensor:
        """Answers windows that share their context."""
        coarse = None
        if self.before is not None:
            pairs = [self._coarse(low) for low in lows]
            coarse = Pair(*(torch.stack(part).to(self.device) for part in zip(*pairs, strict=True)))
        painted = self.network.answer(torch.stack(list(images)).to(self.device), self._remember(crops), coarse)
        if not torch.isfinite(painted).all():
            raise ValueError("the network painted values that are not finite; its weights may be damaged")
        return painted

    def _coarse(self, low: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Image and answer of a window at the coarser scale."""
        assert self.before is not None
        image = self.query.images[self.number - 1]
        return (
            enlarge(image, self.level.size, low, self.level.window),
            enlarge(self.before, self.level.size, low, self.level.window),
        )

    def _remember(self, crops: tuple[Crop, ...]) -> Memory:
        """Shows windows of the context to the network, unless they are those that it was shown before."""
        if crops != self._shown:
            images = torch.stack([self.context[k].image(number, low) for k, number, low in crops])
            targets = torch.stack([self.context[k].target(number, low) for k, number, low in crops])
            self._memory = self.network.remember(images[None].to(self.device), targets[None].to(self.device))
            self._shown = crops
        return self._memory
