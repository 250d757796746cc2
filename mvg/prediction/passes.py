"""What one pass of a network asks, and what the network keeps of contexts, within a limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mvg.episode import Pair, Spec
from mvg.models.base import InContextModel, Memory
from mvg.next_scale import NextScale, Pyramid
from mvg.wording import counted

LIMIT = 1 << 30
"""Bytes of memories that are kept, where no limit is given."""


class Shelf:
    """Keeps what a network remembers of contexts, those used last.

    So few classes cost no second reading of their context, and many classes no more memory.

    Args:
        limit: Bytes up to which memories are kept; the last one always is.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._held: WeakKeyDictionary[Pass, Memory] = WeakKeyDictionary()

    def get(self, asked: Pass) -> Memory:
        """Returns the memory of a pass; one that was given up is made again."""
        memory = self._held.pop(asked, None)
        if memory is None:
            memory = asked.remember()
        self._held[asked] = memory
        sizes = {key: bytes_of(value) for key, value in self._held.items()}
        total = sum(sizes.values())
        for key, size in list(sizes.items())[:-1]:
            if total <= self.limit:
                break
            total -= size
            del self._held[key]
        return memory

    def __len__(self) -> int:
        return len(self._held)


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """What one pass of the network asks.

    Attributes:
        network: The network.
        shelf: Keeps its memory.
        spec: What the task drew.
        images: The examples, each `(C_in, *image_size)`, or of their own size where they are shown in windows; passes
            share them.
        targets: Their targets as they were given; passes share them.
        painter: Paints a target, `(C_out, *S)`.
        flips: Axes of S, counted from the end, along which query and context are mirrored before the network sees them.
        plan: How examples and queries are shown in windows; None for whole, at the network's size.
    """

    network: InContextModel
    shelf: Shelf
    spec: Spec
    images: Sequence[Tensor]
    targets: Sequence[Tensor]
    painter: Callable[[Tensor], Tensor]
    flips: tuple[int, ...] = ()
    plan: NextScale | None = None

    @property
    def context_images(self) -> Tensor:
        """The examples, `(L, C_in, *image_size)`."""
        return torch.stack(list(self.images))

    @property
    def context_targets(self) -> Tensor:
        """The painted targets, `(L, C_out, *image_size)`; they are painted anew each time, so that none is held."""
        return torch.stack([self.painter(target) for target in self.targets])

    @property
    def memory(self) -> Memory:
        """What the network keeps of the context."""
        return self.shelf.get(self)

    @torch.inference_mode()
    def remember(self) -> Memory:
        """Shows the context to the network, or prepares it for windows."""
        if self.plan is not None:
            return self.plan.read(
                self.network, [self._pair(*both) for both in zip(self.images, self.targets, strict=True)]
            )
        device = next(self.network.parameters()).device
        shown = (self.context_images, self.context_targets)
        return self.network.remember(*(mirror(values, self.flips)[None].to(device) for values in shown))

    def _pair(self, image: Tensor, target: Tensor) -> Pair:
        """Paints the target of an example of any size, and mirrors both."""
        painted = self.painter(target.float() if target.is_floating_point() else target)
        return Pair(mirror(image, self.flips), mirror(painted, self.flips))

    def paint_windows(self, images: Sequence[Tensor]) -> Iterator[Tensor]:
        """Answers images in windows.

        Args:
            images: Each `(C_in, H, W)`, of any size.

        Yields:
            For each `(C_out, H, W)`, float32, on the CPU.

        Raises:
            ValueError: If the network paints values that are not finite.
        """
        assert self.plan is not None
        shown = [mirror(image, self.flips) for image in images]
        for painted in self.plan.answer(self.network, shown, self.memory):
            yield mirror(painted, self.flips)

    @torch.inference_mode()
    def paint(self, batch: Tensor) -> Tensor:
        """Answers a batch `(B, C_in, *image_size)`; returns `(B, C_out, *image_size)`, float32, on the CPU.

        Raises:
            ValueError: If the network paints values that are not finite.
        """
        device = next(self.network.parameters()).device
        painted = self.network.answer(mirror(batch, self.flips).to(device), self.memory).float().cpu()
        if not torch.isfinite(painted).all():
            raise ValueError("the network painted values that are not finite; its weights may be damaged")
        return mirror(painted, self.flips)


def mirror(values: Tensor, flips: Sequence[int]) -> Tensor:
    """Mirrors an array along some of its axes; twice gives it back."""
    return values.flip(*flips) if flips else values


def bytes_of(memory: Memory) -> int:
    """Bytes of the tensors in tuples, lists, mappings, dataclasses and pyramids; what they share counts each time."""
    if isinstance(memory, Tensor):
        return memory.numel() * memory.element_size()
    if isinstance(memory, Mapping):
        return sum(map(bytes_of, memory.values()))
    if isinstance(memory, tuple | list):
        return sum(map(bytes_of, memory))
    if isinstance(memory, Pyramid):
        return bytes_of([*memory.images, *(memory.targets or [])])
    if dataclasses.is_dataclass(memory):
        return sum(bytes_of(getattr(memory, field.name)) for field in dataclasses.fields(memory))
    return 0


def spread(target: Tensor, most: int) -> Tensor:
    """Repeats a painted target `(C, *S)` of one channel to the `most` channels of a network."""
    held = len(target)
    if held not in (1, most):
        raise ValueError(
            f"the targets have {counted(held, 'channel')}, but the network paints {most}; give them 1 or {most}"
        )
    return target.expand(most, *target.shape[1:])


def keep_classes(target: Tensor, classes: Sequence[int] | None) -> Tensor:
    """Turns all other classes of a label map into background; None keeps a target as it is."""
    return target if classes is None else torch.where(torch.isin(target, torch.tensor(classes)), target, 0)


def better(before: tuple[Any, Tensor] | None, new: tuple[Any, Tensor]) -> tuple[Any, Tensor]:
    """Gives each pixel to the pass that claims it most; an answer that is no label map replaces the one before."""
    if before is None or new[0].labels is None or before[0].labels is None:
        return new
    wins = new[1] > before[1]
    labels = torch.where(wins, new[0].labels, before[0].labels)
    return dataclasses.replace(new[0], labels=labels), torch.where(wins, new[1], before[1])
