"""Denoising: physical noise of a drawn strength on a clean image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mvg.data.subject import Subject
from mvg.episode import Spec
from tasks.painting import check_range
from tasks.restoration import Restoration, check_kinds, choose

Noise = Literal["gaussian", "rician", "poisson", "speckle", "salt_pepper"]


class Denoising(Restoration):
    """Paints the clean image under the noise.

    The kind of noise and its strength are drawn once for an episode (strengths evenly on a logarithmic scale), the
    noise itself for each image. The noisy image is neither clipped nor normalised again: its values leave [0, 1], and
    the clean image keeps its units. Scores are taken in the foreground of the clean image (values above 0.01), with
    the data range 1.

    Args:
        role: The clean image, the target.
        degraded: Role of an image that is noisy already. Where a subject offers it, it is shown as it is, and the
            target is the clean image if that is there too. At prediction time the query offers this role alone.
        kinds: Kinds of noise, one of them drawn for each episode.
        gaussian: Range of the standard deviation of additive noise, in units of the data range.
        rician: Range of the standard deviation of the noise in the real and in the imaginary channel of a magnitude
            image, in units of the data range.
        poisson: Range of the number of quanta that a pixel of value 1 receives; a pixel of value v then has the
            standard deviation sqrt(v / quanta). Low dose is few quanta.
        speckle: Range of the standard deviation relative to the value of the pixel, of multiplicative noise that is
            gamma distributed with mean 1, as of 1 / deviation^2 independent looks.
        salt_pepper: Range of the share of pixels that are replaced, (0, 1]: half of them by 1, half by 0.
        mim: Share of training episodes trained by masked image modelling, [0, 1].
        foreground: Least share of the loss weight that the foreground of the clean image gets, [0, 1).
    """

    def __init__(
        self,
        role: str = "image",
        degraded: str = "noisy",
        kinds: Sequence[Noise] = ("gaussian",),
        gaussian: tuple[float, float] = (0.01, 0.15),
        rician: tuple[float, float] = (0.01, 0.15),
        poisson: tuple[float, float] = (30.0, 3000.0),
        speckle: tuple[float, float] = (0.05, 0.4),
        salt_pepper: tuple[float, float] = (0.01, 0.16),
        mim: float = 0.9,
        foreground: float = 0.0,
    ) -> None:
        ranges = {"gaussian": gaussian, "rician": rician, "poisson": poisson, "speckle": speckle}
        check_kinds(kinds, [*ranges, "salt_pepper"])
        super().__init__(role, degraded, {**ranges, "salt_pepper": salt_pepper}, foreground, mim)
        check_range("salt_pepper", salt_pepper, 1.0)
        self.kinds = list(kinds)

    def strengths(self, rng: np.random.Generator) -> Spec:
        """Draws the kind of noise and its strength."""
        kind = choose(self.kinds, rng)
        return {"kind": kind, "level": self.strength(kind, rng)}

    def degrade(self, clean: Tensor, subject: Subject, spec: Spec, rng: np.random.Generator) -> Tensor:
        """Adds noise to one image."""
        return add_noise(clean, spec["kind"], spec["level"], rng)


def add_noise(clean: Tensor, kind: Noise, level: float, rng: np.random.Generator) -> Tensor:
    """Returns a noisy copy of an image, neither clipped nor normalised.

    Args:
        clean: Any shape, about [0, 1]. Poisson, Rician and speckle noise take negative values as 0.
        kind: Kind of noise.
        level: Its strength, as the argument of `Denoising` of that name defines it.
        rng: Source of randomness.
    """
    shape = tuple(clean.shape)
    if kind == "gaussian":
        return clean + level * torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    positive = clean.clamp(min=0)
    if kind == "rician":
        real, imaginary = level * torch.from_numpy(rng.standard_normal((2, *shape), dtype=np.float32))
        return torch.hypot(positive + real, imaginary)
    if kind == "poisson":
        quanta = rng.poisson(positive.double().numpy() * level)
        return torch.from_numpy((quanta / level).astype(np.float32))
    if kind == "salt_pepper":
        place = torch.from_numpy(rng.random(shape, dtype=np.float32))
        return torch.where(place < level, (place < level / 2).float(), clean)
    looks = 1 / level**2
    return positive * torch.from_numpy(rng.standard_gamma(looks, shape, dtype=np.float32) / np.float32(looks))
