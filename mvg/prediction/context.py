"""Contexts from folders: pairs of files with one name, and the choice among many."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from mvg.data.readers import SIZE_LIMIT
from mvg.prediction.rasters import Raster, Source, images_in, label_map, read_raster
from mvg.wording import counted

log = logging.getLogger(__name__)

TARGETS = ("targets", "labels")
_SHOWN = 5
_CHANNEL = "_0000"
"""How nnU-Net ends the names of images of one channel."""


@dataclass(frozen=True)
class PairFiles:
    """The two files of an example."""

    name: str
    image: Path
    target: Path


@dataclass(frozen=True)
class Example:
    """A pair of the context on its own grid, for pictures.

    Attributes:
        image: `(C_in, H, W)`, [0, 1].
        target: Class indices `(H, W)`, or an image `(C, H, W)` in [0, 1].
    """

    image: Tensor
    target: Tensor


def find_pairs(context: Path, targets: Path | None = None) -> list[PairFiles]:
    """Lists the examples of a folder, sorted by name.

    Args:
        context: Folder that holds `images/` and `targets/` (or `labels/`); files of one name, extension aside, are a
            pair, and so are NAME_0000 and NAME, as nnU-Net names them.
        targets: Folder of targets; `context` is then the folder of images.

    Raises:
        ValueError: If a folder is missing or empty, or a file has no partner.
    """
    images = context if targets else context / "images"
    targets = targets or next((context / name for name in TARGETS if (context / name).is_dir()), context / TARGETS[0])
    for folder in (images, targets):
        if not folder.is_dir():
            raise ValueError(f"{folder}: the folder does not exist; a context needs `images/` and `targets/`")
    left, right = images_in(images), images_in(targets)
    if not left.keys() & right.keys() and all(name.endswith(_CHANNEL) for name in left):
        left = {name.removesuffix(_CHANNEL): path for name, path in left.items()}
    for found, other, folder in ((left, right, targets), (right, left, images)):
        if alone := sorted(found.keys() - other.keys()):
            names = ", ".join(found[name].name for name in alone[:_SHOWN])
            raise ValueError(
                f"{found[alone[0]].parent}: {counted(len(alone), 'file')} without a partner in {folder} ({names}); "
                "give both files of a pair one name"
            )
    return [PairFiles(name, left[name], right[name]) for name in sorted(left)]


def read_names(context: Path, targets: Path | None = None) -> dict[int, str]:
    """Reads the names of classes from `dataset.json` in a context, or beside its two folders, if there is one.

    Its `labels` are a mapping of names to numbers, or of numbers to names. Regions of several classes, as nnU-Net
    knows them, name none.

    Args:
        context: As in `find_pairs`.
        targets: As in `find_pairs`.

    Raises:
        ValueError: If the file cannot be read.
    """
    places = [context / "dataset.json", *([context.parent / "dataset.json"] if targets else [])]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return {}
    try:
        labels = json.loads(path.read_text(encoding="utf-8")).get("labels", {})
        pairs = [(k, v) if str(k).isdigit() else (v, k) for k, v in labels.items()]
        return {int(number): str(name) for number, name in pairs if not isinstance(number, list)}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its `labels` must give each name a number ({error}); correct it") from error


def read_context(
    images: Sequence[Source], targets: Sequence[Source], is_label: bool, size_limit: int = SIZE_LIMIT
) -> tuple[list[Raster], list[Raster]]:
    """Reads the two sides of a context.

    Args:
        images: The images.
        targets: One for each image.
        is_label: The targets are label maps.
        size_limit: Largest number of pixels of each.

    Raises:
        ValueError: If there are none, or not as many targets as images, or two of a pair differ in size.
    """
    if len(images) != len(targets) or not len(images):
        raise ValueError(
            f"a context needs a target for each of one or more images, got {len(images)} and {len(targets)}"
        )
    left = [read_raster(image, f"context image {k}", False, size_limit) for k, image in enumerate(images)]
    right = [read_raster(target, f"context target {k}", is_label, size_limit) for k, target in enumerate(targets)]
    for image, target in zip(left, right, strict=True):
        if image.size != target.size:
            raise ValueError(
                f"{target.name}: its size {target.size} is not that of its image {image.name}, {image.size}; "
                "bring both onto one grid"
            )
    return left, right


def present(labels: Tensor) -> set[int]:
    """Classes of a label map `(*S)`, background left out."""
    return set(np.flatnonzero(np.bincount(labels.flatten().numpy())).tolist()) - {0}


def label_maps(rasters: Sequence[Raster]) -> list[Tensor]:
    """Reads the label maps of a context, each `(H, W)` int64.

    Masks that together hold no values but 0 and 255 are read as class 1, and the log says so.

    Raises:
        ValueError: If one is no label map, or all are empty.
    """
    maps = [label_map(raster) for raster in rasters]
    found = {value for values in maps for value in present(values)}
    if not found:
        raise ValueError(f"{rasters[0].name}: the targets of the context show no class, only 0; mark what is asked for")
    if found == {255}:
        log.info("The targets hold 0 and 255 only: 255 is read as class 1")
        return [(values > 0).long() for values in maps]
    return maps
