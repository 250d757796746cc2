"""Undersampled MRI: the full image from one with lines of k-space left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mvg.data.subject import Subject
from mvg.episode import Spec
from tasks.kspace import along, central, from_lines, smooth_phase, to_lines
from tasks.restoration import Restoration, check_kinds, choose, draw_axis

Pattern = Literal["random", "equispaced"]


class Undersampling(Restoration):
    """Paints the full image from Cartesian k-space of which phase-encoding lines were left out.

    With the image x, a smooth phase p, the Fourier transform F along the phase-encoding axis and the mask M of the
    lines that were measured, the degraded image is the magnitude of the zero-filled reconstruction,
    `|F^-1 M F (x exp(i p))|`. Of n lines, `n / acceleration` are measured in total: the central
    `n * centre`, and the rest at random or evenly spaced among the others (the masks of fastMRI, Zbontar et al. 2018,
    arXiv 1811.08839, with an exact number of lines). Without the phase k-space would be symmetric, and half of it
    enough. Acceleration, centre, pattern and axis are shared by an episode; lines and phase differ between images.

    Args:
        role: The full image, the target.
        degraded: Role of an image that is undersampled already; see `Restoration`.
        kinds: Patterns of the lines outside of the centre, one of them drawn for each episode.
        acceleration: Range of the number of lines divided by the number measured; above 1.
        centre: Range of the share of the lines, around frequency 0, that is always measured; its highest value times
            the highest acceleration is at most 1.
        phase: Largest phase of the image in radians; 0 for a real image.
        axis: Phase-encoding axis; drawn for each episode by default.
        foreground: Least share of the loss weight that the foreground gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    def __init__(
        self,
        role: str = "image",
        degraded: str = "undersampled",
        kinds: Sequence[Pattern] = ("random", "equispaced"),
        acceleration: tuple[float, float] = (2.0, 6.0),
        centre: tuple[float, float] = (0.08, 0.16),
        phase: float = 1.0,
        axis: int | None = None,
        foreground: float = 0.0,
        mim: float = 0.9,
    ) -> None:
        super().__init__(role, degraded, {"acceleration": acceleration, "centre": centre}, foreground, mim)
        check_kinds(kinds, ("random", "equispaced"))
        if acceleration[0] < 1 or acceleration[1] * centre[1] > 1:
            raise ValueError(
                "`acceleration` must be at least 1, and its highest value times that of `centre` at most 1, "
                f"got {list(acceleration)} and {list(centre)}"
            )
        if phase < 0:
            raise ValueError(f"`phase` must not be negative, got {phase}")
        self.kinds, self.phase, self.axis = list(kinds), phase, axis

    def strengths(self, rng: np.random.Generator) -> Spec:
        """Draws acceleration, centre and pattern."""
        return {**super().strengths(rng), "kind": choose(self.kinds, rng)}

    def orient(self, dims: int, rng: np.random.Generator) -> Spec:
        """Draws the phase-encoding axis."""
        return {"axis": draw_axis(self.axis, dims, rng)}

    def degrade(self, clean: Tensor, subject: Subject, spec: Spec, rng: np.random.Generator) -> Tensor:
        """Leaves lines of k-space out."""
        shape, axis = clean.shape[1:], spec["axis"]
        measured = draw_lines(shape[axis], spec["acceleration"], spec["centre"], spec["kind"], rng)
        image = clean * smooth_phase(shape, self.phase, rng) if self.phase else clean
        return undersample(image, measured, axis).abs()


def undersample(image: Tensor, measured: Tensor, axis: int) -> Tensor:
    """Zero-filled reconstruction from some lines of k-space, complex.

    Args:
        image: `(C, *S)`, real or complex.
        measured: `(n,)`, bool, lines along the axis that were measured, frequency 0 at n // 2.
        axis: Axis of S.
    """
    return from_lines(to_lines(image, axis) * along(measured.float(), axis, image.ndim - 1), axis)


def draw_lines(size: int, acceleration: float, centre: float, pattern: Pattern, rng: np.random.Generator) -> Tensor:
    """Draws which lines are measured, `(size,)`, bool.

    Args:
        size: Number of lines.
        acceleration: `size` over the number of measured lines.
        centre: Share of the lines that is always measured; at least one line is.
        pattern: "random" or "equispaced" lines outside of the centre.
        rng: Source of randomness.
    """
    kept = central(size, max(1, round(size * centre)))
    measured = torch.zeros(size, dtype=torch.bool)
    measured[kept] = True
    outside = (~measured).nonzero().flatten()
    count = min(len(outside), max(0, round(size / acceleration) - int(measured.sum())))
    if pattern == "random":
        chosen = rng.permutation(len(outside))[:count]
    else:
        chosen = ((np.arange(count) + rng.random()) * len(outside) / max(1, count)).astype(int)
    measured[outside[torch.from_numpy(chosen)]] = True
    return measured
