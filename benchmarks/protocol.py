"""Version 1 of the protocol: how the answer to one case is scored; `docs/protocol.md` says the same in words.

Everything is computed on the grid of the file and in double precision. An answer that is missing or cannot be read has
the worst value of every metric, so that leaving answers out never raises a mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.surfaces import FloatArray, Mask, diagonal, surface_scores
from mvg import metrics
from mvg.data.preparation import box_of
from tasks import Detection

VERSION = "1"
"""Version of the protocol; it changes with whatever changes a value."""
FOREGROUND = 0.01
"""Values of a clean image above this share of the data range are its foreground."""
BOXES = Detection()
"""Reads boxes and their scores from a painted map."""


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
DETECTION = {name: Metric(True, 0.0) for name in ("ap50", "sensitivity", "precision", "box_iou")}
"""Metrics of boxes around the objects of a structure, where the case holds one."""
ABSENT = {"false_alarm": Metric(False, 1.0)}
"""Metric of a structure that the case does not hold."""
IMAGE = {"psnr": Metric(True, 0.0, "dB"), "ssim": Metric(True, -1.0), "mae": Metric(False, 1.0)}
"""Metrics of an image, in the foreground of the clean one; the data range is 1."""
HOLE = {f"{name}_hole": metric for name, metric in IMAGE.items()}
"""The same inside of the hole that was to be filled."""
METRICS = {**STRUCTURE, **DETECTION, **ABSENT, **IMAGE, **HOLE}


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
        boxes: The mask holds filled boxes: objects are to be found, not outlined.
    """

    mask: Mask | None
    image: FloatArray | None
    hole: Mask | None
    spacing: tuple[float, ...]
    length: str
    tolerance: float
    boxes: bool = False

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
            return ABSENT if not self.mask.any() else DETECTION if self.boxes else STRUCTURE
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
        answer: `(*S)`: above 0 where the structure was found, boxes filled with their scores, or an image in [0, 1];
            None if there is no answer.
        truth: What it is compared with.

    Returns:
        A value for each metric of the case, and "" or why the values are the worst ones (see `records.FAILURES`).
    """
    if answer is None:
        return truth.worst(), "unanswered"
    if answer.dtype.kind not in "biuf" or answer.shape != truth.shape or not np.isfinite(answer).all():
        return truth.worst(), "invalid"
    if truth.mask is None:
        return score_image(np.clip(answer, 0, 1).astype(np.float32), truth), ""
    found = answer > (BOXES.threshold if truth.boxes else 0)
    if not truth.mask.any():
        return {"false_alarm": float(found.any())}, "alarm" if found.any() else ""
    if not found.any():
        return truth.worst(), "missed"
    if truth.boxes:
        return score_boxes(np.where(found, np.minimum(answer, 1), 0).astype(np.float32), truth.mask), ""
    return score_structure(found, truth.mask, truth.spacing, truth.tolerance), ""


def score_structure(found: Mask, true: Mask, spacing: Sequence[float], tolerance: float) -> dict[str, float]:
    """Compares two masks `(*S)`; see `STRUCTURE`."""
    box = box_of(found | true)
    predicted, reference = (torch.from_numpy(np.ascontiguousarray(mask[box])) for mask in (found, true))
    return {
        "dice": metrics.dice(predicted, reference),
        "iou": metrics.iou(predicted, reference),
        **surface_scores(found[box], true[box], spacing, tolerance, diagonal(true.shape, spacing)),
        "volume_error": volume_error(found, true),
    }


def score_boxes(painted: FloatArray, true: Mask) -> dict[str, float]:
    """Compares boxes filled with their scores `(*S)` with true ones, filled; see `DETECTION`.

    Components that share a face are a box, whose score is the mean of its values.
    """
    filled, held = (torch.from_numpy(np.ascontiguousarray(part, np.float32))[None] for part in (painted, true))
    answer, reference = BOXES.decode(filled, {}), BOXES.decode(held, {})
    assert answer.boxes is not None
    assert answer.scores is not None
    assert reference.boxes is not None
    hits = int(metrics.match_boxes(answer.boxes, answer.scores, reference.boxes).sum())
    return {
        "ap50": metrics.average_precision(answer.boxes, answer.scores, reference.boxes),
        "sensitivity": hits / len(reference.boxes),
        "precision": hits / len(answer.boxes),
        "box_iou": float(metrics.box_iou(answer.boxes, reference.boxes).amax(0).mean()),
    }


def score_image(painted: FloatArray, truth: Truth) -> dict[str, float]:
    """Compares an image `(*S)` in [0, 1] with the clean one in its foreground, and inside of the hole."""
    assert truth.image is not None
    inside = truth.image > FOREGROUND
    masks = {"": inside if inside.any() else np.ones_like(inside)}
    if truth.hole is not None:
        masks["_hole"] = truth.hole if truth.hole.any() else masks[""]
    needed = box_of(np.logical_or.reduce(list(masks.values())), metrics.window_radius())
    answer, clean = (torch.from_numpy(np.ascontiguousarray(image[needed]))[None] for image in (painted, truth.image))
    similarity = metrics.ssim_map(answer, clean)[0].numpy()
    scores = {}
    for ending, mask in masks.items():
        mask = np.ascontiguousarray(mask[needed])
        where = torch.from_numpy(mask)
        scores[f"psnr{ending}"] = metrics.psnr(answer, clean, where)
        scores[f"ssim{ending}"] = float(similarity[mask].mean())
        scores[f"mae{ending}"] = metrics.mae(answer, clean, where)
    return scores


def volume_error(found: Mask, true: Mask) -> float:
    """Returns how much the smaller volume lacks of the larger one, as a share of it, [0, 1]; 0 if both are empty."""
    sizes = sorted((int(np.count_nonzero(found)), int(np.count_nonzero(true))))
    return 1 - sizes[0] / sizes[1] if sizes[1] else 0.0
