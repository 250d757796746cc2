"""Runs a suite: every question, number of examples and draw of them is a block, whose cases are asked one by one."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import mvg
from benchmarks import leaks, records
from benchmarks.entrants import Entrant
from benchmarks.inputs import Example, Inputs, draw_context, workplace, write_grid
from benchmarks.protocol import ABSENT, HOLE, IMAGE, METRICS, STRUCTURE, VERSION, score
from benchmarks.records import UNSEEN, Record
from benchmarks.suite import Case, Question, Suite
from mvg.data.cache import write_atomically

log = logging.getLogger(__name__)

RUN = "run.json"
COMPLETE = tuple(map(set, (STRUCTURE, ABSENT, IMAGE, {**IMAGE, **HOLE})))
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
    shots, draws = tuple(shots or suite.shots), draws or suite.draws
    if min(shots) < 1 or draws < 1 or (limit is not None and limit < 1):
        raise ValueError(f"shots, draws and limit must be at least 1, got {list(shots)}, {draws} and {limit}")
    places = [(shot, draw) for shot in shots for draw in range(draws)] if entrant.needs_context else [(0, 0)]
    made = []
    for question in suite.questions(datasets):
        cases = tuple(case for case in suite.cases[question.dataset] if case.split == "test")[:limit]
        if entrant.swaps and (question.label is None or _other(suite, question) is None):
            continue
        made += [Block(question, shot, draw, cases) for shot, draw in places]
    return made


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
    _describe(work)
    done = _resume(work)
    failures = 0
    for number, block in enumerate(todo):
        if number % work.ranks != work.rank:
            continue
        start = time.monotonic()
        made = [record for each in _ask(work, block, done) for record in each]
        failed = len({record.case for record in made if record.failure})
        failures += failed
        if made:
            log.info(
                "%d of %d: %s, %d examples, draw %d: %d cases, %d failures, %.0f s",
                number + 1, len(todo), block.question.name, block.shot, block.draw,
                len({record.case for record in made}), failed, time.monotonic() - start,
            )  # fmt: skip
    return failures


def _describe(work: Run) -> None:
    """Writes `run.json`, or checks that it speaks of the same suite and entrant."""
    facts = {
        "suite": work.suite.name,
        "suite_hash": work.suite.hash,
        "protocol": VERSION,
        "entrant": work.entrant.name,
        "entrant_hash": work.entrant.digest,
        "trained_on": list(leaks.trained_on(work.entrant, list(work.suite.sets.values()))),
    }
    path = work.output / RUN
    if path.is_file():
        before = json.loads(path.read_text("utf-8"))
        if other := [name for name, value in facts.items() if before.get(name) != value]:
            raise ValueError(
                f"{path}: the folder holds another run ({other[0]} is {before.get(other[0])!r} there, "
                f"{facts[other[0]]!r} here); name another output"
            )
        return
    work.output.mkdir(parents=True, exist_ok=True)
    environment = {
        "mvg": mvg.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    text = json.dumps({**facts, "environment": environment, "questions": _specs(work.suite)}, indent=2)
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))


def _specs(suite: Suite) -> dict[str, Any]:
    """Seed and tasks of a suite: what degradations are drawn from."""
    return {"seed": suite.seed, "tasks": suite.content["tasks"]}


def _resume(work: Run) -> set[tuple[str | int, ...]]:
    """Returns the keys of complete answers of all processes; drops what this process left incomplete."""
    if not any(work.output.glob("records*.csv")):
        return set()
    found = records.read(work.output)
    metrics: dict[tuple[str | int, ...], set[str]] = {}
    for record in found:
        metrics.setdefault(record.key, set()).add(record.metric)
    whole = {key for key, held in metrics.items() if held in COMPLETE}
    if work.file.is_file():
        own = records.read(work.file)
        if any(record.key not in whole for record in own):
            records.write(work.file, [record for record in own if record.key in whole])
    return whole


def _ask(work: Run, block: Block, done: set[tuple[str | int, ...]]) -> Iterator[list[Record]]:
    """Asks the cases of a block that are not recorded; yields the records of each once they are on the disk."""
    todo = [case for case in block.cases if _blank(work, block, case, "").key not in done]
    if not todo:
        return
    with workplace() as folder:
        inputs = Inputs(work.suite, block.question, folder)
        todo = [case for case in todo if inputs.holds(case)]
        shown = _show(work, block, inputs) if todo else None
        if shown is None:
            return
        context_hash, fault = shown
        for case in todo:
            example = inputs.make(case)
            start = time.monotonic()
            answer, failure = (None, fault) if fault else _answer(work.entrant, example, case)
            blank = replace(_blank(work, block, case, context_hash), seconds=round(time.monotonic() - start, 4))
            made = _score(blank, example, answer, failure)
            if work.answers is not None and answer is not None:
                _keep(work.answers, block, example, answer)
            records.append(work.file, made)
            example.remove()
            yield made


def _show(work: Run, block: Block, inputs: Inputs) -> tuple[str, str] | None:
    """Draws the context and shows it to the entrant.

    Returns:
        The hash of the context, and "" or the failure of all answers; None if too few training cases show what is
        asked for.
    """
    question, entrant, suite = block.question, work.entrant, work.suite
    entrant.ask(question, inputs.dims, block.shot, block.draw)
    if not block.shot:
        return "", ""
    other = _other(suite, question) if entrant.swaps else None
    pool = [case for case in suite.cases[question.dataset] if case.split == "train"]
    cases = draw_context(inputs, pool, block.shot, block.draw, other)
    if len(cases) < block.shot:
        log.warning("%s: %d training patients show it, %d are needed; left out", question.name, len(cases), block.shot)
        return None
    asked = {case.patient for case in block.cases}
    assert not any(case.patient in asked for case in cases)  # the list of cases was checked for it
    examples = [inputs.make(case, other, f"context_{place}") for place, case in enumerate(cases)]
    try:
        entrant.set_context([each.image for each in examples], [each.target for each in examples])
    except Exception as error:
        log.warning("%s: %s cannot read the context (%s)", question.name, entrant.name, error)
        return hash_cases(cases), "error"
    return hash_cases(cases), ""


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


def _answer(entrant: Entrant, example: Example, case: Case) -> tuple[NDArray[Any] | None, str]:
    """Asks one case; whatever an entrant raises is a failed answer, as it may be anybody's code."""
    try:
        answer = entrant(example.image)
    except Exception as error:
        log.warning("%s fails on case %s (%s: %s)", entrant.name, case.case, type(error).__name__, error)
        return None, "error"
    return answer, ""


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
    known = leaks.trained_on(entrant, list(work.suite.sets.values()))
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
    kind = np.uint8 if block.question.label is not None else np.float32
    write_grid(path, answer.astype(kind), example.affine)
