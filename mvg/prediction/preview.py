"""Pictures of an answer beside its query and its examples, each class in a colour of its own."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mvg.data.geometry import resize, resize_labels
from mvg.drawing import BACKGROUND, INK, sheet, to_picture
from mvg.prediction.context import Example

OPACITY = 0.4


def colour_of(number: int) -> tuple[float, float, float]:
    """Colour of a class, RGB in [0, 1]: always the same, and far from those of the next classes."""
    return colorsys.hsv_to_rgb((0.02 + 0.618034 * (number - 1)) % 1, 0.85, 1.0)


def colour_labels(picture: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Draws classes over a picture: a veil inside, the pure colour along the border.

    Args:
        picture: `(H, W, 3)`.
        labels: `(H, W)`, class indices.

    Returns:
        `(H, W, 3)`.
    """
    height, width = labels.shape
    around = np.pad(labels, 1, mode="edge")
    moved = [around[1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    border = np.any([values != labels for values in moved], axis=0)
    numbers, places = np.unique(labels, return_inverse=True)
    colours = 255 * np.array([colour_of(int(number)) for number in numbers])[places.reshape(labels.shape)]
    share = ((labels > 0) * np.where(border, 1.0, OPACITY))[..., None]
    drawn: NDArray[np.uint8] = (picture * (1 - share) + colours * share).round().astype(np.uint8)
    return drawn


def draw_boxes(picture: NDArray[np.uint8], boxes: NDArray[np.float32], height: int) -> NDArray[np.uint8]:
    """Draws the outlines of boxes `(n, 4)` of an image of some height on its picture `(H', W', 3)`."""
    page = Image.fromarray(picture)
    pen, scale = ImageDraw.Draw(page), picture.shape[0] / height
    ink = tuple(round(255 * part) for part in colour_of(1))
    for top, left, bottom, right in (boxes * scale).tolist():
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=ink)
    return np.asarray(page)


def show(image: Tensor, target: Tensor, size: int) -> NDArray[np.uint8]:
    """Draws a label map `(H, W)` over its image `(C, H, W)`, or shows an image `(C, H, W)`, `size` pixels high."""
    picture: NDArray[np.uint8] = to_picture(target if target.ndim == 3 else image, size)
    if target.ndim == 3:
        return picture
    return colour_labels(picture, resize_labels(target, picture.shape[:2]).numpy())


def draw_preview(
    query: Tensor,
    answer: Tensor,
    examples: Sequence[Example],
    name: str,
    boxes: NDArray[np.float32] | None = None,
    size: int = 256,
    most: int = 3,
    uncertainty: Tensor | None = None,
    classes: Mapping[int, str] | None = None,
) -> Image.Image:
    """Draws a query, its answer, how sure it is, and some of the examples in one row.

    Args:
        query: `(C, H, W)`, [0, 1].
        answer: Class indices `(H, W)`, or an image `(C, H, W)`.
        examples: The context.
        name: What to write above the row.
        boxes: `(n, 4)`, drawn instead of the answer.
        size: Height of a tile in pixels.
        most: Most examples to show.
        uncertainty: `(H, W)`, from 0 on, if it is known.
        classes: Names of the classes that were asked for, for the legend.
    """
    shown = examples[:most]
    plain = to_picture(query, size)
    painted = show(query, answer, size) if boxes is None else draw_boxes(plain, boxes, query.shape[1])
    doubt = [] if uncertainty is None else [draw_heat(uncertainty / peak_of(uncertainty, answer), size)]
    row = [plain, painted, *doubt, *(show(example.image, example.target, size) for example in shown)]
    titles = ["query", "answer", *(["uncertainty"] * len(doubt))]
    titles += [f"example {number}" for number in range(1, len(shown) + 1)]
    return with_legend(sheet([row], titles, [name]), classes or {})


def draw_slices(
    images: Tensor,
    answers: Tensor,
    pixel: Sequence[float],
    name: str,
    size: int = 256,
    uncertainty: Tensor | None = None,
    classes: Mapping[int, str] | None = None,
) -> Image.Image:
    """Draws three slices of a volume, at a quarter, half and three quarters of what is answered, beside their answers.

    Args:
        images: `(n, H, W)`, [0, 1].
        answers: `(n, H, W)`, class indices int64, or an image in [0, 1].
        pixel: Height and width of a pixel in mm.
        name: What to write above the rows.
        size: Height of a tile in pixels.
        uncertainty: `(n, H, W)`, from 0 on, if it is known.
        classes: Names of the classes that were asked for, for the legend.
    """
    count, height, width = images.shape
    shape = (height, max(1, round(width * pixel[1] / pixel[0])))
    rows, names = [], []
    for number in chosen_slices(answers):
        image, answer = resize(images[number][None], shape), answers[number]
        target = resize(answer[None], shape) if answer.is_floating_point() else resize_labels(answer, shape)
        rows.append([to_picture(image, size), show(image, target, size)])
        if uncertainty is not None:
            heat = uncertainty[number][None] / peak_of(uncertainty, answers)
            rows[-1].append(draw_heat(resize(heat, shape)[0], size))
        names.append(f"{name}, slice {number + 1} of {count}")
    titles = ["query", "answer", *([] if uncertainty is None else ["uncertainty"])]
    return with_legend(sheet(rows, titles, names), classes or {})


def chosen_slices(answers: Tensor) -> list[int]:
    """Numbers of the slices to show: spread over those that show a class, or over all where none does."""
    shown = list(range(len(answers)))
    if not answers.is_floating_point() and bool(answers.any()):
        found = answers.flatten(1).any(1).nonzero()[:, 0]
        shown = list(range(int(found[0]), int(found[-1]) + 1))
    last = len(shown) - 1
    return sorted({shown[place] for place in (last // 4, last // 2, 3 * last // 4)})


def peak_of(uncertainty: Tensor, answer: Tensor) -> float:
    """What is drawn brightest: 1 for shares of answers that differ, the largest deviation for images."""
    return max(float(uncertainty.max()), 1e-6) if answer.is_floating_point() else 1.0


def draw_heat(values: Tensor, size: int) -> NDArray[np.uint8]:
    """Draws values `(H, W)` in [0, 1] from black over red to yellow, `size` pixels high."""
    red, green = (2 * values).clamp(0, 1), (2 * values - 1).clamp(0, 1)
    picture: NDArray[np.uint8] = to_picture(torch.stack([red, green, torch.zeros_like(values)]), size)
    return picture


def with_legend(page: Image.Image, classes: Mapping[int, str]) -> Image.Image:
    """Writes the names of classes, each beside its colour, below a page, in as many lines as they need."""
    font, line, lines = ImageFont.load_default(13), 18, list[list[tuple[int, str]]]([[]])
    left = 0.0
    for entry in classes.items():
        needed = 24 + font.getlength(entry[1])
        if lines[-1] and left + needed > page.width:
            lines.append([])
            left = 0.0
        lines[-1].append(entry)
        left += needed
    if not classes:
        return page
    drawn = Image.new("RGB", (page.width, page.height + line * len(lines) + 4), BACKGROUND)
    drawn.paste(page, (0, 0))
    pen = ImageDraw.Draw(drawn)
    for row, entries in enumerate(lines):
        x, y = 4.0, page.height + row * line
        for number, text in entries:
            pen.rectangle((x, y + 2, x + 12, y + 14), fill=tuple(round(255 * part) for part in colour_of(number)))
            pen.text((x + 16, y), text, fill=INK, font=font)
            x += 24 + font.getlength(text)
    return drawn
