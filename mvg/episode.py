"""Pairs, answers and episodes: the values that travel between tasks, data and networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

Spec = Mapping[str, Any]
"""What a task drew for one episode (palette, noise level, class): plain JSON values, to be stored and replayed."""


@dataclass(frozen=True)
class Pair:
    """One example of a task, as the network sees it.

    Attributes:
        image: `(C_in, *S)`, float32, about [0, 1].
        target: `(C_out, *S)`, float32, [0, 1]; None where it is asked for.
        weight: `(1, *S)`, float32, not negative: how much each pixel counts in the loss; None for ones.
    """

    image: Tensor
    target: Tensor | None = None
    weight: Tensor | None = None


@dataclass(frozen=True)
class Answer:
    """A decoded prediction on the grid on which it was painted; a task fills what it answers.

    Attributes:
        labels: `(*S)`, int64, class indices of the source (0 is background).
        image: `(C, *S)`, float32 in [0, 1], the normalised units of the image that it answers.
        boxes: `(n, 2 * dims)`, float32, corner coordinates in pixels, `(low..., high...)`, high exclusive.
        scores: `(n,)`, float32, the confidence of each box.
    """

    labels: Tensor | None = None
    image: Tensor | None = None
    boxes: Tensor | None = None
    scores: Tensor | None = None


@dataclass(frozen=True)
class Episode:
    """A batch of queries, each with its context; checked once, when it is made.

    Attributes:
        image: `(B, C_in, *S)`, the queries.
        target: `(B, C_out, *S)`, what is to be painted.
        weight: `(B, 1, *S)`, how much each pixel of the target counts.
        context_images: `(B, L, C_in, *S)`.
        context_targets: `(B, L, C_out, *S)`.
        context_weights: `(B, L, 1, *S)`.
        is_label: `(B,)` bool, the target is a painted label map (else an image).
        mim: `(B,)` bool, trained by masked image modelling (else the whole query target is predicted).
        seed: `(B,)` int64, seeds every random choice that is made after the episode was drawn (masks).
        tasks: name of the task of each query, `source/task`.
        specs: what each task drew.
        cases: case id of each query.
        context_cases: case ids of each context.
        swap_targets: `(B, L, C_out, *S)`, the same context images answered for another structure or task
            (the task-swap control); None outside of evaluation.
        swap_target: `(B, C_out, *S)`, the query's target under that other structure or task.
        swappable: `(B,)` bool, where the control exists.
        swap_specs: what each task drew for the other structure or task (its own spec where not swappable).
        coarse_image: `(B, C_in, *S)`, the query at the coarser scale, brought to its size, in next-scale prediction;
            None at the first scale.
        coarse_target: `(B, C_out, *S)`, what was (or, in training, might have been) painted there.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    context_images: Tensor
    context_targets: Tensor
    context_weights: Tensor
    is_label: Tensor
    mim: Tensor
    seed: Tensor
    tasks: tuple[str, ...] = ()
    specs: tuple[Spec, ...] = ()
    cases: tuple[str, ...] = ()
    context_cases: tuple[tuple[str, ...], ...] = ()
    swap_targets: Tensor | None = None
    swap_target: Tensor | None = None
    swappable: Tensor | None = None
    swap_specs: tuple[Spec, ...] = ()
    coarse_image: Tensor | None = None
    coarse_target: Tensor | None = None

    def __post_init__(self) -> None:
        check_shapes(self.image, self.context_images, self.context_targets)
        if self.target.shape[0] != self.image.shape[0] or self.target.shape[2:] != self.image.shape[2:]:
            raise ValueError(
                f"`target` must match `image` in batch and size, got {tuple(self.target.shape)} "
                f"for an image of {tuple(self.image.shape)}"
            )

    @property
    def context_size(self) -> int:
        """Number of context pairs, L."""
        return self.context_images.shape[1]

    def __len__(self) -> int:
        return self.image.shape[0]

    @property
    def coarse(self) -> Pair | None:
        """The query at the coarser scale with what was painted there; None at the first scale."""
        return None if self.coarse_image is None else Pair(self.coarse_image, self.coarse_target)

    def coarse_as_context(self) -> Episode:
        """Moves the coarser scale to the end of the context, with weight 0, for networks that know pairs alone."""
        if self.coarse_image is None or self.coarse_target is None:
            return self
        silent = torch.zeros_like(self.weight)
        return replace(
            self,
            context_images=torch.cat([self.context_images, self.coarse_image[:, None]], 1),
            context_targets=torch.cat([self.context_targets, self.coarse_target[:, None]], 1),
            context_weights=torch.cat([self.context_weights, silent[:, None]], 1),
            coarse_image=None,
            coarse_target=None,
        )

    def first(self, number: int) -> Episode:
        """Returns the first episodes of the batch."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[:number] for k, v in values.items() if v is not None})

    def _map(self, move: Any) -> Episode:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: move(v) for k, v in values.items() if isinstance(v, Tensor)})

    def to(self, *args: Any, **kwargs: Any) -> Episode:
        """Moves every tensor to a device (Lightning calls this)."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> Episode:
        """Pins every tensor (the data loader calls this)."""
        return self._map(lambda tensor: tensor.pin_memory())

    @staticmethod
    def collate(episodes: Sequence[Episode]) -> Episode:
        """Joins episodes along the batch axis.

        Raises:
            ValueError: If the episodes differ in size, channels or number of context pairs.
        """
        first = episodes[0]
        values: dict[str, Any] = {}
        for field in fields(Episode):
            items = [getattr(episode, field.name) for episode in episodes]
            if isinstance(items[0], Tensor):
                shapes = {tuple(item.shape[1:]) for item in items}
                if len(shapes) > 1:
                    names = sorted({task for episode in episodes for task in episode.tasks})
                    raise ValueError(
                        f"one batch must hold one shape of `{field.name}`, got {sorted(shapes)} from the tasks "
                        f"{', '.join(names)}; give them the same size and channels, or their own data module"
                    )
                values[field.name] = torch.cat(items)
            elif items[0] is not None:
                values[field.name] = tuple(value for item in items for value in item)
        return replace(first, **values)


def check_shapes(image: Tensor, context_images: Tensor, context_targets: Tensor) -> None:
    """Checks that a query and its context fit together.

    Args:
        image: `(B, C_in, *S)`.
        context_images: `(B, L, C_in, *S)`.
        context_targets: `(B, L, C_out, *S)`.

    Raises:
        ValueError: If batch sizes, channels, spatial sizes or the numbers of images and targets differ.
    """
    shape, images, targets = tuple(image.shape), tuple(context_images.shape), tuple(context_targets.shape)
    if len(images) != len(shape) + 1 or len(targets) != len(shape) + 1:
        raise ValueError(
            "a context has one axis more than the query, (B, L, C, *S): "
            f"got `image` {shape}, `context_images` {images}, `context_targets` {targets}"
        )
    if images[0] != shape[0] or targets[0] != shape[0]:
        raise ValueError(f"query and context must have one batch size, got {shape[0]}, {images[0]} and {targets[0]}")
    if images[2] != shape[1]:
        raise ValueError(
            f"query and context images must have the same channels, got {shape[1]} and {images[2]}; "
            "use the same contrasts, in the same order, for all of them"
        )
    if images[1] != targets[1]:
        raise ValueError(f"every context image needs a target, got {images[1]} images and {targets[1]} targets")
    if images[3:] != shape[2:] or targets[3:] != shape[2:]:
        raise ValueError(
            f"query and context must have one size, got {shape[2:]}, {images[3:]} (images) and {targets[3:]} (targets)"
        )
