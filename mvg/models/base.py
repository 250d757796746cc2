"""The contract of a network that answers a query from examples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mvg.configuration import Configurable
from mvg.episode import Episode, Pair, check_shapes

Memory = Any
"""What a network keeps of a context: its own business, but tensors inside tuples, lists or dataclasses."""


class InContextModel(nn.Module, metaclass=Configurable):
    """A network that paints the answer to a query after the example of its context.

    Attributes:
        image_size: Size of the images it was built for, `(H, W)` or `(D, H, W)`.
        in_channels: Channels of every image, C_in.
        out_channels: Channels of every target, C_out.
    """

    image_size: tuple[int, ...]
    in_channels: int
    out_channels: int

    def forward(self, image: Tensor, context_images: Tensor, context_targets: Tensor) -> Tensor:
        """Paints the target of each query.

        Args:
            image: `(B, C_in, *S)`, about [0, 1].
            context_images: `(B, L, C_in, *S)`, L >= 1 of any number.
            context_targets: `(B, L, C_out, *S)`, [0, 1].

        Returns:
            `(B, C_out, *S)`, about [0, 1] but not clamped.

        Raises:
            ValueError: If shapes, channels or sizes do not fit together or do not fit the network.
        """
        check_shapes(image, context_images, context_targets)
        return self.answer(image, self.remember(context_images, context_targets))

    @abstractmethod
    def remember(self, context_images: Tensor, context_targets: Tensor) -> Memory:
        """Reads a context once: everything that does not depend on the query.

        A memory of batch size 1 serves a query batch of any size.
        """

    @abstractmethod
    def answer(self, image: Tensor, memory: Memory, coarse: Pair | None = None) -> Tensor:
        """Answers queries from a memory.

        Args:
            image: `(B, C_in, *S)`.
            memory: What `remember` returned.
            coarse: The same query at the coarser scale with its answer, in next-scale prediction.

        Returns:
            `(B, C_out, *S)`.
        """

    @abstractmethod
    def loss(self, episode: Episode) -> dict[str, Tensor]:
        """Returns the training loss under the key "loss" (a mean over episodes) and what else is worth a log line."""

    def head_names(self) -> tuple[str, ...]:
        """Names the submodules that paint, which adaptation may train alone; none by default."""
        return ()

    def prompt_places(self) -> Mapping[str, int]:
        """Names submodules from tokens `(..., width)` to tokens, beside which prompts can be learned, with their width.

        None by default; a container whose children are called in turn (`nn.Sequential`) is no such place.
        """
        return {}
