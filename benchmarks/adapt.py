"""How much a few labelled cases help: examples alone, adapters, and U-Nets from scratch, on unseen data.

    MVG_DATA=/data python -m benchmarks.adapt --weights runs/pretrain_2d/weights --output results --split val
    MVG_DATA=/data python -m benchmarks.adapt --weights runs/pretrain_2d/weights --output results --split test

For every source, number of cases and method one job is run: the same cases for all methods, smaller numbers being part
of larger ones, and the same patients that are asked. "context" shows the cases to the network as they are; "prompt",
"lora", "head" and "full" adapt it to them first, as `mvg adapt` does; "unet" trains a U-Net on nothing else.

`--split val` tries several learning rates for each method on validation patients of sets other than those of the table,
and writes the best ones to `rates.json`. `--split test` takes them from there (else those of `mvg adapt`), and asks the
test patients once.

Each finished job leaves one file in `SPLIT/jobs`, and is not run again when the command is started anew. From all of
them the command writes `records.csv`, `table.md` and `curve.png`.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.adapt_report import best_rates, draw_curves, rates_table, summary, table
from benchmarks.evaluation import (
    Entrant,
    Protocol,
    Record,
    ask,
    episodes,
    load_data,
    network_entrant,
)
from benchmarks.jobs import check_asked, run_jobs, write
from benchmarks.questions import questions
from benchmarks.unet import RATE, train_unets, unet_entrant
from mvg import weights
from mvg.adaptation.cases import Case
from mvg.adaptation.methods import Adaptation, fingerprint, merge, restore
from mvg.adaptation.training import RATES, Plan, adapt_to_cases
from mvg.data import EpisodeDataModule
from mvg.data.episodes import repeat_channels
from mvg.data.geometry import fit, place
from mvg.data.source import Index, Source
from mvg.data.subject import Item, Subject
from mvg.models.base import InContextModel
from mvg.prediction.context import Example, present
from mvg.prediction.slices import Slice
from tasks import Segmentation
from tasks.labels import known_classes
from tasks.painting import gather

logger = logging.getLogger(__name__)

METHODS = ("context", "prompt", "lora", "head", "full", "unet")
TRAINED: Mapping[str, float] = {**{str(name): rate for name, rate in RATES.items()}, "unet": RATE}
"""Methods that are trained, and the learning rate of each where none was chosen."""
CHOSEN = "rates.json"
CONFIGS = {"val": "configs/data/real.yaml", "test": "configs/data/unseen.yaml"}
"""Sources and tasks of a split, where none are named."""
SOURCES: Mapping[str, list[str] | None] = {"val": ["nerve", "chest"], "test": None}
CASES = {"val": [5], "test": [1, 2, 5, 10, 20]}
FACTORS = {"val": [0.1, 0.3, 1.0], "test": [1.0]}
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
        rate: Learning rate; 0 where nothing is trained.
    """

    source: str
    task: str
    cases: int
    method: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.source}-{self.task}-{self.cases:03d}-{self.method}-{self.rate:g}-{self.seed}.csv"


class FewCases(Source):
    """A source whose training split holds some of its cases only, and whose other splits some patients.

    Args:
        source: The source.
        cases: Names of the training cases.
        patients: Most patients of the other splits, evenly spread; None for all.
    """

    def __init__(self, source: Source, cases: Sequence[str], patients: int | None = None) -> None:
        self.source, self.cases, self.patients = source, frozenset(cases), patients
        self.name, self.licence, self.class_names = source.name, source.licence, source.class_names

    @property
    def dims(self) -> int:  # type: ignore[override]
        """Number of spatial axes."""
        return self.source.dims

    def items(self, split: str, cohort: int = 0) -> Sequence[Item]:
        """Returns the items of a split; of training those of the cases."""
        found = self.source.items(split, cohort)
        if split == "train":
            return [item for item in found if item.case in self.cases]
        names = sorted({item.group for item in found})
        if self.patients is not None and len(names) > self.patients:
            places = np.linspace(0, len(names) - 1, self.patients).round().astype(int)
            names = [names[number] for number in places]
        kept = frozenset(names)
        return [item for item in found if item.group in kept]

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


def narrowed(data: EpisodeDataModule, job: Job, patients: int | None) -> EpisodeDataModule:
    """Returns the data module with the source, the task and the cases of a job alone."""
    made = copy.copy(data)
    source = data.sources[job.source]
    made.sources = {job.source: FewCases(source, choose_cases(source, job.cases, job.seed), patients)}
    made.tasks, made.weights = {job.task: data.tasks[job.task]}, {}
    return made


def labelled_cases(data: EpisodeDataModule, job: Job) -> tuple[list[Case], list[tuple[int, ...]]]:
    """Reads the cases of a job at the network's size, and lists the classes that they show."""
    source, task = data.sources[job.source], data.tasks[job.task]
    assert isinstance(task, Segmentation)
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
    """Trains what a job asks for and scores it on the patients that are asked.

    Args:
        job: The job.
        folder: Folder of the base weights.
        network: The base network; left as it is.
        data: All sources.
        options: The command line.
    """
    few, start = narrowed(data, job, options.patients), time.monotonic()
    protocol = Protocol(options.split, 1, job.seed, options.slices, trivial=job.method == "context", swap=False)
    facts: dict[str, Any] = {"cases": job.cases, "rate": job.rate}
    if job.method == "unet":
        trained = train_unets(few, 1.0, protocol, 8, workers=0, seed=job.seed, rate=job.rate, steps=options.unet_steps)
        entrant = unet_entrant(trained)
        facts["steps"] = options.unet_steps
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
        Adaptation(method), folder, options.steps, None, job.rate, options.batch,
        examples=EXAMPLES, patience=2, seed=job.seed, device=options.device, validations=5,
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


