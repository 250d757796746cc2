"""`mvg benchmark leaderboard`: records become tables with intervals, ranks and tests: CSV, Markdown, one HTML page.

    mvg benchmark leaderboard results --output board

Nothing but records is read: means, ranks and intervals are computed anew each time, in any order of the files. A folder
of results may hold pictures of cases (`benchmarks.leaderboard.pictures.read_pictures` says in which form); those of
the best on each board are put into the page, as many as `--pictures` has room for.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

import mvg
from benchmarks.case_pictures import FOLDER, INDEX
from benchmarks.leaderboard.cards import Content
from benchmarks.leaderboard.elements import title, words
from benchmarks.leaderboard.page import page
from benchmarks.leaderboard.pictures import embed, read_pictures
from benchmarks.overall import Overall, at_every_shot, by_task, overall
from benchmarks.records import Record, digest, read_all
from benchmarks.run_facts import RUN, is_quick, read_facts
from benchmarks.standings import Board, boards
from benchmarks.summary import cell
from mvg.files import write_whole

log = logging.getLogger(__name__)


def leaderboard(args: Sequence[str]) -> None:
    """Ranks all entrants of a folder of results, with intervals, tests and a page to look at."""
    parser = argparse.ArgumentParser("mvg benchmark leaderboard", description=leaderboard.__doc__, exit_on_error=False)
    parser.add_argument(
        "results", metavar="RESULTS", nargs="+", type=Path, help="Folders, or files of records (.csv, .csv.gz)."
    )
    parser.add_argument("--output", required=True, type=Path, help="Folder of the tables and the page.")
    parser.add_argument("--title", default="In-context medical imaging leaderboard", help="Heading of the page.")
    parser.add_argument("--samples", type=int, default=2000, help="Bootstrap samples.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of bootstrap and tests.")
    parser.add_argument("--pictures", type=float, default=5.0, help="Megabytes of pictures in the page; 0 for none.")
    options = parser.parse_args(args)
    build(options.results, options.output, options.title, options.samples, options.seed, options.pictures)


def build(
    results: Sequence[Path],
    output: Path,
    title: str = "In-context medical imaging leaderboard",
    samples: int = 2000,
    seed: int = 0,
    megabytes: float = 5.0,
) -> Content:
    """Computes everything and writes `leaderboard.html`, `leaderboard.md` and five CSV tables.

    Args:
        results: Folders, or files of records.
        output: Where to write; tables of an earlier time are replaced.
        title: Heading.
        samples: Bootstrap samples.
        seed: Seed of bootstrap and tests.
        megabytes: Most that pictures take in the page, those of the best on each board first.

    Raises:
        ValueError: If there are no records, they contradict each other, or a picture is none.
    """
    if samples < 100:
        raise ValueError(f"`samples` must be at least 100 for 95 % intervals, got {samples}")
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}")
    records = read_all(results)
    made = boards(records, samples, seed)
    pictures = [picture for folder in folders_of(results) for picture in read_pictures(folder)]
    shown = embed(pictures, made, megabytes * 1e6)
    quick = quick_entrants(results)
    facts = provenance(records, samples, seed) | ({"asked only a part of the suite": ", ".join(quick)} if quick else {})
    orders = (overall(made), by_task(made), overall(at_every_shot(made)))
    left_out = len(pictures) - len(shown)
    content = Content(title, made, *orders, shown, left_out, counts(records), facts, quick)
    texts = {"leaderboard.html": page(content), "leaderboard.md": markdown(content)}
    texts |= {name: table.to_csv(index=False) for name, table in tables(content).items()}
    write_whole({output / name: text.encode() for name, text in texts.items()})
    log.info("%d records, %d boards: %s", len(records), len(made), output / "leaderboard.html")
    return content


def folders_of(results: Iterable[Path]) -> list[Path]:
    """Lists folders of results, and those inside of them that hold records or pictures of their own."""
    found: dict[Path, None] = {}
    for path in results:
        inner = [*path.rglob(RUN), *path.rglob(f"{FOLDER}/{INDEX}")] if path.is_dir() else []
        folders = [each.parent if each.name == RUN else each.parents[1] for each in sorted(inner)]
        found |= dict.fromkeys([path, *folders])
    return list(found)


def quick_entrants(results: Iterable[Path]) -> list[str]:
    """Names the entrants of runs that asked less than their suite holds, as far as `run.json` says."""
    folders = [folder for folder in folders_of(results) if is_quick(folder)]
    return sorted({str(read_facts(folder / RUN)["entrant"]) for folder in folders})


def counts(records: Sequence[Record]) -> dict[str, int]:
    """Counts what the heading of the page names."""
    return {
        "models": len({record.entrant for record in records}),
        "data sets": len({record.dataset for record in records}),
        "tasks": len({record.task for record in records}),
        "patients": len({(record.dataset, record.patient) for record in records}),
        "cases": len({(record.dataset, record.case) for record in records}),
        "records": len(records),
    }


def provenance(records: Sequence[Record], samples: int, seed: int) -> dict[str, str]:
    """Says what the tables were computed from, and how to compute them again."""
    return {
        "records": f"sha256:{digest(records)}",
        "measured with": ", ".join(sorted({f"mvg {record.version}" for record in records})),
        "computed with": f"mvg {mvg.__version__}",
        "bootstrap": f"{samples} samples, seed {seed}",
    }


# ---------------------------------------------------------------------- tables


def tables(content: Content) -> dict[str, pd.DataFrame]:
    """Makes the CSV tables: places overall and for each task, boards, structures and paired tests."""
    boards = content.boards
    return {
        "overall.csv": _places(content.overall).drop(columns=["mean", "mean_low", "mean_high", "task"]),
        "tasks.csv": _places(content.tasks),
        "boards.csv": pd.DataFrame([{**_facts(b), **asdict(standing)} for b in boards for standing in b.standings]),
        "structures.csv": pd.concat([board.parts.assign(**_facts(board)) for board in boards]),
        "tests.csv": pd.concat([board.tests.assign(**_facts(board)) for board in boards]),
    }


def _places(orders: Sequence[Overall]) -> pd.DataFrame:
    return pd.DataFrame([{**_facts(order), **asdict(place)} for order in orders for place in order.places])


def _facts(part: Board | Overall) -> dict[str, str | int | float | bool]:
    names = (
        "suite",
        "protocol",
        "task",
        "dataset",
        "unseen",
        "metric",
        "unit",
        "higher",
        "primary",
        "shot",
        "modality",
    )
    return {name: getattr(part, name) for name in names if hasattr(part, name)}


def markdown(content: Content) -> str:
    """Writes overall places and the primary boards as Markdown."""
    parts = [f"# {content.title}"]
    for order in (*content.overall, *content.tasks):
        head = [
            "rank",
            "model",
            "mean rank",
            "score",
            "mean",
            "first in",
            "complete",
            "missing",
            "failures",
            "trained on",
        ]
        rows = [
            [
                _rank(place.rank, place.rank_low, place.rank_high),
                place.entrant,
                f"{place.mean_rank:.2f}",
                cell(place.score, place.score_low, place.score_high),
                cell(place.mean, place.mean_low, place.mean_high),
                f"{place.first:.0%}",
                f"{place.boards}/{order.boards}",
                str(place.missing),
                str(place.failures),
                str(place.contaminated),
            ]
            for place in order.places
        ]
        heading = words(order.task).capitalize() or "Overall"
        parts.append(f"## {heading}, {order.suite}, protocol {order.protocol}, shot {order.shot}")
        parts.append(_markdown_table(head, rows))
    for board in content.boards:
        if board.primary:
            unseen = f", unseen {board.unseen}" if board.unseen else ""
            parts.append(f"## {board.dataset}: {board.task}{unseen}, shot {board.shot} ({board.suite})")
            parts.append(_board_table(board))
    notes = "; ".join(f"{name}: {text}" for name, text in content.provenance.items())
    return "\n\n".join([*parts, "Intervals: 95 % bootstrap over patients.", notes]) + "\n"


def _board_table(board: Board) -> str:
    head = [
        "rank",
        "model",
        f"{title(board.metric)} {board.unit}".strip(),
        "p vs first",
        "missing",
        "failures",
        "trained on it",
    ]
    rows = [
        [
            _rank(standing.rank, standing.rank_low, standing.rank_high),
            standing.entrant,
            cell(standing.mean, standing.low, standing.high) if math.isfinite(standing.mean) else "no limit",
            "" if math.isnan(standing.p) else f"{standing.p:.3g}",
            str(standing.missing),
            str(standing.failures),
            "yes" if standing.contaminated else "",
        ]
        for standing in board.standings
    ]
    return _markdown_table(head, rows)


def _rank(rank: int, low: int, high: int) -> str:
    return f"{rank} ({low}-{high})"


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
