"""How much a few labelled cases help: examples alone, adapters, and U-Nets from scratch, on unseen data.

    MVG_DATA=/data python -m benchmarks.adapt --weights runs/real_2d/weights --output results [--minutes 3]

For every source, number of cases and method one job is run: the same cases for all methods, smaller numbers being part
of larger ones, and the same test patients. "context" shows the cases to the network as they are; "prompt", "lora",
"head" and "full" adapt it to them first, as `mvg adapt` does, the trainings that validate within the same minutes;
"unet" trains a U-Net on nothing else. Each finished job
leaves one file in `jobs/`, and is not run again when the command is started anew. From all of them the command writes
`records.csv`, `table.md` and `curve.png`.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch

from benchmarks.evaluation import ABSENT, Entrant, Protocol, Record, ask, episodes, load_data, network_entrant
from benchmarks.questions import questions
from benchmarks.summary import PRIMARY, cell, interval, per_patient
from benchmarks.unet import train_unets, unet_entrant
from mvg import weights
from mvg.adaptation.cases import Case
from mvg.adaptation.methods import Adaptation, merge, restore
from mvg.adaptation.training import RATES, Plan, adapt_to_cases
from mvg.data import EpisodeDataModule
from mvg.data.episodes import repeat_channels
from mvg.data.geometry import fit, place
from mvg.data.source import Index, Source
from mvg.data.subject import Item, Subject
from mvg.files import write_whole
from mvg.models.base import InContextModel
from mvg.prediction.context import Example, present
from mvg.prediction.slices import Slice
from tasks import Segmentation
from tasks.labels import known_classes
from tasks.painting import gather

matplotlib.use("Agg")
from matplotlib import pyplot as plt

logger = logging.getLogger(__name__)

METHODS = ("context", "prompt", "lora", "head", "full", "unet")
EXAMPLES = 4
"""Largest number of examples that a query is shown."""


@dataclass(frozen=True)
class Job:
    """One cell of the table.

    Attributes:
        source: Name of the source.
        task: Name of the task.
        cases: Number of labelled cases.
        method: One of `METHODS`.
        seed: Seed of the choice of cases and of training.
    """

    source: str
    task: str
    cases: int
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.source}-{self.task}-{self.cases:03d}-{self.method}-{self.seed}.csv"


class FewCases(Source):
    """A source whose training split holds some of its cases only.

    Args:
        source: The source.
        cases: Names of the cases.
    """

    def __init__(self, source: Source, cases: Sequence[str]) -> None:
        self.source, self.cases = source, frozenset(cases)
        self.name, self.licence, self.class_names = source.name, source.licence, source.class_names

    @property
    def dims(self) -> int:  # type: ignore[override]
        """Number of spatial axes."""
        return self.source.dims

    def items(self, split: str, cohort: int = 0) -> Sequence[Item]:
        """Returns the items of a split; of training those of the cases."""
        found = self.source.items(split, cohort)
        return [item for item in found if item.case in self.cases] if split == "train" else found

    def read(self, item: Item) -> Subject:
        """Reads an item."""
        return self.source.read(item)


def choose_cases(source: Source, number: int, seed: int) -> list[str]:
    """Chooses training cases, no two of one patient, in an order that only the seed decides.

    Raises:
        ValueError: If there are not as many patients.
    """
    first: dict[str, str] = {}
    for item in source.items("train"):
        first.setdefault(item.group, item.case)
    if number > len(first):
        raise ValueError(f"source {source.name!r} has {len(first)} training patients, fewer than {number}")
    names = sorted(first.values())
    return [names[place] for place in np.random.default_rng(seed).permutation(len(names))[:number]]


def narrowed(data: EpisodeDataModule, job: Job) -> EpisodeDataModule:
    """Returns the data module with the source, the task and the cases of a job alone."""
    made = copy.copy(data)
    source = data.sources[job.source]
    made.sources = {job.source: FewCases(source, choose_cases(source, job.cases, job.seed))}
    made.tasks = {job.task: data.tasks[job.task]}
    return made


def labelled_cases(data: EpisodeDataModule, job: Job) -> tuple[list[Case], list[tuple[int, ...]]]:
    """Reads the cases of a job at the network's size, and lists the classes that they show.

    Raises:
        ValueError: If the task is no segmentation in the scheme "binary".
    """
    source, task = data.sources[job.source], data.tasks[job.task]
    if not isinstance(task, Segmentation) or task.scheme != "binary":
        raise ValueError(f'task {job.task!r} is no segmentation in the scheme "binary"; the benchmark is made for that')
    cases: dict[str, list[Slice]] = {}
    for item in source.items("train"):
        subject = source.read(item)
        small = fit(subject, place(subject.shape, data.image_size, data.aspect))
        image = repeat_channels(gather(small, task.roles), data.in_channels, f"images of {job.source}")
        labels = small.labels[task.labels]
        counts = labels.flatten().bincount(minlength=2).tolist()
        entry = Slice(Example(image, labels), item.position, {k: counts[k] for k in present(labels)})
        cases.setdefault(item.case, []).append(entry)
    known = known_classes(Index(source.items("train")), task.labels)
    return [Case(name, tuple(slices)) for name, slices in cases.items()], [(k,) for k in known]


# ---------------------------------------------------------------------- jobs


def run_job(
    job: Job, folder: str, network: InContextModel, data: EpisodeDataModule, options: argparse.Namespace
) -> list[Record]:
    """Trains what a job asks for and scores it on the test patients.

    Args:
        job: The job.
        folder: Folder of the base weights.
        network: The base network; left as it is.
        data: All sources.
        options: The command line.
    """
    few, start = narrowed(data, job), time.monotonic()
    protocol = Protocol("test", 1, job.seed, options.slices, trivial=job.method == "context", swap=False)
    facts: dict[str, Any] = {"cases": job.cases, "minutes": 0.0 if job.method == "context" else options.minutes}
    if job.method == "unet":
        trained = train_unets(few, options.minutes, protocol, workers=0, seed=job.seed)
        entrant = unet_entrant(trained)
    else:
        used, facts["parameters"], facts["steps"] = adapted(job, folder, network, few, options)
        entrant = network_entrant(used)
    facts["train_seconds"] = round(time.monotonic() - start, 1)
    return [{**record, **facts} for record in scored(job, entrant, few, protocol)]


def adapted(
    job: Job, folder: str, network: InContextModel, data: EpisodeDataModule, options: argparse.Namespace
) -> tuple[InContextModel, int, int]:
    """Adapts a copy of the network; returns it with the number of trained parameters and of steps."""
    if job.method == "context":
        return network, 0, 0
    cases, groups = labelled_cases(data, job)
    method: Any = job.method
    plan = Plan(
        Adaptation(method), folder, None, options.minutes, options.rate or RATES[method],
        examples=EXAMPLES, seed=job.seed, device=options.device,
    )  # fmt: skip
    outcome, _ = adapt_to_cases(network, data.tasks[job.task], cases, groups, plan)
    restore(outcome.network, outcome.state)
    merge(outcome.network)
    return outcome.network.eval(), sum(value.numel() for value in outcome.state.values()), outcome.step


def scored(job: Job, entrant: Entrant, data: EpisodeDataModule, protocol: Protocol) -> Iterator[Record]:
    """Asks for every class that the cases show, with up to `EXAMPLES` examples."""
    dataset = episodes(data, protocol)
    contexts = Index(data.sources[job.source].items("train"))
    for question in questions(dataset, job.source, job.task):
        offered = len(contexts.find(tuple(question.spec["context"])))
        if offered:
            shown = replace(protocol, context_size=min(offered, EXAMPLES))
            yield from ask(dataset, question, {job.method: entrant}, shown)


def jobs_of(data: EpisodeDataModule, options: argparse.Namespace) -> list[Job]:
    """Lists all jobs, small numbers of cases first; numbers beyond the patients of a source are left out."""
    found = []
    for source in options.sources or data.sources:
        patients = len({item.group for item in data.sources[source].items("train")})
        for number in options.cases:
            if number > patients:
                logger.warning("%s has %d training patients: %d cases are left out", source, patients, number)
                continue
            found += [
                Job(source, task, number, method, seed)
                for task in data.tasks
                for seed in range(options.seeds)
                for method in options.methods
            ]
    return sorted(found, key=lambda job: (job.seed, job.cases))


# ---------------------------------------------------------------------- table and plot


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


def table(rows: pd.DataFrame) -> str:
    """Writes a summary as Markdown: a row a source and number of cases, a column an entrant."""
    entrants = sorted(rows["entrant"].unique(), key=lambda name: (METHODS.index(name) if name in METHODS else 99, name))
    lines = [
        "| " + " | ".join(["task", "metric", "classes", "patients", "cases", *entrants]) + " |",
        "| --- | --- |" + " ---: |" * 3 + " --- |" * len(entrants),
    ]
    for (source, task, metric, number), part in rows.groupby(["source", "task", "metric", "cases"]):
        found = {row.entrant: cell(row.mean, row.low, row.high) for row in part.itertuples()}
        facts = [f"{source}/{task}", metric, part["variants"].max(), part["patients"].max(), number]
        lines.append("| " + " | ".join([*map(str, facts), *(found.get(name, "") for name in entrants)]) + " |")
    return "\n".join(lines)


def plot(rows: pd.DataFrame, path: Path) -> None:
    """Draws the score against the number of cases, a panel a source and task, a line a method."""
    panels = list(rows.groupby(["source", "task", "metric"]))
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for axis, ((source, task, metric), part) in zip(axes[0], panels, strict=True):
        for method in (name for name in METHODS if name in set(part["entrant"])):
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


def run(options: argparse.Namespace) -> str:
    """Runs the jobs that are not done yet, writes all files, and returns the table."""
    network = weights.load(options.weights)
    data = load_data(options.config, network)
    folder = options.output / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = jobs_of(data, options)
    for number, job in enumerate(jobs, 1):
        path = folder / job.name
        if path.exists():
            continue
        logger.info("job %d of %d: %s", number, len(jobs), path.stem)
        rows = pd.DataFrame(run_job(job, options.weights, network, data, options))
        write_whole({path: rows.to_csv(index=False).encode()})
    records = pd.concat([pd.read_csv(folder / job.name) for job in jobs], ignore_index=True)
    records.to_csv(options.output / "records.csv", index=False)
    rows = summary(records)
    text = table(rows)
    (options.output / "table.md").write_text(text + "\n")
    if len(rows):
        plot(rows, options.output / "curve.png")
    return text


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="folder of the base network, `<run>/weights`")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument("--config", default="configs/data/unseen.yaml", help="sources and tasks")
    parser.add_argument("--sources", nargs="+", help="names of sources; all by default")
    parser.add_argument("--cases", nargs="+", type=int, default=[1, 2, 5, 10, 20], help="numbers of labelled cases")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="what is compared")
    parser.add_argument("--minutes", type=float, default=3.0, help="minutes of training of each job")
    parser.add_argument("--rate", type=float, help="learning rate; by default that of the method")
    parser.add_argument("--seeds", type=int, default=1, help="draws of the cases")
    parser.add_argument("--slices", type=int, help="most slices of a volume, evenly spaced; all by default")
    parser.add_argument("--device", default="cpu", help="where adaptation runs, cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    options = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    sys.stdout.write(run(options) + "\n")


if __name__ == "__main__":
    main()
