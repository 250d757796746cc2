"""Colours of classes: drawn, fixed, painted and read back. Black is background in every palette."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Colour = list[float]


def capacity(channels: int, distance: float) -> int:
    """Number of colours beside black that are sure to fit at a minimum distance of each other."""
    return int(_levels(distance) ** channels) - 1


def random_colours(count: int, channels: int, distance: float, rng: np.random.Generator) -> list[Colour]:
    """Draws colours in [0, 1] that keep a Euclidean distance from each other and from black.

    Grey values are drawn evenly from all sets that keep the distance. Colours are drawn one after another, each
    evenly from those far enough from the ones before; where that fails, from a regular grid.

    Args:
        count: Number of colours.
        channels: 1 for grey values, 3 for colours.
        distance: Smallest distance between two of them, (0, 1].
        rng: Source of randomness.

    Raises:
        ValueError: If so many colours do not fit.
    """
    _check_count(count, channels, distance)
    if channels == 1:
        gaps = np.sort(rng.uniform(0, max(0.0, 1 - count * distance), count))
        values = np.minimum(gaps + distance * np.arange(1, count + 1), 1)
        return [[float(value)] for value in rng.permutation(values)]
    chosen = [np.zeros(channels)]
    for candidate in rng.random((32 * (count + 2), channels)):
        if len(chosen) > count:
            break
        if (((np.stack(chosen) - candidate) ** 2).sum(1) >= distance**2).all():
            chosen.append(candidate)
    if len(chosen) > count:
        return [colour.tolist() for colour in chosen[1:]]
    numbers = 1 + rng.choice(capacity(channels, distance), count, replace=False)
    return fixed_colours(numbers.tolist(), channels, distance)


def fixed_colours(numbers: Sequence[int], channels: int, distance: float) -> list[Colour]:
    """Returns the colours of some numbers in a regular grid that starts at black, number 0.

    With one channel, number n is the grey value n * distance; with more, its digits are counted up channel by channel.

    Raises:
        ValueError: If a number lies beyond the grid.
    """
    _check_count(max(numbers), channels, distance)
    levels = _levels(distance)
    digits = [[number // levels**channel % levels for channel in range(channels)] for number in numbers]
    return [[min(1.0, digit * distance) for digit in colour] for colour in digits]


def paint(labels: Tensor, classes: Sequence[Sequence[int]], colours: Sequence[Colour], highest: int) -> Tensor:
    """Paints a label map.

    Args:
        labels: `(*S)`, int64, 0 to `highest`.
        classes: Classes of each colour; all others become black.
        colours: One for each entry of `classes`.
        highest: Highest class that can occur.

    Returns:
        `(C, *S)`, float32.
    """
    table = torch.zeros(len(colours[0]), highest + 1)
    for numbers, colour in zip(classes, colours, strict=True):
        table[:, list(numbers)] = torch.tensor(colour)[:, None]
    return table[:, labels]


def nearest(painted: Tensor, colours: Sequence[Colour]) -> Tensor:
    """Finds the nearest colour of every pixel, black included.

    Args:
        painted: `(C, *S)`.
        colours: Colours of C values.

    Returns:
        `(*S)`, int64: 0 for black, else one more than the place in `colours`.
    """
    best = painted.square().sum(0)
    found = torch.zeros(best.shape, dtype=torch.int64, device=painted.device)
    for number, colour in enumerate(colours, start=1):
        value = painted.new_tensor(colour).view(-1, *[1] * best.ndim)
        distance = (painted - value).square().sum(0)
        closer = distance < best
        best = torch.where(closer, distance, best)
        found = found.masked_fill(closer, number)
    return found


def check_distance(distance: float) -> None:
    """Checks a minimum distance between colours.

    Raises:
        ValueError: If it is not in (0, 1].
    """
    if not 0 < distance <= 1:
        raise ValueError(f"`min_distance` must be in (0, 1], got {distance}")


def _levels(distance: float) -> int:
    """Values of one channel, 0 included, that fit into [0, 1]; a rounding error does not cost one."""
    return int(1 / distance + 1e-6) + 1


def _check_count(count: int, channels: int, distance: float) -> None:
    fit = capacity(channels, distance)
    if count > fit:
        raise ValueError(
            f"{count} colours of {channels} channel(s) do not fit at a distance of {distance:g}, only {fit} do; "
            "lower `min_distance`, set `max_classes`, or paint with `channels: 3`"
        )
