"""Draws what weights answer, a row for each of several tasks, on synthetic anatomies of the split that trains nothing.

    python -m benchmarks.shipped_sheet --output docs/shipped.png [--weights W] [--seed 0]

Nothing is picked: a seed decides which anatomies, classes and strengths are shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from mvg.data import EpisodeDataset, SyntheticAnatomy
from mvg.drawing import beside, draw_episodes
from mvg.episode import Episode
from mvg.hub import shipped
from mvg.models.base import InContextModel
from mvg.task import Task
from mvg.weights import load, load_tasks

ROWS: Mapping[str, int] = {"segmentation": 4, "synthesis": 2, "denoising": 1, "inpainting": 1}
"""Rows of each task."""
PAIRS = 2
"""Examples that a row shows, of those that the network sees."""


def episodes_of(tasks: Mapping[str, Task], network: InContextModel, examples: int, seed: int) -> list[Episode]:
    """Draws as many episodes of each task as it has rows, each of an anatomy of its own.

    Raises:
        ValueError: If the weights know none of the tasks.
    """
    known = {name: rows for name, rows in ROWS.items() if name in tasks}
    if not known:
        raise ValueError(f"these weights know none of {', '.join(ROWS)}, but {', '.join(tasks)}")
    source = SyntheticAnatomy(network.image_size, seed, subjects=examples + 1)
    channels = (network.in_channels, network.out_channels)
    drawn = []
    for number, (name, rows) in enumerate(known.items()):
        ours = {name: tasks[name]}
        made = EpisodeDataset(
            {"synthetic": source}, ours, "test", rows, network.image_size, *channels, examples, 1, number
        )
        drawn += [made[row] for row in range(rows)]
    return drawn


@torch.inference_mode()
def draw_sheet(network: InContextModel, episodes: Sequence[Episode], tile: int, columns: int) -> Image.Image:
    """Draws the episodes and what a network paints for them, in several columns."""
    pages = []
    per = -(-len(episodes) // columns)
    for start in range(0, len(episodes), per):
        batch = Episode.collate(episodes[start : start + per])
        painted = network(batch.image, batch.context_images, batch.context_targets)
        pages.append(draw_episodes(batch, painted, tile, PAIRS, per))
    return beside(pages)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--weights", help="folder of a trained network; by default what the package ships for 2D")
    parser.add_argument("--examples", type=int, default=4, help="examples that the network sees")
    parser.add_argument("--tile", type=int, default=112, help="size of a tile in pixels")
    parser.add_argument("--columns", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    source = options.weights or shipped("2d")
    network = load(source)
    episodes = episodes_of(load_tasks(source), network, options.examples, options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(network, episodes, options.tile, options.columns).quantize(192).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
