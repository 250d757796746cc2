"""Parts of the page: tables that sort, their cells, names and numbers for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from benchmarks.leaderboard.figures import COLOURS
from benchmarks.summary import cell

NAMES = {
    "dice": "Dice", "iou": "IoU", "hd95": "HD95", "nsd": "NSD", "psnr": "PSNR", "ssim": "SSIM", "mae": "MAE",
    "ap50": "AP50", "false": "False", "assd": "ASSD",
}  # fmt: skip


def table(
    identifier: str, caption: str, columns: Sequence[tuple[str, str]], rows: Iterable[str], kind: str = ""
) -> str:
    """Writes a table whose columns sort.

    Args:
        identifier: Its id.
        caption: Said above it, HTML.
        columns: Name and kind of each: "text", "up" or "down" (what the first click sorts by), or "" to leave it alone.
        rows: `<tr>` elements.
        kind: Its class.
    """
    heads = []
    for name, order in columns:
        first = "descending" if order == "down" else "ascending"
        text = f'<button type="button">{escape(name)}</button>' if order else escape(name)
        style = ' class="text name"' if order == "text" else ""
        heads.append(f'<th scope="col"{style} aria-sort="none" data-first="{first}">{text}</th>')
    return (
        f'<div class="scroll"><table id="{identifier}" class="{kind}"><caption><span>{caption}</span></caption>'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def cell_of(text: str, value: float | None = None, kind: str = "") -> str:
    """Writes a cell; it sorts by `value` where that is given, and last where that is not finite."""
    sort = "" if value is None else f' data-v="{value!r}"' if math.isfinite(value) else ' data-v=""'
    style = f' class="{kind}"' if kind else ""
    return f"<td{style}{sort}>{text}</td>"


def name_of(entrant: str, colour: Mapping[str, int], flags: Sequence[str] = ()) -> str:
    """Writes the cell of an entrant: its colour, its name and what must be known of it."""
    marks = "".join(f' <span class="flag">{escape(flag)}</span>' for flag in flags)
    chip = f'<span class="chip c{colour[entrant] % COLOURS}"></span>'
    return f'<th scope="row">{chip}{escape(entrant)}{marks}</th>'


def leads(rank: int) -> str:
    """Marks the row of a first place."""
    return ' class="leads"' if rank == 1 else ""


def rank_text(rank: int, low: int, high: int) -> str:
    """Writes a rank with its interval."""
    return f"{rank} <small>{low}&ndash;{high}</small>" if low != high else f"{rank}"


def figure(drawing: str, names: Iterable[str], colour: Mapping[str, int]) -> str:
    """Adds a legend to a drawing."""
    legend = "".join(f'<li><span class="chip c{colour[n] % COLOURS}"></span>{escape(n)}</li>' for n in names)
    return f'<figure class="chart">{drawing}<ul class="legend">{legend}</ul></figure>'


def title(metric: str) -> str:
    """Writes the name of a metric for people.

    >>> title("dice"), title("nsd_2mm"), title("false_alarm")
    ('Dice', 'NSD 2mm', 'False alarm')
    """
    first, _, rest = metric.partition("_")
    return f"{NAMES.get(first, first)} {rest.replace('_', ' ')}".strip()


def examples(shot: int) -> str:
    """Writes a number of examples."""
    return f"{shot} {plural('example', shot)}" if shot else "No examples"


def plural(word: str, count: int) -> str:
    """Puts a word into the plural unless there is one of it."""
    return word if count == 1 else f"{word}s"


def plain(value: float) -> str:
    """Writes a mean alone."""
    return cell(value) if math.isfinite(value) else "∞"


def stability(tau: float) -> str:
    """Writes how stable an order is, if that is known."""
    return "" if math.isnan(tau) else f"Stability of the order: τ = {tau:.2f}."


def slug(text: str) -> str:
    """Makes an id of a text."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)
