"""The leaderboard as one HTML page that needs no network, with a script that sorts and filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby

from benchmarks.leaderboard.cards import Content, overall_card, task_table
from benchmarks.leaderboard.elements import kind_of, slug, words
from benchmarks.leaderboard.questions import question_card
from benchmarks.overall import Overall
from benchmarks.standings import Board


def page(content: Content) -> str:
    """Writes the page."""
    colour = colours(content)
    cards = [
        *(overall_card(part, content, colour) for part in _by_suite(content.overall)),
        *(task_card(list(part), content, colour) for _, part in groupby(content.boards, lambda b: b.question[:3])),
        method_card(),
    ]
    facts = "".join(f"<li><b>{count:,}</b>{escape(name)}</li>" for name, count in content.facts.items())
    kept = f"{len(content.pictures)} of {len(content.pictures) + content.left_out} pictures are in this page"
    kept += "; the others lie in the folders of results" if content.left_out else ""
    notes = " · ".join(f"{escape(name)} {escape(text)}" for name, text in content.provenance.items())
    notes += f" · {kept}" if content.pictures or content.left_out else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(content.title)}</title>\n<style>\n{_part('css')}</style>\n</head>\n<body>\n"
        f'<header class="top"><h1>{escape(content.title)}</h1>\n'
        '<p class="soft">Every model sees the same cases and the same examples. Whiskers and brackets are '
        "95 % bootstrap intervals over patients.</p>\n"
        f'<ul class="facts">{facts}</ul></header>\n<main>\n{filters(content.boards)}\n'
        + "\n".join(cards)
        + f"\n</main>\n<footer>{notes}</footer>\n<script>\n{_part('js')}</script>\n</body>\n</html>\n"
    )


def task_card(boards: Sequence[Board], content: Content, colour: Mapping[str, int]) -> str:
    """Writes one task: the places of those that were asked it, then what is known of it on each data set."""
    suite, protocol, task = boards[0].question[:3]
    own = [order for order in content.tasks if (order.suite, order.protocol, order.task) == (suite, protocol, task)]
    tables = "".join(task_table(order, content, colour) for order in own)
    cards = "".join(question_card(list(part), content, colour) for _, part in groupby(boards, lambda b: b.question))
    heading = escape(words(task).capitalize())
    place = slug(f"{suite}-{protocol}-{task}")
    return f'<section class="card" data-group id="{place}"><h2>{heading}</h2>{tables}{cards}</section>'


def _part(ending: str) -> str:
    return files("benchmarks.leaderboard").joinpath(f"page.{ending}").read_text("utf-8")


def _by_suite(orders: Sequence[Overall]) -> list[list[Overall]]:
    return [list(part) for _, part in groupby(orders, lambda order: (order.suite, order.protocol))]


def colours(content: Content) -> dict[str, int]:
    """Gives every entrant a number, in the order of the overall places."""
    names = [place.entrant for order in content.overall for place in order.places]
    names += [standing.entrant for board in content.boards for standing in board.standings]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def filters(boards: Sequence[Board]) -> str:
    """Writes the form that filters boards; it is shown once the script runs."""
    offers = {
        "suite": sorted({board.suite for board in boards}),
        "task": sorted({board.task for board in boards}),
        "modality": sorted({word for board in boards for word in board.modality.split(", ")}),
        "dataset": sorted({board.dataset for board in boards}),
        "unseen": sorted({board.unseen for board in boards if board.unseen}),
        "shot": [str(shot) for shot in sorted({board.shot for board in boards})],
    }
    shots = [board.shot for board in boards if board.primary]
    start = max(set(shots), key=lambda shot: (shots.count(shot), shot))
    names = {"dataset": "data set", "unseen": "not seen in training", "shot": "examples"}
    fields = []
    for name, values in offers.items():
        if len(values) > 1 or (name == "unseen" and values):
            options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
            first = f' data-start="{start}"' if name == "shot" else ""
            inner = f'<select name="{name}"{first}><option value="">all</option>{options}</select>'
            fields.append(f"<label>{names.get(name, name)}{inner}</label>")
    if any(standing.contaminated for board in boards for standing in board.standings):
        fields.append('<label class="check"><input type="checkbox" name="clean">hide models trained on the set</label>')
    if any(kind_of(standing.entrant) for board in boards for standing in board.standings):
        fields.append(
            '<label class="check"><input type="checkbox" name="models">hide trivial answers, controls</label>'
        )
    return f'<form class="filters" hidden aria-label="Filters">{"".join(fields)}</form>'


# ---------------------------------------------------------------------- words


METHOD = {
    "Mean": "A case is averaged over its draws of examples, then cases over each structure, then structures.",
    "Interval": "95 % percentile bootstrap over patients: all cases of a patient are drawn together. None for one.",
    "Rank": "By unrounded means; equal means share a rank. Beside it the 95 % interval of the rank over the "
    "bootstrap. First in: the share of samples in which no model is better. Stability: the mean of Kendall's tau.",
    "Overall": "Mean over tasks of the mean rank over data sets. The score is the mean of normalised metrics: shares "
    "as they are, decibels divided by 40, others between the worst and the best model. A task that a model was not "
    "asked counts with the last places and a score of 0, so that a specialist cannot lead here; the order of a task "
    "holds only those that were asked it, and there specialists stand beside the others.",
    "Trivial, control": "Trivial answers need no network: the query itself (identity), the target of the most similar "
    "example (nearest), the mean target (mean). A control misleads a network on purpose: examples of another structure "
    "(swapped), or examples whose image and target do not belong together (shuffled). One that follows its examples "
    "falls far behind itself there.",
    "p vs first": "Paired permutation test on the means of patients by changes of sign, corrected by Holm's method "
    "over all pairs of a board.",
    "Missing": "Cases or draws that other models have answers for. They are charged the worst value of the metric, or "
    "the last place where it has none, so that leaving something out never helps.",
    "Failures": "Answers that count with the worst value: nothing painted, something painted where nothing is, or "
    "an unusable file.",
    "Quick": "Of the suite only the first cases, or fewer draws or numbers of examples, were asked; the run can go on.",
    "Trained on": "The model declares the data set among those that trained it. Boards never mix protocols or suites.",
}


def method_card() -> str:
    """Writes how numbers came about."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in METHOD.items())
    return f'<section class="card"><h2>How to read this</h2><dl class="method">{rows}</dl></section>'
