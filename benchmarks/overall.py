"""Overall standings: many boards in one order, by the mean of ranks, beside the mean of normalised scores.

The same rule makes the order of a whole suite and that of each of its tasks. Over the suite, who was not asked a task
is charged its last places; the order of a task holds those alone that were asked it, so that specialists have a place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from benchmarks.standings import DECIBELS, Board, worst_value
from benchmarks.statistics import Floats, interval, kendall, shared_ranks


@dataclass(frozen=True)
class Place:
    """One entrant over all boards.

    Attributes:
        entrant: Its name.
        rank: From 1, by the mean rank; shared by equal means.
        rank_low: Best rank in the 95 % bootstrap interval.
        rank_high: Worst rank in it.
        first: Share of the bootstrap samples in which no entrant is better.
        mean_rank: Mean over tasks of the mean rank over data sets; where an entrant has no records it comes last.
        score: Mean over tasks of the mean normalised score, [0, 1].
        score_low: Lower end of its 95 % interval; NaN if no board has two patients.
        score_high: Upper end.
        boards: Number of boards that it answered completely.
        missing: Number of answers that it lacks on boards it took part in.
        failures: Number of failed answers.
        contaminated: Number of data sets that trained it.
        mean: Mean over data sets in the unit of the metric, what is missing charged; NaN if boards differ in metrics.
        mean_low: Lower end of its 95 % interval; NaN as above.
        mean_high: Upper end.
    """

    entrant: str
    rank: int
    rank_low: int
    rank_high: int
    first: float
    mean_rank: float
    score: float
    score_low: float
    score_high: float
    boards: int
    missing: int
    failures: int
    contaminated: int
    mean: float
    mean_low: float
    mean_high: float


@dataclass(frozen=True)
class Overall:
    """All boards of one suite, protocol and number of examples, or those of one of its tasks.

    Attributes:
        suite: Name and version of the suite.
        protocol: Version of the protocol.
        task: Task; "" for all.
        shot: Number of examples.
        boards: Number of boards, primary metrics alone.
        tasks: Number of tasks.
        tau: Mean Kendall's tau between the order and those of bootstrap samples.
        places: Entrants, best first.
    """

    suite: str
    protocol: str
    task: str
    shot: int
    boards: int
    tasks: int
    tau: float
    places: tuple[Place, ...]


def normalise(board: Board) -> Floats:
    """Brings the samples of a board to [0, 1], 1 for the best.

    Shares count as they are and decibels as parts of 40; other metrics lie between the worst and the best mean of the
    entrants at hand.

    Returns:
        `(draws, entrants)`.
    """
    values = board.samples
    scale = DECIBELS if board.unit == "dB" else 1.0
    if board.unit == "dB" or math.isfinite(worst_value(board.metric, board.higher)):
        plain: Floats = np.clip(values / scale, 0, 1)
        return plain if board.higher else 1 - plain
    means = values[0][np.isfinite(values[0])]
    if not len(means) or means.max() == means.min():
        return np.where(np.isfinite(values), 1.0, 0.0)
    share: Floats = np.clip((values - means.min()) / (means.max() - means.min()), 0, 1)
    return share if board.higher else 1 - share


def overall(boards: Sequence[Board]) -> list[Overall]:
    """Computes an order for each suite, protocol and number of examples."""
    primary = sorted((board for board in boards if board.primary), key=_suite_and_shot)
    return [_overall(list(part)) for _, part in groupby(primary, _suite_and_shot)]


def by_task(boards: Sequence[Board]) -> list[Overall]:
    """Computes an order for each suite, protocol, task and number of examples, of those that were asked the task."""
    made = []
    for task in sorted({board.task for board in boards}):
        orders = overall([board for board in boards if board.task == task])
        made += [replace(order, task=task) for order in orders]
    return made


def at_every_shot(boards: Sequence[Board]) -> list[Board]:
    """Keeps boards of questions that were asked with every number of examples of the suite.

    Only over these may scores of different numbers of examples be compared: some data sets lack patients for many.
    """
    shots: dict[tuple[str, str], set[int]] = {}
    asked: dict[tuple[str, ...], set[int]] = {}
    for board in boards:
        shots.setdefault((board.suite, board.protocol), set()).add(board.shot)
        asked.setdefault(board.question, set()).add(board.shot)
    return [board for board in boards if asked[board.question] == shots[board.suite, board.protocol]]


def _suite_and_shot(board: Board) -> tuple[str, str, int]:
    return board.suite, board.protocol, board.shot


def _overall(boards: Sequence[Board]) -> Overall:
    names = sorted({standing.entrant for board in boards for standing in board.standings})
    tasks = sorted({board.task for board in boards})
    ranks = _mean_over_tasks(boards, tasks, [_spread(board, _ranks(board, len(names)), names) for board in boards])
    scores = _mean_over_tasks(boards, tasks, [_spread(board, normalise(board), names, 0.0) for board in boards])
    places = shared_ranks(ranks, higher=False)
    tau = kendall(places[1:], places[0])
    columns = np.stack([ranks, places, scores, _means(boards, names)])
    made = [_place(name, columns[..., index], boards) for index, name in enumerate(names)]
    ordered = tuple(sorted(made, key=lambda place: (place.rank, place.entrant)))
    stable = float(np.nanmean(tau)) if not np.isnan(tau).all() else math.nan
    first = boards[0]
    return Overall(first.suite, first.protocol, "", first.shot, len(boards), len(tasks), stable, ordered)


def _place(name: str, samples: Floats, boards: Sequence[Board]) -> Place:
    """Makes the place of an entrant of its mean ranks, ranks, scores and means, `(4, draws)`; plain ones come first."""
    mean_rank, rank, score, mean = samples[:, 0].tolist()
    with np.errstate(invalid="ignore"):
        low, high = interval(samples[:, 1:].T)
    if all(board.patients < 2 for board in boards):
        low[2:] = high[2:] = math.nan
    own = [(board, standing) for board in boards for standing in board.standings if standing.entrant == name]
    return Place(
        entrant=name,
        rank=int(rank),
        rank_low=math.floor(low[1]),
        rank_high=math.ceil(high[1]),
        first=float((samples[1, 1:] == 1).mean()),
        mean_rank=mean_rank,
        score=score,
        score_low=float(low[2]),
        score_high=float(high[2]),
        boards=sum(standing.missing == 0 for _, standing in own),
        missing=sum(standing.missing for _, standing in own),
        failures=sum(standing.failures for _, standing in own),
        contaminated=len({board.dataset for board, standing in own if standing.contaminated}),
        mean=mean,
        mean_low=float(low[3]),
        mean_high=float(high[3]),
    )


def _means(boards: Sequence[Board], names: Sequence[str]) -> Floats:
    """Means over boards of the metric itself, `(draws, entrants)`; NaN if they differ in it."""
    first = boards[0]
    if len({(board.metric, board.unit) for board in boards}) > 1:
        return np.full((len(first.samples), len(names)), math.nan)
    worst = worst_value(first.metric, first.higher)
    means: Floats = np.mean([_spread(board, board.samples, names, worst) for board in boards], 0)
    return means


def _ranks(board: Board, entrants: int) -> Floats:
    """Ranks of the samples of a board, `(draws, entrants)`; equal values get the mean of their places.

    An entrant that is missing from the board shares the last places, so that none gains by staying away.
    """
    absent = entrants - board.samples.shape[1]
    worst = np.full((len(board.samples), absent), -math.inf if board.higher else math.inf)
    ranks = shared_ranks(np.concatenate([board.samples, worst], 1), board.higher, mean=True)
    return ranks if absent else ranks[:, : board.samples.shape[1]]


def _spread(board: Board, values: Floats, names: Sequence[str], absent: float | None = None) -> Floats:
    """Puts the columns of a board in the order of `names`; those that it lacks get `absent` or its last column."""
    order = [standing.entrant for standing in board.standings]
    empty = values[:, -1] if absent is None else np.full(len(values), absent)
    return np.stack([values[:, order.index(name)] if name in order else empty for name in names], 1)


def _mean_over_tasks(boards: Sequence[Board], tasks: Sequence[str], values: Sequence[Floats]) -> Floats:
    """Means over the boards of each task, then over tasks."""
    each = [np.mean([v for board, v in zip(boards, values, strict=True) if board.task == task], 0) for task in tasks]
    mean: Floats = np.mean(each, 0)
    return mean
