"""What is computed from the records of `benchmarks.adapt`: learning rates, a table and curves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd

from benchmarks.evaluation import ABSENT
from benchmarks.summary import PRIMARY, cell, interval, per_patient

matplotlib.use("Agg")
from matplotlib import pyplot as plt

logger = logging.getLogger(__name__)


def means_of_rates(records: pd.DataFrame) -> pd.Series:
    """Mean score of each method and learning rate, over patients first, then over classes, sources, cases and seeds."""
    trained = records[(records["metric"].isin(PRIMARY)) & (records["rate"] > 0)]
    keys = ["entrant", "rate", "source", "task", "cases", "seed", "variant"]
    scores = trained.groupby(keys)["value"].mean().groupby(keys[:-1]).mean()
    found: pd.Series = scores.groupby(keys[:2]).mean()
    return found


def best_rates(records: pd.DataFrame) -> dict[str, float]:
    """Chooses the learning rate of each method with the best mean score."""
    means = means_of_rates(records)
    return {str(name): float(part.idxmax()[1]) for name, part in means.groupby("entrant")}


def rates_table(records: pd.DataFrame) -> str:
    """Writes the mean score of each method at each learning rate as Markdown; the best one is bold."""
    lines = ["| method | learning rate: mean score |", "| --- | --- |"]
    for name, part in means_of_rates(records).groupby("entrant"):
        cells = [f"{rate:g}: {value:.3f}" for (_, rate), value in part.items()]
        place = int(part.to_numpy().argmax())
        cells[place] = f"**{cells[place]}**"
        lines.append(f"| {name} | {', '.join(cells)} |")
    return "\n".join(lines)


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """One row a source, number of cases and entrant: the mean over patients and seeds, over the classes of all rows.

    Args:
        records: Of all jobs.

    Returns:
        Columns `source`, `task`, `cases`, `entrant`, `metric`, `mean`, `low`, `high`, `patients`, `variants`.
    """
    scores = records[(records["metric"] != ABSENT) & records["metric"].isin(PRIMARY)]
    rows = []
    for (source, task), part in scores.groupby(["source", "task"]):
        sets = [set(found["variant"]) for _, found in part.groupby(["cases", "entrant", "seed"])]
        common = set.intersection(*sets)
        if not common:
            logger.warning(
                "%s/%s: no class is shown by the cases of every job; it is left out of the table", source, task
            )
            continue
        for (number, entrant, metric), found in part[part["variant"].isin(common)].groupby(
            ["cases", "entrant", "metric"]
        ):
            values = per_patient(found, str(entrant))
            mean, low, high = interval(values.to_numpy(dtype=float))
            rows.append([source, task, number, entrant, metric, mean, low, high, len(values), len(common)])
    columns = ["source", "task", "cases", "entrant", "metric", "mean", "low", "high", "patients", "variants"]
    return pd.DataFrame(rows, columns=columns)


def table(rows: pd.DataFrame, methods: Sequence[str]) -> str:
    """Writes a summary as Markdown: a row a source and number of cases, a column an entrant, methods first."""
    entrants = sorted(rows["entrant"].unique(), key=lambda name: (methods.index(name) if name in methods else 99, name))
    lines = [
        "| " + " | ".join(["task", "metric", "classes", "patients", "cases", *entrants]) + " |",
        "| --- | --- |" + " ---: |" * 3 + " --- |" * len(entrants),
    ]
    for (source, task, metric, number), part in rows.groupby(["source", "task", "metric", "cases"]):
        found = {row.entrant: cell(row.mean, row.low, row.high) for row in part.itertuples()}
        facts = [f"{source}/{task}", metric, part["variants"].max(), part["patients"].max(), number]
        lines.append("| " + " | ".join([*map(str, facts), *(found.get(name, "") for name in entrants)]) + " |")
    return "\n".join(lines)


def draw_curves(rows: pd.DataFrame, methods: Sequence[str], path: Path) -> None:
    """Draws the score against the number of cases, a panel a source and task, a line a method."""
    panels = list(rows.groupby(["source", "task", "metric"]))
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for axis, ((source, task, metric), part) in zip(axes[0], panels, strict=True):
        for method in (name for name in methods if name in set(part["entrant"])):
            line = part[part["entrant"] == method].sort_values("cases")
            axis.plot(line["cases"], line["mean"], marker="o", label=method)
            axis.fill_between(line["cases"], line["low"], line["high"], alpha=0.1)
        ticks = sorted(part["cases"].unique())
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set(title=f"{source}/{task}", xlabel="labelled cases", ylabel=metric)
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
