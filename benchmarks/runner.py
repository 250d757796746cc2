"""Runs a suite: every question, number of examples and draw of them is a block, whose cases are asked one by one."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mvg
from benchmarks import leaks, records
from benchmarks.entrant import Entrant, InvalidAnswerError
from benchmarks.inputs import Example, Inputs, draw_context, workplace, write_grid
from benchmarks.protocol import ABSENT, DETECTION, HOLE, IMAGE, METRICS, STRUCTURE, VERSION, score
from benchmarks.records import UNSEEN, Record
from benchmarks.run_facts import describe
from benchmarks.suite import Case, Question, Suite
from tasks import Detection, Inpainting, Segmentation, Synthesis

log = logging.getLogger(__name__)

MOST, LARGE = 32, 2**25
"""Cases that are answered at once, and voxels of them that are enough."""
COMPLETE = tuple(map(set, (STRUCTURE, DETECTION, ABSENT, IMAGE, {**IMAGE, **HOLE})))
"""The metrics that one answer can have; a row that lacks its companions was cut off by the end of a process."""


@dataclass(frozen=True)
class Block:
    """Cases that are asked after one context.

    Attributes:
        question: What is asked.
        shot: Number of context cases; 0 for entrants that look at none.
        draw: Number of the draw.
        cases: The cases.
    """

    question: Question
    shot: int
    draw: int
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Run:
    """An entrant in a suite.

    Attributes:
        suite: What is asked.
        entrant: Who answers.
        output: Folder of the records.
        answers: Folder where answers are kept, too; None to keep records alone.
        rank: Number of this process, from 0.
        ranks: Number of processes that share the work.
    """

    suite: Suite
    entrant: Entrant
    output: Path
    answers: Path | None = None
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.ranks:
            raise ValueError(f"`rank` must be from 0 to {self.ranks - 1} for {self.ranks} processes, got {self.rank}")

    @cached_property
    def trained_on(self) -> tuple[str, ...]:
        """Names of the data sets that are known to have trained the entrant."""
        return leaks.trained_on(self.entrant, list(self.suite.sets.values()))

    @property
    def file(self) -> Path:
        """The records of this process."""
        ending = "" if self.ranks == 1 else f"-{self.rank}-of-{self.ranks}"
        return self.output / f"records{ending}.csv"


def blocks(
    suite: Suite,
    entrant: Entrant,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    draws: int | None = None,
    limit: int | None = None,
) -> list[Block]:
    """Lists the work, in a fixed order.

    Args:
        suite: The suite.
        entrant: Decides whether contexts are drawn.
        datasets: Only these.
        shots: Numbers of examples; those of the suite by default.
        draws: Number of draws; that of the suite by default.
        limit: Ask the first cases of every question only.

    Raises:
        ValueError: If a number is not positive, or a data set unknown.
    """
    shots, draws = tuple(shots or suite.shots), suite.draws if draws is None else draws
    if min(shots) < 1 or draws < 1 or (limit is not None and limit < 1):
        raise ValueError(f"shots, draws and limit must be at least 1, got {list(shots)}, {draws} and {limit}")
    places = [(shot, draw) for shot in shots for draw in range(draws)] if entrant.needs_context else [(0, 0)]
    made = []
    for question in suite.questions(datasets):
        cases = tuple(case for case in suite.cases[question.dataset] if case.split == "test")[:limit]
        if entrant.answers_to(question):
            made += [
                Block(question, *place, cases) for place in places if _controls(suite, entrant, question, place[0])
            ]
    return made


def _controls(suite: Suite, entrant: Entrant, question: Question, shot: int) -> bool:
    """Tells whether a control can be made: where the query alone does not say what is asked."""
    if entrant.control == "swapped":
        return question.label is not None and _other(suite, question) is not None
    if entrant.control == "shuffled":
        return shot > 1 and isinstance(question.asked, Segmentation | Detection | Synthesis)
    return True


def run(work: Run, todo: Sequence[Block]) -> int:
    """Asks what is not recorded yet; may be ended and started again at any time, and shared by processes.

    Returns:
        The number of answers that failed, those of earlier runs left out.

    Raises:
        ValueError: If weights were trained on what is asked, files are not those of the suite, or the folder holds the
            records of another entrant or suite.
    """
    for name in dict.fromkeys(block.question.dataset for block in todo):
        asked = dict.fromkeys(case for block in todo if block.question.dataset == name for case in block.cases)
        leaks.check_leaks(work.entrant, work.suite.sets[name], asked)
    describe(work.output, work.suite, work.entrant)
    done = _resume(work)
    failures = 0
    own = [(number, block) for number, block in enumerate(todo, 1) if (number - 1) % work.ranks == work.rank]
    for _, group in groupby(own, lambda entry: entry[1].question.name):
        with workplace() as folder:
            blocks_of = list(group)
            inputs = Inputs(work.suite, blocks_of[0][1].question, folder)
            for number, block in blocks_of:
                failures += _run_block(work, block, inputs, done, f"{number} of {len(todo)}")
    return failures


def _run_block(work: Run, block: Block, inputs: Inputs, done: set[tuple[str | int, ...]], place: str) -> int:
    """Asks a block and tells of it; returns the number of failures."""
    start = time.monotonic()
    made = [record for part in _ask(work, block, inputs, done) for record in part]
    failed = len({record.case for record in made if record.failure})
    if made:
        cases = len({record.case for record in made})
        words = f"{place}: {block.question.name}, {block.shot} examples, draw {block.draw}"
        log.info("%s: %d cases, %d failures, %.1f s", words, cases, failed, time.monotonic() - start)
    return failed


def _resume(work: Run) -> set[tuple[str | int, ...]]:
    """Returns the keys of complete answers of all processes; drops what this process left incomplete."""
    if not any(work.output.glob("records*.csv")):
        return set()
    found = records.read(work.output)
    metrics: dict[tuple[str | int, ...], set[str]] = {}
    for record in found:
        metrics.setdefault(record.key, set()).add(record.metric)
    filling = {question.task for question in work.suite.questions() if isinstance(question.asked, Inpainting)}
    cut_off = {record.key for record in found if record.task in filling} & {
        key for key, held in metrics.items() if held == set(IMAGE)
    }
    whole = {key for key, held in metrics.items() if held in COMPLETE} - cut_off
    if work.file.is_file():
        own = records.read(work.file)
        if any(record.key not in whole for record in own):
            records.write(work.file, [record for record in own if record.key in whole])
    return whole


def _ask(work: Run, block: Block, inputs: Inputs, done: set[tuple[str | int, ...]]) -> Iterator[list[Record]]:
    """Asks the cases of a block that are not recorded; yields the records of some once they are on the disk."""
    held = [case for case in block.cases if inputs.holds(case)]
    todo = {case for case in held if _blank(work, block, case, "").key not in done}
    shown = show(work.suite, work.entrant, block, inputs) if todo else None
    if shown is None:
        return
    context_hash, fault = shown
    # the same parts as in a run that was not ended, as answers depend on batches by rounding
    for cases in _parts(inputs, held):
        if todo.isdisjoint(cases):
            continue
        examples, start = [inputs.make(case) for case in cases], time.monotonic()
        answers = [(None, fault)] * len(cases) if fault else _answers(work.entrant, examples, cases)
        seconds = round((time.monotonic() - start) / len(cases), 4)
        made = []
        for case, example, (answer, failure) in zip(cases, examples, answers, strict=True):
            if case not in todo:
                continue
            blank = replace(_blank(work, block, case, context_hash), seconds=seconds)
            made += _score(blank, example, answer, failure)
            if work.answers is not None and answer is not None:
                _keep(work.answers, block, example, answer)
        records.append(work.file, made)
        yield made


def _parts(inputs: Inputs, cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Divides cases into parts that are answered at once: many small ones, few large ones."""
    part, size = list[Case](), 0
    for case in cases:
        part.append(case)
        size += inputs.make(case).size
        if size > LARGE or len(part) == MOST:
            yield part
            part, size = [], 0
    if part:
        yield part


