"""What a few examples are worth: weights against copying, the mean of targets, and a U-Net trained on the same ones.

    MVG_DATA=/data python -m benchmarks.evidence --output results --final [--weights W] [--minutes 3]

Segmentation on the test patients of a suite, with 1, 2, 4, 8 and 16 examples, each in eight draws, the same for all
that answer. Records are those of `mvg benchmark run`, one folder for each in `--output`, so that a run that was ended
goes on and `mvg benchmark leaderboard` reads them; `table.md` and `curve.png` are computed from them. Nothing may be
chosen by data sets that a suite declares unseen: they are asked with `--final` alone, once everything is settled.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
import torch

from benchmarks import records
from benchmarks.entrant import Entrant
from benchmarks.entrants import Trivial
from benchmarks.runner import Run, blocks, run
from benchmarks.scratch import FromScratch
from benchmarks.suite import Suite, load_suite
from benchmarks.summary import cell, interval, per_patient
from benchmarks.trained import Trained
from mvg.hub import shipped

matplotlib.use("Agg")
from matplotlib import pyplot as plt

METRIC = "dice"
ORDER = ("network", "nearest", "mean", "U-Net")


def seen_sets(suite: Suite) -> list[str]:
    """Names of the data sets that a suite does not declare unseen."""
    return [name for name, held in suite.sets.items() if not held.unseen]


def asked_sets(suite: Suite, names: Sequence[str] | None, final: bool) -> list[str]:
    """Names the data sets that may be asked: those that are wanted, or all.

    Raises:
        ValueError: If one is unknown, or declared unseen and the evaluation is not final.
    """
    wanted = list(names or (suite.sets if final else seen_sets(suite)))
    suite.questions(wanted)
    if not final and (kept := [name for name in wanted if name not in seen_sets(suite)]):
        raise ValueError(
            f"{', '.join(kept)} may decide nothing and is asked once all is settled; then add --final, or leave it out"
        )
    return wanted


def chosen_sets(suite: Suite, names: Sequence[str] | None, final: bool) -> list[str]:
    """Names the data sets to be asked for structures; see `asked_sets`."""
    wanted = asked_sets(suite, names, final)
    known = {question.dataset for question in suite.questions(wanted) if question.label is not None}
    return [name for name in wanted if name in known]


def entrants(options: argparse.Namespace) -> list[Entrant]:
    """Makes all that answer."""
    made: dict[str, Entrant] = {
        "network": Trained(options.weights or shipped("2d"), "network", options.device, options.slices),
        "nearest": Trivial("nearest"),
        "mean": Trivial("mean"),
    }
    if options.minutes > 0:
        made["U-Net"] = FromScratch(options.minutes, options.size)
    return list(made.values())


def summary(found: Sequence[records.Record]) -> pd.DataFrame:
    """One row a data set, number of examples and entrant: the mean over draws, then patients, then structures.

    Draws and structures that some entrant lacks are left out, so that all are compared on the same questions.

    Args:
        found: Records of all entrants.

    Returns:
        Columns `dataset`, `unseen`, `shot`, `entrant`, `mean`, `low`, `high` (95 % bootstrap over patients), `spread`
        (standard deviation of the draws), `draws`, `patients` and `structures`.
    """
    kept = [vars_of(record) for record in found if record.metric == METRIC]
    frame, rows = pd.DataFrame(kept), []
    for (dataset, shot), part in frame.groupby(["dataset", "shot"]):
        asked = [set(own["asked"]) for _, own in part.groupby("entrant")]
        part = part[part["asked"].isin(set.intersection(*asked))]
        for entrant, own in part.groupby("entrant"):
            values = per_patient(own, str(entrant))
            mean, low, high = interval(values.to_numpy(dtype=float))
            draws = own.groupby(["draw", "variant"])["value"].mean().groupby("draw").mean()
            counts = (len(draws), len(values), values.shape[1])
            spread = float(draws.std(ddof=1)) if len(draws) > 1 else float("nan")
            unseen = bool(own["unseen"].any())
            rows.append([dataset, unseen, shot, entrant, mean, low, high, spread, *counts])
    names = ["dataset", "unseen", "shot", "entrant", "mean", "low", "high", "spread", "draws", "patients", "structures"]
    return pd.DataFrame(rows, columns=names)


def vars_of(record: records.Record) -> dict[str, object]:
    """The parts of a record that a summary needs; `asked` is what all entrants must have answered."""
    return {
        "dataset": record.dataset,
        "unseen": bool(set(record.unseen) & {"organ", "modality"}),
        "shot": record.shot,
        "draw": record.draw,
        "variant": record.structure,
        "case": record.case,
        "patient": record.patient,
        "entrant": record.entrant,
        "value": record.value,
        "asked": (record.structure, record.draw, record.case, record.context_hash),
    }


def table(rows: pd.DataFrame) -> str:
    """Writes a summary as Markdown: a row a data set and number of examples, a column an entrant."""
    names = [name for name in ORDER if name in set(rows["entrant"])]
    lines = [
        "| " + " | ".join(["data set", "patients", "structures", "draws", "examples", *names]) + " |",
        "| --- |" + " ---: |" * 4 + " --- |" * len(names),
    ]
    for (dataset, shot), part in rows.groupby(["dataset", "shot"], sort=False):
        found = {row.entrant: row for row in part.itertuples()}
        first = next(iter(found.values()))
        star = " (unseen)" if first.unseen else ""
        facts = [f"{dataset}{star}", first.patients, first.structures, first.draws, shot]
        cells = [_text(found[name]) if name in found else "" for name in names]
        lines.append("| " + " | ".join([*map(str, facts), *cells]) + " |")
    return "\n".join(lines)


def _text(row: object) -> str:
    """A mean with its interval over patients, and the spread of the draws."""
    text = cell(row.mean, row.low, row.high)  # type: ignore[attr-defined]
    return f"{text} ± {row.spread:.2f}" if row.spread == row.spread else text  # type: ignore[attr-defined]


def plot(rows: pd.DataFrame, path: Path) -> None:
    """Draws the score against the number of examples, a panel a data set, a line an entrant; bands span the draws."""
    panels = list(rows.groupby("dataset", sort=False))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 4), squeeze=False, sharey=True)
    for axis, (dataset, part) in zip(axes[0], panels, strict=True):
        for name in (name for name in ORDER if name in set(part["entrant"])):
            line = part[part["entrant"] == name].sort_values("shot")
            axis.plot(line["shot"], line["mean"], marker="o", label=name)
            spread = line["spread"].fillna(0)
            axis.fill_between(line["shot"], line["mean"] - spread, line["mean"] + spread, alpha=0.15)
        ticks = sorted(part["shot"].unique())
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set(title=f"{dataset}{' (unseen)' if part['unseen'].any() else ''}", xlabel="examples", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel(METRIC)
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def evidence(options: argparse.Namespace) -> str:
    """Asks what is not recorded yet, writes all files, and returns the table.

    Raises:
        ValueError: If unseen data sets are named before the evaluation is final, or nothing can be scored.
    """
    suite, found = load_suite(options.suite), list[records.Record]()
    names = chosen_sets(suite, options.datasets, options.final)
    for entrant in entrants(options):
        draws = min(options.draws, options.unet_draws) if entrant.name == "U-Net" else options.draws
        todo = blocks(suite, entrant, names, options.shots, draws, options.limit)
        work = Run(suite, entrant, options.output / entrant.name.lower())
        run(work, [block for block in todo if block.question.label is not None])
        found += records.read(work.output)
    rows = summary([record for record in found if record.dataset in names])
    if not len(rows):
        raise ValueError(f"no question of {', '.join(names)} was answered by all; ask for fewer examples (--shots)")
    text = table(rows)
    (options.output / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(rows, options.output / "curve.png")
    return text


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="folder of the network; by default the 2D weights of the installation")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument("--suite", default="configs/suites/open_small.yaml", help="what is asked")
    parser.add_argument("--datasets", nargs="+", help="names of data sets; by default all that may be asked")
    parser.add_argument("--final", action="store_true", help="ask unseen data sets, too: everything is settled")
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8, 16], help="numbers of examples")
    parser.add_argument("--draws", type=int, default=8, help="draws of the examples")
    parser.add_argument("--unet-draws", type=int, default=8, help="draws on which U-Nets are trained, at most --draws")
    parser.add_argument("--minutes", type=float, default=3.0, help="training time of each U-Net; 0 for none")
    parser.add_argument("--size", type=int, default=128, help="size of the images of U-Nets")
    parser.add_argument("--limit", type=int, help="ask the first cases of each data set only, to try things out")
    parser.add_argument("--slices", type=int, help="most slices of the examples that are shown; one a case by default")
    parser.add_argument("--device", default="cpu", help="where the network runs, cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    options = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    sys.stdout.write(evidence(options) + "\n")


if __name__ == "__main__":
    main()
