"""Inpainting: a hole cut into an image, and what was there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvg.data.geometry import resize
from mvg.data.source import Index
from mvg.data.subject import Subject
from mvg.episode import Pair, Spec
from tasks.painting import (
    FOREGROUND,
    channels_of,
    check_range,
    clamped_image,
    clean_image,
    foreground,
    mark,
    marked,
)
from tasks.restoration import ImageTask, check_kinds

_FINEST, _RIM = {2: 4, 3: 2}, 0.05
Hole = Literal["boxes", "blobs", "strokes", "slabs", "given"]


class Inpainting(ImageTask):
    """Paints the whole image from one with a hole.

    The kind of hole and its size are drawn once for an episode, its place and shape for each image, around points of
    the foreground. Every hole has one to three parts. Its pixels get the constant `fill`, without noise, and weigh at
    least twice as much in the loss as the others: that is also how scores know the hole. In training some holes are cut
    at a finer resolution and brought to that of the image, as files are that have a hole: their edges are soft, and a
    network that has only seen sharp ones leaves a dark rim. Scores inside the hole end
    in `_hole`; the others are taken in the foreground of the true image (values above 0.01). The data range is 1.

    Args:
        role: The whole image, the target.
        degraded: Role of an image that has its hole already. Where a subject offers it, it is shown as it is, and the
            target is the whole image if that is there too. At prediction time the query offers this role alone.
        mask: Label role that marks the hole, for the kind "given" and for images that have their hole already.
        kinds: Kinds of hole, one of them drawn for each episode: axis-parallel boxes, smooth blobs, strokes of a
            brush, "slabs" across an axis of the volume (bands in 2D, at least one plane), or "given" by the data set.
        share: Range of the share of the image's pixels that the hole takes, (0, 1).
        fill: Value of the hole.
        hole: Least share of the loss weight that the hole gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
        soft: Share of training episodes whose holes have soft edges, [0, 1].
    """

    metrics: ClassVar[Mapping[str, bool]] = {
        "psnr_hole": True,
        "ssim_hole": True,
        "mae_hole": False,
        "psnr": True,
        "ssim": True,
        "mae": False,
    }
    primary: ClassVar[str] = "psnr_hole"

    def __init__(
        self,
        role: str = "image",
        degraded: str = "voided",
        mask: str = "mask",
        kinds: Sequence[Hole] = ("boxes", "blobs", "strokes"),
        share: tuple[float, float] = (0.03, 0.2),
        fill: float = 0.0,
        hole: float = 0.5,
        mim: float = 0.9,
        soft: float = 0.5,
    ) -> None:
        check_kinds(kinds, [*FIELDS, "given"])
        if not 0 <= soft <= 1:
            raise ValueError(f"`soft` must be a share in [0, 1], got {soft}")
        if not 0 <= hole < 1:
            raise ValueError(f"`hole` must be in [0, 1), got {hole}")
        super().__init__({}, 0.0, mim)
        self.role, self.degraded, self.mask, self.kinds = role, degraded, mask, list(kinds)
        self.share, self.fill, self.hole, self.soft = check_range("share", share, 0.9), fill, hole, soft

    def accepts(self, index: Index) -> bool:
        """Says whether an index offers the image, and the mask if no other hole is allowed."""
        return self.role in index.keys and bool(self._possible(index))

    def _possible(self, index: Index) -> list[Hole]:
        """Kinds of hole that can be cut: "given" needs an item with image and mask."""
        masked = "given" in self.kinds and bool(len(index.find((self.role, self.mask))))
        return [kind for kind in self.kinds if kind != "given" or masked]

    def draw(self, index: Index, rng: np.random.Generator, training: bool) -> Spec:
        """Draws the kind of hole and the share of the image that it takes (None if given).

        Raises:
            ValueError: If only given holes are allowed and no item has one.
        """
        possible = self._possible(index)
        if not possible:
            raise ValueError(f"no item offers {self.role!r} with the hole {self.mask!r}; add another kind of hole")
        kind = possible[int(rng.integers(len(possible)))]
        share = float(rng.uniform(*self.share))
        fine = int(rng.integers(2, _FINEST[2] + 1)) if training and rng.random() < self.soft else 1
        required = [self.role, self.mask] if kind == "given" else [self.role]
        return {
            "query": required,
            "context": required,
            "inputs": [self.degraded],
            "kind": kind,
            "share": None if kind == "given" else share,
            "fine": fine,
            "channels": 1,
        }

    def complete(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec:
        """Notes the number of channels of the image."""
        return {**spec, "channels": channels_of(subjects, self.role)}

    def encode(self, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
        """Cuts a hole into one image, or takes the image with a hole that the subject offers."""
        labels = subject.labels.get(self.mask)
        hole = None if labels is None else labels > 0
        if self.degraded in subject.images:
            weight = None if hole is None else mark(hole, self.hole)
            return Pair(subject.images[self.degraded], clean_image(subject, self.role), weight)
        target = clamped_image(subject, self.role)
        if spec["kind"] != "given":
            fine = min(spec.get("fine", 1), _FINEST[target.ndim - 1])
            cover = cover_hole(target, spec["kind"], spec["share"], rng, fine)
        elif hole is None:
            raise ValueError(f"case {subject.item.case!r} holds no hole {self.mask!r}")
        else:
            cover = hole.float()
        image = torch.lerp(target, torch.full_like(target, self.fill), cover)
        return Pair(image, target, mark(cover > _RIM, self.hole))

    def masks(self, pair: Pair, target: Tensor) -> Mapping[str, Tensor]:
        """Scores inside the hole, and in the foreground."""
        return {"_hole": marked(pair), "": foreground(target)}


def cover_hole(image: Tensor, kind: Hole, share: float, rng: np.random.Generator, fine: int = 1) -> Tensor:
    """Draws how much of each pixel a hole covers.

    Args:
        image: As of `cut_hole`.
        kind: As of `cut_hole`.
        share: As of `cut_hole`.
        rng: Source of randomness.
        fine: By how much finer the grid is in which the hole is cut; its edges are soft from 2 on.

    Returns:
        `(*S)`, [0, 1], float32.
    """
    hole = cut_hole(image, kind, share, rng, fine).float()
    return hole if fine == 1 else resize(hole[None], image.shape[1:])[0].clamp(0, 1)


def cut_hole(image: Tensor, kind: Hole, share: float, rng: np.random.Generator, fine: int = 1) -> Tensor:
    """Draws a hole.

    A field that grows away from some points of the foreground is cut where the wanted number of pixels lies below,
    so that the size is met, to a row of pixels for boxes, wherever the points lie.

    Args:
        image: `(C, *S)`.
        kind: "boxes", "blobs", "strokes" or "slabs".
        share: Share of the pixels that the hole takes, (0, 1).
        rng: Source of randomness.
        fine: By how much finer its grid is than the image's.

    Returns:
        `(*S)`, or so many times finer, bool.
    """
    shape = tuple(fine * size for size in image.shape[1:])
    points = np.stack([_foreground_point(image, rng) for _ in range(rng.integers(1, 4))])
    field = FIELDS[kind](shape, points, rng)
    count = max(1, round(share * field.size))
    level = np.partition(field.ravel(), count - 1)[count - 1]
    below, upto = field < level, field <= level
    closer = below if count - below.sum() < upto.sum() - count and below.any() else upto
    return torch.from_numpy(closer)


def _foreground_point(image: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Draws a point in the first foreground pixel of 16 random ones; `(dims,)`, in units of the longest axis."""
    shape = image.shape[1:]
    places = rng.integers(0, shape, (16, len(shape)))
    values = image[(slice(None), *torch.from_numpy(places.T))]
    point: np.ndarray = places[int((values > FOREGROUND).any(0).int().argmax())] + rng.random(len(shape))
    return point / max(shape)