def tasks_of(data: EpisodeDataModule, source: str) -> list[str]:
    """Names the tasks that paint one class of a source at a time."""
    index = Index(data.sources[source].items("train"))
    found = {name: task for name, task in data.tasks.items() if isinstance(task, Segmentation) and task.accepts(index)}
    return [name for name, task in found.items() if isinstance(task, Segmentation) and task.scheme == "binary"]


def jobs_of(data: EpisodeDataModule, options: argparse.Namespace, rates: Mapping[str, float]) -> list[Job]:
    """Lists all jobs, small numbers of cases first; numbers beyond the patients of a source are left out.

    Raises:
        ValueError: If there are none.
    """
    found = []
    for source in options.sources or data.sources:
        patients = len({item.group for item in data.sources[source].items("train")})
        for number in options.cases:
            if number > patients:
                logger.warning("%s has %d training patients: %d cases are left out", source, patients, number)
                continue
            found += [
                Job(source, task, number, method, seed, rate)
                for task in tasks_of(data, source)
                for seed in range(options.seeds)
                for method in options.methods
                for rate in ([rates[method] * factor for factor in options.factors] if method in TRAINED else [0.0])
            ]
    if not found:
        raise ValueError('no source offers a segmentation in the scheme "binary", or so many cases; name others')
    return sorted(found, key=lambda job: (job.seed, job.cases))


def load_rates(options: argparse.Namespace) -> dict[str, float]:
    """Returns the learning rate of each method: for validation that of `mvg adapt`, for test what validation chose."""
    path = options.output / CHOSEN
    chosen = json.loads(path.read_text()) if options.split == "test" and path.is_file() else {}
    if options.split == "test":
        logger.info("learning rates: %s", f"of {path}" if chosen else "those of `mvg adapt`, as none were chosen")
    return {**TRAINED, **chosen}


def run(options: argparse.Namespace) -> str:
    """Runs the jobs that are not done yet, writes all files, and returns the table."""
    network = weights.load(options.weights)
    data, folder = load_data(options.config, network), options.output / options.split
    rates = load_rates(options)
    names = ("split", "steps", "batch", "unet_steps", "patients", "slices")
    asked = {name: getattr(options, name) for name in names}
    check_asked(folder / "asked.json", {**asked, "network": fingerprint(network), "rates": rates})
    jobs = jobs_of(data, options, rates)
    work = {folder / "jobs" / job.name: partial(run_job, job, options.weights, network, data, options) for job in jobs}
    records = pd.DataFrame(run_jobs(work))
    write(folder / "records.csv", records.to_csv(index=False))
    parts = []
    if options.split == "val" and set(options.methods) & set(TRAINED):
        best = best_rates(records)
        path = options.output / CHOSEN
        known = json.loads(path.read_text()) if path.is_file() else {}
        write(path, json.dumps({**known, **best}, indent=2) + "\n")
        parts.append(rates_table(records))
        records = records[[row.rate in (0.0, best.get(row.entrant)) for row in records.itertuples()]]
    rows = summary(records)
    text = "\n\n".join([*parts, table(rows, METHODS)])
    write(folder / "table.md", text + "\n")
    if len(rows):
        draw_curves(rows, METHODS, folder / "curve.png")
    return text


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="folder of the base network, `<run>/weights`")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="choose learning rates, or score once")
    parser.add_argument("--config", help="sources and tasks; real.yaml for val, unseen.yaml for test by default")
    parser.add_argument("--sources", nargs="+", help="names of sources; nerve and chest for val, all for test")
    parser.add_argument("--cases", nargs="+", type=int, help="numbers of labelled cases; 5, or 1 2 5 10 20 for test")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="what is compared")
    parser.add_argument("--steps", type=int, default=60, help="most steps of an adaptation")
    parser.add_argument("--batch", type=int, default=4, help="episodes of a step of an adaptation")
    parser.add_argument("--unet-steps", type=int, default=150, help="steps of a U-Net, of 8 slices")
    parser.add_argument("--factors", nargs="+", type=float, help="on the learning rates; 0.1 0.3 1, or 1 for test")
    parser.add_argument("--seeds", type=int, default=1, help="draws of the cases")
    parser.add_argument("--patients", type=int, default=16, help="most patients that are asked, evenly spread")
    parser.add_argument("--slices", type=int, help="most slices of a volume, evenly spaced; all by default")
    parser.add_argument("--device", default="cpu", help="where adaptation runs, cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    options = parser.parse_args(args)
    if options.split == "test" and len(options.factors or [1.0]) > 1:
        parser.error("--split test takes one factor: learning rates are chosen by --split val")
    if options.config is None and options.sources is None:
        options.sources = SOURCES[options.split]
    options.config = options.config or CONFIGS[options.split]
    options.cases, options.factors = options.cases or CASES[options.split], options.factors or FACTORS[options.split]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    sys.stdout.write(run(options) + "\n")


if __name__ == "__main__":
    main()
