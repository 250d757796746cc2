# SciPy carries no types.
# mypy: disable-error-code="no-untyped-call"
"""Version 1 of the protocol: how the answer to one case is scored; `docs/protocol.md` says the same in words.

Everything is computed on the grid of the file and in double precision. An answer that is missing or cannot be read has
the worst value of every metric, so that leaving answers out never raises a mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from mvg import metrics

VERSION = "1"
"""Version of the protocol; it changes with whatever changes a value."""
FOREGROUND = 0.01
"""Values of a clean image above this share of the data range are its foreground."""

Mask = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Metric:
    """What is known of a metric.

    Attributes:
        higher: Higher is better.
        worst: Value of an answer that is missing; None for the diagonal of the image in its unit of length.
        unit: Unit, "length" for that of the image.
    """

    higher: bool
    worst: float | None
    unit: str = ""


STRUCTURE = {
    "dice": Metric(True, 0.0),
    "iou": Metric(True, 0.0),
    "nsd": Metric(True, 0.0),
    "hd95": Metric(False, None, "length"),
    "volume_error": Metric(False, 1.0),
}
"""Metrics of a structure that the case holds."""
ABSENT = {"false_alarm": Metric(False, 1.0)}
"""Metric of a structure that the case does not hold."""
IMAGE = {"psnr": Metric(True, 0.0, "dB"), "ssim": Metric(True, -1.0), "mae": Metric(False, 1.0)}
"""Metrics of an image, in the foreground of the clean one; the data range is 1."""
HOLE = {f"{name}_hole": metric for name, metric in IMAGE.items()}
"""The same inside of the hole that was to be filled."""
METRICS = {**STRUCTURE, **ABSENT, **IMAGE, **HOLE}


@dataclass(frozen=True)
class Truth:
    """What an answer is compared with.

    Attributes:
        mask: `(*S)`, bool, the structure; None for images.
        image: `(*S)`, float32 in [0, 1], the clean image; None for structures.
        hole: `(*S)`, bool, what was to be filled; None where there is no hole.
        spacing: Length of a voxel along each axis.
        length: Unit of the spacing, "mm" or "px".
        tolerance: Distance that the normalised surface distance forgives, in this unit.
    """

    mask: Mask | None
    image: FloatArray | None
    hole: Mask | None
    spacing: tuple[float, ...]
    length: str
    tolerance: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the case."""
        held = self.image if self.mask is None else self.mask
        assert held is not None
        return tuple(held.shape)

    @property
    def asked(self) -> Mapping[str, Metric]:
        """The metrics that the case has, whatever is answered."""
        if self.mask is not None:
            return STRUCTURE if self.mask.any() else ABSENT
        return {**IMAGE, **HOLE} if self.hole is not None else IMAGE

    def worst(self) -> dict[str, float]:
        """The values of an answer that is missing."""
        long = diagonal(self.shape, self.spacing)
        return {name: long if metric.worst is None else metric.worst for name, metric in self.asked.items()}

    def unit(self, metric: str) -> str:
        """Unit of a metric."""
        unit = METRICS[metric].unit
        return self.length if unit == "length" else unit


def score(answer: NDArray[Any] | None, truth: Truth) -> tuple[dict[str, float], str]:
    """Scores one answer.

    Args:
        answer: `(*S)`: above 0 where the structure was found, or an image in [0, 1]; None if there is no answer.
        truth: What it is compared with.

    Returns:
        A value for each metric of the case, and "" or why the values are the worst ones (see `records.FAILURES`).
    """
    if answer is None:
        return truth.worst(), "unanswered"
    if answer.shape != truth.shape or not np.isfinite(answer).all():
        return truth.worst(), "invalid"
    if truth.mask is None:
        return score_image(np.clip(answer, 0, 1).astype(np.float32), truth), ""
    found = answer > 0
    if not truth.mask.any():
        return {"false_alarm": float(found.any())}, "alarm" if found.any() else ""
    if not found.any():
        return truth.worst(), "missed"
    return score_structure(found, truth.mask, truth.spacing, truth.tolerance), ""


