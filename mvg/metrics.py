"""Metrics of painted answers: pure functions on tensors, every convention stated, no library default.

All are computed in double precision on the CPU and return plain floats. Empty cases follow one table: where prediction
and truth are both empty overlap is 1, where one of them is empty it is 0. A mean over no pixel at all is NaN.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

MAX_PSNR = 100.0
"""PSNR in dB of identical images: a bound, so that means over cases stay finite."""

_BLOCK = 64
"""Pixels that are smoothed by one product of matrices."""


def dice(predicted: Tensor, true: Tensor) -> float:
    """Returns the Dice coefficient of two masks, [0, 1].

    Args:
        predicted: `(*S)`, bool.
        true: `(*S)`, bool.

    Returns:
        Twice the intersection over the sum of sizes; 1 if both are empty, 0 if one of them is.
    """
    shared, first, second = _overlap(predicted, true)
    return 2 * shared / (first + second) if first + second else 1.0


def iou(predicted: Tensor, true: Tensor) -> float:
    """Returns intersection over union (Jaccard) of two masks, [0, 1].

    Args:
        predicted: `(*S)`, bool.
        true: `(*S)`, bool.

    Returns:
        1 if both are empty, 0 if one of them is.
    """
    shared, first, second = _overlap(predicted, true)
    return shared / (first + second - shared) if first + second else 1.0


def mae(painted: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Returns the mean absolute error, in the units of the images.

    Args:
        painted: `(C, *S)`.
        target: `(C, *S)`.
        mask: `(*S)`, bool, the pixels that count; None for all.

    Returns:
        NaN if the mask is empty.
    """
    error = (_plain(painted, target) - _plain(target, painted)).abs()
    return float(_inside(error, mask).mean())


def psnr(painted: Tensor, target: Tensor, mask: Tensor | None = None, data_range: float = 1.0) -> float:
    """Returns the peak signal-to-noise ratio in dB.

    Args:
        painted: `(C, *S)`.
        target: `(C, *S)`.
        mask: `(*S)`, bool, the pixels that count; None for all.
        data_range: Width of the range of values of the data set, never taken from an image.

    Returns:
        At most 100 dB (identical images); NaN if the mask is empty or a value is NaN.
    """
    error = (_plain(painted, target) - _plain(target, painted)) / data_range
    mean = float(_inside(error.square(), mask).mean())
    if math.isnan(mean):
        return math.nan
    return MAX_PSNR if mean == 0 else min(MAX_PSNR, -10 * math.log10(mean))


def ssim(
    painted: Tensor, target: Tensor, mask: Tensor | None = None, data_range: float = 1.0, sigma: float = 1.5
) -> float:
    """Returns the mean structural similarity, [-1, 1], with a Gaussian window in 2D or 3D and population covariance.

    The window reaches 3.5 sigma (11 pixels for 1.5). Beyond the border images are mirrored. Without a mask the mean
    leaves out pixels whose window crosses the border, along every axis that is long enough to have others; with a mask
    it is taken over exactly the masked pixels. Several channels are averaged.

    Args:
        painted: `(C, *S)`.
        target: `(C, *S)`.
        mask: `(*S)`, bool, the pixels that count.
        data_range: Width of the range of values of the data set, never taken from an image.
        sigma: Standard deviation of the window in pixels.

    Returns:
        NaN if the mask is empty.
    """
    similarity = ssim_map(painted, target, data_range, sigma)
    if mask is None:
        similarity = _interior(similarity, window_radius(sigma))
    return float(_inside(similarity, mask).mean())


