"""Placing subjects on the network's grid and bringing painted answers back; slices cut out of volumes and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvg.data.subject import Subject

ASPECTS = ("stretch", "pad", "crop")


@dataclass(frozen=True)
class Placement:
    """Where a box of an image lies on the network's grid; every tuple holds one number for each axis of S.

    Attributes:
        shape: Size of the whole image.
        low: First pixel of the box.
        box: Size of the box, in pixels of the image.
        start: First pixel of the box on the network's grid.
        inner: Size of the box on the network's grid.
        image_size: Size of the network's grid; what the box does not cover is 0.
    """

    shape: tuple[int, ...]
    low: tuple[int, ...]
    box: tuple[int, ...]
    start: tuple[int, ...]
    inner: tuple[int, ...]
    image_size: tuple[int, ...]


def place(shape: Sequence[int], image_size: Sequence[int], aspect: str = "stretch") -> Placement:
    """Places a whole image.

    Args:
        shape: Size of the image, `(*S)`.
        image_size: Size of the network's grid.
        aspect: "stretch" fills the grid, "pad" keeps the proportions and leaves a border, "crop" keeps them and cuts.

    Raises:
        ValueError: If the aspect is unknown or the numbers of axes differ.
    """
    size, target = np.array(shape), np.array(image_size)
    if aspect not in ASPECTS:
        raise ValueError(f"`aspect` must be one of {ASPECTS}, got {aspect!r}")
    if size.shape != target.shape:
        raise ValueError(f"an image of {size.size} axes {tuple(shape)} does not fit a network of {tuple(image_size)}")
    box, inner = size, target
    if aspect == "pad":
        inner = np.maximum(1, np.round(size * (target / size).min())).astype(int)
    if aspect == "crop":
        box = np.clip(np.round(target / (target / size).max()), 1, size).astype(int)
    return _placement(size, (size - box) // 2, box, (target - inner) // 2, inner, target)


def place_crop(
    shape: Sequence[int],
    image_size: Sequence[int],
    rng: np.random.Generator,
    anchor: Tensor | None = None,
    scale: Sequence[float] = (0.6, 1.0),
    aspect: str = "stretch",
) -> Placement:
    """Places a random box of an image.

    Args:
        shape: Size of the image, `(*S)`.
        image_size: Size of the network's grid.
        rng: Draws the size and the place of the box.
        anchor: `(*S)` bool; the box holds one of its pixels, drawn at random, where it has any.
        scale: Smallest and largest length of the box along each axis, as a share of the image's, (0, 1].
        aspect: See `place`; it is applied to the box.
    """
    size = np.array(shape)
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"a random box (`crop`) needs two ascending shares of the image in (0, 1], got {list(scale)}")
    box = np.clip(np.round(size * rng.uniform(scale[0], scale[1], size.size)), 1, size).astype(int)
    pixel = (rng.random(size.size) * size).astype(int)
    place_in_box = rng.random(size.size)
    if anchor is not None:
        found = anchor.flatten().nonzero()
        if len(found):
            chosen = int(found[int(rng.integers(len(found)))])
            pixel = np.array(np.unravel_index(chosen, tuple(shape)))
    low = np.clip(pixel - (place_in_box * box).astype(int), 0, size - box)
    whole = place(tuple(int(n) for n in box), image_size, aspect)
    low = low + np.array(whole.low)
    return _placement(size, low, np.array(whole.box), np.array(whole.start), np.array(whole.inner), image_size)


def _placement(*parts: Sequence[int] | np.ndarray) -> Placement:
    return Placement(*(tuple(int(number) for number in part) for part in parts))


def fit(subject: Subject, placement: Placement, labels: str = "nearest") -> Subject:
    """Brings the images and labels of a subject onto the network's grid.

    Args:
        subject: Images `(C, *S)`, labels `(*S)`.
        placement: Which box goes where; its `shape` is S.
        labels: "nearest" samples labels, "majority" takes the class that covers most of a pixel (slower).

    Raises:
        ValueError: If an image or label map is not of the placement's shape.
    """
    for role, values in (*subject.images.items(), *subject.labels.items()):
        if tuple(values.shape[-len(placement.shape) :]) != placement.shape:
            raise ValueError(
                f"role {role!r} of case {subject.item.case!r} must be of size {placement.shape}, "
                f"got {tuple(values.shape)}"
            )
    shrink = [box / inner for box, inner in zip(placement.box, placement.inner, strict=True)]
    return replace(
        subject,
        images={
            role: _pad(resize(_cut(image, placement), placement.inner), placement)
            for role, image in subject.images.items()
        },
        labels={
            role: _pad(_label(_cut(label, placement), placement, labels), placement)
            for role, label in subject.labels.items()
        },
        spacing=tuple(space * factor for space, factor in zip(subject.spacing, shrink, strict=False)),
    )


def restore(painted: Tensor, placement: Placement) -> Tensor:
    """Brings a painted answer back onto the grid of the whole image, before it is decoded.

    Args:
        painted: `(C, *image_size)`.
        placement: How the image was placed.

    Returns:
        `(C, *shape)`, 0 outside of the box.
    """
    inside = painted[_window(placement.start, placement.inner)]
    back = resize(inside, placement.box)
    if placement.box == placement.shape:
        return back
    whole = painted.new_zeros((painted.shape[0], *placement.shape))
    whole[_window(placement.low, placement.box)] = back
    return whole


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes linearly, with antialiasing where pixels are merged; any number of axes.

    Args:
        image: `(C, *S)` float.
        size: New size of S.

    Returns:
        `(C, *size)`.
    """
    if tuple(image.shape[1:]) == tuple(size):
        return image
    if len(size) == 1 or min(*image.shape[1:], *size) == 1:
        return _resize_axes(image, size)
    if len(size) == 2:
        return _interpolate(image[None], tuple(size))[0]
    depth, rest = size[0], tuple(size[1:])
    channels, planes = image.shape[:2]
    flat = resize(image.reshape(channels * planes, *image.shape[2:]), rest).reshape(channels, planes, -1)
    return _interpolate(flat[None], (depth, flat.shape[2]))[0].reshape(channels, depth, *rest)


