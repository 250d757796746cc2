"""Draws every task on synthetic anatomies: an example, its target, the query, what is to be painted.

python -m benchmarks.task_sheet --output docs/tasks.png
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mvg.data.anatomy import TRANSPARENT
from mvg.data.episodes import EpisodeDataset
from mvg.data.painting import deformation, grid, paint, pose
from mvg.data.source import SPLITS, Source
from mvg.data.subject import Item, Subject
from mvg.data.synthetic import SyntheticAnatomy, orient, prototype
from mvg.drawing import beside, overlay, sheet, to_picture
from mvg.episode import Episode, Spec
from mvg.task import Task
from tasks import (
    ArtefactRemoval,
    BiasCorrection,
    Deblurring,
    Denoising,
    Detection,
    Inpainting,
    LowDoseCT,
    Registration,
    Segmentation,
    SkullStripping,
    SuperResolution,
    Synthesis,
    Undersampling,
)

TITLES = ("example", "its target", "query", "target")
STRENGTHS = (
    *("level", "share", "photons", "inhomogeneity", "acceleration", "centre", "shift", "rotation", "moves", "ghosting"),
    *("ghosts", "spike", "spikes", "factor", "fwhm", "noise", "displacement"),
)
"""Entries of specs that are written above a row."""


@dataclass(frozen=True)
class Row:
    """One line of the sheet.

    Attributes:
        name: What is written above it, before the strengths that were drawn.
        task: What is asked.
        region: Body region of the anatomy.
    """

    name: str
    task: Task
    region: str = "head"


ROWS = (
    Row("Segmentation", Segmentation(), "abdomen"),
    Row("Synthesis", Synthesis(["modality_a"], ["modality_b"])),
    Row("Detection", Detection(), "cells"),
    Row("SkullStripping", SkullStripping()),
    Row("Denoising", Denoising(kinds=["rician"], rician=(0.1, 0.1))),
    Row("Denoising", Denoising(kinds=["poisson"], poisson=(40, 40))),
    Row("Denoising", Denoising(kinds=["speckle"], speckle=(0.35, 0.35))),
    Row("Denoising", Denoising(kinds=["salt_pepper"], salt_pepper=(0.1, 0.1))),
    Row("LowDoseCT", LowDoseCT(photons=(5e4, 5e4)), "abdomen"),
    Row("Inpainting", Inpainting(kinds=["blobs"], share=(0.1, 0.1))),
    Row("Inpainting", Inpainting(kinds=["slabs"], share=(0.12, 0.12))),
    Row("BiasCorrection", BiasCorrection(inhomogeneity=(0.7, 0.7), cells=(2, 2))),
    Row("Undersampling", Undersampling(kinds=["random"], acceleration=(4, 4), centre=(0.08, 0.08))),
    Row("Undersampling", Undersampling(kinds=["equispaced"], acceleration=(4, 4), centre=(0.08, 0.08))),
    Row("ArtefactRemoval", ArtefactRemoval(kinds=["motion"], shift=(5, 5), rotation=(6, 6), moves=(4, 4))),
    Row("ArtefactRemoval", ArtefactRemoval(kinds=["ghosts"], ghosting=(0.8, 0.8), ghosts=(3, 3))),
    Row("ArtefactRemoval", ArtefactRemoval(kinds=["spikes"], spike=(0.12, 0.12), spikes=(2, 2))),
    Row("SuperResolution", SuperResolution(kinds=["through_plane"], factor=(6, 6), axis=0)),
    Row("SuperResolution", SuperResolution(kinds=["isotropic"], factor=(4, 4), profile="fourier")),
    Row("Deblurring", Deblurring(fwhm=(5, 5), noise=(0.01, 0.01))),
    Row("Registration, stitched", Registration(layout="stitched", displacement=(0.06, 0.06))),
    Row(
        "Registration of contrasts, stitched",
        Registration(fixed="modality_b", curve=False, layout="stitched", displacement=(0.06, 0.06)),
    ),
)
"""Every task; strengths near the upper end of their ranges, so that they can be seen."""


class SyntheticHead(SyntheticAnatomy):
    """Synthetic heads with the mask of the brain, cortex and all that it encloses, as the label role `brain`.

    Args:
        image_size: `(H, W)` or `(D, H, W)`, at least 16 along each axis.
        seed: Seed of everything.
        anatomies: Number of cohorts of each split.
    """

    def __init__(self, image_size: Sequence[int] = (64, 64), seed: int = 0, anatomies: int = 1) -> None:
        super().__init__(image_size, seed, anatomies, anatomies, anatomies, recipes={"head": 1.0})

    def items(self, split: str, cohort: int = 0) -> Sequence[Item]:
        """Returns the subjects of one anatomy, each with a mask."""
        keys = {"brain", "brain=1"}
        return [dataclasses.replace(item, keys=item.keys | keys) for item in super().items(split, cohort)]

    def read(self, item: Item) -> Subject:
        """Makes images and labels of one subject, and its mask."""
        subject = super().read(item)
        split, cohort, number = item.case.split("-")
        place = (SPLITS.index(split), int(cohort))
        found, size = prototype(self.plan, *place), self.plan.image_size
        rng = np.random.default_rng([self.plan.seed, *place, 1 + int(number)])
        coordinates = grid(size) + deformation(rng, size, self.variation)
        first = next(index for index, shape in enumerate(found.shapes) if shape.name == "cortex")
        shapes = [
            dataclasses.replace(shape, label=1 if index == first else TRANSPARENT if index > first else 0)
            for index, shape in enumerate(found.shapes)
        ]
        placed = pose(shapes, rng, self.variation)
        mask = paint(shapes, placed, coordinates, found.look.table, False).labels
        brain = torch.from_numpy(orient(mask, found.orientation))
        return dataclasses.replace(subject, labels={**subject.labels, "brain": brain.to(torch.int64)})


def draw_episode(row: Row, source: Source, size: int, seed: int) -> Episode:
    """Draws one episode with one example."""
    dataset = EpisodeDataset({"synthetic": source}, {"task": row.task}, "val", 1, (size, size), seed=seed)
    return dataset[0]


def caption(name: str, spec: Spec) -> str:
    """Name of a row with the kind and the strengths that its spec holds."""
    parts = [spec["kind"]] if "kind" in spec else []
    parts += [f"{key} {spec[key]:.3g}" for key in STRENGTHS if spec.get(key) is not None]
    return f"{name}: {', '.join(parts)}" if parts else name


def draw_sheet(rows: Sequence[Row], size: int, tile: int, seed: int, columns: int = 2) -> Image.Image:
    """Draws the rows in several columns.

    Args:
        rows: What is asked.
        size: Size of the images in pixels.
        tile: Height of a tile in pixels.
        seed: Seed of the anatomies and of the episodes.
        columns: Number of columns.
    """
    sources: dict[str, Source] = {"head": SyntheticHead((size, size), seed)}
    for region in {row.region for row in rows} - {"head"}:
        sources[region] = SyntheticAnatomy((size, size), seed, val_anatomies=1, recipes={region: 1.0})
    lines, names = [], []
    for row in rows:
        made = draw_episode(row, sources[row.region], size, seed)
        shown = [(made.context_images[0, 0], made.context_targets[0, 0]), (made.image[0], made.target[0])]
        line = []
        for image, target in shown:
            painted = overlay(image, target, tile) if row.task.is_label else to_picture(target, tile)
            line += [to_picture(image, tile), painted]
        lines.append(line)
        names.append(caption(row.name, made.specs[0]))
    count = -(-len(lines) // columns)
    starts = range(0, len(lines), count)
    pages = [sheet(lines[start : start + count], TITLES, names[start : start + count]) for start in starts]
    return beside(pages)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--size", type=int, default=128, help="size of the images in pixels")
    parser.add_argument("--tile", type=int, default=112, help="size of a tile in pixels")
    parser.add_argument("--seed", type=int, default=10)
    options = parser.parse_args(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    picture = draw_sheet(ROWS, options.size, options.tile, options.seed)
    picture.quantize(192).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
