"""Scores of answers in files, by the protocol of the benchmarks: one row for each case, structure and metric."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mvg
from benchmarks.answer_files import TASKS, Case, check_grids, check_image, read_file, read_labels
from benchmarks.protocol import METRICS, VERSION, Truth, score
from benchmarks.surfaces import FloatArray
from mvg.data.intensity import Percentiles, normalise
from mvg.data.readers import SIZE_LIMIT, Volume
from mvg.prediction.outputs import fingerprint
from mvg.prediction.rasters import Raster, dark_range, limits, read_raster, to_tensor
from mvg.prediction.run_facts import name_of
from mvg.prediction.scans import is_scan
from mvg.task import Task
from tasks import Inpainting

log = logging.getLogger(__name__)

IDENTITY = "identity"
"""Who answers with the scan itself."""
ROUNDING = 1 / 512
"""Share of the data range by which an image may differ from another that was stored with 8 bits."""
MANY = 200
"""Classes that are scored unless they are named; more are mostly an image, taken for a label map."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Score:
    """One value of one case; words are those of `benchmarks.records.Record`, where both have them.

    Attributes:
        protocol: Version of the protocol.
        task: Name of the task.
        structure: Name of the structure; "" for images.
        label: Its class index; 0 for images.
        entrant: Name of the folder of answers, or "identity" for the scans themselves.
        case: Name of the case.
        metric: Name of the metric.
        value: Its value, finite; the worst one where `failure` is not empty, but for "alarm" where that is the value.
        unit: Unit of the value: "", "mm", "px", "dB".
        higher_is_better: Whether a higher value is better.
        failure: "" or one of `benchmarks.records.FAILURES`.
        tolerance: Distance that `nsd` forgives, in mm, or in pixels of pictures; 0 for images.
        low: Value of the files that became 0; 0 for label maps.
        high: Value of the files that became 1; 0 for label maps.
        case_hash: SHA-256 of the file of the target, hexadecimal.
        answer_hash: That of the answer; "" where there is none.
        version: Version of the software.
    """

    protocol: str
    task: str
    structure: str
    label: int
    entrant: str
    case: str
    metric: str
    value: float
    unit: str
    higher_is_better: bool
    failure: str
    tolerance: float
    low: float
    high: float
    case_hash: str
    answer_hash: str
    version: str


COLUMNS = tuple(field.name for field in fields(Score))


@dataclass(frozen=True)
class Question:
    """What the answers are scored as.

    Attributes:
        task: What was asked.
        entrant: Name of who answered.
        names: Class to name, where known.
        classes: The classes that are scored; empty for all that a target or an answer shows.
        window: The values that become 0 and 1; None for the rule of the protocol.
        tolerance: Distance that `nsd` forgives, in mm, or in pixels of pictures.
        size_limit: Largest number of pixels of a picture.
    """

    task: type[Task]
    entrant: str
    names: Mapping[int, str]
    classes: tuple[int, ...] = ()
    window: tuple[float, float] | None = None
    tolerance: float = 2.0
    size_limit: int = SIZE_LIMIT

    def __post_init__(self) -> None:
        if any(not 0 < k < 1 << 16 for k in self.classes):
            raise ValueError(f"`classes` are numbers from 1 to 65535, as 0 is background, got {list(self.classes)}")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"`tolerance` must be a distance of at least 0, got {self.tolerance}")
        if self.window is not None and not -math.inf < self.window[0] < self.window[1] < math.inf:
            raise ValueError(f"a window needs low < high, got {self.window[0]} and {self.window[1]}")

    def blank(self, case: Case) -> Score:
        """Makes the row of a case, metric and value aside."""
        answer = "" if case.answer is None else fingerprint(case.answer)
        task = next(name for name, kind in TASKS.items() if kind is self.task)
        return Score(VERSION, task, "", 0, self.entrant, case.name, "", 0.0, "", True, "", 0.0, 0.0, 0.0,
                     fingerprint(case.target), answer, mvg.__version__)  # fmt: skip


def score_cases(cases: Sequence[Case], question: Question) -> list[Score]:
    """Scores all cases; a case without an answer has the worst values.

    Args:
        cases: The files.
        question: What they are scored as.

    Raises:
        ValueError: If a file is damaged, of another kind or on another grid.
    """
    if question.task.is_label:
        return list(_score_maps(cases, question))
    if issubclass(question.task, Inpainting) and any(case.query is None for case in cases):
        log.warning("Whole images are scored; to score what was filled, name the scans with the holes with --inputs")
    if question.window is None:
        _warn_of_dark(cases, question.size_limit)
    return [row for case in cases for row in _score_images(case, question)]


def _warn_of_dark(cases: Sequence[Case], size_limit: int) -> None:
    """Warns of pictures of 16 bits that use a small part of their range: all scores would be near the best."""
    largest = 0
    for case in cases:
        found = None if is_scan(case.target) else dark_range([read_raster(case.target, size_limit=size_limit)])
        if found is None:
            return
        largest = max(largest, found)
    log.warning(
        "The targets hold 16 bits, but no value above %d: errors look small beside the whole range; name the range, "
        "such as --window '[0, %d]'", largest, 2 ** largest.bit_length() - 1,
    )  # fmt: skip


def _score_maps(cases: Sequence[Case], question: Question) -> Iterator[Score]:
    """Scores label maps; all are read and checked once before the first is scored."""
    held: dict[str, list[set[int]]] = {"target": [], "answer": []}
    for case in cases:
        for side, (_, labels) in _read_maps(case, question.size_limit).items():
            held[side].append(set(np.flatnonzero(np.bincount(labels.ravel())).tolist()) - {0})
    found = {side: set[int]().union(*files) for side, files in held.items()}
    white = {side for side, files in held.items() if 255 in found[side] and all(c <= {1} or c == {255} for c in files)}
    if white:
        log.info("The %ss are masks of 0 and 255: 255 is read as class 1", "s and the ".join(sorted(white)))
    true, painted = ({1} if side in white else classes for side, classes in found.items())
    classes = question.classes or _choose(true, painted, cases[0].target)
    for case in cases:
        yield from _score_map(case, question, classes, white)


