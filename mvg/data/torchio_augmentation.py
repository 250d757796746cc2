"""Transforms of TorchIO on the subjects of an episode: places, grey values and the artefacts of MR scanners."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torchio
from torch import Tensor
from torchio.transforms import (
    Compose,
    IntensityTransform,
    OneOf,
    RandomAnisotropy,
    RandomFlip,
    RandomLabelsToImage,
    RandomMotion,
    SpatialTransform,
    Transform,
)
from torchio.transforms.preprocessing.intensity.normalization_transform import NormalizationTransform

from mvg.data.augmentation import SubjectAugmentation
from mvg.data.subject import Subject

Values = dict[str, Tensor]
"""Role to `(C, *S)`, or to `(*S)` for labels."""
_THICK = 1e4
"""Thickness of a slice in mm, so that no shift across it matters."""


class TorchIOAugmentation(SubjectAugmentation):
    """Changes subjects by transforms of TorchIO, one after the other, for 2D and 3D subjects.

    Spatial transforms move images (linear) and labels (nearest) of a subject together. Intensity transforms never
    touch labels: where labels are asked for, each image is changed on its own; where an image is asked for, they are
    left out, so that targets stay clean, or change all images of the episode by one draw (`change_targets`). Flips are
    drawn once an episode: what is left and right stays a matter of the context. Images stay in [0, 1].

    Axes 0, 1, 2 are those of S: down and right in slices. Lengths are in mm where the spacing is known, else in pixels.

    Args:
        transforms: Spatial and intensity transforms, and `Compose` and `OneOf` of one of these kinds.
        shared: Draw every transform once an episode, the same for query and context.
        change_targets: Where an image is asked for, apply intensity transforms to images and targets alike.
        first: Another augmentation, whose changes are made before.

    Raises:
        ValueError: If a transform is neither spatial nor of intensity, or would change how labels or units are kept.
    """

    def __init__(
        self,
        transforms: list[Transform],
        shared: bool = False,
        change_targets: bool = False,
        first: SubjectAugmentation | None = None,
    ) -> None:
        self.transforms, self.shared, self.change_targets, self.first = transforms, shared, change_targets, first
        self.spatial = [is_spatial(transform) for transform in transforms]

    def __call__(self, subjects: Sequence[Subject], rng: np.random.Generator, is_label: bool) -> list[Subject]:
        """Changes the subjects of one episode; see `SubjectAugmentation`."""
        if self.first is not None:
            subjects = self.first(subjects, rng, is_label)
        seeds = rng.integers(2**62, size=(1 + len(subjects), len(self.transforms)))
        changed = list(subjects)
        for column, (transform, spatial) in enumerate(zip(self.transforms, self.spatial, strict=True)):
            if not (spatial or is_label or self.change_targets):
                continue
            flips = any(isinstance(leaf, RandomFlip) for leaf in leaves(transform))
            together = self.shared or flips or not (spatial or is_label)
            for number, subject in enumerate(changed):
                seed = int(seeds[0 if together else 1 + number, column])
                if spatial:
                    changed[number] = move(subject, transform, seed)
                else:
                    changed[number] = recolour(subject, transform, seed, each=together)
        return changed


def parts_of(transform: Transform) -> Iterator[Transform]:
    """Yields the transforms that a `Compose` or `OneOf` holds; nothing for others."""
    if isinstance(transform, Compose):
        yield from transform.transforms
    elif isinstance(transform, OneOf):
        yield from transform.transforms_dict


def leaves(transform: Transform) -> Iterator[Transform]:
    """Yields the transforms that a transform is made of in the end, itself if of none."""
    if isinstance(transform, Compose | OneOf):
        for part in parts_of(transform):
            yield from leaves(part)
    else:
        yield transform


def is_spatial(transform: Transform) -> bool:
    """Says whether a transform moves images and labels (else it changes the grey values of images).

    Raises:
        ValueError: If it does neither, or both, or what a subject does not bear.
    """
    kinds = set()
    for leaf in leaves(transform):
        if isinstance(leaf, NormalizationTransform | RandomLabelsToImage):
            raise ValueError(
                f"{leaf.name} gives images new units, but a source brings them to [0, 1] itself; see its `intensity`"
            )
        if not isinstance(leaf, SpatialTransform | IntensityTransform | RandomAnisotropy):
            raise ValueError(f"{leaf.name} is neither a spatial nor an intensity transform; leave it out")
        sampling = getattr(leaf, "label_interpolation", "nearest")
        if sampling != "nearest":
            raise ValueError(f"labels are moved by the nearest pixel, got `label_interpolation` {sampling!r}")
        kinds.add(isinstance(leaf, SpatialTransform))
    if len(kinds) != 1:
        raise ValueError(f"{transform.name} must hold spatial or intensity transforms, not both or none; make it two")
    return kinds.pop()


def move(subject: Subject, transform: Transform, seed: int) -> Subject:
    """Applies a spatial transform to images and labels alike.

    Raises:
        ValueError: If it changes the size of the images.
    """
    with seeded(seed):
        images, labels = apply(transform, dict(subject.images), dict(subject.labels), subject.spacing)
    moved = replace(subject, images=images, labels=labels)
    if moved.shape != subject.shape:
        raise ValueError(
            f"{transform.name} changes the size of images from {subject.shape} to {moved.shape}; "
            "leave it out, and use `crop` and `image_size`"
        )
    return moved


def recolour(subject: Subject, transform: Transform, seed: int, each: bool) -> Subject:
    """Applies an intensity transform to the images alone; labels stay.

    Args:
        subject: Images `(C, *S)`.
        transform: Changes grey values.
        seed: Seeds what it draws.
        each: Every image gets the same draw; else TorchIO draws for one after the other.
    """
    parts = [{role: image} for role, image in subject.images.items()] if each else [dict(subject.images)]
    images: Values = {}
    for part in parts:
        with seeded(seed):
            images |= apply(transform, part, {}, subject.spacing)[0]
    return replace(subject, images=images)


def apply(transform: Transform, images: Values, labels: Values, spacing: Sequence[float]) -> tuple[Values, Values]:
    """Applies a transform to images `(C, *S)` and labels `(*S)`, by the global generators; images stay in [0, 1]."""
    if not isinstance(transform, Compose | OneOf):
        return apply_one(transform, images, labels, spacing)
    if torch.rand(1).item() <= transform.probability:
        parts = list(parts_of(transform))
        if isinstance(transform, OneOf):
            parts = [parts[int(torch.multinomial(torch.tensor(list(transform.transforms_dict.values())), 1))]]
        for part in parts:
            images, labels = apply(part, images, labels, spacing)
    return images, labels


def apply_one(transform: Transform, images: Values, labels: Values, spacing: Sequence[float]) -> tuple[Values, Values]:
    """Hands images and labels to a transform as volumes about the origin, and takes them back; see `apply`.

    A slice is a volume of one thick plane, which no shift along the third axis leaves. The plane is the last axis, by
    which TorchIO knows slices; for motion, which TorchIO lets disturb the last axis, it is the first.
    """
    size: tuple[int, ...] = tuple(next(iter(images.values())).shape[1:])
    steps, is_slice, axis = list(spacing or (1.0,) * len(size)), len(size) == 2, 3
    if is_slice:
        axis = 1 if isinstance(transform, RandomMotion) else 3
        steps.insert(axis - 1, _THICK)
        size = (*size[: axis - 1], 1, *size[axis - 1 :])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = [-step * (count - 1) / 2 for step, count in zip(steps, size, strict=True)]
    parts: dict[str, torchio.Image] = {}
    for role, image in images.items():
        parts[role] = torchio.ScalarImage(tensor=image.clone().reshape(-1, *size), affine=affine)
    for role, label in labels.items():
        parts[role] = torchio.LabelMap(tensor=label.clone().reshape(1, *size), affine=affine)
    with warnings.catch_warnings():
        if is_slice:
            warnings.filterwarnings("ignore", 'Input image is 2D, but "2" is in axes', RuntimeWarning)
        changed = transform(torchio.Subject(parts))
    values: Values = {role: changed.get_image(role).data for role in (*images, *labels)}
    if is_slice:
        values = {role: value.squeeze(axis) for role, value in values.items()}
    return (
        {role: values[role].float().clamp(0, 1) for role in images},
        {role: values[role][0].long() for role in labels},
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of torch (CPU), numpy and Python while the block runs; then they are as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
