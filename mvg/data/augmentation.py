"""Random changes of a subject: parameters are drawn first and applied second, in place and in grey values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvg.configuration import Configurable
from mvg.data.geometry import resize
from mvg.data.subject import Subject


@dataclass(frozen=True)
class Place:
    """A drawn change of place.

    Attributes:
        flips: Axes of S to be mirrored.
        matrix: `(dims, dims)` map from output to input directions, in pixels of equal size; None for identity.
        bend: `(dims, *nodes)` displacement at the nodes of a coarse grid, as a share of the image's length; None for 0.
    """

    flips: tuple[int, ...] = ()
    matrix: Tensor | None = None
    bend: Tensor | None = None


@dataclass(frozen=True)
class Look:
    """A drawn change of grey values, applied as `(x ** gamma - 0.5) * contrast + 0.5 + brightness`.

    Attributes:
        gamma: Exponent.
        contrast: Factor around 0.5.
        brightness: What is added.
        blur: Standard deviation of a Gaussian, in pixels.
        noise: Standard deviation of Gaussian noise.
        seed: Seed of the noise.
    """

    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    seed: int = 0


class SubjectAugmentation(metaclass=Configurable):
    """Random changes of the subjects of one episode, in training."""

    @abstractmethod
    def __call__(self, subjects: Sequence[Subject], rng: np.random.Generator, is_label: bool) -> list[Subject]:
        """Changes the subjects of one episode, query first.

        Args:
            subjects: Images `(C, *S)` in [0, 1] and labels `(*S)`.
            rng: Draws everything.
            is_label: Labels are asked for, so that grey values may differ between the images.
        """


class Augmentation(SubjectAugmentation):
    """Changes of place and of grey values, for 2D and 3D subjects.

    Flips are drawn once an episode and shared by query and context: what is left and right stays a matter of the
    context. Rotation, scale, shear and bending differ between images. Grey values change for each image on its own
    where labels are asked for; where an image is asked for, one draw serves the whole episode, without noise and
    blur, so that the relation between image and target stays the same and targets stay clean.

    Args:
        flip: Probability of mirroring along each axis, [0, 1].
        place: Probability that an image is rotated, scaled, sheared and bent at all, [0, 1].
        rotation: Largest angle in each plane, in degrees.
        scale: Largest relative change of size, 0.1 for 0.9 to 1.1.
        shear: Largest shear.
        bend: Standard deviation of the elastic displacement, as a share of the image's length.
        nodes: Nodes of the elastic grid along each axis.
        look: Probability that the grey values of an image are changed at all, [0, 1].
        gamma: Largest logarithm (base 2) of the exponent.
        contrast: Largest relative change of contrast.
        brightness: Largest change of brightness.
        blur: Largest standard deviation of the blur, in pixels.
        noise: Largest standard deviation of the noise.
    """

    def __init__(
        self,
        flip: float = 0.5,
        place: float = 0.5,
        rotation: float = 15.0,
        scale: float = 0.15,
        shear: float = 0.05,
        bend: float = 0.01,
        nodes: int = 5,
        look: float = 0.5,
        gamma: float = 0.5,
        contrast: float = 0.2,
        brightness: float = 0.1,
        blur: float = 0.7,
        noise: float = 0.03,
    ) -> None:
        for name, value in (("flip", flip), ("place", place), ("look", look)):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` is a probability, got {value}")
        if nodes < 3:
            raise ValueError(f"`nodes` must be at least 3, got {nodes}")
        self.flip, self.place, self.rotation, self.scale, self.shear = flip, place, rotation, scale, shear
        self.bend, self.nodes, self.look, self.gamma = bend, nodes, look, gamma
        self.contrast, self.brightness, self.blur, self.noise = contrast, brightness, blur, noise

    def __call__(self, subjects: Sequence[Subject], rng: np.random.Generator, is_label: bool) -> list[Subject]:
        """Changes the subjects of one episode; see `SubjectAugmentation`."""
        dims = len(subjects[0].shape)
        flips = tuple(axis for axis in range(dims) if rng.random() < self.flip)
        roles = sorted({role for subject in subjects for role in subject.images})
        shared = {role: replace(self.draw_look(rng), blur=0.0, noise=0.0) for role in roles}
        changed = []
        for subject in subjects:
            place = replace(self.draw_place(rng, dims), flips=flips)
            looks = {role: self.draw_look(rng) for role in roles} if is_label else shared
            changed.append(change_look(change_place(subject, place), looks))
        return changed

    def draw_place(self, rng: np.random.Generator, dims: int) -> Place:
        """Draws rotation, scale, shear and bending for one image of 2 or 3 axes."""
        if rng.random() >= self.place:
            return Place()
        matrix = np.diag(np.exp(rng.uniform(-self.scale, self.scale) + rng.uniform(-self.scale, self.scale, dims) / 2))
        for first in range(dims):
            for second in range(first + 1, dims):
                angle, slant = (
                    np.deg2rad(rng.uniform(-self.rotation, self.rotation)),
                    rng.uniform(-self.shear, self.shear),
                )
                turn = np.eye(dims)
                turn[[first, second], [first, second]] = np.cos(angle)
                turn[first, second], turn[second, first] = -np.sin(angle) + slant, np.sin(angle)
                matrix = matrix @ turn
        bend = rng.normal(0, self.bend, (dims, *(self.nodes,) * dims)) if self.bend else None
        return Place((), _tensor(matrix), None if bend is None else _tensor(bend))

    def draw_look(self, rng: np.random.Generator) -> Look:
        """Draws a change of grey values for one image."""
        if rng.random() >= self.look:
            return Look()
        gamma, contrast, brightness = rng.uniform(-1, 1, 3) * (self.gamma, self.contrast, self.brightness)
        blur, noise = rng.random(2) ** 2 * (self.blur, self.noise)
        return Look(
            float(2**gamma), float(1 + contrast), float(brightness), float(blur), float(noise), int(rng.integers(2**31))
        )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def change_place(subject: Subject, place: Place) -> Subject:
    """Applies a change of place to all images (linear) and labels (nearest) alike; what comes from outside is 0."""
    images, labels = dict(subject.images), dict(subject.labels)
    if place.flips:
        images = {role: image.flip([axis + 1 for axis in place.flips]) for role, image in images.items()}
        labels = {role: label.flip(place.flips) for role, label in labels.items()}
    if place.matrix is not None:
        grid = sampling_grid(subject.shape, place.matrix, place.bend)
        images = {role: sample(image, grid, "bilinear") for role, image in images.items()}
        labels = {role: sample(label[None].float(), grid, "nearest")[0].long() for role, label in labels.items()}
    return replace(subject, images=images, labels=labels)


def sampling_grid(shape: Sequence[int], matrix: Tensor, bend: Tensor | None) -> Tensor:
    """Builds the grid of a linear map about the centre, plus an elastic displacement.

    Args:
        shape: `(*S)`.
        matrix: `(dims, dims)`, in pixels of equal size.
        bend: `(dims, *nodes)` or None.

    Returns:
        `(1, *S, dims)`, coordinates in the last axis as `torch.nn.functional.grid_sample` wants them.
    """
    size = torch.tensor(shape, dtype=torch.float32)
    scaled = matrix * size[None, :] / size[:, None]
    theta = torch.cat([scaled.flip(0, 1), torch.zeros(len(shape), 1)], 1)
    grid = F.affine_grid(theta[None], [1, 1, *shape], align_corners=False)
    if bend is not None:
        grid = grid + 2 * resize(bend, shape).flip(0).movedim(0, -1)[None]
    return grid


def sample(image: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Samples `(C, *S)` at a grid `(1, *S, dims)`; 0 outside."""
    return F.grid_sample(image[None], grid, mode=mode, padding_mode="zeros", align_corners=False)[0]


