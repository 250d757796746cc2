"""Parts of the page: tables that sort, their cells, names and numbers for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from benchmarks.entrants import CONTROLS, TRIVIAL
from benchmarks.leaderboard.figures import COLOURS
from benchmarks.summary import cell
from mvg.wording import counted

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


def name_of(entrant: str, colour: Mapping[str, int], flags: Sequence[str] = (), role: str = "") -> str:
    """Writes the cell of an entrant: its colour, its name, what it is, and what must be known of it."""
    marks = f' <span class="role">{escape(role)}</span>' if role else ""
    marks += "".join(f' <span class="flag">{escape(flag)}</span>' for flag in flags)
    return f'<th scope="row">{chip(colour[entrant])}{escape(entrant)}{marks}</th>'


def chip(number: int) -> str:
    """Draws the colour of an entrant; a ring where the colour is used again, as its line is broken there."""
    return f'<span class="chip c{number % COLOURS}{" again" if number >= COLOURS else ""}"></span>'


def kind_of(entrant: str) -> str:
    """Tells what an entrant is by the name that `mvg benchmark run` gives it.

    >>> kind_of("nearest"), kind_of("ours, swapped"), kind_of("ours")
    ('trivial', 'control', '')
    """
    if entrant in TRIVIAL:
        return "trivial"
    return "control" if entrant.endswith(tuple(f", {control}" for control in CONTROLS)) else ""


def row_of(entrant: str, rank: int, cells: Iterable[str], contaminated: bool = False) -> str:
    """Writes a row of a table; the script hides rows by what they say of their entrant."""
    kind = kind_of(entrant)
    marks = f' data-kind="{kind}"' if kind else ""
    marks += " data-contaminated" if contaminated else ""
    marks += ' class="leads"' if rank == 1 else ""
    return f"<tr{marks}>{''.join(cells)}</tr>"


def shares_of(values: Sequence[float], higher: bool) -> list[float]:
    """Brings values to [0, 1]: 1 for the best, 0 for the worst finite one and those that are not finite.

    >>> shares_of([0.5, 0.25, 0.0], True), shares_of([10.0, 30.0, math.inf], False), shares_of([2.0, 2.0], True)
    ([1.0, 0.5, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0])
    """
    signed = [value if higher else -value for value in values]
    finite = [value for value in signed if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return [
        (value - low) / (high - low) if math.isfinite(value) and high > low else float(math.isfinite(value))
        for value in signed
    ]


def shaded(text: str, value: float, share: float) -> str:
    """Writes a cell of a matrix; its shade says how good it is within its column, and the best are bold."""
    kind = ' class="shade best"' if share == 1 else ' class="shade"'
    sort = repr(value) if math.isfinite(value) else ""
    return f'<td{kind} data-v="{sort}" style="--share:{share:.2f}">{text}</td>'


def rank_text(rank: int, low: int, high: int) -> str:
    """Writes a rank with its interval."""
    return f"{rank} <small>{low}&ndash;{high}</small>" if low != high else f"{rank}"


def figure(drawing: str, names: Iterable[str], colour: Mapping[str, int]) -> str:
    """Adds a legend to a drawing."""
    legend = "".join(f"<li>{chip(colour[name])}{escape(name)}</li>" for name in names)
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
    return counted(shot, "example") if shot else "No examples"


def plain(value: float) -> str:
    """Writes a mean alone."""
    return cell(value) if math.isfinite(value) else "&ndash;" if math.isnan(value) else "∞"


def words(name: str) -> str:
    """Writes the name of a task or of a data set for people.

    >>> words("bias_correction")
    'bias correction'
    """
    return name.replace("_", " ")


def stability(tau: float) -> str:
    """Writes how stable an order is, if that is known."""
    return "" if math.isnan(tau) else f"Stability of the order: τ = {tau:.2f}."


def slug(text: str) -> str:
    """Makes an id of a text."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)
