"""Super-resolution: the fine image from thick slices, or from large voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from mvg.data.subject import Subject
from mvg.episode import Spec
from tasks.resolution import linear_matrix, multiply, profile_matrix, truncate
from tasks.restoration import Restoration, check_choice, check_kinds, choose, draw_axis

Direction = Literal["through_plane", "isotropic"]


class SuperResolution(Restoration):
    """Paints the fine image from a coarse one that was brought back onto the fine grid.

    Along each coarse axis the image is averaged with the slice profile and sampled every `factor` pixels, then
    interpolated linearly to all pixels: `U D x`. The profile has its full width at half maximum equal to the distance
    of the samples (slices without a gap): a "gaussian", a common model of selective excitation; a "box", the ideal
    slice and the voxel of CT; or "fourier", k-space acquired only up to `1 / (2 factor)` cycles a pixel and filled
    with zeros, as in the planes of MRI. The factor need not be whole. Factor, kind and axis are shared by an episode;
    where the first sample lies differs between images.

    Args:
        role: The fine image, the target.
        degraded: Role of a coarse image on the fine grid; see `Restoration`.
        kinds: "through_plane" makes one axis coarse, "isotropic" all; one of them is drawn for each episode.
        factor: Range of the distance of coarse samples in pixels, above 1.
        profile: "gaussian", "box" or "fourier".
        axis: The coarse axis of "through_plane"; drawn for each episode by default.
        foreground: Least share of the loss weight that the foreground gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    def __init__(
        self,
        role: str = "image",
        degraded: str = "coarse",
        kinds: Sequence[Direction] = ("through_plane", "isotropic"),
        factor: tuple[float, float] = (2.0, 6.0),
        profile: Literal["gaussian", "box", "fourier"] = "gaussian",
        axis: int | None = None,
        foreground: float = 0.0,
        mim: float = 0.9,
    ) -> None:
        super().__init__(role, degraded, {"factor": factor}, foreground, mim)
        check_kinds(kinds, ("through_plane", "isotropic"))
        check_choice("profile", profile, ("gaussian", "box", "fourier"))
        if factor[0] < 1:
            raise ValueError(f"`factor` must be at least 1, got {list(factor)}")
        self.kinds, self.profile, self.axis = list(kinds), profile, axis

    def strengths(self, rng: np.random.Generator) -> Spec:
        """Draws the factor and which axes are coarse."""
        return {**super().strengths(rng), "kind": choose(self.kinds, rng)}

    def orient(self, dims: int, rng: np.random.Generator) -> Spec:
        """Draws the coarse axis."""
        return {"axis": draw_axis(self.axis, dims, rng)}

    def degrade(self, clean: Tensor, subject: Subject, spec: Spec, rng: np.random.Generator) -> Tensor:
        """Makes one image coarse."""
        dims = clean.ndim - 1
        axes = [spec["axis"]] if spec["kind"] == "through_plane" else list(range(dims))
        if self.profile == "fourier":
            for axis in axes:
                clean = truncate(clean, axis, spec["factor"])
            return clean
        matrices: list[Tensor | None] = [None] * dims
        for axis in axes:
            size = clean.shape[axis + 1]
            centres = sample_centres(size, spec["factor"], rng.random())
            averages = profile_matrix(size, centres, spec["factor"], self.profile)
            matrices[axis] = linear_matrix(size, centres) @ averages
        return multiply(clean, matrices)


def sample_centres(size: int, step: float, start: float) -> np.ndarray:
    """Positions of coarse samples on a line of pixels, ascending, all inside; the middle where none fits.

    Args:
        size: Number of pixels.
        step: Distance of samples in pixels.
        start: Position of the first one, as a share of the distance, [0, 1).
    """
    centres = np.arange(start * step, size, step) - 0.5
    return centres if len(centres) else np.array([(size - 1) / 2])