def ssim_map(painted: Tensor, target: Tensor, data_range: float = 1.0, sigma: float = 1.5) -> Tensor:
    """Returns the structural similarity around every pixel, `(C, *S)`, float64; see `ssim`."""
    first, second = _plain(painted, target), _plain(target, painted)
    moments = torch.stack([first, second, first * first + second * second, first * second])
    for axis in range(2, moments.ndim):
        moments = _smooth(moments, axis, sigma)
    mean, other, squares, product = moments
    luminance, contrast = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    variance = squares - mean * mean - other * other
    similarity = (2 * mean * other + luminance) * (2 * (product - mean * other) + contrast)
    limit = (mean * mean + other * other + luminance) * (variance + contrast)
    return torch.div(similarity, limit)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns intersection over union of every box with every other.

    Args:
        boxes: `(n, 2 * dims)`, corners `(low..., high...)` in pixels, high exclusive.
        others: `(m, 2 * dims)`.

    Returns:
        `(n, m)`, float64, [0, 1].
    """
    dims = boxes.shape[1] // 2
    first, second = boxes.detach().to("cpu", torch.float64)[:, None], others.detach().to("cpu", torch.float64)[None]
    low = torch.maximum(first[..., :dims], second[..., :dims])
    high = torch.minimum(first[..., dims:], second[..., dims:])
    shared = (high - low).clamp(min=0).prod(-1)
    sizes = (first[..., dims:] - first[..., :dims]).prod(-1) + (second[..., dims:] - second[..., :dims]).prod(-1)
    return shared / (sizes - shared).clamp(min=1e-12)


def match_boxes(boxes: Tensor, scores: Tensor, true_boxes: Tensor, iou: float = 0.5) -> Tensor:
    """Says which boxes hit a true one, in the order of falling score.

    Each box takes the true box of highest overlap that no box before it has taken, if that overlap suffices.

    Args:
        boxes: `(n, 2 * dims)`, corners `(low..., high...)` in pixels, high exclusive.
        scores: `(n,)`, confidence; boxes of equal score keep their order.
        true_boxes: `(m, 2 * dims)`.
        iou: Smallest overlap of a hit.

    Returns:
        `(n,)`, bool.
    """
    hits = torch.zeros(len(boxes), dtype=torch.bool)
    if not len(boxes) or not len(true_boxes):
        return hits
    overlap = box_iou(boxes, true_boxes)
    for place, number in enumerate(torch.argsort(scores.cpu(), descending=True, stable=True).tolist()):
        value, best = overlap[number].max(0)
        if float(value) >= iou:
            hits[place] = True
            overlap[:, best] = -1
    return hits


def average_precision(boxes: Tensor, scores: Tensor, true_boxes: Tensor, iou: float = 0.5) -> float:
    """Returns the area under the precision-recall curve of one image, [0, 1].

    Precision at a recall is the highest that is reached at this recall or above it (every point of the curve counts,
    not a fixed number of them).

    Args:
        boxes: `(n, 2 * dims)`, corners `(low..., high...)` in pixels, high exclusive.
        scores: `(n,)`, confidence.
        true_boxes: `(m, 2 * dims)`.
        iou: Smallest overlap of a hit.

    Returns:
        1 if there are neither boxes nor true boxes, 0 if only one of them is missing.
    """
    if not len(true_boxes):
        return 0.0 if len(boxes) else 1.0
    hits = match_boxes(boxes, scores, true_boxes, iou)
    precision = hits.cumsum(0, dtype=torch.float64) / torch.arange(1, len(hits) + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0) if len(hits) else precision
    return float(envelope[hits].sum()) / len(true_boxes)


def _overlap(predicted: Tensor, true: Tensor) -> tuple[int, int, int]:
    """Sizes of the intersection and of both masks."""
    if predicted.shape != true.shape:
        raise ValueError(f"masks must have one shape, got {tuple(predicted.shape)} and {tuple(true.shape)}")
    predicted, true = predicted.bool(), true.bool()
    return int((predicted & true).sum()), int(predicted.sum()), int(true.sum())


def _plain(image: Tensor, other: Tensor) -> Tensor:
    """The image in double precision on the CPU; checks that `other` has its shape."""
    if image.shape != other.shape:
        raise ValueError(f"images must have one shape, got {tuple(image.shape)} and {tuple(other.shape)}")
    return image.detach().to("cpu", torch.float64)


def _inside(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values `(C, *S)` at the pixels of a mask `(*S)`, `(C, n)`."""
    if mask is None:
        return values
    if mask.shape != values.shape[1:]:
        raise ValueError(f"`mask` must have the shape {tuple(values.shape[1:])}, got {tuple(mask.shape)}")
    return values[:, mask.to("cpu", torch.bool)]


def window_radius(sigma: float = 1.5) -> int:
    """Returns how many pixels the window of `ssim` reaches beyond its middle."""
    return int(3.5 * sigma + 0.5)


@lru_cache(maxsize=16)
def _kernel(sigma: float) -> tuple[float, ...]:
    """Gaussian weights from -radius to +radius, with sum 1."""
    radius = window_radius(sigma)
    values = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    return tuple(value / sum(values) for value in values)


def _smooth(values: Tensor, axis: int, sigma: float) -> Tensor:
    """Convolves one axis with a Gaussian; beyond the border `a b c` goes on as `c b a`, however short the axis is."""
    size, radius = values.shape[axis], window_radius(sigma)
    places = torch.arange(-radius, size + radius) % (2 * size)
    padded = values.index_select(axis, torch.minimum(places, 2 * size - 1 - places))
    smooth = torch.empty_like(values)
    for start in range(0, size, _BLOCK):
        length = min(_BLOCK, size - start)
        part = padded.narrow(axis, start, length + 2 * radius)
        if axis == values.ndim - 1:
            made = part @ _band(length, sigma).T
        else:
            made = _band(length, sigma) @ part.flatten(axis + 1).flatten(0, axis - 1)
        smooth.narrow(axis, start, length).copy_(made.view(*values.shape[:axis], length, *values.shape[axis + 1 :]))
    return smooth


@lru_cache(maxsize=128)
def _band(length: int, sigma: float) -> Tensor:
    """The matrix that convolves `length + 2 * radius` values to `length` of them, float64."""
    kernel = torch.tensor(_kernel(sigma), dtype=torch.float64)
    band = torch.zeros(length, length + len(kernel) - 1, dtype=torch.float64)
    for row in range(length):
        band[row, row : row + len(kernel)] = kernel
    return band


def _interior(values: Tensor, radius: int) -> Tensor:
    """Drops `radius` pixels at both ends of every spatial axis that has more of them."""
    for axis in range(1, values.ndim):
        if values.shape[axis] > 2 * radius:
            values = values.narrow(axis, radius, values.shape[axis] - 2 * radius)
    return values
