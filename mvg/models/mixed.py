"""One network for images of two axes and of three."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mvg.episode import Episode, Pair
from mvg.models.base import InContextModel, Memory


class Mixed(InContextModel):
    """Two networks that are trained in one run: one for pictures, one for volumes; they may have parts in common.

    Args:
        flat: The network for pictures.
        deep: The network for volumes.
        shared: Submodules of `flat` that take the place of those of `deep`, such as `[blocks]` for two `CanvasViT` of
            equal width, depth and heads: attention then learns from both.
        image_size: Size of volumes, that of `deep`.
        in_channels: Channels of every image, those of both.
        out_channels: Channels of every target, those of both.

    Raises:
        ValueError: If the networks do not fit their place, their channels, or each other.
    """

    def __init__(
        self,
        flat: InContextModel,
        deep: InContextModel,
        image_size: Sequence[int],
        in_channels: int = 1,
        out_channels: int = 1,
        shared: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.image_size, self.in_channels, self.out_channels = tuple(image_size), in_channels, out_channels
        for name, part, dims in (("flat", flat, 2), ("deep", deep, 3)):
            if len(part.image_size) != dims:
                raise ValueError(f"`{name}` must take images of {dims} axes, got {part.image_size}")
            if (part.in_channels, part.out_channels) != (in_channels, out_channels):
                raise ValueError(
                    f"`{name}` takes {part.in_channels} and {part.out_channels} channels, not {in_channels} and "
                    f"{out_channels}; set `in_channels` and `out_channels` alike"
                )
        if tuple(deep.image_size) != self.image_size:
            raise ValueError(f"`image_size` {self.image_size} must be that of `deep`, {tuple(deep.image_size)}")
        for name in shared:
            _share(flat, deep, name)
        self.flat, self.deep = flat, deep

    def part(self, image: Tensor) -> InContextModel:
        """Returns the network that answers a batch of images `(B, C, *S)`."""
        return self.flat if image.ndim == 4 else self.deep

    def no_weight_decay(self) -> set[str]:
        """Names the parameters that weight decay leaves alone."""
        parts = (("flat", self.flat), ("deep", self.deep))
        return {f"{name}.{own}" for name, part in parts for own in getattr(part, "no_weight_decay", set)()}

    def remember(self, context_images: Tensor, context_targets: Tensor) -> Memory:
        """Reads a context by the network for its axes."""
        return self.part(context_images[:, 0]).remember(context_images, context_targets)

    def answer(self, image: Tensor, memory: Memory, coarse: Pair | None = None) -> Tensor:
        """Answers queries by the network for their axes."""
        return self.part(image).answer(image, memory, coarse)

    def loss(self, episode: Episode) -> dict[str, Tensor]:
        """Returns the loss of the network for the axes of a batch."""
        return self.part(episode.image).loss(episode)


def _share(flat: InContextModel, deep: InContextModel, name: str) -> None:
    shapes = []
    for part in (flat, deep):
        try:
            shapes.append({n: p.shape for n, p in part.get_submodule(name).named_parameters()})
        except AttributeError:
            raise ValueError(f"`shared` names {name!r}, which {type(part).__name__} does not have") from None
    if shapes[0] != shapes[1]:
        raise ValueError(f"`shared` names {name!r}, which differs between `flat` and `deep`; give both equal numbers")
    parent, _, last = name.rpartition(".")
    setattr(deep.get_submodule(parent), last, flat.get_submodule(name))
