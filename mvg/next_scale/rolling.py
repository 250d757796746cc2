"""The roll-out: a volume is answered at its coarsest scale, and each answer leads the next, finer one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from mvg.configuration import Configurable
from mvg.episode import Pair, check_shapes
from mvg.models.base import InContextModel, Memory
from mvg.next_scale.level import Level, enlarge, levels
from mvg.next_scale.pyramid import Pyramid
from mvg.next_scale.retrieval import Asked, Crop, Retrieval, SamePlace

Run = tuple[int, bool]
"""Number of pairs that a volume is answered after, and whether its finest scale is answered alone."""


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
        batch: Windows that are answered together, of one image or of several of one size, where they share their
            context or are answered several times.
        retrieval: Which windows of the context are shown; by default those at the same place.
        largest: Reduce targets of the context by their largest instead of their mean value.
        focus: Answer finer scales only in windows where the coarser answer, enlarged, somewhere exceeds this; elsewhere
            that answer stays. For label maps, in [0, 1); 0 answers every window.
        limit: Number of scales at most, the coarsest first; where a volume has more, the last answer is enlarged to
            full resolution. None for all.

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
        focus: float = 0.0,
        limit: int | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"`limit` must be at least 1, or null for all scales, got {limit}")
        if not 0 <= focus < 1:
            raise ValueError(f"`focus` must be in [0, 1), got {focus}")
        if not 0 <= overlap < 1:
            raise ValueError(f"`overlap` must be in [0, 1), got {overlap}")
        if batch < 1:
            raise ValueError(f"`batch` must be at least 1, got {batch}")
        if blend not in ("gaussian", "constant"):
            raise ValueError(f"`blend` must be gaussian or constant, got {blend!r}")
        self.single, self.overlap, self.blend, self.batch = single, overlap, blend, batch
        self.retrieval, self.largest, self.focus = retrieval or SamePlace(), largest, focus
        self.limit = limit

    def levels(self, query: Sequence[Level]) -> Sequence[Level]:
        """Returns the scales of a volume that are answered, coarse to fine."""
        held = query[: self.limit]
        return held[-1:] if self.single else held

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
        return _whole(last.level, last.painted)

    def answer(self, network: InContextModel, images: Sequence[Tensor], context: Sequence[Pyramid]) -> Iterator[Tensor]:
        """Answers several images; windows of images of one size are answered together, if they share their context.

        Args:
            network: The network.
            images: Each `(C_in, *S)`, of any size.
            context: What `read` returned.

        Yields:
            For each image the answer at full resolution, `(C_out, *S)`, as it would be alone, up to rounding.

        Raises:
            ValueError: If an image or the context does not fit the network.
        """
        for size, group in itertools.groupby(images, lambda image: tuple(image.shape)):
            held, most = list(group), self._together(size[1:], network.image_size)
            for few in (held[start : start + most] for start in range(0, len(held), most)):
                query = Pyramid(torch.cat(few), network.image_size)
                *_, (level, (painted,)) = self.scales_after(
                    network, query, context, [(len(context), self.single)], count=len(few)
                )
                assert painted is not None
                yield from _whole(level, painted).chunk(len(few))

    def _together(self, size: Sequence[int], window: Sequence[int]) -> int:
        """Number of images of a size whose windows fill a batch."""
        if not self.retrieval.shared:
            return 1
        finest = levels(size, window)[: self.limit][-1]
        return max(1, self.batch // finest.windows(self.overlap))

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
            The answers, coarse to fine; the last one is at full resolution, unless `limit` ends before.

        Raises:
            ValueError: If the image or the context does not fit the network.
        """
        for level, (painted,) in self.scales_after(network, image, context, [(len(context), self.single)], spacing):
            assert painted is not None
            yield Scale(level, painted)

    @torch.inference_mode()
    def scales_after(
        self,
        network: InContextModel,
        image: Tensor | Pyramid,
        context: Sequence[Pyramid],
        runs: Sequence[Run],
        spacing: Sequence[float] | None = None,
        count: int = 1,
    ) -> Iterator[tuple[Level, list[Tensor | None]]]:
        """Answers one volume several times, which costs less than one after the other; see `scales`.

        Args:
            network: The network, on any device.
            image: As in `scales`.
            context: What `read` returned.
            runs: For each answer the number of pairs, the first ones of the context, and whether the finest scale is
                answered alone.
            spacing: As in `scales`.
            count: Number of volumes of one size that are answered together, one after the other in the channels of
                `image`; more than 1 only where all windows share their context (`retrieval.shared`).

        Yields:
            Each scale, coarse to fine, with what every run painted, `(count * C_out, *level.size)`, or None where it
            does not answer this scale.

        Raises:
            ValueError: If the image or the context does not fit the network, or a run asks for more pairs than it has.
        """
        query = image if isinstance(image, Pyramid) else Pyramid(image, network.image_size, spacing=spacing)
        if len(query.images[-1]) != count * network.in_channels:
            raise ValueError(
                f"the network takes {network.in_channels} image channels, got {len(query.images[-1]) / count:g}"
            )
        if wrong := [pairs for pairs, _ in runs if not 1 <= pairs <= len(context)]:
            raise ValueError(f"a run must be after 1 to {len(context)} pairs, as many as there are, got {wrong[0]}")
        before: list[Tensor | None] = [None] * len(runs)
        held = query.levels[: self.limit]
        for number, level in enumerate(held):
            due = [k for k, (_, single) in enumerate(runs) if not single or level is held[-1]]
            painted: list[Tensor | None] = [None] * len(runs)
            if due:
                asked = [(runs[k][0], before[k]) for k in due]
                answers = _Pass(self, network, query, number, context, asked, count).paint()
                for k, answer in zip(due, answers, strict=True):
                    painted[k], before[k] = answer, answer.clamp(0, 1)
                yield level, painted


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


