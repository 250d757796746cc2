"""Low-dose CT: the full-dose image from one made with few photons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mvg.data.subject import Subject
from mvg.episode import Spec
from tasks.restoration import Restoration, draw_axis
from tasks.tomography import project, reconstruct

WATER = 0.0193
"""Attenuation of water per mm at 70 keV, the mean energy of a 120 kV spectrum (NIST XCOM)."""


class LowDoseCT(Restoration):
    """Paints the full-dose CT image from a low-dose one.

    The dose enters where it does in a scanner, in the projections. Grey values become Hounsfield units by the range
    that the source normalised (or `window`), and attenuation `mu = 0.0193 / mm (1 + HU / 1000)`, not below 0. With the
    line integrals p of mu over parallel beams, a detector counts `N ~ Poisson(I0 exp(-p)) + Normal(0, electronic)`,
    of which at least one is assumed, and the noise of its line integral is `log(I0 / N) - p`. Its filtered
    back-projection (ramp filter) is added to the image, as when low dose is simulated by inserting noise (Yu et al.
    2012): streaks along long paths, correlated grain, bias where photons starve, but no blur and no other error of
    reconstruction. Dose is shared by an episode, the counts differ between images. Volumes are degraded slice by
    slice.

    The cost grows with the cube of the image size: on one core about 2 ms at 64 x 64, 20 ms at 128 x 128 and 0.7 s at
    256 x 256, where the projection matrix no longer fits into memory and is made again block by block.

    Args:
        role: The full-dose image, the target.
        degraded: Role of an image that was made with a low dose already; see `Restoration`.
        photons: Range of I0, photons for each detector bin and view without an object. The bins are one pixel wide; a
            routine abdominal scan has about 1e5 to 1e6 a millimetre, low dose a tenth to a hundredth.
        electronic: Standard deviation of the electronic noise in photons.
        window: HU of the grey values 0 and 1, where the subject does not say its units.
        extent: Width of the field of view in mm, along its longest side, where the subject does not say its spacing.
        views: Number of projections over half a turn; by default as many as the ramp filter can resolve,
            pi / 2 times the longest side in pixels.
        axis: The axis across slices of volumes; the last one is that of axial slices in RAS+ volumes.
        foreground: Least share of the loss weight that the foreground gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    def __init__(
        self,
        role: str = "image",
        degraded: str = "low_dose",
        photons: tuple[float, float] = (2e4, 1e6),
        electronic: float = 5.0,
        window: tuple[float, float] = (-1000.0, 1000.0),
        extent: float = 350.0,
        views: int | None = None,
        axis: int | None = -1,
        foreground: float = 0.0,
        mim: float = 0.9,
    ) -> None:
        super().__init__(role, degraded, {"photons": photons}, foreground, mim)
        if electronic < 0 or extent <= 0 or (views is not None and views < 1):
            raise ValueError(
                f"`electronic` must not be negative, `extent` and `views` positive, got {electronic}, {extent}, {views}"
            )
        if not window[0] < window[1]:
            raise ValueError(f"`window` must be a range (low, high) of HU, got {list(window)}")
        self.electronic, self.window, self.extent = electronic, (float(window[0]), float(window[1])), extent
        self.views, self.axis = views, axis

    def orient(self, dims: int, rng: np.random.Generator) -> Spec:
        """Draws or notes the axis across slices."""
        return {"axis": draw_axis(self.axis, dims, rng) if dims == 3 else None}

    def degrade(self, clean: Tensor, subject: Subject, spec: Spec, rng: np.random.Generator) -> Tensor:
        """Adds the noise of few photons to every slice."""
        across, volume = spec["axis"], clean
        if across is not None:
            volume = clean.movedim(across + 1, 1).flatten(0, 1)
        shape = (int(volume.shape[-2]), int(volume.shape[-1]))
        slices = volume.reshape(-1, shape[0] * shape[1]).T.contiguous().numpy()
        low, high = subject.ranges.get(self.role, self.window)
        pixel = self._pixel_size(subject, across, shape)
        noise = dose_noise(slices * (high - low) + low, shape, pixel, spec["photons"], self.electronic, self.views, rng)
        grey = torch.from_numpy(noise.T / np.float32(high - low)).reshape(volume.shape)
        if across is not None:
            grey = grey.unflatten(0, (len(clean), -1)).movedim(1, across + 1)
        return clean + grey

    def _pixel_size(self, subject: Subject, across: int | None, shape: Sequence[int]) -> float:
        """Edge in mm of a square pixel of the area that those of a slice have."""
        spacing = [space for place, space in enumerate(subject.spacing) if place != across]
        return math.sqrt(math.prod(spacing)) if len(spacing) == 2 else self.extent / max(shape)


def dose_noise(
    hounsfield: np.ndarray,
    shape: tuple[int, int],
    pixel: float,
    photons: float,
    electronic: float,
    views: int | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Noise of CT slices in HU.

    Args:
        hounsfield: `(H * W, n)`, slices in HU.
        shape: `(H, W)`.
        pixel: Pixel size in mm.
        photons: Photons for each bin and view without an object.
        electronic: Standard deviation of the electronic noise in photons.
        views: Number of projections; None for pi / 2 times the longest side.
        rng: Draws the counts.

    Returns:
        `(H * W, n)`, float32.
    """
    attenuation = (WATER * (1 + hounsfield / 1000)).clip(min=0).astype(np.float32)
    angles = views or math.ceil(math.pi / 2 * max(shape))
    paths = project(attenuation, shape, angles) * np.float32(pixel)
    counts = rng.poisson(photons * np.exp(-paths.astype(np.float64))) + electronic * rng.standard_normal(paths.shape)
    noise = (np.log(photons / counts.clip(min=1)) - paths).astype(np.float32)
    made: np.ndarray = reconstruct(noise, shape) * np.float32(1000 / (WATER * pixel))
    return made
