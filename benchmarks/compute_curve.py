"""What more training brings: the weights of several moments on questions of a suite, against the minutes before them.

    MVG_DATA=/data python -m benchmarks.compute_curve 25=runs/a/milestones/25min 60=runs/a/weights --output DIR
        [--datasets nerve nuclei --tasks segmentation --shot 4 --draws 1 --final]

Each `MINUTES=FOLDER` is asked the test patients, and leaves records of `mvg benchmark run` in `DIR/MINUTES`; what is
recorded is not asked again. `DIR/table.md` and `DIR/curve.png` show the metric that decides each task. Nothing may be
chosen by it; data sets that the suite declares unseen are asked with `--final` alone.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch

from benchmarks import records
from benchmarks.evidence import asked_sets
from benchmarks.leaderboard.elements import title, words
from benchmarks.protocol import METRICS
from benchmarks.runner import Run, blocks, run
from benchmarks.standings import boards
from benchmarks.suite import load_suite
from benchmarks.trained import Trained
from mvg.files import write_whole

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def read_moments(words: Sequence[str]) -> dict[float, str]:
    """Reads `MINUTES=FOLDER`.

    Raises:
        ValueError: If a word is not so, or two have the same minutes.
    """
    found: dict[float, str] = {}
    for word in words:
        minutes, equals, folder = word.partition("=")
        try:
            moment = float(minutes)
        except ValueError:
            moment = -1.0
        if not equals or not folder or not 0 <= moment < float("inf"):
            raise ValueError(f"a moment is MINUTES=FOLDER, such as 60=runs/mine/weights, got {word!r}")
        if moment in found:
            raise ValueError(f"{moment:g} minutes were given twice, {found[moment]!r} and {folder!r}")
        found[moment] = folder
    return dict(sorted(found.items()))


def curve(options: argparse.Namespace) -> pd.DataFrame:
    """Asks what is not recorded yet.

    Returns:
        A row for each task and data set, a column for each number of minutes: means of the metric in `metric`.

    Raises:
        ValueError: If unseen data sets are named before all is settled, or nothing is asked.
    """
    suite, moments = load_suite(options.suite), read_moments(options.moments)
    names = asked_sets(suite, options.datasets, options.final)
    found = list[records.Record]()
    for minutes, folder in moments.items():
        entrant = Trained(folder, f"{minutes:g}", precision=options.precision)
        entrant.tasks = tuple(options.tasks or ())
        todo = blocks(suite, entrant, names, [options.shot], options.draws, options.cases)
        work = Run(suite, entrant, options.output / f"{minutes:g}")
        run(work, todo)
        found += records.read(work.output)
    rows = list[dict[Any, Any]]()
    for board in boards(found, samples=1):
        if board.primary and board.dataset in names and (not options.tasks or board.task in options.tasks):
            means = {float(standing.entrant): standing.mean for standing in board.standings}
            rows.append({"task": board.task, "data set": board.dataset, "metric": board.metric, **means})
    if not rows:
        raise ValueError(f"nothing of {', '.join(options.tasks or ['the suite'])} is asked of {', '.join(names)}")
    return pd.DataFrame(rows)[["task", "data set", "metric", *moments]]


def table(rows: pd.DataFrame) -> str:
    """Writes the means as Markdown."""
    moments = list(rows.columns[3:])
    lines = ["| task | data set | metric | " + " | ".join(f"{minutes:g} min" for minutes in moments) + " |"]
    lines.append("| --- | --- | --- |" + " ---: |" * len(moments))
    for row in rows.itertuples(index=False):
        values = [f"{value:.1f}" if abs(value) >= 2 else f"{value:.3f}" for value in row[3:]]
        lines.append("| " + " | ".join([*map(str, row[:3]), *values]) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: pd.DataFrame, path: Path) -> None:
    """Draws a panel for each task, a line for each data set."""
    panels, names = list(rows.groupby(["task", "metric"], sort=False)), list(dict.fromkeys(rows["data set"]))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4 * len(panels) + 1.5, 3.6), squeeze=False, layout="constrained"
    )
    lines = {}
    for axis, ((task, metric), part) in zip(axes[0], panels, strict=True):
        for row in part.itertuples(index=False):
            look = {"marker": "o", "markersize": 3, "color": f"C{names.index(row[1]) % 10}"}
            lines[row[1]] = axis.plot(list(rows.columns[3:]), row[3:], **look)[0]
        unit = METRICS[metric].unit
        axis.set(
            title=words(task), xlabel="minutes of training", ylabel=f"{title(metric)}{f', {unit}' if unit else ''}"
        )
        axis.set_ylim(bottom=0 if part.iloc[:, 3:].to_numpy().max() <= 1 else None)
        axis.grid(alpha=0.3)
    figure.legend(lines.values(), lines.keys(), loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moments", nargs="+", metavar="MINUTES=FOLDER", help="weights, and the training before them")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument("--suite", default="configs/suites/open_small.yaml", help="what is asked")
    parser.add_argument("--datasets", nargs="+", help="names of data sets; by default all that may be asked")
    parser.add_argument("--final", action="store_true", help="ask unseen data sets, too: everything is settled")
    parser.add_argument("--tasks", nargs="+", help="only these kinds of task")
    parser.add_argument("--shot", type=int, default=4, help="number of examples")
    parser.add_argument("--draws", type=int, default=1, help="draws of the examples")
    parser.add_argument("--cases", type=int, help="first cases of every question; all by default")
    parser.add_argument("--precision", choices=("bf16", "32"), default="bf16", help="of the answers")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    options = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    try:
        rows = curve(options)
    except ValueError as error:
        parser.error(str(error))
    text = table(rows)
    write_whole({options.output / "table.md": text.encode()})
    plot(rows, options.output / "curve.png")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