def _whole(level: Level, painted: Tensor) -> Tensor:
    """Brings an answer to full resolution, unless it has it."""
    if level.size == level.shape:
        return painted
    return enlarge(painted, level.shape, (0,) * len(level.shape), level.shape)


class _Pass:
    """One scale of one volume: hands windows with their context to the network.

    Args:
        plan: How the volume is rolled out.
        network: The network.
        query: The volume.
        number: Number of its level.
        context: The context.
        asked: After how many pairs it is answered, and the answers at the level before, `(C_out, *S)`, [0, 1].
        count: Number of volumes that lie in the channels of `query`; all answers have as many times `C_out` channels.
    """

    def __init__(
        self,
        plan: NextScale,
        network: InContextModel,
        query: Pyramid,
        number: int,
        context: Sequence[Pyramid],
        asked: Sequence[tuple[int, Tensor | None]],
        count: int = 1,
    ) -> None:
        self.plan, self.network, self.query, self.asked, self.count = plan, network, query, asked, count
        self.context = context[: max(count for count, _ in asked)]
        self.number, self.level = number, query.levels[number]
        self.device = next(network.parameters()).device
        self._shown: tuple[Crop, ...] | None = None
        self._memory: Memory = None

    def paint(self) -> list[Tensor]:
        """Paints the whole level as often as it was asked, `(C_out, *size)`, float32."""
        level = self.level
        if level.padded == level.window:
            answers = self._answer([tuple(-margin for margin in level.margin)])
        else:
            from monai.inferers.inferer import SlidingWindowInferer  # takes a second, which training need not wait for

            inferer = SlidingWindowInferer(
                level.window, max(1, self.plan.batch // self.count), self.plan.overlap, self.plan.blend,
                sw_device="cpu", device="cpu", with_coord=True,
            )  # fmt: skip
            frame = torch.zeros(()).expand(1, 1, *level.padded)  # MONAI asks for windows of it; we cut our own
            blended = inferer(frame, self._window)
            answers = (blended,) if isinstance(blended, Tensor) else cast(tuple[Tensor, ...], blended)
        return [self._inside(painted[0]) for painted in answers]

    def _inside(self, painted: Tensor) -> Tensor:
        """Takes the border away that short axes need."""
        for axis, (margin, size) in enumerate(zip(self.level.margin, self.level.size, strict=True), start=1):
            painted = painted.narrow(axis, margin, size)
        return painted

    def _window(self, frame: Tensor, spans: Sequence[Sequence[Any]]) -> tuple[Tensor, ...]:
        """Answers the windows that MONAI asks for, `(B, C_out, *window)`."""
        lows = [
            tuple(span.start - margin for span, margin in zip(each[2:], self.level.margin, strict=True))
            for each in spans
        ]
        known = [before for _, before in self.asked if before is not None]
        if not self.plan.focus or len(known) < len(self.asked):
            return self._answer(lows)
        leading = [self._enlarged(lows, before) for before in known]
        worth = [k for k in range(len(lows)) if any(float(each[k].max()) > self.plan.focus for each in leading)]
        if worth:
            for each, answers in zip(leading, self._answer([lows[k] for k in worth]), strict=True):
                each[worth] = answers
        return tuple(leading)

    def _answer(self, lows: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        images = [self.query.image(self.number, low) for low in lows]
        spacing = self.query.spacing_at(self.number)
        asked = [Asked(image, self.level, low, spacing) for image, low in zip(images, lows, strict=True)]
        chosen = [self.plan.retrieval.choose(each, self.context) for each in asked]
        alike = len(set(chosen) if len(self.asked) == 1 else {len(crops) for crops in chosen}) == 1
        groups = [list(range(len(lows)))] if alike else [[k] for k in range(len(lows))]
        painted = [self._ask([images[k] for k in g], [lows[k] for k in g], [chosen[k] for k in g]) for g in groups]
        return tuple(torch.cat(answers).float().cpu() for answers in zip(*painted, strict=True))

    def _ask(
        self, images: Sequence[Tensor], lows: Sequence[tuple[int, ...]], chosen: Sequence[tuple[Crop, ...]]
    ) -> list[Tensor]:
        """Answers windows that are shown equally many windows of the context, or the same, as often as it was asked."""
        image = self._apart(torch.stack(list(images))).to(self.device)
        leading = [self._coarse(lows, before) for _, before in self.asked]
        if len(self.asked) == 1 and len(set(chosen)) == 1:
            painted = [self.network.answer(image, self._remember(chosen[0]), leading[0])]
        else:
            ordered = [sorted(crops, key=lambda crop: crop.example) for crops in chosen]
            counts = [sum(crop.example < count for crop in ordered[0]) for count, _ in self.asked]
            parts = zip(*map(self._cut, ordered), strict=True)
            images_shown, targets_shown = (
                torch.stack(each).repeat_interleave(self.count, 0).to(self.device) for each in parts
            )
            asked = list(zip(counts, leading, strict=True))
            painted = self.network.answer_after(image, images_shown, targets_shown, asked)
        if not all(torch.isfinite(answer).all() for answer in painted):
            raise ValueError("the network painted values that are not finite; its weights may be damaged")
        return [answer.reshape(-1, self.count * answer.shape[1], *answer.shape[2:]) for answer in painted]

    def _apart(self, values: Tensor) -> Tensor:
        """Turns volumes that lie in the channels into ones of their own, `(B * count, C, *window)`."""
        return values.reshape(-1, values.shape[1] // self.count, *values.shape[2:])

    def _coarse(self, lows: Sequence[tuple[int, ...]], before: Tensor | None) -> Pair | None:
        """Images and answers of windows at the coarser scale; None where there is none."""
        if before is None:
            return None
        parts = (self._enlarged(lows, values) for values in (self.query.images[self.number - 1], before))
        return Pair(*(self._apart(part).to(self.device) for part in parts))

    def _enlarged(self, lows: Sequence[tuple[int, ...]], values: Tensor) -> Tensor:
        """Cuts windows of this scale out of values at the coarser one, `(B, C, *window)`."""
        return torch.stack([enlarge(values, self.level.size, low, self.level.window) for low in lows])

    def _cut(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """Windows of the context, `(L, C, *window)`."""
        images = torch.stack([self.context[k].image(number, low) for k, number, low in crops])
        return images, torch.stack([self.context[k].target(number, low) for k, number, low in crops])

    def _remember(self, crops: tuple[Crop, ...]) -> Memory:
        """Shows windows of the context to the network, unless they are those that it was shown before."""
        if crops != self._shown:
            images, targets = self._cut(crops)
            self._memory = self.network.remember(images[None].to(self.device), targets[None].to(self.device))
            self._shown = crops
        return self._memory
