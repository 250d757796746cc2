"""The contract of a network that answers a query from examples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from mvg.configuration import TRUSTED, Configurable
from mvg.episode import Episode, Pair, check_shapes

Memory = Any
"""What a network keeps of a context: its own business, but tensors inside tuples, lists or dataclasses."""

Ask = tuple[int, Pair | None]
"""After how many pairs of a context a query is to be answered, and the query at the coarser scale with its answer."""


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

    @classmethod
    def from_pretrained(cls, source: str | Path, trusted: Sequence[str] = TRUSTED) -> Self:
        """Loads a trained network; `InContextModel.from_pretrained` loads any, another class only its own.

        Args:
            source: A trained folder, one of its files, or `hub:OWNER/NAME` on the Hugging Face hub.
            trusted: Packages whose classes may be named.

        Raises:
            FileNotFoundError: If the folder is missing or incomplete.
            ValueError: If it holds another class of network, or its weights do not fit the network it describes.
        """
        from mvg.weights import load

        network = load(source, trusted)
        if not isinstance(network, cls):
            raise ValueError(f"{source} holds a {type(network).__name__}, not a {cls.__name__}; load it by `mvg.load`")
        return network

    def save_pretrained(self, folder: str | Path, **facts: Any) -> Path:
        """Writes the network to a folder that `from_pretrained` opens: safetensors, JSON and a model card.

        Args:
            folder: Where to write; an existing folder is replaced.
            **facts: What is known of the weights: `tasks`, `sources`, `metrics`, `origin`, as in `mvg.weights.save`.
        """
        from mvg.weights import save

        return save(folder, self, **facts)

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

    def answer_after(
        self, image: Tensor, context_images: Tensor, context_targets: Tensor, asked: Sequence[Ask]
    ) -> list[Tensor]:
        """Answers queries several times, each time after the first few pairs of a context.

        Networks override it where they can share work between these answers.

        Args:
            image: `(B, C_in, *S)`.
            context_images: `(B, L, C_in, *S)`.
            context_targets: `(B, L, C_out, *S)`.
            asked: Numbers of pairs, 1 to L, with the coarser scale of the query where it is given.

        Returns:
            Answers `(B, C_out, *S)` in the order of `asked`.
        """
        return [
            self.answer(image, self.remember(context_images[:, :count], context_targets[:, :count]), coarse)
            for count, coarse in asked
        ]

    @abstractmethod
    def loss(self, episode: Episode) -> dict[str, Tensor]:
        """Returns the training loss under the key "loss" (a mean over episodes) and what else is worth a log line."""

    def head_names(self) -> tuple[str, ...]:
        """Names the submodules that paint, which adaptation may train alone; none by default."""
        return ()

    def prompt_places(self) -> Mapping[str, tuple[int, int]]:
        """Names submodules whose outputs learned prompts may add to; none by default.

        Returns:
            Name to axis and length of the features in the output: (-1, width) for tokens, (1, channels) for maps.
        """
        return {}
