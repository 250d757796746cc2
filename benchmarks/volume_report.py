"""Tables and curves of `benchmarks.volumes`, computed from records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.evaluation import ABSENT, Record
from benchmarks.summary import PRIMARY, cell, interval, per_patient, table
from mvg.controls import CONTROLS, TRIVIAL

TRIVIAL_ARM, UNET = "trivial", "U-Net"


def labelled(records: Sequence[Record]) -> pd.DataFrame:
    """Names entrants by arm and way; trivial answers and U-Nets keep their own names."""
    frame = pd.DataFrame(records)
    plain = frame["arm"].isin([TRIVIAL_ARM, UNET]) | (frame["metric"] == ABSENT)
    frame["entrant"] = frame["entrant"].where(plain, frame["arm"] + ", " + frame["entrant"])
    return frame.drop_duplicates(["source", "task", "variant", "case", "entrant", "metric", "shot"])


def at(frame: pd.DataFrame, shots: int, entrants: Sequence[str]) -> pd.DataFrame:
    """Records of some entrants after some number of examples; U-Nets need none, and count for all numbers."""
    known = (frame["shot"] == shots) | (frame["entrant"] == UNET) | (frame["metric"] == ABSENT)
    found = frame[known & (frame["entrant"].isin(entrants) | (frame["metric"] == ABSENT))]
    order = {name: number for number, name in enumerate(entrants)}
    return found.sort_values("entrant", key=lambda names: names.map(order).fillna(-1), kind="stable")


def report(records: Sequence[Record], ways: Mapping[str, Sequence[str]]) -> str:
    """Writes the tables of a split.

    Args:
        records: Those of all jobs.
        ways: Arm to the ways in which it answers, its main one first; the first arm is compared with the others.
    """
    frame = labelled(records)
    arms = [f"{arm}, {own[0]}" for arm, own in ways.items()]
    every = [f"{arm}, {way}" for arm, own in ways.items() for way in own]
    shown = [*arms, UNET, *TRIVIAL]
    parts = []
    for shots in sorted(int(n) for n in frame.loc[frame["metric"] != ABSENT, "shot"].unique()):
        name = f"{shots} example" + ("s" if shots > 1 else "")
        parts += [f"## {name}", _table(at(frame, shots, shown))]
        if arms:
            others = [entrant for entrant in [*every, UNET] if entrant != arms[0]]
            text = f"### {name}: the others minus {arms[0]}, on the same patients"
            parts += [text, differences(at(frame, shots, [arms[0], *others]), arms[0], others)]
    swaps = [f"{arm}, {name}" for arm in ways for name in CONTROLS[1:]]
    if frame["entrant"].isin(swaps).any():
        first = int(frame.loc[frame["entrant"].isin(swaps), "shot"].min())
        swapped = frame["entrant"].isin(swaps)
        keys = ["source", "task", "variant", "case"]
        both = frame.merge(frame.loc[swapped, keys].drop_duplicates(), on=keys)
        parts += ["## Task swap, where there is another structure", _table(at(both, first, [*arms, *swaps]))]
    return "\n\n".join(parts)


def _table(frame: pd.DataFrame) -> str:
    return table(frame.to_dict("records"), paired=False) if len(frame) else ""


def differences(frame: pd.DataFrame, base: str, others: Sequence[str]) -> str:
    """Writes differences to an entrant with 95 % bootstrap intervals over patients, a row a source, task and metric."""
    present = [entrant for entrant in others if (frame["entrant"] == entrant).any()]
    lines = [
        "| " + " | ".join(["task", "metric", "patients", *present]) + " |",
        "| --- | --- | ---: |" + " --- |" * len(present),
    ]
    for (source, task, metric), part in frame[frame["metric"].isin(PRIMARY)].groupby(
        ["source", "task", "metric"], sort=False
    ):
        own = per_patient(part, base)
        if own.empty:
            continue
        gaps = [per_patient(part, entrant) - own for entrant in present]
        cells = [cell(*interval(gap.to_numpy(dtype=float))) if gap.size else "" for gap in gaps]
        lines.append("| " + " | ".join([f"{source}/{task}", str(metric), str(len(own)), *cells]) + " |")
    return "\n".join(lines)


def draw_curves(records: Sequence[Record], ways: Mapping[str, Sequence[str]], path: Path) -> None:
    """Draws primary metrics against the number of examples, a panel a source and task, with 95 % intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frame = labelled(records)
    frame = frame[frame["metric"].isin(PRIMARY)]
    panels = list(frame.groupby(["source", "task", "metric"], sort=True))
    columns = min(4, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(3.6 * columns, 2.8 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    entrants = [f"{arm}, {way}" for arm, own in ways.items() for way in own] + [UNET, *TRIVIAL]
    for number, ((source, task, metric), part) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1, title=f"{source}/{task}", ylabel=metric)
        for place, entrant in enumerate(entrants):
            _curve(axes, part[part["entrant"] == entrant], entrant, f"C{place % 10}", sorted(part["shot"].unique()))
        axes.set_xscale("log", base=2)
        axes.set_xlabel("examples")
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=100)


def _curve(axes: object, part: pd.DataFrame, entrant: str, colour: str, shots: Sequence[int]) -> None:
    """Draws one entrant; what needs no examples is a level line."""
    if part.empty:
        return
    level = entrant in (UNET, TRIVIAL[0])
    values = [(n, *interval(per_patient(part[part["shot"] == n], entrant).to_numpy(dtype=float))) for n in shots]
    points = np.array([v for v in values if not np.isnan(v[1])])
    style = "--" if entrant in (UNET, *TRIVIAL) else "-"
    if level:
        axes.axhline(points[0, 1], color=colour, ls=style, label=entrant)  # type: ignore[attr-defined]
        return
    axes.plot(points[:, 0], points[:, 1], style, marker="o", ms=3, color=colour, label=entrant)  # type: ignore[attr-defined]
    axes.fill_between(points[:, 0], points[:, 2], points[:, 3], color=colour, alpha=0.1)  # type: ignore[attr-defined]