def show(suite: Suite, entrant: Entrant, block: Block, inputs: Inputs) -> tuple[str, str] | None:
    """Draws the context and shows it to the entrant.

    Returns:
        The hash of the context, and "" or the failure of all answers; None if too few training cases show what is
        asked for.
    """
    question = block.question
    entrant.ask(question, inputs.dims, block.shot, block.draw)
    if not block.shot:
        return "", ""
    cases, examples = context_of(suite, block, inputs, entrant.control)
    if len(cases) < block.shot:
        log.warning("%s: %d training patients show it, %d are needed; left out", question.name, len(cases), block.shot)
        return None
    asked = {case.patient for case in block.cases}
    assert not any(case.patient in asked for case in cases)  # the list of cases was checked for it
    try:
        entrant.set_context([each.shown for each in examples], [each.target for each in examples])
    except Exception as error:
        log.warning("%s: %s cannot read the context (%s)", question.name, entrant.name, error)
        return hash_cases(cases), "error"
    return hash_cases(cases), ""


def context_of(suite: Suite, block: Block, inputs: Inputs, control: str) -> tuple[list[Case], list[Example]]:
    """Draws the cases of a context and makes their files; under a control these mislead."""
    other = _other(suite, block.question) if control == "swapped" else None
    pool = [case for case in suite.cases[block.question.dataset] if case.split == "train"]
    cases = draw_context(inputs, pool, block.shot, block.draw, other)
    if len(cases) < block.shot:
        return cases, []
    examples = inputs.show(cases, other)
    return cases, inputs.mismatch(examples) if control == "shuffled" else examples


