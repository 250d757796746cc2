"""Cards of the page for many data sets: the places over all tasks, and those of each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from benchmarks.leaderboard.elements import (
    cell_of,
    examples,
    figure,
    kind_of,
    name_of,
    plain,
    rank_text,
    row_of,
    shaded,
    shares_of,
    slug,
    stability,
    table,
    title,
    words,
)
from benchmarks.leaderboard.figures import COLOURS, Point, curves, whisker
from benchmarks.leaderboard.pictures import Picture
from benchmarks.overall import Overall, Place
from benchmarks.standings import Board, Standing
from mvg.wording import counted

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Content:
    """All that a page shows.

    Attributes:
        title: Heading.
        boards: What `benchmarks.standings.boards` made.
        overall: What `benchmarks.overall.overall` made.
        tasks: What `benchmarks.overall.by_task` made.
        steady: The same as `overall` of what was asked with every number of examples, for curves.
        pictures: Pictures of cases, to the data URL of each that is embedded.
        left_out: Number of pictures that are not.
        facts: Counts for the heading, such as "cases": 120.
        provenance: What must be known to make the page again, name to text.
        quick: Entrants that were asked only a part of the suite.
    """

    title: str
    boards: Sequence[Board]
    overall: Sequence[Overall]
    tasks: Sequence[Overall]
    steady: Sequence[Overall]
    pictures: Mapping[Picture, str]
    left_out: int
    facts: Mapping[str, int]
    provenance: Mapping[str, str]
    quick: Sequence[str] = ()
    asked: Mapping[Key, Sequence[str]] = field(init=False)
    """Suite, protocol and entrant to the tasks that it was asked."""

    def __post_init__(self) -> None:
        found: dict[Key, dict[str, None]] = {}
        for board in self.boards:
            for standing in board.standings:
                found.setdefault((board.suite, board.protocol, standing.entrant), {})[board.task] = None
        object.__setattr__(self, "asked", {key: tuple(tasks) for key, tasks in found.items()})


# ---------------------------------------------------------------------- all tasks


def overall_card(orders: Sequence[Overall], content: Content, colour: Mapping[str, int]) -> str:
    """Writes the places over all tasks of a suite, for each number of examples, with the means of each task."""
    first = orders[0]
    name = escape(first.suite)
    tags = [first.suite, f"protocol {first.protocol}"]
    everyone = {place.entrant for order in orders for place in order.places}
    tags += ["every model was asked a part of the suite"] if everyone <= set(content.quick) else []
    parts = [
        f'<section class="card" data-overall="{name}"><h2>Overall</h2>',
        f'<ul class="tags">{"".join(f"<li>{escape(tag)}</li>" for tag in tags)}</ul>',
    ]
    for order in orders:
        leading = order is content.overall[0]
        identifier = "overall" if leading else slug(f"overall-{order.suite}-{order.protocol}-{order.shot}")
        inner = f'<p class="lead">{leader(order)}</p>{_overall_table(identifier, order, content, colour)}'
        parts.append(f'<div data-shot="{order.shot}">{inner}</div>')
    steady = [order for order in content.steady if (order.suite, order.protocol) == (first.suite, first.protocol)]
    if len(steady) > 1:
        parts.append(_over_examples(steady, content, colour))
    return "".join([*parts, "</section>"])


def leader(order: Overall) -> str:
    """Says in a sentence who leads, by how much, and how sure that is."""
    best = [place for place in order.places if place.rank == 1]
    rest = [place for place in order.places if place.rank > 1]
    names = " and ".join(f"<b>{escape(place.entrant)}</b>" for place in best)
    text = f"{names} {'leads' if len(best) == 1 else 'share the lead'} after "
    text += f"{examples(order.shot).lower()}: mean rank {best[0].mean_rank:.2f} of {len(order.places)}"
    text += f", score {plain(best[0].score)}"
    if rest:
        text += f"; <b>{escape(rest[0].entrant)}</b> follows with {rest[0].mean_rank:.2f} and {plain(rest[0].score)}"
    share = best[0].first
    sure = f"In {share:.0%} of the bootstrap samples nobody is ahead of {escape(best[0].entrant)}."
    return f"{text}. {sure}"


def _overall_table(identifier: str, order: Overall, content: Content, colour: Mapping[str, int]) -> str:
    tasks = [
        part
        for part in content.tasks
        if (part.suite, part.protocol, part.shot) == (order.suite, order.protocol, order.shot)
    ]
    everywhere = [p for p in order.places if p.boards + p.missing >= order.boards] or order.places
    start, end = _ends([(p.score, p.score_low, p.score_high) for p in everywhere])
    shares = [_shares(part, content) for part in tasks]
    sets = len({b.dataset for b in content.boards if (b.suite, b.protocol) == (order.suite, order.protocol)})
    rows = []
    for place in order.places:
        shade = colour[place.entrant] % COLOURS
        lacking = f" <small>{place.missing} missing</small>" if place.missing else ""
        flags, role = _marks(place, order, content)
        cells = [
            cell_of(rank_text(place.rank, place.rank_low, place.rank_high), place.rank, "rank"),
            name_of(place.entrant, colour, flags, role),
            cell_of(f"{place.mean_rank:.2f}", place.mean_rank),
            cell_of(f"{place.score:.3f}", place.score, "mean"),
            cell_of(whisker(place.score_low, place.score, place.score_high, start, end, shade)),
            *(_task_cell(place.entrant, part, share) for part, share in zip(tasks, shares, strict=True)),
            cell_of(f"{place.boards}/{order.boards}{lacking}", place.boards),
            cell_of(str(place.failures), place.failures),
            cell_of(f"{place.contaminated}/{sets}" if place.contaminated else "0", place.contaminated),
        ]
        rows.append(row_of(place.entrant, place.rank, cells))
    columns = [
        ("rank", "up"), ("model", "text"), ("mean rank", "up"), ("score", "down"), ("", ""),
        *((_head(part, content), "down" if _higher(part, content) else "up") for part in tasks),
        ("boards answered", "down"), ("failures", "up"), ("sets trained on", "up"),
    ]  # fmt: skip
    return table(identifier, _overall_caption(order, content), columns, rows, "matrix")


def _overall_caption(order: Overall, content: Content) -> str:
    own = [b for b in _boards_of(order, content) if b.patients < 2]
    text = f"{counted(order.boards, 'board')} of {counted(order.tasks, 'task')}. "
    text += "Columns of tasks hold means over data sets, darker is better. "
    if any(len(tasks) < order.tasks for key, tasks in content.asked.items() if key[0] == order.suite):
        text += "Who was not asked a task has the last places and a score of 0 in it: see the tasks below. "
    if own:
        text += f"{counted(len(own), 'board')} with one patient add nothing to the intervals. "
    return text + stability(order.tau)


def _marks(place: Place, order: Overall, content: Content) -> tuple[list[str], str]:
    """Flags and role of an entrant: what was left out though it was asked, and what it was asked alone."""
    boards = _boards_of(order, content)
    own = content.asked[order.suite, order.protocol, place.entrant]
    role = kind_of(place.entrant)
    if not order.task and len(own) < order.tasks:
        alone = f"{' and '.join(map(words, own))} only" if len(own) < 3 else f"{len(own)} of {order.tasks} tasks"
        role = ", ".join(filter(None, (role, alone)))
    lacking = place.boards < sum(board.task in own for board in boards)
    flags = ["incomplete"] if lacking and kind_of(place.entrant) != "control" else []
    everyone = {each.entrant for each in order.places}
    flags += ["quick"] if place.entrant in content.quick and not everyone <= set(content.quick) else []
    return flags, role


def _task_cell(entrant: str, order: Overall, shares: Mapping[str, float]) -> str:
    place = next((place for place in order.places if place.entrant == entrant), None)
    if place is None:
        return cell_of('<small title="not asked">&ndash;</small>', math.nan, "none")
    value = place.score if math.isnan(place.mean) else place.mean
    mark = "†" if place.missing or place.boards < order.boards else ""
    return shaded(f"{plain(value)}{mark}", value, shares[entrant])


def _shares(order: Overall, content: Content) -> dict[str, float]:
    values = [place.score if math.isnan(place.mean) else place.mean for place in order.places]
    found = shares_of(values, _higher(order, content))
    return {place.entrant: share for place, share in zip(order.places, found, strict=True)}


def _higher(order: Overall, content: Content) -> bool:
    """Whether more is better; of a task with several metrics the score is shown."""
    boards = _boards_of(order, content)
    return boards[0].higher or len({board.metric for board in boards}) > 1


def _head(order: Overall, content: Content) -> str:
    return f"{words(order.task)}, {_metric(order, content)}"


def _metric(order: Overall, content: Content) -> str:
    boards = _boards_of(order, content)
    if len({(board.metric, board.unit) for board in boards}) > 1:
        return "score"
    return ", ".join(filter(None, (title(boards[0].metric), boards[0].unit)))


def _boards_of(order: Overall, content: Content) -> list[Board]:
    own = [b for b in content.boards if b.primary and (b.suite, b.protocol) == (order.suite, order.protocol)]
    return [board for board in own if board.shot == order.shot and order.task in ("", board.task)]


def _ends(values: Sequence[tuple[float, ...]]) -> tuple[float, float]:
    finite = [value for each in values for value in each if math.isfinite(value)] or [0.0]
    return min(finite), max(finite)


def _over_examples(orders: Sequence[Overall], content: Content, colour: Mapping[str, int]) -> str:
    """Draws the scores of those that were asked every task over the number of examples."""
    last = orders[-1]
    names = [p.entrant for p in last.places if len(content.asked[last.suite, last.protocol, p.entrant]) >= last.tasks]
    lines = {
        name: [_point(order, place) for order in orders for place in order.places if place.entrant == name]
        for name in names or [place.entrant for place in last.places]
    }
    drawing = figure(curves(lines, {}, colour, "score"), lines, colour)
    return (
        f'<details open><summary>Score over the number of examples</summary><p class="soft">'
        f"Of the {counted(last.boards, 'board')} that were asked with every number of examples.</p>{drawing}</details>"
    )


def _point(order: Overall, place: Place) -> Point:
    return Point(order.shot, place.score, place.score_low, place.score_high)


# ---------------------------------------------------------------------- one task


def task_table(order: Overall, content: Content, colour: Mapping[str, int]) -> str:
    """Writes the places of those that were asked one task, with their means on each data set."""
    boards = _boards_of(order, content)
    shares = [shares_of([standing.mean for standing in board.standings], board.higher) for board in boards]
    by_name = [
        {standing.entrant: (standing, each) for standing, each in zip(board.standings, share, strict=True)}
        for board, share in zip(boards, shares, strict=True)
    ]
    scored = math.isnan(order.places[0].mean)
    triples = [_triple(place, scored) for place in order.places]
    start, end = _ends(triples)
    rows = []
    for place, (mean, low, high) in zip(order.places, triples, strict=True):
        flags, role = _marks(place, order, content)
        between = f" <small>[{plain(low)}, {plain(high)}]</small>" if math.isfinite(low) else ""
        cells = [
            cell_of(rank_text(place.rank, place.rank_low, place.rank_high), place.rank, "rank"),
            name_of(place.entrant, colour, flags, role),
            cell_of(f"{place.mean_rank:.2f}", place.mean_rank),
            cell_of(f"{plain(mean)}{between}", mean, "mean"),
            cell_of(whisker(low, mean, high, start, end, colour[place.entrant] % COLOURS)),
            *(_set_cell(found.get(place.entrant)) for found in by_name),
        ]
        rows.append(row_of(place.entrant, place.rank, cells))
    metric = _metric(order, content)
    columns = [
        ("rank", "up"), ("model", "text"), ("mean rank", "up"),
        (metric, "down" if _higher(order, content) else "up"), ("", ""),
        *((_set_head(board), "down" if board.higher else "up") for board in boards),
    ]  # fmt: skip
    caption = f"{examples(order.shot)}. <b>{escape(metric)}</b>, mean over "
    caption += f"{counted(order.boards, 'data set')}; ranked by the mean rank among those that were asked. "
    caption += "* trained on the set, † incomplete. " + stability(order.tau)
    identifier = slug(f"task-{order.suite}-{order.protocol}-{order.task}-{order.shot}")
    return f'<div data-shot="{order.shot}">{table(identifier, caption, columns, rows, "matrix")}</div>'


def _triple(place: Place, scored: bool) -> tuple[float, float, float]:
    if scored:
        return place.score, place.score_low, place.score_high
    return place.mean, place.mean_low, place.mean_high


def _set_head(board: Board) -> str:
    unseen = ", unseen" if board.unseen else ""
    return f"{words(board.dataset)}{unseen}, {counted(board.patients, 'patient')}"


def _set_cell(found: tuple[Standing, float] | None) -> str:
    if found is None:
        return cell_of("&ndash;", math.nan, "none")
    standing, share = found
    mark = "*" * standing.contaminated + "†" * bool(standing.missing)
    return shaded(f"{plain(standing.mean)}{mark}", standing.mean, share)
