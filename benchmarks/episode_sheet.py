"""Draws a sheet of episodes of the synthetic anatomies, to judge by eye, and measures how fast they are made.

python -m benchmarks.episode_sheet --output sheet.png --size 96 --seed 0
python -m benchmarks.episode_sheet --speed
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
import torch
from numpy.typing import NDArray

from mvg.data.subject import Subject
from mvg.data.synthetic import MODALITIES, SyntheticAnatomy

Picture = NDArray[np.float64]
COLOUR = np.array([1.0, 0.25, 0.1])
CROSS_MODAL = 5
"""Every fifth episode paints one modality from another in place of a class."""


def grey(image: torch.Tensor) -> Picture:
    """Turns `(1, H, W)` into `(H, W, 3)`."""
    return np.repeat(image[0].double().numpy()[..., None], 3, axis=2)


def overlay(image: torch.Tensor, mask: torch.Tensor) -> Picture:
    """Colours a mask `(H, W)` over an image `(1, H, W)`; `(H, W, 3)`."""
    share = 0.55 * mask.double().numpy()[..., None]
    coloured: Picture = (1 - share) * grey(image) + share * COLOUR
    return coloured


def middle(subject: Subject, axis: int) -> Subject:
    """Cuts a volume in the middle of an axis; all slices of a flat subject are itself."""
    if len(subject.shape) == 2:
        return subject
    cut = subject.shape[axis] // 2
    images = {role: image.select(axis + 1, cut) for role, image in subject.images.items()}
    return Subject(images, {role: labels.select(axis, cut) for role, labels in subject.labels.items()}, subject.item)


def episode(source: SyntheticAnatomy, number: int, seed: int) -> Picture:
    """Draws one episode: context image, its target, query image, its target, side by side."""
    rng = np.random.default_rng([seed, number])
    cohort = int(rng.integers(source.cohorts("train")))
    items = source.items("train", cohort)
    axis = int(rng.integers(source.dims))
    context, query = (middle(source.read(items[index]), axis) for index in rng.permutation(len(items))[:2])
    tiles: list[Picture] = []
    if number % CROSS_MODAL == CROSS_MODAL - 1:
        other = MODALITIES[int(rng.integers(1, len(MODALITIES)))]
        for subject in (context, query):
            tiles += [grey(subject.images["image"]), grey(subject.images[other])]
    else:
        label = int(rng.choice(sorted(int(key[7:]) for key in items[0].keys if key.startswith("labels="))))
        for subject in (context, query):
            image = subject.images["image"]
            tiles += [grey(image), overlay(image, subject.labels["labels"] == label)]
    return np.concatenate(tiles, 1)


def sheet(source: SyntheticAnatomy, rows: int, columns: int, seed: int) -> Picture:
    """Draws `rows * columns` episodes with a thin frame around each, `(H, W, 3)` in [0, 1]."""
    lines = []
    for row in range(rows):
        tiles = [episode(source, row * columns + column, seed) for column in range(columns)]
        lines.append(np.concatenate([np.pad(tile, ((0, 3), (0, 3), (0, 0)), constant_values=0.5) for tile in tiles], 1))
    return np.concatenate(lines)


def speed(size: tuple[int, ...], cohorts: int, reads: int) -> float:
    """Measures subjects per second on one core, with a new anatomy for every `reads` subjects."""
    source = SyntheticAnatomy(image_size=size, seed=1)
    source.read(source.items("val")[0])
    start = time.process_time()
    for cohort in range(cohorts):
        for item in source.items("train", cohort)[:reads]:
            source.read(item)
    return cohorts * reads / (time.process_time() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="PNG file to write")
    parser.add_argument(
        "--size", type=int, nargs="+", default=[96], help="image size: one number, or one for each axis"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", nargs="*", help="body regions, by default all")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--speed", action="store_true", help="measure subjects per second")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.output:
        size = tuple(options.size) * (2 if len(options.size) == 1 else 1)
        recipes = dict.fromkeys(options.recipes, 1.0) if options.recipes else None
        source = SyntheticAnatomy(image_size=size, seed=options.seed, recipes=recipes)
        picture = sheet(source, options.rows, options.columns, options.seed)
        matplotlib.image.imsave(options.output, np.clip(picture, 0, 1))
    if options.speed:
        for size, cohorts, reads in (((64, 64), 60, 4), ((64, 64), 20, 12), ((96, 96), 20, 4), ((64, 64, 64), 6, 4)):
            rate = speed(size, cohorts, reads)
            print(f"{'x'.join(map(str, size))}, {reads} subjects an anatomy: {rate:.1f} subjects/s")


if __name__ == "__main__":
    main()
