"""Denoising: physical noise of a drawn strength on a clean image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mvg.data.source import Index
from mvg.data.subject import Subject
from mvg.episode import Answer, Pair, Spec
from mvg.task import Task
from tasks.painting import (
    channels_of,
    check_range,
    check_share,
    clamped,
    clean_image,
    foreground,
    gather,
    image_scores,
    truth,
)

Noise = Literal["gaussian", "rician", "poisson", "speckle"]


class Denoising(Task):
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
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    metrics: ClassVar[Mapping[str, bool]] = {"psnr": True, "ssim": True, "mae": False}
    primary: ClassVar[str] = "psnr"

    def __init__(
        self,
        role: str = "image",
        degraded: str = "noisy",
        kinds: Sequence[Noise] = ("gaussian",),
        gaussian: tuple[float, float] = (0.01, 0.15),
        rician: tuple[float, float] = (0.01, 0.15),
        poisson: tuple[float, float] = (30.0, 3000.0),
        speckle: tuple[float, float] = (0.05, 0.4),
        mim: float = 0.9,
    ) -> None:
        ranges = {"gaussian": gaussian, "rician": rician, "poisson": poisson, "speckle": speckle}
        unknown = sorted(set(kinds) - set(ranges))
        if unknown or not kinds:
            raise ValueError(f"`kinds` must name some of {', '.join(ranges)}, got {list(kinds)}")
        check_share("mim", mim)
        self.role, self.degraded, self.kinds, self.mim = role, degraded, list(kinds), mim
        self.ranges = {name: check_range(name, values) for name, values in ranges.items()}

    def accepts(self, index: Index) -> bool:
        """Says whether an index offers the clean image."""
        return self.role in index.keys

    def draw(self, index: Index, rng: np.random.Generator, training: bool) -> Spec:
        """Draws the kind of noise and its strength."""
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        low, high = self.ranges[kind]
        level = math.exp(rng.uniform(math.log(low), math.log(high)))
        return {
            "query": [self.role],
            "context": [self.role],
            "inputs": [self.degraded],
            "kind": kind,
            "level": level,
            "channels": 1,
        }

    def complete(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec:
        """Notes the number of channels of the clean image."""
        return {**spec, "channels": channels_of(subjects, self.role)}

    def encode(self, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
        """Adds noise to one image, or takes the noisy one that the subject offers."""
        if self.degraded in subject.images:
            return Pair(subject.images[self.degraded], clean_image(subject, self.role))
        clean = gather(subject, [self.role]).clamp(0, 1)
        return Pair(add_noise(clean, spec["kind"], spec["level"], rng), clean)

    def decode(self, painted: Tensor, spec: Spec) -> Answer:
        """Clamps the painted image to [0, 1]."""
        return Answer(image=clamped(painted, spec["channels"]))

    def score(self, painted: Tensor, pair: Pair, spec: Spec) -> dict[str, float]:
        """PSNR, SSIM and mean absolute error in the foreground of the clean image; NaN if that is empty."""
        target = truth(pair, spec["channels"])
        return image_scores(clamped(painted, spec["channels"]), target, {"": foreground(target)})


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
    looks = 1 / level**2
    return positive * torch.from_numpy(rng.standard_gamma(looks, shape, dtype=np.float32) / np.float32(looks))
