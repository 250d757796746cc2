"""Deblurring: the sharp image from one seen through a point spread function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mvg.data.subject import Subject
from mvg.episode import Spec
from tasks.resolution import Profile, multiply, profile_matrix
from tasks.restoration import Restoration, Unit, check_choice, check_kinds, choose, pixels


class Deblurring(Restoration):
    """Paints the sharp image from a blurred one with a little noise.

    The degraded image is `x * h + noise`, with h the point spread function: the product over the axes of a Gaussian or
    a rectangle of full width at half maximum `fwhm`, normalised at the border to the part inside of the image. The
    noise is white and Gaussian: without it the blur could be undone by division in Fourier space. Width, kind and
    noise level are shared by an episode, the noise itself differs between images.

    Args:
        role: The sharp image, the target.
        degraded: Role of an image that is blurred already; see `Restoration`.
        kinds: Kinds of point spread function, one of them drawn for each episode.
        fwhm: Range of the full width at half maximum, in `unit`. Scanners reach 4 to 6 mm in PET, 8 to 15 mm in SPECT.
        noise: Range of the standard deviation of the noise, in units of the data range.
        unit: "pixel", or "mm" where every subject says its spacing.
        foreground: Least share of the loss weight that the foreground gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    def __init__(
        self,
        role: str = "image",
        degraded: str = "blurred",
        kinds: Sequence[Profile] = ("gaussian",),
        fwhm: tuple[float, float] = (1.5, 5.0),
        noise: tuple[float, float] = (0.002, 0.02),
        unit: Unit = "pixel",
        foreground: float = 0.0,
        mim: float = 0.9,
    ) -> None:
        super().__init__(role, degraded, {"fwhm": fwhm, "noise": noise}, foreground, mim)
        check_kinds(kinds, ("gaussian", "box"))
        check_choice("unit", unit, ("pixel", "mm"))
        self.kinds, self.unit = list(kinds), unit

    def strengths(self, rng: np.random.Generator) -> Spec:
        """Draws width, noise level and kind."""
        return {**super().strengths(rng), "kind": choose(self.kinds, rng)}

    def degrade(self, clean: Tensor, subject: Subject, spec: Spec, rng: np.random.Generator) -> Tensor:
        """Blurs one image and adds noise."""
        widths = [spec["fwhm"] * factor for factor in pixels(self.unit, subject)]
        blurred = blur(clean, widths, spec["kind"])
        noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32))
        return blurred + float(spec["noise"]) * noise


def blur(image: Tensor, widths: Sequence[float], profile: Profile) -> Tensor:
    """Blurs `(C, *S)` by a separable point spread function of full widths at half maximum in pixels of each axis."""
    matrices = [
        profile_matrix(size, np.arange(size, dtype=np.float64), width, profile)
        for size, width in zip(image.shape[1:], widths, strict=True)
    ]
    return multiply(image, matrices)
