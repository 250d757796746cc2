"""From 2D to 3D: starting weights of a network for volumes from the same network for pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mvg.models.base import InContextModel
from mvg.weights import describe

PAINTERS = ("decoder.expand.", "decoder.sketch.")
"""Linear maps from a token to its pixels, the first axis of the token's grid slowest."""

log = logging.getLogger(__name__)


def is_flat(network: InContextModel, source: str | Path) -> bool:
    """Says whether a network is for volumes and the weights in a folder are of one for pictures."""
    size = describe(source)["network"]["init_args"].get("image_size", network.image_size)
    return len(network.image_size) == 3 and len(size) == 2


def inflate(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fills a network for volumes, in place, so that it begins with what the 2D network knows of slices.

    A kernel of odd length goes into the middle of the new axis, where it looks at one slice; one of even length (a
    stride) is spread evenly over the new axis, so that equal slices give what one of them gave. Maps of
    preferred places, and what paints the pixels of a token, are repeated: each slice is painted alike. Tensors of
    other shapes keep their random start.

    Args:
        network: The network for volumes, of the same widths and depth.
        state: Weights of the 2D network.

    Raises:
        ValueError: If the two networks have no tensor in common.
    """
    own, taken = network.state_dict(), {}
    for name in own.keys() & state.keys():
        grown = _grow(state[name], own[name], name)
        if grown is not None:
            taken[name] = grown.to(own[name].dtype)
    if not taken:
        raise ValueError("these weights share no tensor with the network; give those of the same network for pictures")
    network.load_state_dict(taken, strict=False)
    left = sorted(own.keys() - taken.keys())
    log.info("%d of %d tensors start from the 2D network; not: %s", len(taken), len(own), ", ".join(left) or "none")


def _grow(given: Tensor, own: Tensor, name: str) -> Tensor | None:
    """Fits one tensor; None if it cannot be."""
    if given.shape == own.shape:
        return given
    if name.startswith(PAINTERS) and given.shape[1:] == own.shape[1:] and len(own) % len(given) == 0:
        return given.repeat(len(own) // len(given), *[1] * (given.ndim - 1))
    if given.ndim != 4 or own.ndim != 5 or given.shape[:2] != own.shape[:2] or given.shape[2:] != own.shape[3:]:
        return None
    depth = own.shape[2]
    if name.rpartition(".")[2] == "place":
        return given[:, :, None].expand_as(own).clone()
    if depth % 2 == 0:
        return given[:, :, None].expand_as(own) / depth
    grown = own.new_zeros(own.shape)
    grown[:, :, depth // 2] = given
    return grown
