"""Answers and targets as files: which belong together, what they hold, whether they share a grid."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tasks
from mvg.data.readers import SIZE_LIMIT, Volume, case_name, check_labels, corner_distance, same_grid
from mvg.prediction.context import read_names
from mvg.prediction.outputs import BESIDE
from mvg.prediction.rasters import READABLE, Raster, images_in, label_map, read_raster
from mvg.prediction.scans import SCANS, is_scan, is_slice, read_scan_values
from mvg.task import Task

log = logging.getLogger(__name__)

TASKS: Mapping[str, type[Task]] = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(): getattr(tasks, name) for name in tasks.__all__
}
"""Tasks by the names that the command line gives them."""
_SHOWN = 5
_FEW = 16
"""So many whole numbers from 0 are a label map, not an image."""


@dataclass(frozen=True)
class Case:
    """The files of a case.

    Attributes:
        name: What the files have in common.
        target: The truth.
        answer: What was painted; None if there is none.
        query: The scan that was asked; None where it was not named.
    """

    name: str
    target: Path
    answer: Path | None
    query: Path | None = None

    @property
    def sidecar(self) -> Mapping[str, Any]:
        """What `mvg predict` wrote of the answer; empty where there is nothing, or something of another origin."""
        if self.answer is None:
            return {}
        path = self.answer.with_name(f"{case_name(self.answer)}.json")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and isinstance(found.get("task"), dict) else {}


def find_cases(predictions: Path, targets: Path, inputs: Path | None = None) -> list[Case]:
    """Lists the cases: all that have a target and, where the scans are named, a scan; with or without an answer.

    Args:
        predictions: Folder of answers, or one of them.
        targets: Folder of targets, or that of the one answer.
        inputs: Folder of the scans that were asked, or one of them.

    Raises:
        ValueError: If a folder is missing or empty, or holds files of another kind, or no name is in all of them.
    """
    places = [predictions, targets, *([] if inputs is None else [inputs])]
    found = [files_in(place) for place in places]
    if all(place.is_file() for place in places):
        answer, target, *query = (path for files in found for path in files.values())
        return [Case(case_name(target), target, answer, *query)]
    if any(place.is_file() for place in places):
        raise ValueError(f"{', '.join(map(str, places))}: these are files and folders; name files alone, or folders")
    answers, truths = found[0], found[1]
    asked = truths if inputs is None else {name: path for name, path in truths.items() if name in found[2]}
    if not answers.keys() & asked.keys():
        scans = f", and scans {_names(found[2])} in {inputs}" if inputs else ""
        raise ValueError(
            f"no case has all its files: answers {_names(answers)} in {predictions}, targets {_names(truths)} in "
            f"{targets}{scans}; give the files of a case one name, extension aside"
        )
    _tell(answers, asked, truths, inputs)
    queries = found[2] if inputs else {}
    return [Case(name, path, answers.get(name), queries.get(name)) for name, path in sorted(asked.items())]


def _tell(
    answers: Mapping[str, Path], asked: Mapping[str, Path], truths: Mapping[str, Path], inputs: Path | None
) -> None:
    """Tells of files that have no partner."""
    if strange := sorted(answers.keys() - truths.keys()):
        log.warning("%d answers have no target and are not scored: %s", len(strange), _names(strange))
    if missing := sorted(asked.keys() - answers.keys()):
        remedy = "" if inputs else "; if they were not asked, name the scans that were with --inputs"
        log.warning("%d of %d targets have no answer and get the worst values: %s%s",
                    len(missing), len(asked), _names(missing), remedy)  # fmt: skip


def _names(names: Sequence[str] | Mapping[str, Path]) -> str:
    shown = sorted(names)[:_SHOWN]
    return ", ".join([*shown, "..."] if len(names) > _SHOWN else shown)


def files_in(place: Path) -> dict[str, Path]:
    """Lists images by their name without extension; what `mvg predict` writes beside its answers is left out.

    Raises:
        ValueError: If there is none, or one is of a kind that is not scored.
    """
    if place.is_dir():
        found = images_in(place, BESIDE)
    elif place.is_file():
        found = {case_name(place): place}
    else:
        raise ValueError(f"{place}: there is no such file or folder")
    for path in found.values():
        if is_slice(path):
            raise ValueError(f"{path}: DICOM is not scored; convert it to NIfTI, or predict with --format nii.gz")
        if not is_scan(path) and path.suffix.lower() not in READABLE:
            raise ValueError(f"{path}: this kind of file is not scored; use one of {', '.join((*SCANS, *READABLE))}")
    return found


def find_task(name: str | None, cases: Sequence[Case]) -> type[Task]:
    """Finds out what was asked: what a name says, else what the answers say of themselves, else segmentation.

    Args:
        name: One of `TASKS`, or a class path; None to look into the answers.
        cases: The cases.

    Raises:
        ValueError: If the name is unknown or contradicts the answers, these contradict each other, or boxes were asked.
    """
    classes = {kind.__name__: kind for kind in TASKS.values()}
    paths = dict.fromkeys(str(case.sidecar.get("task", {}).get("class_path", "")) for case in cases)
    said = {path: classes.get(path.rpartition(".")[2]) for path in paths if path}
    if name is None and (len(said) > 1 or None in said.values()):
        raise ValueError(f"the answers are those of {', '.join(said)}; say what they are scored as with --task")
    wanted = next(iter(said.values()), tasks.Segmentation) if name is None else TASKS.get(name)
    found = wanted or classes.get(str(name).rpartition(".")[2])
    if found is None:
        raise ValueError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}")
    if other := next((path for path, kind in said.items() if kind and kind.is_label != found.is_label), None):
        kinds = ("images", "label maps") if found.is_label else ("label maps", "images")
        raise ValueError(f"the answers are {kinds[0]}, painted by {other}, but --task {name} scores {kinds[1]}")
    if issubclass(found, tasks.Detection):
        raise ValueError("boxes are scored by `mvg benchmark run` alone; --task segmentation scores what they fill")
    return found


def find_names(targets: Path, cases: Sequence[Case]) -> dict[int, str]:
    """Names classes: by `dataset.json` in or beside the folder of targets, else by what the answers say."""
    folder = targets if targets.is_dir() else targets.parent
    names = read_names(folder) or read_names(folder.parent)
    if names:
        return names
    for case in cases:
        said = case.sidecar
        try:
            named = said.get("names") or {k: held.get("name") for k, held in (said.get("classes") or {}).items()}
            names |= {int(k): str(word) for k, word in named.items()}
        except (AttributeError, ValueError) as error:
            raise ValueError(
                f"{case.answer}: the JSON beside it does not name classes as `mvg predict` does ({error}); remove it"
            ) from error
    return names


def read_file(path: Path, labels: bool, size_limit: int = SIZE_LIMIT) -> Volume | Raster:
    """Reads a volume in RAS+ orientation, or a picture.

    Raises:
        ValueError: If it is damaged, holds values that are no numbers, or is no plain image.
    """
    return read_scan_values(path) if is_scan(path) else read_raster(path, labels=labels, size_limit=size_limit)


def read_labels(path: Path, size_limit: int = SIZE_LIMIT) -> tuple[Volume | Raster, NDArray[np.integer[Any]]]:
    """Reads a label map, and its class indices `(*S)`.

    Raises:
        ValueError: If it holds other values than indices.
    """
    read = read_file(path, True, size_limit)
    if isinstance(read, Raster):
        return read, label_map(read).numpy()
    check_labels(read.values, path, frozenset())
    return read, read.values.astype(np.uint16)


def check_image(path: Path, values: NDArray[Any]) -> None:
    """Refuses label maps where images are to be compared.

    Args:
        path: The file, for the message.
        values: Any shape.

    Raises:
        ValueError: If it holds nothing but a few small whole numbers, or 0 and 255.
    """
    top = float(values.max())
    if top not in (255, *range(1, _FEW)):
        return
    found = np.unique(values)
    if len(found) > 1 and found[0] >= 0 and (found == np.round(found)).all() and (top < _FEW or len(found) == 2):
        raise ValueError(
            f"{path}: the values {found.tolist()} are those of a label map, but images are compared; "
            "say --task segmentation, or name the folder of images"
        )


def check_grids(case: str, other: Volume | Raster, target: Volume | Raster) -> None:
    """Checks that an answer, or a scan, lies on the grid of the target.

    Raises:
        ValueError: If not; it is not resampled, as that would score something else than the answer.
    """
    if isinstance(other, Volume) and isinstance(target, Volume):
        if same_grid(other, target):
            return
        far = ""
        if other.values.shape == target.values.shape:
            far = f", {corner_distance(other, target):.3g} mm away from it at the farthest corner"
        raise _misplaced(case, other, target, far)
    if isinstance(other, Raster) and isinstance(target, Raster) and other.size == target.size:
        return
    raise _misplaced(case, other, target)


def _misplaced(case: str, other: Volume | Raster, target: Volume | Raster, far: str = "") -> ValueError:
    return ValueError(
        f"case {case!r}: {_describe(other)} does not lie on the grid of {_describe(target)}{far}; predict on the scan "
        "that the target was drawn on, or bring the answer onto the target's grid"
    )


def _describe(image: Volume | Raster) -> str:
    """Names an image and its grid, as read in RAS+ orientation."""
    if isinstance(image, Raster):
        return f"{image.name} ({' x '.join(map(str, image.size))} pixels)"
    shape, spacing = (" x ".join(f"{number:.4g}" for number in part) for part in (image.values.shape, image.spacing))
    origin = ", ".join(f"{number:.4g}" for number in image.affine[:3, 3])
    return f"{image.path} ({shape} voxels of {spacing} mm from {origin})"
