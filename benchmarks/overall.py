"""Overall standings: many boards in one order, by the mean of ranks, beside the mean of normalised scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
        score_low: Lower end of its 95 % interval.
        score_high: Upper end.
        boards: Number of boards that it answered completely.
        missing: Number of answers that it lacks on boards it took part in.
        failures: Number of failed answers.
        contaminated: Number of boards on whose data set it was trained.
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


@dataclass(frozen=True)
class Overall:
    """All boards of one suite, protocol and number of examples.

    Attributes:
        suite: Name and version of the suite.
        protocol: Version of the protocol.
        shot: Number of examples.
        boards: Number of boards, primary metrics alone.
        tasks: Number of tasks.
        tau: Mean Kendall's tau between the order and those of bootstrap samples.
        places: Entrants, best first.
    """

    suite: str
    protocol: str
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
    primary = [board for board in boards if board.primary]
    keys = sorted({(board.suite, board.protocol, board.shot) for board in primary})
    return [_overall([board for board in primary if (board.suite, board.protocol, board.shot) == key]) for key in keys]


def _overall(boards: Sequence[Board]) -> Overall:
    names = sorted({standing.entrant for board in boards for standing in board.standings})
    tasks = sorted({board.task for board in boards})
    ranks = _mean_over_tasks(boards, tasks, [_spread(board, _ranks(board, len(names)), names) for board in boards])
    scores = _mean_over_tasks(boards, tasks, [_spread(board, normalise(board), names, 0.0) for board in boards])
    places = shared_ranks(ranks, higher=False)
    tau = kendall(places[1:], places[0])
    rank_low, rank_high = interval(places[1:])
    score_low, score_high = interval(scores[1:])
    made = []
    for index, name in enumerate(names):
        own = [standing for board in boards for standing in board.standings if standing.entrant == name]
        place = Place(
            entrant=name,
            rank=int(places[0, index]),
            rank_low=math.floor(rank_low[index]),
            rank_high=math.ceil(rank_high[index]),
            first=float((places[1:, index] == 1).mean()),
            mean_rank=float(ranks[0, index]),
            score=float(scores[0, index]),
            score_low=float(score_low[index]),
            score_high=float(score_high[index]),
            boards=sum(standing.missing == 0 for standing in own),
            missing=sum(standing.missing for standing in own),
            failures=sum(standing.failures for standing in own),
            contaminated=sum(standing.contaminated for standing in own),
        )
        made.append(place)
    ordered = tuple(sorted(made, key=lambda place: (place.rank, place.entrant)))
    stable = float(np.nanmean(tau)) if not np.isnan(tau).all() else math.nan
    first = boards[0]
    return Overall(first.suite, first.protocol, first.shot, len(boards), len(tasks), stable, ordered)


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