def _axes(shape: tuple[int, ...], most: int | None = None) -> list[np.ndarray]:
    """Coordinates of pixel centres, one array for each axis, that broadcast to the grid; longest axis is [0, 1].

    With `most`, the grid covers the same space with at most so many pixels along each axis.
    """
    small = [min(size, most or size) for size in shape]
    axes = [(np.arange(few) + 0.5) * size / few / max(shape) for few, size in zip(small, shape, strict=True)]
    return list(np.meshgrid(*(axis.astype(np.float32) for axis in axes), indexing="ij", sparse=True))


def _distance(axes: Sequence[np.ndarray], points: np.ndarray) -> np.ndarray:
    """Distance of each pixel from the nearest point."""
    nearest = np.full(np.broadcast_shapes(*(axis.shape for axis in axes)), np.inf, dtype=np.float32)
    for point in points.astype(np.float32):
        square = np.zeros_like(nearest)
        for axis, value in zip(axes, point, strict=True):
            square += (axis - value) ** 2
        np.minimum(nearest, square, out=nearest)
    return np.sqrt(nearest, out=nearest)


def box_field(shape: tuple[int, ...], points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Field whose level sets are boxes around points, each with aspect ratios of its own."""
    sides = np.exp(rng.uniform(-0.7, 0.7, points.shape))
    field = np.full(shape, np.inf)
    for point, side in zip(points, sides, strict=True):
        box = np.zeros(shape)
        for axis, value, length in zip(_axes(shape), point, side, strict=True):
            np.maximum(box, abs(axis - value) / length, out=box)
        np.minimum(field, box, out=field)
    return field


def blob_field(shape: tuple[int, ...], points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Distance from points, made uneven by smooth noise."""
    noise = torch.from_numpy(rng.standard_normal((1, 1, *[6] * len(shape)), dtype=np.float32))
    return _distance(_axes(shape), points) + 0.08 * _resize(noise, shape)


def stroke_field(shape: tuple[int, ...], points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Distance from winding lines that start at points and bounce off the border.

    It is smooth, so that large grids are interpolated from one of about 32,768 pixels.
    """
    steps = rng.standard_normal((24, *points.shape))
    for place in range(1, len(steps)):
        steps[place] = 0.9 * steps[place - 1] + 0.45 * steps[place]
    steps *= 0.02 / np.linalg.norm(steps, axis=-1, keepdims=True).clip(1e-6)
    walls = np.array(shape) / max(shape)
    lines = walls - abs(walls - abs(points + steps.cumsum(0)))
    field = _distance(_axes(shape, most=round(32768 ** (1 / len(shape)))), np.concatenate([points, *lines]))
    return _resize(torch.from_numpy(field)[None, None], shape)


def slab_field(shape: tuple[int, ...], points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Distance from the first point along one axis: level sets are slabs of a volume, or bands of an image."""
    axis = int(rng.integers(len(shape)))
    return np.array(np.broadcast_to(abs(_axes(shape)[axis] - points[0, axis]), shape))


def _resize(field: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolates `(1, 1, *s)` linearly to `(*S)`."""
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    resized: np.ndarray = F.interpolate(field, size=shape, mode=mode, align_corners=False)[0, 0].numpy()
    return resized


FIELDS = {"boxes": box_field, "blobs": blob_field, "strokes": stroke_field, "slabs": slab_field}