def hash_cases(cases: Sequence[Case]) -> str:
    """Hashes cases by name and content, in order, hexadecimal."""
    text = "\n".join(f"{case.case} {case.sha256}" for case in cases)
    return hashlib.sha256(text.encode()).hexdigest()


def _other(suite: Suite, question: Question) -> int | None:
    """The class that the control shows in place of the one that is asked for: the next one; None if there is none."""
    same = (question.task, question.variant)
    asked = [each for each in suite.questions([question.dataset]) if (each.task, each.variant) == same]
    labels = [each.label for each in asked if each.label is not None]
    place = labels.index(question.label) if question.label in labels else 0
    return labels[(place + 1) % len(labels)] if len(labels) > 1 else None


def _answers(
    entrant: Entrant, examples: Sequence[Example], cases: Sequence[Case]
) -> list[tuple[NDArray[Any] | None, str]]:
    """Asks cases together; if that fails, one by one. Whatever an entrant raises is a failed answer."""
    try:
        return [(answer, "") for answer in entrant.answer([example.shown for example in examples])]
    except Exception as error:
        if len(cases) > 1:
            pairs = zip(examples, cases, strict=True)
            return [answer for example, case in pairs for answer in _answers(entrant, [example], [case])]
        log.warning("%s fails on case %s (%s: %s)", entrant.name, cases[0].case, type(error).__name__, error)
        return [(None, "invalid" if isinstance(error, InvalidAnswerError) else "error")]


def _score(blank: Record, example: Example, answer: NDArray[Any] | None, failure: str) -> list[Record]:
    """Makes the records of one answer."""
    values, reason = score(answer, example.truth)
    return [
        replace(
            blank,
            metric=metric,
            value=value,
            unit=example.truth.unit(metric),
            higher_is_better=METRICS[metric].higher,
            failure=failure or reason,
        )
        for metric, value in values.items()
    ]


def _blank(work: Run, block: Block, case: Case, context_hash: str) -> Record:
    """Makes the record of a case, metric and value aside."""
    question, held, entrant = block.question, work.suite.sets[block.question.dataset], work.entrant
    known = work.trained_on
    unseen = set(held.unseen_words(case.case)) | ({"dataset"} if known and held.name not in known else set())
    return Record(
        suite=work.suite.name,
        protocol=VERSION,
        dataset=question.dataset,
        task=question.task,
        variant=question.variant,
        structure=question.structure,
        modality=held.source.modality,
        entrant=entrant.name,
        entrant_hash=entrant.digest,
        trained_on=known,
        case=case.case,
        patient=case.patient,
        case_hash=case.sha256,
        shot=block.shot,
        draw=block.draw,
        context_hash=context_hash,
        metric="-",
        value=0.0,
        unit="",
        higher_is_better=True,
        failure="",
        unseen=tuple(word for word in UNSEEN if word in unseen),
        seconds=0.0,
        version=mvg.__version__,
    )


def _keep(folder: Path, block: Block, example: Example, answer: NDArray[Any]) -> None:
    """Writes an answer where `entrants.Saved` finds it."""
    path = folder / block.question.name / f"{block.shot}-{block.draw}" / example.image.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if answer.dtype.kind not in "biuf" or not np.isfinite(answer).all():
        kept = np.full(example.truth.shape, np.nan, np.float32)  # is read as what it is: nothing that can be scored
    elif block.question.label is not None and not example.truth.boxes:
        kept = (answer > 0).astype(np.uint8)
    else:
        kept = answer.astype(np.float32)
    write_grid(path, kept, example.affine)