def _resize_axes(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes `(C, *S)` axis by axis, each as a row of pixels: the library's filter errs in pictures one pixel wide."""
    for axis, extent in enumerate(size, 1):
        if image.shape[axis] != extent:
            rows = image.movedim(axis, -1)
            resized = _interpolate(rows.reshape(1, -1, 1, rows.shape[-1]), (1, extent))
            image = resized.reshape(*rows.shape[:-1], extent).movedim(-1, axis)
    return image


def _interpolate(image: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)


def resize_labels(label: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes a label map `(*S)` by the pixel nearest to each new centre; returns `(*size)`."""
    for axis, extent in enumerate(size):
        old = label.shape[axis]
        if old != extent:
            index = ((torch.arange(extent, device=label.device) + 0.5) * (old / extent)).long().clamp(max=old - 1)
            label = label.index_select(axis, index)
    return label


def majority_labels(label: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes a label map `(*S)` to the class that covers most of each new pixel; returns `(*size)`."""
    classes: Tensor = torch.unique(label)
    share = resize((label[None] == classes.view(-1, *(1,) * label.ndim)).float(), size)
    return classes[share.argmax(0)]


def _label(label: Tensor, placement: Placement, labels: str) -> Tensor:
    if labels not in ("nearest", "majority"):
        raise ValueError(f"`labels` must be 'nearest' or 'majority', got {labels!r}")
    return (resize_labels if labels == "nearest" else majority_labels)(label, placement.inner)


def _window(low: Sequence[int], extent: Sequence[int]) -> tuple[Any, ...]:
    return (..., *(slice(first, first + length) for first, length in zip(low, extent, strict=True)))


def _cut(values: Tensor, placement: Placement) -> Tensor:
    return values if placement.box == placement.shape else values[_window(placement.low, placement.box)]


def _pad(values: Tensor, placement: Placement) -> Tensor:
    if placement.inner == placement.image_size:
        return values
    border: list[int] = []
    for start, inner, whole in zip(
        reversed(placement.start), reversed(placement.inner), reversed(placement.image_size), strict=True
    ):
        border += [start, whole - start - inner]
    return F.pad(values, border)


def to_slices(values: Tensor, axis: int) -> Tensor:
    """Cuts a RAS+ volume into upright pictures, as radiologists look at them.

    Axial slices show the front on top, coronal and sagittal ones the head on top; axial and coronal ones show the
    patient's right on the left side, sagittal ones the front.

    Args:
        values: `(X, Y, Z)`, RAS+.
        axis: 0 for sagittal, 1 for coronal, 2 for axial slices.

    Returns:
        `(n, H, W)`, n along `axis`, ascending.
    """
    column, row = (other for other in range(3) if other != axis)
    return values.flip(row, column).permute(axis, row, column)


def from_slices(slices: Tensor, axis: int) -> Tensor:
    """Puts upright pictures `(n, H, W)` back into a RAS+ volume `(X, Y, Z)`; the inverse of `to_slices`."""
    column, row = (other for other in range(3) if other != axis)
    order = (axis, row, column)
    return slices.permute(order.index(0), order.index(1), order.index(2)).flip(row, column)
