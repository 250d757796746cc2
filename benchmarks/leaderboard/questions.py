"""What is known of one task on one data set: standings, curves, structures, pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.leaderboard.cards import Content
from benchmarks.leaderboard.elements import (
    cell_of,
    examples,
    figure,
    kind_of,
    name_of,
    plain,
    rank_text,
    row_of,
    slug,
    stability,
    table,
    title,
    words,
)
from benchmarks.leaderboard.figures import COLOURS, Point, curves, whisker
from benchmarks.leaderboard.pictures import Picture
from benchmarks.standings import Board, Standing
from benchmarks.summary import cell
from mvg.wording import counted


def question_card(boards: Sequence[Board], content: Content, colour: Mapping[str, int]) -> str:
    """Writes what is known of one task on one data set: curves, tables, structures, pictures; closed at first."""
    first = boards[0]
    primary = [board for board in boards if board.primary]
    data = {"suite": first.suite, "task": first.task, "dataset": first.dataset, "unseen": first.unseen}
    marks = "".join(f' data-{name}="{escape(text)}"' for name, text in data.items())
    tags = [first.modality, f"protocol {first.protocol}"]
    tags += [counted(first.cases, "case"), counted(first.patients, "patient")]
    tags += [f"{max(b.draws for b in boards)} draws"] if max(b.draws for b in boards) > 1 else []
    tags += [f"not seen in training: {first.unseen.replace(';', ', ')}"] if first.unseen else []
    tags += ["models chose examples of their own"] if any(board.own_examples for board in boards) else []
    parts = [
        f'<details class="board" data-board data-modality="{escape(first.modality)}"{marks}>',
        f"<summary><h3>{escape(words(first.dataset))}</h3>{''.join(_leading(board) for board in primary)}</summary>",
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
    parts.append(_pictures(primary[-1], content.pictures))
    return "".join([*parts, "</details>"])


def _leading(board: Board) -> str:
    """Says who leads a board, for its closed heading."""
    best = [standing for standing in board.standings if standing.rank == 1]
    names = escape(", ".join(standing.entrant for standing in best))
    amount = cell(best[0].mean, best[0].low, best[0].high) if math.isfinite(best[0].mean) else "no limit"
    text = f"{names}: {escape(title(board.metric))} {amount} {escape(board.unit)}".rstrip()
    patients = counted(board.patients, "patient")
    return f'<span class="soft" data-shot="{board.shot}">{text}, {patients}</span>'


def board_table(board: Board, colour: Mapping[str, int]) -> str:
    """Writes the standings of a board."""
    ends = [e for s in board.standings for e in (s.low, s.mean, s.high) if math.isfinite(e)] or [0.0]
    rows = [_standing(standing, min(ends), max(ends), colour, board.patients > 1) for standing in board.standings]
    arrow = "higher" if board.higher else "lower"
    caption = f"<b>{title(board.metric)}</b>{f' in {board.unit}' if board.unit else ''}, {arrow} is better. "
    caption += f"{examples(board.shot)}. {stability(board.tau)}"
    columns = [
        ("rank", "up"), ("model", "text"), (title(board.metric), "down" if board.higher else "up"), ("", ""),
        ("p vs first", "up"), ("first in", "down"), ("missing", "up"), ("failures", "up"), ("s / answer", "up"),
    ]  # fmt: skip
    identifier = slug("-".join([*board.question, board.metric, str(board.shot)]))
    return f'<div data-shot="{board.shot}">{table(identifier, caption, columns, rows)}</div>'


def _standing(standing: Standing, start: float, end: float, colour: Mapping[str, int], tested: bool) -> str:
    flags = ["incomplete"] if standing.missing else []
    flags += ["trained on this set"] if standing.contaminated else []
    shade = colour[standing.entrant] % COLOURS
    p_value = (
        "" if math.isnan(standing.p) or not tested else "&lt; 0.001" if standing.p < 0.001 else f"{standing.p:.3f}"
    )
    mean = cell(standing.mean, standing.low, standing.high).partition(" ")
    cells = [
        cell_of(rank_text(standing.rank, standing.rank_low, standing.rank_high), standing.rank, "rank"),
        name_of(standing.entrant, colour, flags, kind_of(standing.entrant)),
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
    return row_of(standing.entrant, standing.rank, cells, standing.contaminated)


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
        rows.append(row_of(standing.entrant, 0, [name_of(standing.entrant, colour), *cells]))
    order = "down" if board.higher else "up"
    columns = [("model", "text"), *((name, order) for name in names)]
    identifier = slug("-".join([*board.question, board.metric, str(board.shot), "parts"]))
    caption = f"<b>{title(board.metric)}</b>. {examples(board.shot)}."
    return f'<div data-shot="{board.shot}">{table(identifier, caption, columns, rows)}</div>'


def _pictures(board: Board, pictures: Mapping[Picture, str]) -> str:
    """Shows the pictures of an entrant in a row, those of the best one at once and those of the others on demand."""
    own = [p for p in pictures if (p.facts["task"], p.facts["dataset"]) == (board.task, board.dataset)]
    own = [p for p in own if p.facts.get("suite", board.suite) == board.suite]
    ranks = {standing.entrant: number for number, standing in enumerate(board.standings)}
    names = sorted({p.facts["entrant"] for p in own}, key=lambda name: ranks.get(name, len(ranks)))
    rows = [_row(name, {p: pictures[p] for p in own if p.facts["entrant"] == name}) for name in names]
    if not rows:
        return ""
    rest = f"<details><summary>Answers of others</summary>{''.join(rows[1:])}</details>" if rows[1:] else ""
    return f"<h4>Best, median and worst</h4>{rows[0]}{rest}"


def _row(entrant: str, pictures: Mapping[Picture, str]) -> str:
    shown = []
    for picture, data in pictures.items():
        facts = [picture.facts.get(name, "") for name in ("structure", "caption", "case")]
        text = escape(", ".join(filter(None, [entrant, picture.facts["place"], *facts])))
        below = f"<b>{escape(picture.facts['place'])}</b> {escape(', '.join(filter(None, facts)))}"
        below += f", {examples(int(shot)).lower()}" if (shot := picture.facts.get("shot", "")).isdigit() else ""
        image = f'<img alt="{text}" loading="lazy" src="{data}">'
        shown.append(f"<figure>{image}<figcaption>{below}</figcaption></figure>")
    kind = f' data-kind="{kind_of(entrant)}"' if kind_of(entrant) else ""
    return f'<div{kind}><h5>{escape(entrant)}</h5><div class="pictures">{"".join(shown)}</div></div>'
