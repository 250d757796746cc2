"""Standings: who is how good at what, and how sure that is, computed from records.

A *board* compares entrants on one data set, task, metric and number of examples. Its cases are all that any entrant
has records for. A case is averaged over its draws of examples, then cases over each structure, then structures. An
entrant that lacks a case or a draw is charged the worst value of the metric for it, without limit where the metric
has none, and is marked: to leave something out can only cost places. Intervals, ranks and their stability come from a
bootstrap over patients, differences from paired permutation tests on patients with Holm's correction. Equal unrounded
means share a rank. Entrants that see no examples (shot 0) take part in the boards of every number of examples.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from benchmarks.protocol import METRICS
from benchmarks.records import Record
from benchmarks.statistics import (
    Floats,
    clustered_means,
    holm,
    interval,
    kendall,
    resample,
    shared_ranks,
    sign_flip_tests,
)

PRIMARY = ("dice", "ap50", "psnr_hole", "psnr_brain", "psnr")
"""Metrics that decide a task's rank, the first that was recorded; else the first in the alphabet."""
DECIBELS = 40.0
"""Signal-to-noise ratio that counts as a score of 1."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class Standing:
    """One entrant on one board.

    Attributes:
        entrant: Its name.
        rank: From 1; shared by equal means.
        rank_low: Best rank in the 95 % interval.
        rank_high: Worst rank in it.
        first: Share of the bootstrap samples in which no entrant is better.
        mean: Mean, with what is missing charged; infinite where that has no limit.
        low: Lower end of its 95 % interval, NaN for one patient.
        high: Upper end.
        p: Holm-corrected p-value of the difference from the first; NaN for the first itself.
        answered: Number of cases with an answer, failed or not.
        missing: Number of answers that the board has and this entrant lacks; draws count.
        failures: Number of failed answers.
        contaminated: Whether the entrant was trained on the data set.
        seconds: Mean time of an answer in seconds.
    """

    entrant: str
    rank: int
    rank_low: int
    rank_high: int
    first: float
    mean: float
    low: float
    high: float
    p: float
    answered: int
    missing: int
    failures: int
    contaminated: bool
    seconds: float


@dataclass(frozen=True)
class Board:
    """A comparison of entrants.

    Attributes:
        suite: Name and version of the suite.
        protocol: Version of the protocol.
        dataset: Data set.
        task: Task.
        unseen: What the suite says that training may not have shown, words joined by `;`.
        metric: Metric.
        shot: Number of examples.
        modality: Modalities of its cases, words joined by `, `.
        unit: Unit of the metric.
        higher: Whether a higher value is better.
        primary: Whether the metric decides the rank of its task.
        cases: Number of cases.
        patients: Number of patients.
        draws: Most draws of the examples of a case.
        tau: Mean Kendall's tau between the ranking and those of bootstrap samples.
        own_examples: Whether entrants saw different examples for one case and draw.
        standings: Entrants, best first.
        parts: A row for each entrant, variant and structure: `entrant`, `variant`, `structure`, `mean`, `cases`.
        tests: A row for each pair of entrants: `first`, `second`, `difference`, `p`, `p_holm`, `patients`.
        samples: Means of bootstrap samples, `(draws, entrants)`, in the order of `standings`.
    """

    suite: str
    protocol: str
    dataset: str
    task: str
    unseen: str
    metric: str
    shot: int
    modality: str
    unit: str
    higher: bool
    primary: bool
    cases: int
    patients: int
    draws: int
    tau: float
    own_examples: bool
    standings: tuple[Standing, ...]
    parts: pd.DataFrame
    tests: pd.DataFrame
    samples: Floats

    @property
    def question(self) -> Key:
        """What is asked, whatever the metric and the number of examples."""
        return (self.suite, self.protocol, self.task, self.dataset, self.unseen)


_BOARD = ["suite", "protocol", "task", "dataset", "unseen", "metric"]
_UNIT = ["variant", "structure", "patient", "case"]


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Checks that records can be compared and puts them in an order that does not depend on theirs.

    Raises:
        ValueError: If there are none, one occurs twice, an entrant has two hashes, a case has two contents, or rows
            disagree on the direction of a metric.
    """
    if not records:
        raise ValueError("there are no records to rank; run `mvg benchmark run` first")
    frame = pd.DataFrame([asdict(record) for record in records])
    frame["trained_on"] = [";".join(sorted(words)) for words in frame["trained_on"]]
    # whether an entrant saw the data set is its own matter, told by `trained_on`; all share the board
    frame["unseen"] = [";".join(sorted({*words} - {"dataset"})) for words in frame["unseen"]]
    key = [*_BOARD, *_UNIT, "entrant", "shot", "draw"]
    frame = frame.sort_values([*key, "value"], kind="stable", ignore_index=True)
    if (double := frame.duplicated([name for name in key if name not in ("unseen", "patient")])).any():
        row = frame[double].iloc[0]
        raise ValueError(
            f"{row.metric} of case {row.case!r} by {row.entrant!r} (shot {row.shot}, draw {row.draw}) is recorded "
            "twice; keep the records of one run"
        )
    _agree(frame, ["entrant"], "entrant_hash", "give different entrants different names")
    _agree(frame, ["suite", "dataset", "case"], "case_hash", "score all entrants on the same files")
    _agree(frame, ["suite", "dataset", "case"], "patient", "correct the patient of the case")
    _agree(frame, ["metric"], "higher_is_better", "give different metrics different names")
    return frame


