"""Answers to pictures in the units and on the grid of what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvg.episode import Answer
from mvg.prediction.rasters import Raster, limits, to_units


@dataclass(frozen=True)
class Units:
    """Units in which a painted image is given back.

    Attributes:
        limits: The values that 0 and 1 stand for.
        kind: Pixel type.
        exact: Whether all targets of the context share these limits, as under a window or a full scale; otherwise the
            limits are the mean of theirs, as under percentiles.
    """

    limits: tuple[float, float]
    kind: np.dtype[Any]
    exact: bool

    def describe(self) -> dict[str, Any]:
        """Returns plain values for the description of an answer."""
        return {"of": "context targets", "range": list(self.limits), "exact": self.exact}


def units_of(bounds: Sequence[tuple[float, float]], kinds: Sequence[np.dtype[Any]]) -> Units:
    """Finds the units of the targets of a context.

    Args:
        bounds: For each target the values that became 0 and 1.
        kinds: Pixel type of each.
    """
    low, high = (float(value) for value in np.mean(bounds, axis=0))
    kind = kinds[0] if len(set(kinds)) == 1 else np.dtype(np.float32)
    return Units((low, high), kind, len(set(bounds)) == 1)


@dataclass(frozen=True)
class Prediction:
    """The answer to one image, on its own grid; a task fills what it answers.

    Attributes:
        labels: `(H, W)`, uint8 or uint16, class indices of the context (0 is background); boxes are filled with 1.
        image: `(H, W)` or `(H, W, C)`, in the units and the pixel type of the query, or those of the context's targets
            where the task changes the units (`Task.keeps_units`).
        boxes: `(n, 4)`, float32, `(top, left, bottom, right)` in pixels, bottom and right exclusive.
        scores: `(n,)`, float32, the confidence of each box.
        areas: Number of pixels of each class that the context shows.
        uncertainty: `(H, W)`, float32, if it was asked for; see `mvg.prediction.uncertainty.Agreement`.
        agreement: How far further answers agree with this one, if that was asked for.
    """

    labels: NDArray[Any] | None
    image: NDArray[Any] | None
    boxes: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    areas: Mapping[int, int]
    uncertainty: NDArray[np.float32] | None = None
    agreement: Mapping[str, Any] | None = None

    @property
    def painted(self) -> NDArray[Any]:
        """The label map, or else the image."""
        values = self.image if self.labels is None else self.labels
        assert values is not None
        return values


def finish(
    answer: Answer,
    raster: Raster,
    classes: Sequence[int],
    window: tuple[float, float] | None = None,
    units: Units | None = None,
) -> Prediction:
    """Brings an answer into its units, by default those of its query, which it then restores; counts classes."""
    image: NDArray[Any] | None = None
    labels: NDArray[Any] | None = None
    found = answer.labels
    if answer.boxes is not None:
        found, classes = fill_boxes(raster.size, answer.boxes), [1]
    if found is not None:
        labels = found.numpy().astype(np.uint8 if max(classes) < 256 else np.uint16)
    if answer.image is not None:
        query = raster.values if units is None else None
        units = units or Units(limits(raster, window), raster.values.dtype, True)
        image = to_units(answer.image, units.limits, units.kind, query)
    areas = {} if labels is None else {k: int((labels == k).sum()) for k in classes}
    boxes, scores = (None if x is None else x.numpy() for x in (answer.boxes, answer.scores))
    return Prediction(labels, image, boxes, scores, areas)


def fill_boxes(size: Sequence[int], boxes: Tensor) -> Tensor:
    """Paints boxes `(n, 4)` as class 1 of a label map `(H, W)`."""
    labels = torch.zeros(tuple(size), dtype=torch.int64)
    for top, left, bottom, right in boxes.long().tolist():
        labels[top:bottom, left:right] = 1
    return labels
