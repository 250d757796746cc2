"""Answers of 2D networks to many images at once: prepared once for all contexts, asked in large batches.

The answers are those of `mvg.Predictor` and `mvg.VolumePredictor`, up to rounding: slices of different volumes that
have one context share a batch, and what is painted is brought back and decoded volume by volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvg.data.geometry import Placement, place, restore
from mvg.data.intensity import normalise
from mvg.episode import Answer
from mvg.prediction.passes import Pass
from mvg.prediction.predictor import Predictor
from mvg.prediction.rasters import Raster
from mvg.prediction.scans import Scan, cut, uncut
from mvg.prediction.slices import bin_of
from mvg.prediction.volume_predictor import VolumePredictor
from mvg.task import Task
from tasks import Detection

BATCH = 64
"""Images of a pass of the network."""


@dataclass(frozen=True)
class Query:
    """An image, or the slices of a volume, at the network's size.

    Attributes:
        slices: `(n, C_in, *image_size)`, float32.
        placement: How each slice was brought to this size.
        axis: The axis across which the volume was cut; None for a picture.
        box: The part of the volume that was cut.
        shape: Size of the image.
    """

    slices: Tensor
    placement: Placement
    axis: int | None
    box: tuple[slice, ...]
    shape: tuple[int, ...]


def prepare_picture(predictor: Predictor, picture: Raster) -> Query:
    """Brings a picture to the network's size."""
    placement = place(picture.size, predictor.network.image_size, predictor.aspect)
    return Query(predictor.fit_batch([picture]), placement, None, (), picture.size)


def prepare_volume(predictor: VolumePredictor, scan: Scan) -> Query:
    """Cuts a volume in RAS+ orientation into slices at the network's size."""
    box = predictor.way.box(scan.volume)
    inner = replace(scan.volume, values=scan.volume.values[box])
    axis = predictor.way.axis(inner) if predictor.axis is None else predictor.axis
    planes, limits, own = cut(inner.values, axis), predictor.rule.limits(inner.values, None), predictor.predictor
    rasters = [Raster(normalise(plane, limits)[None], str(scan.volume.path)) for plane in planes]
    placement = place(planes.shape[1:], own.network.image_size, own.aspect)
    return Query(own.fit_batch(rasters), placement, axis, box, scan.volume.values.shape)


def is_simple(predictor: Predictor | VolumePredictor) -> bool:
    """Tells whether slices are answered whole, each is one pass's alone and decoded in its volume as by itself."""
    contexts, task = _asked(predictor)
    inner = predictor.predictor if isinstance(predictor, VolumePredictor) else predictor
    return (
        inner.plan is None
        and not isinstance(task, Detection)
        and bool(contexts)
        and all(len(each) == 1 for each in contexts)
    )


def answer_queries(predictor: Predictor | VolumePredictor, queries: Sequence[Query]) -> list[NDArray[Any]]:
    """Answers queries after the context of a predictor.

    Args:
        predictor: One that `is_simple`, for pictures or for volumes.
        queries: What `prepare_picture` or `prepare_volume` made.

    Returns:
        For each a label map (uint8) or an image in [0, 1] (float32), in its shape.
    """
    contexts, task = _asked(predictor)
    places = [_bins(len(query.slices), len(contexts)) for query in queries]
    painted: list[list[Tensor]] = [[] for _ in queries]
    for number, (asked,) in enumerate(contexts):
        held = [query.slices[where[number]] for query, where in zip(queries, places, strict=True)]
        parts = _paint(asked, torch.cat(held)).split([len(part) for part in held])
        for found, part in zip(painted, parts, strict=True):
            found.append(part)
    decode = partial(task.decode, spec=contexts[0][0].spec)
    return [_bring_back(query, torch.cat(found), decode) for query, found in zip(queries, painted, strict=True)]


def _asked(predictor: Predictor | VolumePredictor) -> tuple[list[list[Pass]], Task]:
    """The passes of each context, and the task."""
    if isinstance(predictor, VolumePredictor):
        return predictor.contexts, predictor.predictor.task
    return [predictor.passes], predictor.task


def _bins(count: int, bins: int) -> list[list[int]]:
    """Divides slices by their relative position, in their order, as `VolumePredictor` does."""
    held = [bin_of(k / (count - 1) if count > 1 else 0.5, bins) for k in range(count)]
    return [[k for k, place in enumerate(held) if place == number] for number in range(bins)]


@torch.inference_mode()
def _paint(asked: Pass, slices: Tensor) -> Tensor:
    """Asks a pass of slices `(n, C_in, *image_size)`; returns `(n, C_out, *image_size)`."""
    if not len(slices):
        return slices.new_zeros(0, asked.network.out_channels, *slices.shape[2:])
    return torch.cat([asked.paint(part) for part in slices.split(BATCH)])


@torch.inference_mode()
def _bring_back(query: Query, painted: Tensor, decode: Callable[[Tensor], Answer]) -> NDArray[Any]:
    """Turns painted slices `(n, C_out, *image_size)` into values on the grid of the image."""
    count, channels = painted.shape[:2]
    whole = restore(painted.flatten(0, 1), query.placement)
    whole = whole.reshape(count, channels, *whole.shape[1:]).transpose(0, 1)
    answer = decode(whole[:, 0] if query.axis is None else whole)
    values = _values(answer)
    if query.axis is None:
        return values
    made = np.zeros(query.shape, values.dtype)
    made[query.box] = uncut(values, query.axis)
    return made


def _values(answer: Answer) -> NDArray[Any]:
    if answer.labels is not None:
        return answer.labels.numpy().astype(np.uint8)
    assert answer.image is not None
    values: NDArray[Any] = answer.image[0].float().clamp(0, 1).numpy()
    return values
