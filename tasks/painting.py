"""What the adapters share about images: stacking roles, counting channels, weighing pixels, scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mvg import metrics
from mvg.data.subject import Subject
from mvg.episode import Pair

FOREGROUND = 0.01
"""Values of a clean image above this share of the data range are foreground, in which image tasks are scored."""


def gather(subject: Subject, roles: Sequence[str]) -> Tensor:
    """Stacks the images of some roles along the channel axis, `(C, *S)`.

    Raises:
        ValueError: If the subject lacks a role.
    """
    for role in roles:
        if role not in subject.images:
            held = ", ".join(sorted(subject.images)) or "none"
            raise ValueError(f"case {subject.item.case!r} holds no image {role!r}, only: {held}")
    images = [subject.images[role] for role in roles]
    return images[0] if len(images) == 1 else torch.cat(images)


def clamped_image(subject: Subject, role: str) -> Tensor:
    """The image `(C, *S)` that a task degrades, cut to [0, 1].

    Raises:
        ValueError: If the subject lacks it, or a value is no number: transforms would spread it over the image.
    """
    image = gather(subject, [role])
    if bad := int((~image.isfinite()).sum()):
        raise ValueError(
            f"{role!r} of case {subject.item.case!r} holds {bad} values that are NaN or infinite; "
            "replace them when it is read"
        )
    return image.clamp(0, 1)


def clean_image(subject: Subject, role: str) -> Tensor | None:
    """The image `(C, *S)` that an image task asks for, cut to [0, 1]; None where the subject lacks it."""
    return subject.images[role].clamp(0, 1) if role in subject.images else None


def channels_of(subjects: Sequence[Subject], role: str) -> int:
    """Number of channels of a role in the first subject that holds it; 1 if none does."""
    return next((subject.images[role].shape[0] for subject in subjects if role in subject.images), 1)


def as_channels(painted: Tensor, channels: int) -> Tensor:
    """Brings a painted image `(C_out, *S)` to the channels of its task: repeated grey channels are averaged.

    Raises:
        ValueError: If fewer channels were painted than the task has, or the task has several others.
    """
    if painted.shape[0] == channels:
        return painted
    if channels == 1:
        return painted.mean(0, keepdim=True)
    raise ValueError(
        f"the task's targets have {channels} channels, but {painted.shape[0]} were painted; "
        f"give the network `out_channels: {channels}`"
    )


def clamped(painted: Tensor, channels: int) -> Tensor:
    """The answer of an image task: a painted image `(C_out, *S)` with the channels of its task, in [0, 1]."""
    return as_channels(painted, channels).clamp(0, 1)


def truth(pair: Pair, channels: int) -> Tensor:
    """The target of a pair, `(channels, *S)`.

    Raises:
        ValueError: If the pair has none.
    """
    if pair.target is None:
        raise ValueError("a pair without a target cannot be scored; read the role that the target comes from")
    return as_channels(pair.target, channels)


def balanced_weight(mask: Tensor, share: float) -> Tensor | None:
    """Weighs pixels so that a mask holds at least some share of the total weight, however small it is.

    Args:
        mask: `(*S)`, bool.
        share: Smallest share of the weight that the mask gets, [0, 1).

    Returns:
        `(1, *S)`, with mean 1; None (all pixels alike) where the mask is large enough, or empty.
    """
    inside, everything = int(mask.sum()), mask.numel()
    if inside == 0 or inside >= share * everything:
        return None
    high, low = share * everything / inside, (1 - share) * everything / (everything - inside)
    return torch.where(mask, high, low)[None]


def mark(mask: Tensor, share: float) -> Tensor | None:
    """Weighs the pixels of a mask `(*S)` at least twice as much as others, so that `marked` finds it; `(1, *S)`.

    Args:
        mask: `(*S)`, bool.
        share: Smallest share of the weight that the mask gets, [0, 1).
    """
    size = float(mask.float().mean())
    return balanced_weight(mask, max(share, 2 * size / (1 + size)))


def marked(pair: Pair) -> Tensor:
    """Finds the mask of a pair by the weight of its pixels, `(*S)`, bool; empty if all weigh alike."""
    weight = torch.ones_like(pair.image[:1]) if pair.weight is None else pair.weight
    low, high = weight[weight > 0].aminmax() if bool((weight > 0).any()) else weight.aminmax()
    return (weight[0] > (low + high) / 2) & (high > low)


def foreground(reference: Tensor) -> Tensor:
    """Pixels of a clean image `(C, *S)` that are not empty background, `(*S)`, bool."""
    return (reference > FOREGROUND).any(0)


def image_scores(painted: Tensor, target: Tensor, masks: Mapping[str, Tensor]) -> dict[str, float]:
    """PSNR in dB, SSIM and mean absolute error inside of masks, with the data range 1; NaN where one is empty.

    Args:
        painted: `(C, *S)`.
        target: `(C, *S)`.
        masks: What the names of the scores end in, to the pixels that count, `(*S)`, bool.
    """
    similarity = metrics.ssim_map(painted, target)
    scores = {}
    for ending, mask in masks.items():
        scores[f"psnr{ending}"] = metrics.psnr(painted, target, mask)
        scores[f"ssim{ending}"] = float(similarity[:, mask.cpu()].mean())
        scores[f"mae{ending}"] = metrics.mae(painted, target, mask)
    return scores


def check_share(name: str, value: float) -> None:
    """Checks that a constructor's argument is a probability.

    Raises:
        ValueError: If it lies outside of [0, 1].
    """
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1], got {value}")


def check_range(name: str, values: Sequence[float], high: float = float("inf")) -> tuple[float, float]:
    """Checks that a constructor's argument is a range `(low, high)` with 0 < low <= high.

    Raises:
        ValueError: If it is not, or exceeds the highest value allowed.
    """
    if len(values) != 2 or not 0 < values[0] <= values[1] <= high:
        raise ValueError(f"`{name}` must be a range 0 < low <= high <= {high}, got {list(values)}")
    return float(values[0]), float(values[1])
