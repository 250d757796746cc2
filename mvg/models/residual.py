"""Parts of convolutional networks for volumes: few passes over memory, channels last."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mvg.models.stem import conv


def activate(values: Tensor) -> Tensor:
    """GELU; overwrites `values` where nothing is differentiated, so hand in only what nobody else holds."""
    if torch.is_grad_enabled():
        return F.gelu(values)
    done: Tensor = torch.ops.aten.gelu_(values)
    return done


class Pointwise(nn.Linear):
    """A convolution with a kernel of 1, as a linear map of channels: a plain matrix product where channels are last."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(B, in, *S)` to `(B, out, *S)`."""
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


def pointwise_pair(first: int, second: int, outputs: int) -> tuple[Pointwise, Pointwise]:
    """Makes a 1x1 convolution over two inputs joined along channels, as one map of each, to be summed.

    So the joined input is never made, and each share can be computed where it is cheapest: once for all examples, or
    before up-sampling or attention, with which it commutes. The bias belongs to the first.

    Args:
        first: Channels of the first input.
        second: Channels of the second input.
        outputs: Channels out.
    """
    pair = Pointwise(first, outputs), Pointwise(second, outputs, bias=False)
    with torch.no_grad():  # random weights as those of the joined convolution, whose inputs are more
        for part in pair:
            part.weight.mul_((part.in_features / (first + second)) ** 0.5)
        pair[0].bias.mul_((first / (first + second)) ** 0.5)
    return pair


class ResidualUnit(nn.Module):
    """Two convolutions of 3 with GELU, and a residual path.

    Args:
        dims: 2 or 3.
        width: Channels.
        checkpointing: Recomputes the unit in the backward pass to save memory.
        normalise: Group normalisation, 16 channels a group, after each convolution.
    """

    def __init__(self, dims: int, width: int, checkpointing: bool = False, normalise: bool = False) -> None:
        super().__init__()
        self.first, self.second = conv(dims, width, width, 3), conv(dims, width, width, 3)
        norms = [nn.GroupNorm(max(1, width // 16), width) if normalise else nn.Identity() for _ in range(2)]
        self.norm_first, self.norm_second = norms
        self.checkpointing = checkpointing

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `(B, width, *S)` to the same shape."""
        if self.checkpointing and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(self._run, maps, use_reentrant=False)
            return recomputed
        return self._run(maps)

    def _run(self, maps: Tensor) -> Tensor:
        hidden = activate(self.norm_first(self.first(maps)))
        return activate(self.norm_second(self.second(hidden)).add_(maps))


class Up(nn.Module):
    """Doubles the size linearly, joins the skip along channels and maps both by a 1x1 convolution.

    Args:
        inputs: Channels of the coarse maps.
        width: Channels of the skip and out.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.deep, self.skip = pointwise_pair(inputs, width, width)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        """Maps `(B, inputs, *S / 2)` and `(B, width, *S)` to `(B, width, *S)`."""
        mode = "bilinear" if maps.ndim == 4 else "trilinear"
        large = F.interpolate(self.deep(maps), scale_factor=2, mode=mode, align_corners=False)
        return large.add_(self.skip(skip))


MakeUnit = Callable[[int], ResidualUnit]
"""Makes the residual unit of a stage from its channels."""
