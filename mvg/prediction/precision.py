"""Answers in bfloat16: faster where the processor multiplies it natively, with the memory of a context halved."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mvg.episode import Episode, Pair
from mvg.models.base import Ask, InContextModel, Memory

Precision = Literal["32", "bf16"]
"""How a network computes: in single precision, or in bfloat16 where PyTorch deems it safe."""


def in_precision(network: InContextModel, precision: Precision) -> InContextModel:
    """Returns a network that answers in a precision; the network itself stays as it is.

    Args:
        network: The network, on any device.
        precision: "32" returns the network itself; "bf16" a copy of it.

    Raises:
        ValueError: If there is no such precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"`precision` must be {' or '.join(get_args(Precision))}, got {precision!r}")
    if precision == "32":
        return network
    made = LowPrecision(rounded(network)).eval()
    object.__setattr__(made, "init_args", {})  # which would hold the network in both precisions
    return made


def rounded(network: InContextModel) -> InContextModel:
    """Copies a network with weights of products in bfloat16, as autocast rounds them in every call, here once."""
    network = copy.deepcopy(network)
    for part in network.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv3d):
            part.to(torch.bfloat16)
    return network


class LowPrecision(InContextModel):
    """Answers as a network does, in bfloat16 where PyTorch deems it safe; answers themselves are in single precision.

    Args:
        network: The network, with weights as `rounded` leaves them.
    """

    def __init__(self, network: InContextModel) -> None:
        super().__init__()
        self.network, self.image_size = network, network.image_size
        self.in_channels, self.out_channels = network.in_channels, network.out_channels

    def _cast(self) -> torch.autocast:
        return torch.autocast(next(self.network.parameters()).device.type, torch.bfloat16)

    def remember(self, context_images: Tensor, context_targets: Tensor) -> Memory:
        """Reads a context."""
        with self._cast():
            return self.network.remember(context_images, context_targets)

    def answer(self, image: Tensor, memory: Memory, coarse: Pair | None = None) -> Tensor:
        """Answers queries, float32."""
        with self._cast():
            return self.network.answer(image, memory, coarse).float()

    def answer_after(
        self, image: Tensor, context_images: Tensor, context_targets: Tensor, asked: Sequence[Ask]
    ) -> list[Tensor]:
        """Answers queries several times, float32."""
        with self._cast():
            answers = self.network.answer_after(image, context_images, context_targets, asked)
        return [answer.float() for answer in answers]

    @property
    def chunk(self) -> int | None:
        """Examples that the network reads at a time, if it can read them in parts."""
        return getattr(self.network, "chunk", None)

    @chunk.setter
    def chunk(self, number: int) -> None:
        setattr(self.network, "chunk", number)  # noqa: B010

    def loss(self, episode: Episode) -> dict[str, Tensor]:
        """Is not for rounded weights.

        Raises:
            ValueError: Always.
        """
        raise ValueError("weights that were rounded to bfloat16 cannot be trained; use --trainer.precision bf16-mixed")

    def prompt_places(self) -> Mapping[str, tuple[int, int]]:
        """Those of the network."""
        return {f"network.{name}": place for name, place in self.network.prompt_places().items()}


def find_device(name: str) -> torch.device:
    """Finds a device.

    Raises:
        ValueError: If its name is unknown or this machine has none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"`device` must be cpu, cuda or cuda:NUMBER, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"`device` is {name}, but PyTorch finds {torch.cuda.device_count()} CUDA devices here; "
            "use cpu, or see `mvg doctor`"
        )
    return device
