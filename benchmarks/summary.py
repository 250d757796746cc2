"""Tables computed from records: means over patients, bootstrap intervals, paired differences."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks.evaluation import ABSENT, Record
from mvg.controls import TRIVIAL
from mvg.report import NETWORK
from tasks import Inpainting, Segmentation, Synthesis

HIGHER = {**Segmentation.metrics, **Inpainting.metrics, **Synthesis.metrics}
"""Metric to whether higher is better."""
PRIMARY = tuple(dict.fromkeys(task.primary for task in (Segmentation, Synthesis, Inpainting)))
DIFFERENCE = "network - best trivial"

_DRAWS = 2000


def per_patient(frame: pd.DataFrame, entrant: str) -> pd.DataFrame:
    """Values of an entrant, patients by variants: the mean over the cases of a patient, NaN where there is none.

    Args:
        frame: Records of one source, task and metric.
        entrant: Its name.
    """
    return frame[frame["entrant"] == entrant].pivot_table(
        index="patient", columns="variant", values="value", aggfunc="mean"
    )


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Returns mean and 95 % bootstrap interval over patients.

    Args:
        values: `(patients, variants)`, NaN where a patient lacks a variant. The mean is taken over patients first,
            then over variants.
        seed: Seed of the bootstrap.

    Returns:
        Mean, low and high; low and high are NaN for fewer than two patients.
    """
    known = ~np.isnan(values)
    if not known.any():
        return math.nan, math.nan, math.nan
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=_DRAWS)
    counts = np.concatenate([np.ones((1, len(values))), counts])
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.nanmean((counts @ np.where(known, values, 0)) / (counts @ known), axis=1)
        low, high = np.nanpercentile(means[1:], [2.5, 97.5]) if len(values) > 1 else (math.nan, math.nan)
    return float(means[0]), float(low), float(high)


def summarise(records: Sequence[Record], by_variant: bool = True) -> pd.DataFrame:
    """Computes one row for each source, task, variant, metric and entrant.

    Args:
        records: What `evaluate` returned.
        by_variant: One row for each class, kind or direction; else their mean, with the variant "".

    Returns:
        Columns `source`, `task`, `variant`, `metric`, `entrant`, `mean`, `low`, `high`, `patients`, `cases`, and
        `absent`, the number of cases that do not show the class.
    """
    frame = pd.DataFrame(records)
    keys = ["source", "task", *(["variant"] if by_variant else [])]
    scored, missing = frame[frame["metric"] != ABSENT], frame[frame["metric"] == ABSENT]
    absent = missing.groupby(keys)["case"].size().to_dict()
    rows = []
    for key, part in scored.groupby([*keys, "metric", "entrant"], sort=False):
        names = key if isinstance(key, tuple) else (key,)
        values = per_patient(part, str(names[-1]))
        mean, low, high = interval(values.to_numpy(dtype=float))
        rows.append(
            {
                **dict(zip([*keys, "metric", "entrant"], names, strict=True)),
                "mean": mean,
                "low": low,
                "high": high,
                "patients": len(values),
                "cases": int(part["case"].nunique()),
                "absent": int(absent.get(names[: len(keys)], 0)),
            }
        )
    return pd.DataFrame(rows) if by_variant else pd.DataFrame(rows).assign(variant="")


def difference(records: Sequence[Record], source: str, task: str, metric: str) -> tuple[str, float, float, float]:
    """Compares the network with the best trivial answer, patient by patient.

    Returns:
        The name of that answer, and mean, low and high of network minus answer (paired bootstrap over patients).
    """
    frame = pd.DataFrame(records)
    frame = frame[(frame["source"] == source) & (frame["task"] == task) & (frame["metric"] == metric)]
    means = {name: interval(per_patient(frame, name).to_numpy(dtype=float))[0] for name in TRIVIAL}
    sign = 1 if HIGHER[metric] else -1
    best = max((name for name in means if not math.isnan(means[name])), key=lambda name: sign * means[name], default="")
    if not best:
        return "", math.nan, math.nan, math.nan
    paired = per_patient(frame, NETWORK) - per_patient(frame, best)
    return best, *interval(paired.to_numpy(dtype=float))


def table(
    records: Sequence[Record], by_variant: bool = False, metrics: Sequence[str] = PRIMARY, paired: bool = True
) -> str:
    """Writes means and intervals as Markdown: a row for each source, task and metric, a column for each entrant.

    Args:
        records: What `evaluate` returned.
        by_variant: A row for each class, kind or direction.
        metrics: Metrics to show.
        paired: Add a column with the difference between the network and the best trivial answer.
    """
    summary = summarise(records, by_variant)
    summary = summary[summary["metric"].isin(metrics)]
    entrants = list(dict.fromkeys(summary["entrant"]))
    paired = paired and not by_variant and NETWORK in entrants
    head = ["task", "metric", "patients", *entrants, *([DIFFERENCE] if paired else [])]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | ---: |" + " --- |" * (len(head) - 3)]
    for key, part in summary.groupby(["source", "task", "variant", "metric"], sort=False):
        source, task, variant, metric = (str(name) for name in key)
        found = {row.entrant: cell(row.mean, row.low, row.high) for row in part.itertuples()}
        name = "/".join(word for word in (source, task, variant) if word)
        cells = [name, metric, str(part["patients"].max()), *(found.get(entrant, "") for entrant in entrants)]
        if paired:
            best, *numbers = difference(records, source, task, metric)
            cells.append(f"{cell(*numbers)} ({best})" if best else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(mean: float, low: float = math.nan, high: float = math.nan) -> str:
    """Formats a mean with its interval, to three digits for shares and two for decibels.

    >>> cell(0.81234, 0.7, 0.9), cell(25.678), cell(float("nan"))
    ('0.812 [0.700, 0.900]', '25.68', '')
    """
    if math.isnan(mean):
        return ""
    digits = 3 if max(abs(value) for value in (mean, low, high) if not math.isnan(value)) < 2 else 2
    text = f"{mean:.{digits}f}"
    return text if math.isnan(low) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"
