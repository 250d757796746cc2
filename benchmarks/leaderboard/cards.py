"""Cards of the page: overall places, and what is known of one task on one data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.leaderboard.elements import (
    cell_of,
    examples,
    figure,
    leads,
    name_of,
    plain,
    plural,
    rank_text,
    slug,
    stability,
    table,
    title,
)
from benchmarks.leaderboard.figures import COLOURS, Point, curves, whisker
from benchmarks.overall import Overall, normalise
from benchmarks.standings import Board, Standing
from benchmarks.summary import cell


@dataclass(frozen=True)
class Picture:
    """A picture of one case; see `benchmarks.leaderboard.read_pictures` for the facts."""

    facts: Mapping[str, str]
    data: str


@dataclass(frozen=True)
class Content:
    """All that a page shows.

    Attributes:
        title: Heading.
        boards: What `benchmarks.standings.boards` made.
        overall: What `benchmarks.overall.overall` made.
        pictures: Pictures of cases.
        facts: Counts for the heading, such as "cases": 120.
        provenance: What must be known to make the page again, name to text.
        quick: Entrants that were asked only a part of the suite.
    """

    title: str
    boards: Sequence[Board]
    overall: Sequence[Overall]
    pictures: Sequence[Picture]
    facts: Mapping[str, int]
    provenance: Mapping[str, str]
    quick: Sequence[str] = ()


# ---------------------------------------------------------------------- overall


def overall_card(orders: Sequence[Overall], content: Content, colour: Mapping[str, int]) -> str:
    """Writes the overall places of a suite, for each number of examples, and the matrix of all boards."""
    first = orders[0]
    own = [b for b in content.boards if b.primary and (b.suite, b.protocol) == (first.suite, first.protocol)]
    name = escape(first.suite)
    parts = [
        f'<section class="card" data-overall="{name}"><h2>Overall</h2>',
        f'<ul class="tags"><li>{name}</li><li>protocol {escape(first.protocol)}</li></ul>',
    ]
    lines = {
        entrant: [
            Point(order.shot, place.score, place.score_low, place.score_high)
            for order in orders
            for place in order.places
            if place.entrant == entrant
        ]
        for entrant in [place.entrant for place in first.places]
    }
    if len(orders) > 1:
        parts.append(figure(curves(lines, {}, colour, "score"), lines, colour))
    for order in orders:
        leading = order is content.overall[0]
        identifier = "overall" if leading else slug(f"overall-{order.suite}-{order.protocol}-{order.shot}")
        boards = [board for board in own if board.shot == order.shot]
        parts.append(f'<div data-shot="{order.shot}">{_overall_table(identifier, order, colour, content.quick)}')
        parts.append(f"{_matrix(f'{identifier}-matrix', boards, order, colour)}</div>")
    return "".join([*parts, "</section>"])


def _overall_table(identifier: str, order: Overall, colour: Mapping[str, int], quick: Sequence[str]) -> str:
    places = order.places
    start, end = min(p.score_low for p in places), max(p.score_high for p in places)
    rows = []
    for place in places:
        shade = colour[place.entrant] % COLOURS
        flags = ["incomplete"] if place.boards < order.boards else []
        flags += ["quick"] if place.entrant in quick else []
        flags += [f"trained on {place.contaminated} of the sets"] if place.contaminated else []
        cells = [
            cell_of(rank_text(place.rank, place.rank_low, place.rank_high), place.rank, "rank"),
            name_of(place.entrant, colour, flags),
            cell_of(f"{place.mean_rank:.2f}", place.mean_rank),
            cell_of(f"{place.score:.3f}", place.score, "mean"),
            cell_of(whisker(place.score_low, place.score, place.score_high, start, end, shade)),
            cell_of(f"{place.first:.0%}", place.first),
            cell_of(f"{place.boards}/{order.boards}", place.boards),
            cell_of(str(place.missing), place.missing),
            cell_of(str(place.failures), place.failures),
        ]
        rows.append(f"<tr{leads(place.rank)}>{''.join(cells)}</tr>")
    caption = (
        f"{examples(order.shot)}: {order.boards} boards, {order.tasks} {plural('task', order.tasks)}. "
        f"{stability(order.tau)}"
    )
    columns = [
        ("rank", "up"), ("model", "text"), ("mean rank", "up"), ("score", "down"), ("", ""), ("first in", "down"),
        ("complete", "down"), ("missing", "up"), ("failures", "up"),
    ]  # fmt: skip
    return table(identifier, caption, columns, rows)


def _matrix(identifier: str, boards: Sequence[Board], order: Overall, colour: Mapping[str, int]) -> str:
    """Writes all primary means of one number of examples, a column a board; darker is better within a column."""
    columns = [("model", "text")]
    columns += [
        (f"{b.dataset} {b.task.replace('_', ' ')}, {title(b.metric)}", "down" if b.higher else "up") for b in boards
    ]
    shares = {id(board): normalise(board)[0] for board in boards}
    rows = []
    for place in order.places:
        cells = [name_of(place.entrant, colour)]
        for board in boards:
            found = [(n, s) for n, s in enumerate(board.standings) if s.entrant == place.entrant]
            if not found:
                cells.append(cell_of("&ndash;", math.nan))
                continue
            number, standing = found[0]
            low, high = shares[id(board)].min(), shares[id(board)].max()
            share = (shares[id(board)][number] - low) / (high - low) if high > low else 1.0
            mark = "*" * standing.contaminated + "†" * bool(standing.missing)
            best = " best" if standing.rank == 1 else ""
            cells.append(
                f'<td class="{best.strip()}" data-v="{standing.mean!r}" style="--share:{share:.2f}">'
                f"{plain(standing.mean)}{mark}</td>"
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = "Primary metric of each board; darker is better within a column. * trained on the set, † incomplete."
    return table(identifier, caption, columns, rows, "matrix")


# ---------------------------------------------------------------------- one question


def question_card(boards: Sequence[Board], content: Content, colour: Mapping[str, int]) -> str:
    """Writes what is known of one task on one data set: curves, tables, structures, pictures."""
    first = boards[0]
    primary = [board for board in boards if board.primary]
    data = {"suite": first.suite, "task": first.task, "dataset": first.dataset, "unseen": first.unseen}
    marks = "".join(f' data-{name}="{escape(text)}"' for name, text in data.items())
    tags = [first.modality, f"protocol {first.protocol}"]
    tags += [f"{first.cases} {plural('case', first.cases)}", f"{first.patients} {plural('patient', first.patients)}"]
    tags += [f"{max(b.draws for b in boards)} draws"] if max(b.draws for b in boards) > 1 else []
    tags += [f"not seen in training: {first.unseen.replace(';', ', ')}"] if first.unseen else []
    tags += ["models chose examples of their own"] if any(board.own_examples for board in boards) else []
    parts = [
        f'<section class="card" data-board data-modality="{escape(first.modality)}"{marks}>',
        f"<h2>{escape(first.dataset)}: {escape(first.task.replace('_', ' '))}</h2>",
        f'<ul class="tags">{"".join(f"<li>{escape(tag)}</li>" for tag in tags if tag)}</ul>',
    ]
    if len(primary) > 1:
        parts.append(_curves(primary, colour))
    parts += [board_table(board, colour) for board in primary]
    others = [board for board in boards if not board.primary]
    if others:
        inner = "".join(board_table(board, colour) for board in others)
        parts.append(f"<details><summary>Other metrics</summary>{inner}</details>")
    if any(board.parts[["variant", "structure"]].drop_duplicates().shape[0] > 1 for board in primary):
        inner = "".join(_parts_table(board, colour) for board in primary)
        parts.append(f"<details><summary>By structure</summary>{inner}</details>")
    parts.append(_pictures(first, content.pictures))
    return "".join([*parts, "</section>"])


def board_table(board: Board, colour: Mapping[str, int]) -> str:
    """Writes the standings of a board."""
    ends = [e for s in board.standings for e in (s.low, s.mean, s.high) if math.isfinite(e)] or [0.0]
    rows = [_standing(standing, min(ends), max(ends), colour) for standing in board.standings]
    arrow = "higher" if board.higher else "lower"
    caption = f"<b>{title(board.metric)}</b>{f' in {board.unit}' if board.unit else ''}, {arrow} is better. "
    caption += f"{examples(board.shot)}. {stability(board.tau)}"
    columns = [
        ("rank", "up"), ("model", "text"), (title(board.metric), "down" if board.higher else "up"), ("", ""),
        ("p vs first", "up"), ("first in", "down"), ("missing", "up"), ("failures", "up"), ("s / answer", "up"),
    ]  # fmt: skip
    identifier = slug("-".join([*board.question, board.metric, str(board.shot)]))
    return f'<div data-shot="{board.shot}">{table(identifier, caption, columns, rows)}</div>'


def _standing(standing: Standing, start: float, end: float, colour: Mapping[str, int]) -> str:
    flags = ["incomplete"] if standing.missing else []
    flags += ["trained on this set"] if standing.contaminated else []
    shade = colour[standing.entrant] % COLOURS
    p_value = "" if math.isnan(standing.p) else "&lt; 0.001" if standing.p < 0.001 else f"{standing.p:.3f}"
    mean = cell(standing.mean, standing.low, standing.high).partition(" ")
    cells = [
        cell_of(rank_text(standing.rank, standing.rank_low, standing.rank_high), standing.rank, "rank"),
        name_of(standing.entrant, colour, flags),
        cell_of(
            f"{mean[0]} <small>{mean[2]}</small>" if math.isfinite(standing.mean) else "no limit", standing.mean, "mean"
        ),
        cell_of(whisker(standing.low, standing.mean, standing.high, start, end, shade)),
        cell_of(p_value, standing.p),
        cell_of(f"{standing.first:.0%}", standing.first),
        cell_of(str(standing.missing), standing.missing),
        cell_of(str(standing.failures), standing.failures),
        cell_of(f"{standing.seconds:.3g}", standing.seconds),
    ]
    contaminated = " data-contaminated" if standing.contaminated else ""
    return f"<tr{contaminated}{leads(standing.rank)}>{''.join(cells)}</tr>"


def _curves(boards: Sequence[Board], colour: Mapping[str, int]) -> str:
    lines: dict[str, list[Point]] = {}
    for board in boards:
        for s in board.standings:
            if math.isfinite(s.mean):
                lines.setdefault(s.entrant, []).append(Point(board.shot, s.mean, s.low, s.high))
    lines = {name: lines[name] for name in colour if name in lines}
    across = {
        name: points[0]
        for name, points in lines.items()
        if len(points) == len(boards) and len({(point.mean, point.low, point.high) for point in points}) == 1
    }
    drawn = {name: points for name, points in lines.items() if name not in across}
    drawn, across = (drawn, across) if drawn else (lines, {})
    return figure(curves(drawn, across, colour, title(boards[0].metric)), lines, colour)


def _parts_table(board: Board, colour: Mapping[str, int]) -> str:
    names = [" ".join(filter(None, key)) for key in board.parts.groupby(["variant", "structure"]).groups]
    rows = []
    for standing in board.standings:
        own = board.parts[board.parts["entrant"] == standing.entrant]
        means = {" ".join(filter(None, (r.variant, r.structure))): float(r.mean) for r in own.itertuples(index=False)}
        cells = [cell_of(plain(means[name]), means[name]) for name in names]
        rows.append(f"<tr>{name_of(standing.entrant, colour)}{''.join(cells)}</tr>")
    order = "down" if board.higher else "up"
    columns = [("model", "text"), *((name, order) for name in names)]
    identifier = slug("-".join([*board.question, board.metric, str(board.shot), "parts"]))
    caption = f"<b>{title(board.metric)}</b>. {examples(board.shot)}."
    return f'<div data-shot="{board.shot}">{table(identifier, caption, columns, rows)}</div>'


def _pictures(board: Board, pictures: Sequence[Picture]) -> str:
    """Shows the pictures of an entrant in a row, those of the best one at once and those of the others on demand."""
    own = [p for p in pictures if (p.facts["task"], p.facts["dataset"]) == (board.task, board.dataset)]
    own = [p for p in own if p.facts.get("suite", board.suite) == board.suite]
    ranks = {standing.entrant: number for number, standing in enumerate(board.standings)}
    names = sorted({p.facts["entrant"] for p in own}, key=lambda name: ranks.get(name, len(ranks)))
    rows = [_row([picture for picture in own if picture.facts["entrant"] == name]) for name in names]
    if not rows:
        return ""
    rest = f"<details><summary>Answers of others</summary>{''.join(rows[1:])}</details>" if rows[1:] else ""
    return f"<h3>Best, median and worst</h3>{rows[0]}{rest}"


def _row(pictures: Sequence[Picture]) -> str:
    shown = []
    for picture in pictures:
        words = [picture.facts.get(name, "") for name in ("entrant", "place", "structure", "case", "caption")]
        text = escape(", ".join(word for word in words if word))
        shown.append(
            f'<figure><img alt="{text}" loading="lazy" src="data:image/png;base64,{picture.data}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    return f'<div class="pictures">{"".join(shown)}</div>'