def _agree(frame: pd.DataFrame, keys: list[str], name: str, remedy: str) -> None:
    counts = frame.groupby(keys)[name].nunique()
    if (counts > 1).any():
        index = counts.index[counts > 1][0]
        raise ValueError(f"the records of {' '.join(keys)} {index!r} disagree on `{name}`; {remedy}")


def primary_of(metrics: Sequence[str]) -> str:
    """Names the metric that decides ranks."""
    return next((name for name in PRIMARY if name in metrics), min(metrics))


def worst_value(metric: str, higher: bool) -> float:
    """What a missing answer is charged: the worst value that the protocol knows, or infinitely much."""
    known = METRICS[metric].worst if metric in METRICS else None
    return (-math.inf if higher else math.inf) if known is None else known


def boards(records: Sequence[Record], samples: int = 2000, seed: int = 0) -> list[Board]:
    """Computes all boards.

    Args:
        records: Rows of any number of entrants, in any order.
        samples: Number of bootstrap samples.
        seed: Seed of bootstrap and tests; the same for all data sets, whatever else was recorded.

    Returns:
        Boards, ordered by suite, protocol, task, data set, metric and number of examples.

    Raises:
        ValueError: If the records contradict each other.
    """
    frame, made = to_frame(records), []
    for key, question in frame.groupby(_BOARD[:-1], sort=True):
        suite, dataset = str(key[0]), str(key[3])
        stream = [seed, zlib.crc32(f"{suite}/{dataset}".encode())]
        primary = primary_of(sorted(set(question["metric"])))
        for metric, part in question.groupby("metric", sort=True):
            for rows in _by_shot(part):
                made.append(_board(rows, metric == primary, samples, stream))
    return made


