"""Contexts for volumes: pairs of volumes or of pictures as slices, and what they show."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mvg.data.intensity import Intensity
from mvg.data.preparation import box_of, content_box, slicing_axis
from mvg.data.readers import FloatArray, Volume, check_labels, resample
from mvg.models.base import InContextModel
from mvg.prediction.answers import Units, units_of
from mvg.prediction.context import Example, present
from mvg.prediction.predictor import Predictor
from mvg.prediction.rasters import Raster, Source, to_tensor
from mvg.prediction.scales import restores
from mvg.prediction.scans import Scan, VolumeSource, cut, scan_of
from mvg.prediction.slices import ENOUGH, Slice
from mvg.task import Task

log = logging.getLogger(__name__)

_AIR, _CONTENT, _CHANGE = 0.05, 0.02, 0.02


class AnyPredictor(Protocol):
    """What is asked for a network: its task, and the seed of colours."""

    seed: int

    @property
    def network(self) -> InContextModel:
        """The network."""

    @property
    def task(self) -> Task:
        """What the context shows."""


@dataclass(frozen=True)
class Cut:
    """What was read of a context for volumes.

    Attributes:
        slices: The slices, of the size at which they are shown.
        axis: The axis across which they were cut; None where they were pictures.
        units: Units of the targets, where they are images.
        channels: Channels of the images as they are stored.
    """

    slices: list[Slice]
    axis: int | None
    units: Units | None = None
    channels: int = 1


@dataclass(frozen=True)
class Way:
    """How volumes become slices.

    Attributes:
        slices: How they are cut: an axis, or "auto".
        rule: Brings images to [0, 1].
        target_rule: Brings image targets to [0, 1].
        trim: Cut volumes to the box outside of which the image is air.
    """

    slices: str
    rule: Intensity
    target_rule: Intensity
    trim: bool = False

    def box(self, volume: Volume) -> tuple[slice, ...]:
        """Returns the part of a volume that is cut into slices."""
        values = volume.values
        return content_box(values, np.ones(values.shape, dtype=bool), self.rule) if self.trim else (slice(None),) * 3

    def axis(self, volume: Volume) -> int:
        """Returns the axis across which (a part of) a volume is cut."""
        found = slicing_axis(volume, self.slices)
        assert found is not None
        return found


def read_volume_slices(
    predictor: Predictor,
    images: Sequence[VolumeSource],
    targets: Sequence[VolumeSource],
    way: Way,
    empty: bool = False,
) -> Cut:
    """Reads pairs of volumes one after the other, and keeps their slices at the size at which they are shown.

    Args:
        predictor: Whose task and network the slices are for.
        images: Volumes.
        targets: One for each image; brought onto its grid by the two affines, as in training.
        way: How volumes become slices.
        empty: Keep the slices of label maps that show no class, too.

    Raises:
        ValueError: If a file is damaged, a pair does not overlap, or the volumes would be cut along different axes.
    """
    found: list[Slice] = []
    axes: list[tuple[int, Path]] = []
    bounds: list[tuple[float, float]] = []
    kinds: list[np.dtype[Any]] = []
    for number, (source, target) in enumerate(zip(images, targets, strict=True)):
        scans = scan_of(source, f"context image {number}"), scan_of(target, f"context target {number}")
        pair = read_pair(predictor.task, *scans, way.rule, way.target_rule, way.box)
        volume = pair.image
        axes.append((way.axis(volume), volume.path))
        if axes[-1][0] != axes[0][0]:
            raise ValueError(
                f"{volume.path}: it is cut along another axis than {axes[0][1].name}; name one with `slices`"
            )
        found += _cut_pair(predictor, pair, axes[0][0], empty)
        bounds.append(pair.target_limits)
        kinds.append(pair.kind)
    return Cut(found, axes[0][0], None if predictor.task.is_label else units_of(bounds, kinds))


@dataclass(frozen=True)
class VolumePair:
    """An image and its target on one grid; where an image target was not seen both have the values that become 0.

    Attributes:
        image: The image, in its units.
        target: The target: classes, or values in its units.
        limits: The values of the image that become 0 and 1.
        target_limits: Those of the target; 0 and 1 for classes.
        kind: The type that holds the values of the target.
    """

    image: Volume
    target: Volume
    limits: tuple[float, float]
    target_limits: tuple[float, float]
    kind: np.dtype[Any]


def read_pair(
    task: Task,
    image: Scan,
    target: Scan,
    rule: Intensity,
    target_rule: Intensity,
    box: Callable[[Volume], tuple[slice, ...]] | None = None,
) -> VolumePair:
    """Brings a target onto the grid of its image; as in training, images are cut to the field of view that they share.

    Where the query is restored (`Task.keeps_units`), image and target have one scale, that of the image.

    Args:
        task: What the pair shows.
        image: The image.
        target: The target.
        rule: Brings images to [0, 1].
        target_rule: Brings image targets to [0, 1].
        box: Finds the part that is wanted of the image; all by default.

    Raises:
        ValueError: If the target holds no classes where the task needs them, or does not overlap its image.
    """
    if task.is_label:
        check_labels(target.volume.values, target.volume.path, frozenset())
    moved, seen = resample(target.volume, image.volume, task.is_label)
    if not seen.any():
        raise ValueError(
            f"{target.volume.path}: it does not overlap its image {image.volume.path.name}; check their affines"
        )
    if task.is_label:
        seen[:] = True
    shared = box_of(seen)
    shown, wanted, inside = _part(image.volume, shared), _part(moved, shared), seen[shared]
    if box is not None:
        part = box(shown)
        shown, wanted, inside = _part(shown, part), _part(wanted, part), inside[part]
    if not inside.any():
        inside = np.ones_like(inside)
    warn_if_constant(shown)
    whole = bool(inside.all())
    limits = rule.limits(shown.values if whole else shown.values[inside], None)
    if task.is_label:
        return VolumePair(shown, wanted, limits, (0.0, 1.0), target.kind)
    target_limits = limits
    if not task.keeps_units:
        target_limits = target_rule.limits(wanted.values if whole else wanted.values[inside], None)
    if not whole:
        shown = replace(shown, values=np.where(inside, shown.values, np.float32(limits[0])))
        wanted = replace(wanted, values=np.where(inside, wanted.values, np.float32(target_limits[0])))
    return VolumePair(shown, wanted, limits, target_limits, target.kind)


def warn_if_constant(volume: Volume) -> None:
    """Says that a volume shows nothing: an answer to it, or after it, means nothing."""
    low, high = float(volume.values.min()), float(volume.values.max())
    if low == high:
        log.warning("%s holds the value %g alone: was it exported whole?", volume.path.name, low)


def _part(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """Cuts a box out of a volume; its place in space, which examples do not need, stays that of the whole."""
    return replace(volume, values=volume.values[box])


def _cut_pair(predictor: Predictor, pair: VolumePair, axis: int, empty: bool) -> list[Slice]:
    """Cuts a pair into slices; of label maps only those that show a class, unless empty ones are wanted."""
    planes, targets = cut(pair.image.values, axis), cut(pair.target.values, axis)
    is_label = predictor.task.is_label
    found = []
    for number, (plane, shown) in enumerate(zip(planes, targets, strict=True)):
        if is_label and not empty and not shown.any():
            continue
        image = _to_tensor(plane, pair.limits, predictor.network.in_channels)
        wanted = torch.from_numpy(shown.astype(np.int64)) if is_label else _to_tensor(shown, pair.target_limits, 1)
        found.append(to_slice(predictor, image, wanted, number / (len(planes) - 1) if len(planes) > 1 else 0.5))
    return found


def _to_tensor(plane: FloatArray, bounds: tuple[float, float], channels: int) -> Tensor:
    return to_tensor(Raster(plane[None], "slice"), bounds, channels)


def read_picture_slices(predictor: Predictor, images: Sequence[Source], targets: Sequence[Source]) -> Cut:
    """Reads pairs of pictures that are slices; their positions are not known.

    Raises:
        ValueError: If a pair cannot be read or does not fit together, or the targets are colours to be painted.
    """
    pairs = predictor.read_pairs(images, targets)
    if not predictor.task.is_label and len(pairs.targets[0]) > 1:
        raise ValueError(f"{targets[0]}: colours cannot be painted into a volume; save the targets in grey")
    shown = zip(pairs.images, pairs.targets, strict=True)
    return Cut([to_slice(predictor, image, target, 0.5) for image, target in shown], None, pairs.units, pairs.channels)


def changes(image: Tensor, target: Tensor) -> bool:
    """Tells whether a target differs from its image; a slice without a hole does not show that holes are filled."""
    if image.shape != target.shape:
        return True
    return int(((target - image).abs().amax(0) > _CHANGE).sum()) >= ENOUGH


def to_slice(predictor: Predictor, image: Tensor, target: Tensor, position: float) -> Slice:
    """Brings a pair to the size at which it is shown, and counts what it shows."""
    fitted = predictor.to_shown(image, target)
    if predictor.task.is_label:
        small = fitted.labels["target"]
        counts = np.bincount(small.flatten().numpy(), minlength=int(target.max()) + 1)
        return Slice(Example(fitted.images["image"], small), position, {k: int(counts[k]) for k in present(target)})
    content = int((image[0] > _AIR).sum())
    told = content >= _CONTENT * image[0].numel() and (not restores(predictor.task) or changes(image, target))
    pixels = {0: content if told else 1}
    shown = fitted.images["image"], fitted.images["target"]
    if predictor.plan is not None:
        shown = shown[0].half(), shown[1].half()  # of volumes that are shown in windows many slices are held
    return Slice(Example(*shown), position, pixels)


def group_classes(
    predictor: AnyPredictor, found: Sequence[Slice], first: object
) -> tuple[list[Slice], list[list[int]]]:
    """Lists the classes that each pass of the network asks for; of images, class 0 alone.

    Masks that together hold no values but 0 and 255 are read as class 1, and the log says so.

    Args:
        predictor: Whose task decides.
        found: Slices of the context.
        first: The first target, for the message.

    Returns:
        The slices, with 255 as 1 where it applies, and the classes of each pass.

    Raises:
        ValueError: If no class is shown.
    """
    task = predictor.task
    if not task.is_label:
        return list(found), [[0]]
    drawn = {k for entry in found for k in entry.pixels}
    shown = sorted({k for entry in found for k, count in entry.pixels.items() if count})
    if lost := sorted(drawn - {*shown}):
        size = tuple(predictor.network.image_size)
        log.warning("classes %s are too small to be seen at the network's %s; show larger examples of them", lost, size)
    if not shown:
        raise ValueError(f"{first}: the targets of the context show no class; mark what is asked for, or show crops")
    if drawn == {255}:
        log.info("The targets hold 0 and 255 only: 255 is read as class 1")
        found, shown = [_as_first(entry) for entry in found], [1]
    probe = torch.tensor([shown])
    specs = task.pose([probe], np.random.default_rng(predictor.seed))
    painted = [(task.paint(probe, spec) > 0).any(0)[0].tolist() for spec in specs]
    return list(found), [[k for k, asked in zip(shown, each, strict=True) if asked] for each in painted]


def _as_first(entry: Slice) -> Slice:
    """Reads 255 as class 1."""
    example = Example(entry.example.image, (entry.example.target > 0).long())
    return replace(entry, example=example, pixels={1: entry.pixels.get(255, 0)})