def _choose(true: Collection[int], painted: Collection[int], target: Path) -> tuple[int, ...]:
    """Takes all classes that a target or an answer shows."""
    classes = tuple(sorted({*true, *painted}))
    if not classes:
        raise ValueError(f"{target}: neither targets nor answers show any class, only 0; nothing is scored")
    if len(classes) > MANY:
        raise ValueError(
            f"{target} and the other files show {len(classes)} classes; if they are images, say so with a task, such "
            "as --task denoising, else name the classes with --classes"
        )
    if absent := sorted({*true} - {*painted}):
        shown = f"{', '.join(map(str, absent[:_SHOWN]))}{', ...' if len(absent) > _SHOWN else ''}"
        log.warning("No answer shows class %s: all of it counts as missed, unless --classes leaves it out", shown)
    return classes


def _read_maps(case: Case, size_limit: int) -> dict[str, tuple[Volume | Raster, NDArray[np.integer[Any]]]]:
    """Reads target and answer of a case, where there is one, and checks that they share a grid."""
    read = {"target": read_labels(case.target, size_limit)}
    if case.answer is not None:
        read["answer"] = read_labels(case.answer, size_limit)
        check_grids(case.name, read["answer"][0], read["target"][0])
    return read


def _score_map(case: Case, question: Question, classes: Sequence[int], white: Collection[str]) -> Iterator[Score]:
    read = _read_maps(case, question.size_limit)
    grid = read["target"][0]
    maps = {side: (labels > 0).astype(np.uint8) if side in white else labels for side, (_, labels) in read.items()}
    blank = replace(question.blank(case), tolerance=question.tolerance)
    spacing, length = _scale(grid)
    for label in classes:
        true = maps["target"] == label
        truth = Truth(true, None, None, spacing, length, question.tolerance)
        answer = (maps["answer"] == label).astype(np.uint8) if "answer" in maps else None
        yield from _rows(replace(blank, label=label, structure=name_of(label, question.names)), truth, answer)


def _scale(grid: Volume | Raster) -> tuple[tuple[float, ...], str]:
    """Length of a voxel along each axis, and its unit."""
    return (grid.spacing, "mm") if isinstance(grid, Volume) else ((1.0, 1.0), "px")


def _score_images(case: Case, question: Question) -> Iterator[Score]:
    """Scores an image and, where the answer has the units of the scan, the scan itself."""
    target = read_file(case.target, False, question.size_limit)
    check_image(case.target, target.values)
    bounds = _limits(target, question.window)
    clean = _grey(target, bounds)
    others: dict[str, FloatArray] = {}
    for name, path in ((question.entrant, case.answer), (IDENTITY, case.query)):
        if path is not None and (name != IDENTITY or question.task.keeps_units):
            others[name] = _grey(_comparable(case, path, target, question), bounds)
    hole = None
    if issubclass(question.task, Inpainting) and IDENTITY in others:
        hole = np.abs(others[IDENTITY] - clean) > ROUNDING
    spacing, length = _scale(target)
    truth = Truth(None, clean, hole, spacing, length, 0.0)
    blank = replace(question.blank(case), low=bounds[0], high=bounds[1])
    yield from _rows(blank, truth, others.get(question.entrant))
    if IDENTITY in others and case.query is not None:
        scan = replace(blank, entrant=IDENTITY, answer_hash=fingerprint(case.query))
        yield from _rows(scan, truth, others[IDENTITY])


def _comparable(case: Case, path: Path, target: Volume | Raster, question: Question) -> Volume | Raster:
    """Reads an image and checks that it has the grid and the units of the target."""
    image = read_file(path, False, question.size_limit)
    check_grids(case.name, image, target)
    if isinstance(image, Raster) and isinstance(target, Raster) and question.window is None:
        full, other = image.full_scale, target.full_scale
        if full != other:
            raise ValueError(
                f"case {case.name!r}: pixels of type {image.values.dtype} in {path} do not have the range of "
                f"{target.values.dtype} in {case.target}; store both in one type, or give their range with --window"
            )
    return image


def _limits(target: Volume | Raster, window: tuple[float, float] | None) -> tuple[float, float]:
    """The values that become 0 and 1: never those of an answer."""
    if isinstance(target, Raster):
        return limits(target, window)
    return window or Percentiles().limits(target.values, None)


def _grey(image: Volume | Raster, bounds: tuple[float, float]) -> FloatArray:
    """Brings an image to [0, 1], `(*S)`; colours become luminance."""
    if isinstance(image, Volume):
        return normalise(image.values, bounds)
    grey: FloatArray = to_tensor(image, bounds, 1)[0].numpy()
    return grey


def _rows(blank: Score, truth: Truth, answer: NDArray[np.uint8] | FloatArray | None) -> Iterator[Score]:
    """Makes the rows of one answer."""
    values, failure = score(answer, truth)
    for metric, value in values.items():
        unit, higher = truth.unit(metric), METRICS[metric].higher
        yield replace(blank, metric=metric, value=value, unit=unit, higher_is_better=higher, failure=failure)


def to_csv(scores: Iterable[Score]) -> str:
    """Writes scores as CSV; numbers keep all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in astuple(each)] for each in scores)
    return text.getvalue()


def _cell(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
