"""Records as the table that challengeR reads: one row a case and algorithm, for one metric."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from statistics import fmean

from benchmarks.records import Record

COLUMNS = ("Task", "TestCase", "Algorithm", "MetricValue")
MISSING = "NA"


def to_challenger(records: Iterable[Record], metric: str, shot: int | None = None) -> str:
    """Writes the values of one metric as CSV.

    A task is a data set, task, variant and structure; the draws of a context are averaged. An algorithm without a value
    for a case that another one answered has `NA`; failed answers have their worst value.

    Args:
        records: What `records.read` returned.
        metric: Name of the metric.
        shot: Number of examples; may be left out where there is one. Answers without examples count for every number.

    Raises:
        ValueError: If no record has the metric, or several numbers of examples were recorded and none is chosen.
    """
    records = list(records)
    chosen = [record for record in records if record.metric == metric]
    if not chosen:
        known = ", ".join(sorted({record.metric for record in records})) or "none"
        raise ValueError(f"no record holds the metric {metric!r}; recorded are: {known}")
    shots = sorted({record.shot for record in chosen} - {0})
    if shot is None and len(shots) > 1:
        raise ValueError(f"numbers of examples must not be mixed; choose one of {shots} with `shot`")
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for record in chosen:
        if record.shot in (0, *(shots if shot is None else [shot])):
            parts = (record.dataset, record.task, record.variant, record.structure)
            place = ("/".join(part for part in parts if part), record.case)
            values.setdefault(place, {}).setdefault(record.entrant, []).append(record.value)
    if not values:
        raise ValueError(f"no record of {metric!r} was made with {shot} examples; recorded are {shots}")
    algorithms = sorted({name for found in values.values() for name in found})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (task, case), found in sorted(values.items()):
        for name in algorithms:
            writer.writerow([task, case, name, repr(fmean(found[name])) if name in found else MISSING])
    return text.getvalue()
