"""The command `mvg score`: how good the answers are that `mvg predict` wrote."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.answer_files import find_cases, find_names, find_task
from benchmarks.answer_scores import IDENTITY, Question, Score, score_cases, to_csv
from benchmarks.statistics import clustered_means, interval, resample
from mvg.data.readers import SIZE_LIMIT
from mvg.files import write_atomically
from mvg.options import make_parser, parse
from mvg.prediction.predict import as_window

log = logging.getLogger(__name__)

DRAWS = 2000
"""Bootstrap samples."""
ALL = "mean of structures"
_SHOWN = 5


@dataclass(frozen=True)
class Summary:
    """What a metric is on the whole.

    Attributes:
        entrant: Who answered.
        structure: Name of the structure; "" for images, `ALL` for the mean of all structures.
        metric: Name of the metric.
        unit: Its unit.
        mean: Mean over cases, then over structures.
        low: Lower end of its 95 % interval by a bootstrap over cases; NaN for one case.
        high: Upper end.
        cases: Number of cases.
        failures: Number of values that failed answers have.
    """

    entrant: str
    structure: str
    metric: str
    unit: str
    mean: float
    low: float
    high: float
    cases: int
    failures: int


def score(args: Sequence[str]) -> None:
    """Scores answers in files against the truth: label maps and images, case by case."""
    parser = make_parser(score, score_files, {"overwrite": "Replace an output that exists."})
    score_files(**parse(parser, args))


def score_files(
    predictions: Path,
    targets: Path,
    output: Path | None = None,
    task: str | None = None,
    inputs: Path | None = None,
    classes: list[int] | None = None,
    tolerance: float = 2.0,
    window: list[float] | None = None,
    size_limit: int = SIZE_LIMIT,
    overwrite: bool = False,
) -> None:
    """Scores answers by the protocol of the benchmarks (docs/protocol.md), and prints a table.

    Every target counts: one without an answer gets the worst values.

    Args:
        predictions: Folder of the answers, such as `mvg predict` writes, or one of them: NIfTI, MHA, NRRD, PNG, TIFF or
            NPY. Files of one name, extension aside, are a case.
        targets: Folder of the truth: label maps, or images. A `dataset.json` in it or beside it names the classes.
        output: Table of all values (CSV), one row for each case, structure and metric; by default they are only shown.
        task: What was asked, such as segmentation, denoising or synthesis; by default what the answers say of
            themselves, else segmentation.
        inputs: Folder of the scans that were asked: targets without one do not count. Images are compared with them,
            too, in the rows of "identity": an answer must be better than that to be worth anything. For inpainting
            they show where the holes are.
        classes: Only these classes; by default all that a target or an answer shows.
        tolerance: Distance that the normalised surface distance `nsd` forgives, in mm, or in pixels of pictures.
        window: The two values [low, high] of images that become 0 and 1; by default the range of 8-bit and 16-bit
            pixels, and percentiles of the target for volumes.
        size_limit: Largest number of pixels of a picture.
        overwrite: Replace an output that exists.

    Raises:
        ValueError: If files are missing, damaged, of another kind or on another grid, or the output exists.
    """
    if output is not None:
        check_output(output, overwrite)
    cases = find_cases(predictions, targets, inputs)
    asked = find_task(task, cases)
    names = find_names(targets, cases) if asked.is_label else {}
    entrant = predictions.resolve().name
    if entrant == IDENTITY:
        raise ValueError(f"{predictions}: {IDENTITY!r} is the name of the scans themselves; rename the folder")
    chosen = tuple(dict.fromkeys(classes or ()))
    scores = score_cases(cases, Question(asked, entrant, names, chosen, as_window(window), tolerance, size_limit))
    sys.stdout.write(describe(scores))
    if output is not None:
        write_atomically(output, lambda file: file.write(to_csv(scores).encode()))
        log.info("%s: %d rows of %d cases", output, len(scores), len(cases))


def check_output(output: Path, overwrite: bool) -> None:
    """Checks that a table can be written, before anything is read.

    Raises:
        ValueError: If it is no CSV file, or exists.
    """
    if output.suffix.lower() != ".csv" or output.is_dir():
        raise ValueError(f"{output}: scores are a table; name a file that ends in .csv")
    if output.exists() and not overwrite:
        raise ValueError(f"{output}: the file exists; name another output, or replace it with --overwrite")


def summarise(scores: Sequence[Score]) -> list[Summary]:
    """Computes means and intervals for each entrant, structure and metric, and over all structures."""
    groups: dict[tuple[str, int, str], list[Score]] = {}
    for each in scores:
        groups.setdefault((each.entrant, each.label, each.metric), []).append(each)
    made = [_summary(part, part[0].structure) for part in groups.values()]
    if len({each.label for each in scores}) > 1:
        for entrant, metric in dict.fromkeys((each.entrant, each.metric) for each in scores):
            made.append(_summary([s for s in scores if (s.entrant, s.metric) == (entrant, metric)], ALL))
    return made


def _summary(part: Sequence[Score], structure: str) -> Summary:
    known, case = np.unique([each.case for each in part], return_inverse=True)
    value = np.array([[each.value] for each in part], dtype=np.float64)
    label = np.array([each.label for each in part], dtype=np.int64)
    counts = np.concatenate([np.ones((1, len(known))), resample(len(known), DRAWS, np.random.default_rng(0))])
    means = clustered_means(value, case.astype(np.int64), label, counts)
    low, high = (math.nan, math.nan)
    if len(known) > 1:
        low, high = (float(end[0]) for end in interval(means[1:]))
    failures = sum(bool(each.failure) for each in part)
    first = part[0]
    mean = float(means[0, 0])
    return Summary(first.entrant, structure, first.metric, first.unit, mean, low, high, len(known), failures)


def describe(scores: Sequence[Score]) -> str:
    """Writes the table, and which answers failed."""
    lines = summarise(scores)
    several = len({each.entrant for each in lines}) > 1
    head = [*(["answers"] if several else []), "structure", "metric", "mean", "95 % interval", "cases", "failures"]
    if not any(each.structure for each in lines):
        head.remove("structure")
    rows = [dict(zip(head, _cells(each, head), strict=True)) for each in lines]
    width = {name: max(len(name), *(len(row[name]) for row in rows)) for name in head}
    text = [_line({name: name for name in head}, width), _line({n: "-" * width[n] for n in head}, width)]
    text += [_line(row, width) for row in rows]
    return "\n".join([*text, "", *_failures(scores), ""])


def _cells(each: Summary, head: Sequence[str]) -> list[str]:
    digits = 2 if each.unit else 3
    metric = f"{each.metric} ({each.unit})" if each.unit else each.metric
    ends = "" if math.isnan(each.low) else f"{each.low:.{digits}f} to {each.high:.{digits}f}"
    cells = {
        "answers": each.entrant,
        "structure": each.structure,
        "metric": metric,
        "mean": f"{each.mean:.{digits}f}",
        "95 % interval": ends,
        "cases": str(each.cases),
        "failures": str(each.failures),
    }
    return [cells[name] for name in head]


def _line(row: dict[str, str], width: dict[str, int]) -> str:
    return "| " + " | ".join(row[name].ljust(size) for name, size in width.items()) + " |"


def _failures(scores: Sequence[Score]) -> Iterator[str]:
    """Tells what failed where: the worst values are counted in the means."""
    found: dict[str, list[str]] = {}
    for each in scores:
        if each.failure:
            place = f"{each.case} ({each.structure})" if each.structure and each.failure != "unanswered" else each.case
            found.setdefault(each.failure, []).append(place)
    for failure, places in found.items():
        known = list(dict.fromkeys(places))
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        yield f"{failure}: {', '.join(known[:_SHOWN])}{more}"
    surfaces = [each for each in scores if each.metric == "hd95"]
    if surfaces:
        yield f"nsd forgives {surfaces[0].tolerance:g} {surfaces[0].unit}."
    yield "Means are over cases, intervals by bootstrap over cases."
