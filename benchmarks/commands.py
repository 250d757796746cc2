"""Scores entrants on suites: `mvg benchmark cases`, `run`, `export` and `leaderboard`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import challenger, records
from benchmarks.case_pictures import draw_cases
from benchmarks.entrants import find_entrant
from benchmarks.run_facts import note_pass
from benchmarks.runner import Run, blocks
from benchmarks.runner import run as run_blocks
from benchmarks.suite import list_cases, load_suite, write_cases
from mvg.files import write_atomically
from mvg.prediction.precision import Precision
from mvg.prediction.scales import Scales

log = logging.getLogger(__name__)


def benchmark(args: Sequence[str]) -> None:
    """Scores entrants on suites, and builds tables of them: cases, run, export, leaderboard.

    Args:
        args: The words after `mvg benchmark`.
    """
    from jsonargparse import auto_cli

    if args and args[0] == "leaderboard":
        from benchmarks.leaderboard import leaderboard

        leaderboard(list(args[1:]))
        return
    auto_cli(
        {"run": run, "cases": cases, "export": export},
        args=list(args),
        as_positional=False,
        parser_mode="omegaconf",
        prog="mvg benchmark",
        exit_on_error=False,
    )


def run(
    suite: Path,
    output: Path,
    weights: str | None = None,
    entrant: str | None = None,
    predictions: Path | None = None,
    name: str | None = None,
    datasets: list[str] | None = None,
    shots: list[int] | None = None,
    draws: int | None = None,
    cases: int | None = None,
    rank: int = 0,
    ranks: int = 1,
    device: str = "cpu",
    slices: int | None = None,
    answers: Path | None = None,
    case_list: Path | None = None,
    tasks: list[str] | None = None,
    precision: Precision = "32",
    scales: Scales = "auto",
    pictures: bool = True,
) -> None:
    """Scores one entrant on a suite: one record for each case, metric, number of examples and draw of them.

    A run that was ended goes on where it stopped when it is started again. Several processes share one output, each
    with its `rank`; together they write what one would.

    Args:
        suite: The suite, such as configs/suites/open_small.yaml.
        output: Folder of the records, one for each entrant.
        weights: Folder `<run>/weights`, or `hub:OWNER/NAME`.
        entrant: identity, nearest or mean, which need no weights; swapped, the weights after examples of another
            structure; or the import path of a class with the call of mvg.Predictor (see --allow-class-path).
        predictions: Folder of answers, instead of weights.
        name: Its name in tables; by default that of the run, the folder or the class.
        datasets: Only these data sets of the suite.
        shots: Numbers of examples; by default those of the suite.
        draws: Number of draws of the examples; by default that of the suite.
        cases: Ask the first cases of every question only. With this, fewer `draws` or fewer `shots` a run is quick:
            `run.json` says so, tables mark it, and the same command without them asks what is missing.
        rank: Number of this process, from 0.
        ranks: Number of processes that share the work.
        device: Where the network runs, "cpu" or "cuda".
        slices: Largest number of slices that a pass of a 2D network sees of the examples; by default one for each.
        answers: Folder where the answers are kept, too.
        case_list: List of cases, instead of the one that the suite names.
        tasks: Only these kinds of task, such as segmentation; for entrants that were made for them alone.
        precision: "bf16" computes in bfloat16 where PyTorch deems it safe: several times as fast on new processors.
        scales: At which scales weights answer, as in mvg predict: "whole", "full" or "coarse-to-fine"; "auto" takes the
            last for networks for volumes, and for restoration by 2D networks; else these answer whole.
        pictures: Draw the best, the median and the worst case of every task of a data set.

    Raises:
        ValueError: If options do not fit together, weights were trained on what is asked, or files are not those of the
            suite.
    """
    torch.manual_seed(0)
    asked = find_entrant(weights, entrant, predictions, name, device, slices, precision, scales)
    asked.tasks = tuple(tasks or ())
    work = Run(load_suite(suite, case_list), asked, output, answers, rank, ranks)
    todo = blocks(work.suite, asked, datasets, shots, draws, cases)
    failures = run_blocks(work, todo)
    note_pass(output, datasets, shots, draws, cases, f"{rank} of {ranks}")
    if pictures and not rank:
        draw_cases(work, todo)
    log.info("%s: %s answered, %d answers failed; records in %s", work.suite.name, asked.name, failures, work.file)


def cases(suite: Path, output: Path | None = None, overwrite: bool = False) -> None:
    """Writes the list of cases of a suite: names, patients, splits, and hashes of all files.

    Args:
        suite: The suite.
        output: The list, CSV; by default where the suite looks for it.
        overwrite: Replace a list that exists.

    Raises:
        ValueError: If files are missing, a patient or a file is both for training and for tests, or the list exists.
    """
    read = load_suite(suite)
    path = output or read.path
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; choose another name or say --overwrite true")
    found = list_cases(read)
    write_cases(path, found)
    for name in read.sets:
        splits = [case.split for case in found if case.dataset == name]
        log.info("%s: %d training and %d test cases", name, splits.count("train"), splits.count("test"))


def export(
    inputs: list[Path], output: Path, metric: str = "dice", shot: int | None = None, format: str = "challenger"
) -> None:
    """Writes records for other tools.

    Args:
        inputs: Folders with records below them, or files of records (.csv, .csv.gz), one or more.
        output: The table, CSV.
        metric: Name of the metric.
        shot: Number of examples; may be left out where there is one.
        format: "challenger": the columns Task, TestCase, Algorithm, MetricValue, for the R package challengeR.

    Raises:
        ValueError: If the format is unknown, or the records do not hold what is asked for.
    """
    if format != "challenger":
        raise ValueError(f"`format` must be challenger, got {format!r}")
    found = records.read_all(inputs)
    text = challenger.to_challenger(found, metric, shot)
    write_atomically(output, lambda file: file.write(text.encode()))
    log.info("%s: %d rows of %s", output, text.count("\n") - 1, metric)
