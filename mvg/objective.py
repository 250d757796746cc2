"""What a painted target costs: regression for images, regression and region terms for painted labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mvg.configuration import Configurable


class Objective(metaclass=Configurable):
    """Loss of a painted target, one number an episode.

    Every term is normalised within its episode, by the weight of the pixels that count, so that neither the batch nor
    a large background decides how much an episode weighs (MVG's code divides by the whole batch, and drops small
    organs: its loss would never see a 50-pixel organ).

    Label targets may add two terms. With the painted value v, `logit = sharpness * (v - 0.5)`: binary cross-entropy on
    the logit, and soft Dice on its sigmoid, each channel of the paint taken as a soft mask. For colours that are not
    0 or 1 use regression alone.

    Args:
        beta: Where smooth-L1 turns from quadratic to linear, in [0, 1] units. 0 is L1. The released MVG uses 0.01.
        power: 2 for smooth-L1; 3 for the smooth-L3-L1 of Neuroverse3D, which is cubic below beta. It trains with beta 1
            and weights 50. Its gradient all but vanishes at small errors, as those of images mostly are.
        regression: Weight of smooth-L1 on image targets.
        label_regression: Weight of smooth-L1 on label targets.
        cross_entropy: Weight of binary cross-entropy on label targets.
        dice: Weight of soft Dice on label targets.
        gradient: Weight of the L1 distance of finite differences on image targets.
        sharpness: Factor from paint to logit.
        background: Weight of smooth-L1 on label targets where all channels of the target are 0 (the released MVG: 0.1).
        std: Errors of smooth-L1 are divided by it, one value a channel or one for all.
    """

    def __init__(
        self,
        beta: float = 0.01,
        power: int = 2,
        regression: float = 1.0,
        label_regression: float = 1.0,
        cross_entropy: float = 0.0,
        dice: float = 0.0,
        gradient: float = 0.0,
        sharpness: float = 8.0,
        background: float = 1.0,
        std: Sequence[float] = (1.0,),
    ) -> None:
        if beta < 0:
            raise ValueError(f"`beta` must not be negative, got {beta}")
        if power not in (2, 3):
            raise ValueError(f"`power` must be 2 or 3, got {power}")
        if background < 0:
            raise ValueError(f"`background` must not be negative, got {background}")
        self.beta, self.power = beta, power
        self.regression, self.label_regression = regression, label_regression
        self.cross_entropy, self.dice, self.gradient = cross_entropy, dice, gradient
        self.sharpness, self.background, self.std = sharpness, background, tuple(std)

    def __call__(self, painted: Tensor, target: Tensor, weight: Tensor, is_label: Tensor) -> Tensor:
        """Returns the loss of each episode, `(B,)`.

        Args:
            painted: `(B, C, *S)`, about [0, 1].
            target: `(B, C, *S)`, [0, 1].
            weight: `(B, 1, *S)`, not negative; pixels of weight 0 (not masked, say) do not count.
            is_label: `(B,)` bool.
        """
        label = is_label.to(painted.dtype)
        loss = painted.new_zeros(len(painted))
        std = painted.new_tensor(self.std).view(-1, *(1,) * (painted.ndim - 2))
        error = smooth_l1((painted - target) / std, self.beta, self.power).mean(1, keepdim=True)
        if self.regression:
            loss = loss + self.regression * (1 - label) * mean(error, weight)
        if self.gradient:
            loss = loss + self.gradient * (1 - label) * difference_loss(painted, target, weight)
        if self.label_regression:
            empty = (target.amax(1, keepdim=True) <= 0).to(weight.dtype)
            loss = loss + self.label_regression * label * mean(error, weight * (1 - empty * (1 - self.background)))
        if self.cross_entropy or self.dice:
            logit = self.sharpness * (painted - 0.5)
            if self.cross_entropy:
                entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
                loss = loss + self.cross_entropy * label * mean(entropy.mean(1, keepdim=True), weight)
            if self.dice:
                loss = loss + self.dice * label * soft_dice_loss(torch.sigmoid(logit), target, weight)
        return loss


def smooth_l1(error: Tensor, beta: float, power: int = 2) -> Tensor:
    """Smooth-L1 of an error, any shape: below beta a power, above it linear, with equal value and slope at beta.

    Power 2: `e^2 / 2 beta` and `|e| - beta / 2`. Power 3: `e^3 / 3 beta^2` and `|e| - 2 beta / 3`, which is the loss of
    Neuroverse3D (arXiv 2503.02410) but for its rounding of 1/3 to 0.333.
    """
    size = error.abs()
    if beta == 0:
        return size
    return torch.where(size < beta, beta / power * (size / beta) ** power, size - beta * (1 - 1 / power))


def total(values: Tensor) -> Tensor:
    """Sum over all axes but the first, `(B,)`."""
    return values.flatten(1).sum(1)


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of `(B, 1, *S)` in each episode, `(B,)`; 0 where no pixel counts."""
    return total(values * weight) / total(weight).clamp(min=1e-6)


def soft_dice_loss(probability: Tensor, target: Tensor, weight: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus soft Dice, squares in the denominator, averaged over channels; `(B,)`."""
    axes = tuple(range(2, target.ndim))
    overlap = (weight * probability * target).sum(axes)
    size = (weight * (probability**2 + target**2)).sum(axes)
    return (1 - (2 * overlap + smooth) / (size + smooth)).mean(1)


def difference_loss(painted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute error of forward differences, averaged over axes; `(B,)`."""
    terms = []
    for axis in range(2, painted.ndim):
        error = (painted.diff(dim=axis) - target.diff(dim=axis)).abs().mean(1, keepdim=True)
        terms.append(mean(error, weight.narrow(axis, 1, weight.shape[axis] - 1)))
    return torch.stack(terms).mean(0)
