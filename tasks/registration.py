"""Registration: a moving image brought onto a fixed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvg.data.fields import smooth_noise
from mvg.data.geometry import resize
from mvg.data.source import Index
from mvg.data.subject import Subject
from mvg.episode import Pair, Spec
from tasks.painting import channels_of, clamped_image, clean_image, foreground, gather
from tasks.restoration import ImageTask, check_choice

KNOTS = 6
"""Grey values at which the curve of a fixed image is drawn, evenly from 0 to 1."""
STEEPEST = 0.9
"""Largest sum of the absolute derivatives of a component of a displacement: below 1 nothing folds."""


class Registration(ImageTask):
    """Paints a moving image in the place of a fixed one.

    One subject gives both: with a smooth displacement u that is known, the fixed image is `c(x(r + u(r)))`, the moving
    image m is shown as it lies, and the target is the moved image `m(r + u(r))`. x is the image of the role `fixed`, of
    another contrast, or m itself; c is a random curve of grey values, drawn for the episode and not monotonic, so that
    the fixed image alone does not give the answer (without it the target would be the fixed image). Copying the moving
    image is the trivial answer. u is a cubic B-spline, its largest component is `displacement`, and it is made smaller
    where `r + u(r)` would fold. The size of u, its cells and the curve are shared by an episode, u itself differs.

    An image has to show two images. In the layout "channels" they are its channels, moving first: the network needs
    `in_channels: 2` (with 1-channel images; other tasks of the same run repeat theirs) and `out_channels: 1`; then any
    network will do. In the layout "stitched" both are squeezed to half their width and lie side by side, moving left,
    as one channel: every network will do, also one that was trained for other tasks, at half the resolution. The
    target is stitched from the moved and the fixed image, but only its left half counts in loss and scores.

    Args:
        role: The image that is moved.
        fixed: The image whose place counts; by default the role that is moved.
        layout: "channels" or "stitched".
        curve: Whether the grey values of the fixed image are changed.
        degraded: Roles of a moving and a fixed image that are given as they are; the target is then `role` if that is
            there too. At prediction time the query offers these alone.
        displacement: Range of the largest component of the displacement, as a share of the length of its axis.
        cells: Smallest and largest number of B-spline intervals along each axis, whole.
        foreground: Least share of the loss weight that the foreground of the moved image gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    whole: ClassVar[frozenset[str]] = frozenset({"cells"})

    def __init__(
        self,
        role: str = "image",
        fixed: str | None = None,
        layout: Literal["channels", "stitched"] = "channels",
        curve: bool = True,
        degraded: Sequence[str] = ("moving", "fixed"),
        displacement: tuple[float, float] = (0.01, 0.06),
        cells: tuple[int, int] = (1, 3),
        foreground: float = 0.0,
        mim: float = 0.9,
    ) -> None:
        if len(degraded) != 2:
            raise ValueError(f"`degraded` must name the roles of a moving and a fixed image, got {list(degraded)}")
        check_choice("layout", layout, ("channels", "stitched"))
        super().__init__({"displacement": displacement, "cells": cells}, foreground, mim)
        self.role, self.given = role, list(degraded)
        self.fixed, self.layout, self.curve = fixed or role, layout, curve

    def accepts(self, index: Index) -> bool:
        """Says whether at least one item offers both images."""
        return bool(len(index.find((self.role, self.fixed))))

    def draw(self, index: Index, rng: np.random.Generator, training: bool) -> Spec:
        """Draws the size of the displacement and the curve."""
        required = sorted({self.role, self.fixed})
        identity = {"identity": 0} if self.layout == "channels" else {}
        roles = {"query": required, "context": required, "inputs": self.given, **identity}
        return {**roles, **self.strengths(rng), "channels": 1}

    def strengths(self, rng: np.random.Generator) -> Spec:
        """Draws the size of the displacement, its cells, and the values of the curve at its knots."""
        knots = [0.0, *rng.uniform(0.1, 1, KNOTS - 1).tolist()] if self.curve else None
        return {**super().strengths(rng), "knots": knots}

    def complete(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec:
        """Notes the number of channels of the moved image."""
        return {**spec, "channels": channels_of(subjects, self.role)}

    def encode(self, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
        """Makes a fixed image of one subject, or takes both images that it offers."""
        if all(role in subject.images for role in self.given):
            moving, fixed = (gather(subject, [role]) for role in self.given)
            moved = clean_image(subject, self.role)
        else:
            moving, fixed = clamped_image(subject, self.role), clamped_image(subject, self.fixed)
            field = draw_displacement(subject.shape, spec["displacement"], spec["cells"], rng)
            moved, fixed = warp(moving, field), recolour(warp(fixed, field), spec["knots"])
        if self.layout == "channels":
            return Pair(torch.cat([moving, fixed]), moved, self.weigh(moved))
        half = torch.zeros(1, *fixed.shape[1:])
        half[..., : half.shape[-1] // 2] = 1
        return Pair(stitch(moving, fixed), None if moved is None else stitch(moved, fixed), half)

    def masks(self, pair: Pair, target: Tensor) -> Mapping[str, Tensor]:
        """Scores in the foreground of the moved image."""
        inside = foreground(target)
        if self.layout == "stitched":
            inside[..., inside.shape[-1] // 2 :] = False
        return {"": inside}


def draw_displacement(shape: Sequence[int], share: float, cells: int, rng: np.random.Generator) -> Tensor:
    """Draws a smooth displacement that folds nowhere, `(dims, *S)`, in pixels.

    Args:
        shape: S.
        share: Largest component, as a share of the length of its axis.
        cells: Number of B-spline intervals along each axis.
        rng: Source of randomness.
    """
    dims = len(shape)
    field = smooth_noise(rng, shape, (cells,) * dims, dims)
    peak = np.abs(field).reshape(dims, -1).max(1).clip(1e-6)
    field *= (share * np.array(shape) / peak).reshape(dims, *[1] * dims).astype(np.float32)
    steep = np.zeros((dims, *shape), dtype=np.float32)
    for axis, size in enumerate(shape, start=1):
        if size > 1:
            steep += np.abs(np.gradient(field, axis=axis))
    return torch.from_numpy(field * min(1.0, STEEPEST / max(float(steep.max()), 1e-6)))


def warp(image: Tensor, field: Tensor) -> Tensor:
    """Samples `(C, *S)` at `r + u(r)`, linearly; 0 beyond the border.

    Args:
        image: `(C, *S)`.
        field: `(dims, *S)`, the displacement u in pixels.
    """
    shape = image.shape[1:]
    identity = torch.stack(torch.meshgrid(*(torch.arange(size) + 0.5 for size in shape), indexing="ij"))
    size = torch.tensor(shape).view(-1, *(1,) * len(shape))
    grid = (2 * (identity + field) / size - 1).flip(0).movedim(0, -1)
    return F.grid_sample(image[None], grid[None].float(), align_corners=False)[0]


def recolour(image: Tensor, knots: Sequence[float] | None) -> Tensor:
    """Passes grey values in [0, 1] through a piecewise linear curve, given at even knots; None leaves them."""
    if knots is None:
        return image
    values = np.interp(image.numpy(), np.linspace(0, 1, len(knots)), knots)
    return torch.from_numpy(values.astype(np.float32))


def stitch(left: Tensor, right: Tensor) -> Tensor:
    """Squeezes two images `(C, *S)` to half their width, the last axis, and lays them side by side; `(C, *S)`.

    Raises:
        ValueError: If the images are one pixel wide.
    """
    width = left.shape[-1]
    if width < 2:
        raise ValueError(f"two images cannot lie side by side in a width of {width}; use `layout: channels`")
    halves = []
    for image, part in ((left, width // 2), (right, width - width // 2)):
        narrow = resize(image.reshape(1, -1, width), (image.numel() // width, part))
        halves.append(narrow.reshape(*image.shape[:-1], part))
    return torch.cat(halves, -1)