def score_structure(found: Mask, true: Mask, spacing: Sequence[float], tolerance: float) -> dict[str, float]:
    """Compares two masks `(*S)`; see `STRUCTURE`."""
    predicted, reference = (torch.from_numpy(np.ascontiguousarray(mask)) for mask in (found, true))
    there, back = surface_distances(found, true, spacing)
    return {
        "dice": metrics.dice(predicted, reference),
        "iou": metrics.iou(predicted, reference),
        "nsd": nsd(there, back, tolerance),
        "hd95": hd95(there, back, diagonal(true.shape, spacing)),
        "volume_error": volume_error(found, true),
    }


def score_image(painted: FloatArray, truth: Truth) -> dict[str, float]:
    """Compares an image `(*S)` in [0, 1] with the clean one in its foreground, and inside of the hole."""
    assert truth.image is not None
    answer, clean = (torch.from_numpy(np.ascontiguousarray(image))[None] for image in (painted, truth.image))
    inside = truth.image > FOREGROUND
    masks = {"": inside if inside.any() else np.ones_like(inside)}
    if truth.hole is not None:
        masks["_hole"] = truth.hole if truth.hole.any() else masks[""]
    similarity = metrics.ssim_map(answer, clean)[0].numpy()
    scores = {}
    for ending, mask in masks.items():
        where = torch.from_numpy(np.ascontiguousarray(mask))
        scores[f"psnr{ending}"] = metrics.psnr(answer, clean, where)
        scores[f"ssim{ending}"] = float(similarity[mask].mean())
        scores[f"mae{ending}"] = metrics.mae(answer, clean, where)
    return scores


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Returns the diagonal of an image, in the unit of its spacing."""
    return math.sqrt(sum((count * step) ** 2 for count, step in zip(shape, spacing, strict=True)))


def volume_error(found: Mask, true: Mask) -> float:
    """Returns how much the smaller volume lacks of the larger one, as a share of it, [0, 1]; 0 if both are empty."""
    sizes = sorted((int(found.sum()), int(true.sum())))
    return 1 - sizes[0] / sizes[1] if sizes[1] else 0.0


def nsd(there: FloatArray, back: FloatArray, tolerance: float) -> float:
    """Returns the share of the voxels of both surfaces that lie within a tolerance of the other one, [0, 1].

    Args:
        there: Distances from the first surface to the second, as `surface_distances` returns them.
        back: Distances from the second to the first.
        tolerance: In the unit of the distances; the bound itself is forgiven.

    Returns:
        1 if both surfaces are empty, 0 if one of them is.
    """
    count = len(there) + len(back)
    return float((there <= tolerance).sum() + (back <= tolerance).sum()) / count if count else 1.0


def hd95(there: FloatArray, back: FloatArray, worst: float) -> float:
    """Returns the larger one of the 95th percentiles of two lists of distances.

    Args:
        there: As for `nsd`.
        back: As for `nsd`.
        worst: What it is if one of the surfaces is empty; 0 if both are.
    """
    if not len(there) and not len(back):
        return 0.0
    value = max(float(np.percentile(part, 95)) if len(part) else math.inf for part in (there, back))
    return value if math.isfinite(value) else worst


def surface_distances(found: Mask, true: Mask, spacing: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Measures the distance of every voxel of each surface from the other surface, between centres of voxels.

    The surface of a mask are its voxels that share a face with one outside of it; outside of the image is outside.

    Args:
        found: `(*S)`.
        true: `(*S)`.
        spacing: Length of a voxel along each axis.

    Returns:
        Distances from the first surface to the second and back, `(n,)` and `(m,)`, infinite if the other one is empty.
    """
    if found.shape != true.shape or len(spacing) != true.ndim:
        raise ValueError(
            f"masks must have one shape, and a spacing for each axis, got {found.shape}, {true.shape}, {len(spacing)}"
        )
    box = ndimage.find_objects((found | true).astype(np.uint8))
    masks = [mask[box[0]] if box else mask for mask in (found, true)]
    first, second = (mask & ~ndimage.binary_erosion(mask) for mask in masks)
    return _distances(first, second, spacing), _distances(second, first, spacing)


def _distances(surface: Mask, other: Mask, spacing: Sequence[float]) -> FloatArray:
    if not other.any():
        return np.full(int(surface.sum()), np.inf)
    distances: FloatArray = ndimage.distance_transform_edt(~other, sampling=spacing)[surface]
    return distances
