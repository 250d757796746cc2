"""The report of a test: one record a case, entrant and metric, and the table computed from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from mvg.controls import CONTROLS, TRIVIAL, Paints, control_answers, trivial_answers
from mvg.episode import Episode, Pair, Spec
from mvg.files import write_whole
from mvg.task import Task

log = logging.getLogger(__name__)

NETWORK = "network"
ENTRANTS = (NETWORK, *TRIVIAL, *CONTROLS)


class Report:
    """Collects records on one process and joins them over all."""

    def __init__(self) -> None:
        self.records: list[dict[str, str | int | float]] = []

    def add(self, network: Paints, episode: Episode, tasks: Mapping[str, Task]) -> None:
        """Scores every answer to a batch."""
        answers = {NETWORK: network(episode.image, episode.context_images, episode.context_targets)}
        answers |= trivial_answers(episode) | control_answers(network, episode)
        for entrant, painted in answers.items():
            self._score(entrant, finite(painted.float().cpu(), episode.cases), episode, tasks)

    def _score(self, entrant: str, painted: Tensor, episode: Episode, tasks: Mapping[str, Task]) -> None:
        for number, name in enumerate(episode.tasks):
            task, target, spec = tasks[name], episode.target[number], episode.specs[number]
            if entrant in CONTROLS[1:] and not self._swappable(episode, number):
                continue
            if entrant == CONTROLS[2]:
                target, spec = self._swapped(episode, number)
            pair = Pair(episode.image[number].cpu(), target.cpu(), episode.weight[number].cpu())
            for metric, value in task.score(painted[number], pair, spec).items():
                if math.isfinite(value):
                    self.records.append(
                        {
                            "task": name,
                            "entrant": entrant,
                            "metric": metric,
                            "case": episode.cases[number],
                            "context": " ".join(episode.context_cases[number]),
                            "examples": episode.context_size,
                            "value": value,
                            "primary": int(metric == task.primary),
                        }
                    )

    @staticmethod
    def _swappable(episode: Episode, number: int) -> bool:
        return episode.swappable is not None and bool(episode.swappable[number])

    @staticmethod
    def _swapped(episode: Episode, number: int) -> tuple[Tensor, Spec]:
        if episode.swap_target is None:
            raise ValueError("an episode without swapped targets has no task swap")
        return episode.swap_target[number], episode.swap_specs[number]

    def gather(self) -> None:
        """Joins the records of all processes."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[list[dict[str, str | int | float]]] = [[] for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(parts, self.records)
            self.records = [record for part in parts for record in part]

    def table(self) -> pd.DataFrame:
        """Means of each task's primary metric, tasks by entrants; NaN where an entrant does not apply."""
        frame = pd.DataFrame(self.records)
        frame = frame[frame["primary"] == 1]
        wide = frame.pivot_table(index=["task", "metric"], columns="entrant", values="value", aggfunc="mean")
        return wide.reindex(columns=[entrant for entrant in ENTRANTS if entrant in wide.columns])

    def write(self, folder: str | Path) -> None:
        """Writes `report.csv` (every record) and `report.md` (the table) into a run folder and prints the table."""
        if not self.records:
            log.warning("the test drew no episode: nothing to report")
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = markdown(self.table())
        records = pd.DataFrame(self.records).to_csv(index=False)
        write_whole({folder / "report.csv": records.encode(), folder / "report.md": f"{text}\n".encode()})
        print(f"\n{text}\n")


def finite(painted: Tensor, cases: Sequence[str] = ()) -> Tensor:
    """Paints 0 where a network painted no number, so that a broken answer scores badly instead of vanishing.

    Args:
        painted: `(B, C, *S)`.
        cases: Case of each answer, for the log.
    """
    broken = ~torch.isfinite(painted)
    if not bool(broken.any()):
        return painted
    where = broken.flatten(1).any(1).nonzero().flatten().tolist()
    log.warning(
        "painted values that are no numbers count as 0, on %s", ", ".join(cases[i] for i in where if i < len(cases))
    )
    return painted.masked_fill(broken, 0)


def markdown(table: pd.DataFrame) -> str:
    """Formats a table of `Report.table` as Markdown."""
    columns = list(table.columns)
    lines = ["| task | metric | " + " | ".join(columns) + " |", "| --- | --- |" + " --- |" * len(columns)]
    for index, row in table.iterrows():
        name, metric = index
        cells = ["" if math.isnan(value) else f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}" for value in row]
        lines.append(f"| {name} | {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