def _by_shot(part: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yields the rows of each number of examples, with those of entrants that see none and were not asked with any.

    These count where a structure was asked with so many examples at all: some data sets lack patients for many.
    """
    shots = sorted(set(part["shot"]) - {0}) or [0]
    without = part[part["shot"] == 0]
    for shot in shots:
        rows = own = part[part["shot"] == shot]
        if shot:
            others = without[~without["entrant"].isin(own["entrant"])]
            asked = pd.MultiIndex.from_frame(own[["variant", "structure"]])
            known = pd.MultiIndex.from_frame(others[["variant", "structure"]]).isin(asked)
            rows = pd.concat([own, others[known]])
        yield rows.sort_values([*_UNIT, "entrant", "draw"]).assign(shot=shot)


def _board(rows: pd.DataFrame, primary: bool, samples: int, stream: Sequence[int]) -> Board:
    """Ranks the entrants of one metric and number of examples."""
    first = rows.iloc[0]
    higher = bool(first["higher_is_better"])
    values, missing = _values(rows, worst_value(str(first["metric"]), higher))
    names, finite = [str(name) for name in values], np.isfinite(values.to_numpy())
    unlimited = ~finite.all(0)
    plain = np.where(finite, values.to_numpy(), 0.0)
    patient, known = pd.factorize(values.index.get_level_values("patient"), sort=True)
    structure = values.groupby(["variant", "structure"], sort=True).ngroup().to_numpy()
    counts = resample(len(known), samples, np.random.default_rng(stream))
    counts = np.concatenate([np.ones((1, len(known))), counts])
    means = clustered_means(plain, patient, structure, counts)
    means[:, unlimited] = -math.inf if higher else math.inf
    tests = _tests(values, names, stream)
    standings = _standings(rows, names, means, missing, tests, higher, single=len(known) < 2)
    order = [names.index(standing.entrant) for standing in standings]
    ranks = shared_ranks(means, higher)
    tau = kendall(ranks[1:], ranks[0])
    contexts = rows[rows["context_hash"] != ""].groupby(["case", "draw", "variant", "structure"])["context_hash"]
    return Board(
        **{name: str(first[name]) for name in (*_BOARD, "unit")},
        shot=int(first["shot"]),
        modality=", ".join(sorted(set(rows["modality"]))),
        higher=higher,
        primary=primary,
        cases=rows["case"].nunique(),
        patients=len(known),
        draws=int(rows.groupby(["entrant", *_UNIT])["draw"].nunique().max()),
        tau=float(np.nanmean(tau)) if len(known) > 1 and not np.isnan(tau).all() else math.nan,
        own_examples=bool((contexts.nunique() > 1).any()),
        standings=tuple(standings),
        parts=_parts(values),
        tests=tests,
        samples=means[:, order],
    )


def _values(rows: pd.DataFrame, worst: float) -> tuple[pd.DataFrame, Mapping[str, int]]:
    """Means over draws, units by entrants, with what is missing charged; and how many answers each entrant lacks."""
    found = rows.groupby([*_UNIT, "entrant"], sort=True)["value"].agg(["sum", "size"]).unstack("entrant")
    sums, held = found["sum"], found["size"].fillna(0)
    shown = rows[rows["context_hash"] != ""]
    asked = shown.groupby(_UNIT)["draw"].nunique().reindex(held.index).fillna(1).clip(lower=1)
    guided = held.columns.isin(shown["entrant"])
    wanted = held.clip(lower=1)
    wanted.loc[:, guided] = np.maximum(wanted.loc[:, guided].to_numpy(), asked.to_numpy()[:, None])
    lacking = wanted - held
    charged = sums.fillna(0) + (lacking * worst).where(lacking > 0, 0.0)
    return charged / wanted, {str(name): int(count) for name, count in lacking.sum().items()}


def _tests(values: pd.DataFrame, names: Sequence[str], stream: Sequence[int]) -> pd.DataFrame:
    """Tests every pair of entrants on the patients that both answered without a charge beyond limit."""
    by_patient = values.groupby(["variant", "structure", "patient"]).mean().groupby("patient").mean()[list(names)]
    pairs = np.array([*combinations(range(len(names)), 2)], dtype=np.int64).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        differences = by_patient.to_numpy()[:, pairs[:, 0]] - by_patient.to_numpy()[:, pairs[:, 1]]
    known = np.isfinite(differences)
    number, p_values = known.sum(0), np.ones(len(pairs))
    means = np.where(known, differences, 0).sum(0) / np.where(number, number, math.nan)
    for patients in np.unique(known, axis=1).T:
        same = (known == patients[:, None]).all(0)
        p_values[same] = sign_flip_tests(differences[np.ix_(patients, same)], np.random.default_rng([*stream, 1]))
    one, other = ([names[index] for index in column] for column in pairs.T)
    table = pd.DataFrame({"first": one, "second": other, "difference": means, "p": p_values, "patients": number})
    return table.assign(p_holm=holm(table["p"].tolist()))


def _standings(
    rows: pd.DataFrame,
    names: Sequence[str],
    means: Floats,
    missing: Mapping[str, int],
    tests: pd.DataFrame,
    higher: bool,
    single: bool,
) -> list[Standing]:
    """Puts entrants in order; `means` holds the plain means in its first row and bootstrap samples below."""
    ranks = shared_ranks(means, higher)
    with np.errstate(invalid="ignore"):
        low, high = interval(means[1:])
    rank_low, rank_high = interval(ranks[1:])
    leader = names[int(np.argmin(ranks[0]))]
    by_pair = {frozenset((row.first, row.second)): float(row.p_holm) for row in tests.itertuples()}
    made = []
    for index, name in enumerate(names):
        own = rows[rows["entrant"] == name]
        trained = {word.casefold() for words in own["trained_on"] for word in words.split(";")}
        bounded = math.isfinite(means[0, index]) and not single
        standing = Standing(
            entrant=name,
            rank=int(ranks[0, index]),
            rank_low=math.floor(rank_low[index]),
            rank_high=math.ceil(rank_high[index]),
            first=float((ranks[1:, index] == 1).mean()),
            mean=float(means[0, index]),
            low=float(low[index]) if bounded else math.nan,
            high=float(high[index]) if bounded else math.nan,
            p=math.nan if name == leader else by_pair[frozenset((leader, name))],
            answered=own["case"].nunique(),
            missing=missing[name],
            failures=int((own["failure"] != "").sum()),
            contaminated=str(own["dataset"].iloc[0]).casefold() in trained,
            seconds=float(own["seconds"].mean()),
        )
        made.append(standing)
    return sorted(made, key=lambda standing: (standing.rank, standing.entrant))


def _parts(values: pd.DataFrame) -> pd.DataFrame:
    """Means of every variant and structure, one row an entrant."""
    grouped = values.groupby(["variant", "structure"], sort=True)
    means, cases = grouped.mean(), grouped.size().rename("cases")
    long = means.stack().rename("mean").reset_index().merge(cases.reset_index(), on=["variant", "structure"])
    return long[["entrant", "variant", "structure", "mean", "cases"]]
