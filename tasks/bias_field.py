"""Bias-field correction: the image without the shading of its coils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mvg.data.fields import smooth_noise
from mvg.data.subject import Subject
from mvg.episode import Spec
from tasks.restoration import Restoration


class BiasCorrection(Restoration):
    """Paints the image without a smooth multiplicative field.

    The degraded image is `x b`, with `log b` a random cubic B-spline of `cells` intervals along each axis, whose mean
    over the image is 0 and whose largest absolute value is `inhomogeneity`: the model of N4 (Tustison et al. 2010),
    made the other way round. So b is positive, its geometric mean is 1, and values stay within a factor
    `exp(inhomogeneity)`; 0.2 is a usual and 0.4 a strong field at 3 T. Strengths are shared by an episode, the field
    itself differs between images; all channels share it.

    Args:
        role: The image without the field, the target.
        degraded: Role of an image that is shaded already; see `Restoration`.
        inhomogeneity: Range of the largest absolute logarithm of the field.
        cells: Smallest and largest number of B-spline intervals along each axis, whole; few are smooth.
        foreground: Least share of the loss weight that the foreground gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    whole: ClassVar[frozenset[str]] = frozenset({"cells"})

    def __init__(
        self,
        role: str = "image",
        degraded: str = "shaded",
        inhomogeneity: tuple[float, float] = (0.1, 0.7),
        cells: tuple[int, int] = (1, 3),
        foreground: float = 0.0,
        mim: float = 0.9,
    ) -> None:
        super().__init__(role, degraded, {"inhomogeneity": inhomogeneity, "cells": cells}, foreground, mim)

    def degrade(self, clean: Tensor, subject: Subject, spec: Spec, rng: np.random.Generator) -> Tensor:
        """Multiplies one image by a field."""
        return clean * draw_field(clean.shape[1:], spec["inhomogeneity"], spec["cells"], rng)


def draw_field(shape: Sequence[int], inhomogeneity: float, cells: int, rng: np.random.Generator) -> Tensor:
    """Draws a smooth positive field of geometric mean 1, `(*S)`.

    Args:
        shape: S.
        inhomogeneity: Largest absolute value of its logarithm.
        cells: Number of B-spline intervals along each axis.
        rng: Source of randomness.
    """
    field = smooth_noise(rng, shape, (cells,) * len(shape), 1)[0]
    field = field - field.mean()
    return torch.from_numpy(np.exp(inhomogeneity * field / max(float(np.abs(field).max()), 1e-6)))
