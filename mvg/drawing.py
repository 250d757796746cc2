"""Pictures of episodes: context, query, what was painted and the truth, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from mvg.episode import Episode

COLOUR = np.array([255, 80, 40], dtype=np.float32)
BACKGROUND = (250, 250, 250)
INK = (30, 30, 30)


def to_picture(image: Tensor, size: int) -> np.ndarray:
    """Turns one image `(C, *S)`, about [0, 1], into RGB `(size, width, 3)`, uint8; a volume shows its middle slice."""
    while image.ndim > 3:
        image = image[:, image.shape[1] // 2]
    image = image.detach().float().cpu().clamp(0, 1).nan_to_num()
    image = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    width = max(1, round(size * image.shape[2] / image.shape[1]))
    large = F.interpolate(image[None], size=(size, width), mode="nearest")[0]
    return (large.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def overlay(image: Tensor, paint: Tensor, size: int, opacity: float = 0.5) -> np.ndarray:
    """Draws paint `(C, *S)` over an image `(C, *S)`: grey paint as a red veil, coloured paint in its own colours."""
    base, colours = to_picture(image, size).astype(np.float32), to_picture(paint, size).astype(np.float32)
    if paint.shape[0] < 3:
        share = opacity * colours[..., :1] / 255
        veil = COLOUR
    else:
        share = opacity * (colours.max(-1, keepdims=True) > 20)
        veil = colours
    return (base * (1 - share) + veil * share).round().astype(np.uint8)


def draw_episodes(episode: Episode, painted: Tensor, size: int = 128, pairs: int = 2, most: int = 8) -> Image.Image:
    """Draws a batch as rows: some context pairs, the query, the painted answer and the truth.

    Args:
        episode: The batch.
        painted: `(B, C_out, *S)`.
        size: Height of a tile in pixels.
        pairs: Most context pairs to show in a row.
        most: Most rows.
    """
    rows, names = [], []
    for number in range(min(most, len(episode))):
        label = bool(episode.is_label[number])

        def show(image: Tensor, target: Tensor, label: bool = label) -> np.ndarray:
            return overlay(image, target, size) if label else to_picture(target, size)

        query = episode.image[number]
        row = []
        for pair in range(min(pairs, episode.context_size)):
            image = episode.context_images[number, pair]
            row += [to_picture(image, size), show(image, episode.context_targets[number, pair])]
        row += [to_picture(query, size), show(query, painted[number]), show(query, episode.target[number])]
        rows.append(row)
        names.append(episode.tasks[number] if episode.tasks else "")
    titles = ["example", "its target"] * min(pairs, episode.context_size) + ["query", "painted", "truth"]
    return sheet(rows, titles, names)


def sheet(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], names: Sequence[str], gap: int = 4
) -> Image.Image:
    """Lays pictures out in rows with a title above each column and a name above each row."""
    font = ImageFont.load_default(13)
    height, top, head = rows[0][0].shape[0], 22, 18
    widths = [max(row[column].shape[1] for row in rows) for column in range(len(titles))]
    page = Image.new(
        "RGB", (sum(widths) + gap * (len(widths) + 1), top + len(rows) * (height + head + gap)), BACKGROUND
    )
    pen = ImageDraw.Draw(page)
    left = gap
    for column, width in enumerate(widths):
        pen.text((left + 2, 4), titles[column], fill=INK, font=font)
        for number, row in enumerate(rows):
            y = top + number * (height + head + gap)
            page.paste(Image.fromarray(row[column]), (left, y + head))
            if column == 0:
                pen.text((left + 2, y + 1), names[number], fill=INK, font=font)
        left += width + gap
    return page


def beside(pages: Sequence[Image.Image]) -> Image.Image:
    """Lays sheets side by side, level at the top."""
    whole = Image.new("RGB", (sum(page.width for page in pages), max(page.height for page in pages)), BACKGROUND)
    left = 0
    for page in pages:
        whole.paste(page, (left, 0))
        left += page.width
    return whole