def change_look(subject: Subject, looks: dict[str, Look]) -> Subject:
    """Changes the grey values of each role; the result stays in [0, 1]."""
    return replace(subject, images={role: _look(image, looks[role]) for role, image in subject.images.items()})


def _look(image: Tensor, look: Look) -> Tensor:
    """Applies a change of grey values to `(C, *S)`."""
    if look == Look():
        return image
    image = ((image.clamp(min=0) ** look.gamma - 0.5) * look.contrast + 0.5 + look.brightness).clamp(0, 1)
    if look.blur > 0.1:
        image = blur(image, look.blur)
    if look.noise > 0:
        generator = torch.Generator().manual_seed(look.seed)
        image = image + look.noise * torch.randn(image.shape, generator=generator)
    return image.clamp(0, 1)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Blurs `(C, *S)` by a Gaussian of `sigma` pixels, one axis after the other, edges repeated."""
    radius = max(1, int(3 * sigma + 0.5))
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in range(1, image.ndim):
        last = image.shape[axis] - 1
        index = torch.arange(last + 1)
        total = torch.zeros_like(image)
        for offset, weight in zip(offsets.tolist(), weights.tolist(), strict=True):
            total += weight * image.index_select(axis, (index + offset).clamp(0, last))
        image = total
    return image
