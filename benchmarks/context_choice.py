"""How much the choice of examples gives over random ones, on real patients.

    MVG_DATA=/data python -m benchmarks.context_choice --weights runs/real_2d/weights --output results [--split test]

For every source and segmentation task, slices of validation patients that show a class are answered after 1, 4 and 16
training slices that show it: drawn at "random", "spread" over all positions, at the nearest "position" in their volume,
nearest in looks by the image or by the network's features, or "diverse". All choices see the same queries and choose
from the same candidates. Each finished job leaves one file in `jobs/`, and is not run again when the command is started
anew. From all of them the command writes `records.csv` and `table.md`: the mean Dice over patients, and its difference
to random with a 95 % interval.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.evaluation import Record, load_data
from benchmarks.jobs import check_asked, run_jobs, write
from benchmarks.summary import interval
from mvg import metrics, weights
from mvg.adaptation.methods import fingerprint
from mvg.data import EpisodeDataModule
from mvg.data.episodes import repeat_channels
from mvg.data.geometry import fit, place
from mvg.data.source import Index
from mvg.models.base import InContextModel
from mvg.prediction.context import Example, present
from mvg.prediction.predictor import Predictor
from mvg.prediction.retrieval import features_of
from mvg.prediction.slices import Looks, Pick, Slice, beside, spread_out
from tasks import Segmentation
from tasks.labels import key, known_classes
from tasks.painting import gather

logger = logging.getLogger(__name__)

CHOICES = ("random", "spread", "position", "nearest-image", "nearest-network", "diverse")
COLUMNS = ("source", "task", "asked", "choice", "shots", "query", "patient", "dice")


@dataclass(frozen=True)
class Job:
    """One file of records: a source, a task, and a class of it."""

    source: str
    task: str
    asked: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.source}-{self.task}-{self.asked}.csv"


def jobs_of(data: EpisodeDataModule, wanted: Sequence[str] | None) -> list[Job]:
    """Lists the classes of all binary segmentation tasks."""
    jobs = []
    for (source, found), (name, task) in itertools.product(data.sources.items(), data.tasks.items()):
        if not isinstance(task, Segmentation) or (wanted and source not in wanted):
            continue
        index = Index(found.items("train"))
        if task.accepts(index):
            classes = [k for k in known_classes(index, task.labels) if task.classes is None or k in task.classes]
            jobs += [Job(source, name, k) for k in classes]
    return jobs


def read(data: EpisodeDataModule, job: Job, split: str, most: int, seed: int) -> list[tuple[str, Slice]]:
    """Reads at most so many slices that show the class of a job, drawn at random; each with its patient."""
    source, task = data.sources[job.source], data.tasks[job.task]
    assert isinstance(task, Segmentation)
    items = source.items(split)
    index = Index(items)
    numbers = index.find((*task.roles, task.labels, key(task.labels, job.asked)))
    chosen = np.random.default_rng(seed).permutation(numbers)[:most]
    found = []
    for item in (items[int(k)] for k in sorted(chosen.tolist())):
        subject = source.read(item)
        small = fit(subject, place(subject.shape, data.image_size, data.aspect))
        image = repeat_channels(gather(small, task.roles), data.in_channels, f"images of {job.source}")
        mask = (small.labels[task.labels] == job.asked).long()
        if present(mask):
            found.append((item.group, Slice(Example(image, mask), item.position, {1: int(mask.sum())})))
    return found


def run_job(job: Job, data: EpisodeDataModule, network: InContextModel, options: argparse.Namespace) -> list[Record]:
    """Answers every query of a job after every choice and number of examples; one record for each answer."""
    predictor = Predictor(network, Segmentation(), batch=16)
    candidates = [entry for _, entry in read(data, job, "train", options.candidates, options.seed)]
    queries = read(data, job, options.split, options.queries, options.seed)
    if not candidates:
        return []
    with torch.inference_mode(), torch.autocast(predictor.device.type, torch.bfloat16):
        looks = {name: Looks(features_of(name, network)) for name in ("image", "network")}
        picks = [picks_of(number, query, looks, options.seed) for number, (_, query) in enumerate(queries)]
        records: list[Record] = []
        for choice, shots in itertools.product(options.choices, options.shots):
            asked: dict[tuple[int, ...], list[int]] = {}
            for number, own in enumerate(picks):
                asked.setdefault(tuple(own[choice](candidates, shots)), []).append(number)
            for chosen, numbers in asked.items():
                shown = [candidates[k].example for k in chosen]
                scores = answer(predictor, shown, [queries[n][1].example for n in numbers])
                facts = {**vars(job), "choice": choice, "shots": shots}
                records += [
                    {**facts, "query": n, "patient": queries[n][0], "dice": dice}
                    for n, dice in zip(numbers, scores, strict=True)
                ]
    return records


def picks_of(number: int, query: Slice, looks: Mapping[str, Looks], seed: int) -> dict[str, Pick]:
    """Returns the ways to choose for a query; all of them choose among all candidates."""
    return {
        "random": at_random(np.random.default_rng((seed, number))),
        "spread": spread_out,
        "position": beside(query.position),
        "nearest-image": looks["image"].like(looks["image"].of([query])[0]),
        "nearest-network": looks["network"].like(looks["network"].of([query])[0]),
        "diverse": looks["image"].apart,
    }


def at_random(rng: np.random.Generator) -> Pick:
    """Picks at random."""

    def pick(slices: Sequence[Slice], share: int) -> list[int]:
        return sorted(rng.permutation(len(slices))[:share].tolist())

    return pick


def answer(predictor: Predictor, shown: Sequence[Example], queries: Sequence[Example]) -> list[float]:
    """Answers queries after examples; returns the Dice of each."""
    predictor.show([entry.image for entry in shown], [entry.target for entry in shown])
    found = []
    for query, given in zip(queries, predictor.predict([query.image for query in queries]), strict=True):
        assert given.labels is not None
        found.append(float(metrics.dice(torch.from_numpy(given.labels == 1), query.target == 1)))
    return found


def table(records: pd.DataFrame, choices: Sequence[str]) -> str:
    """Writes the mean Dice over patients for each choice and number of examples, and its difference to random."""
    shots = sorted(records["shots"].unique())
    keys = ["source", "task", "asked"]
    lines = [f"| choice | {' | '.join(f'{k} examples' for k in shots)} |", "| --- |" + " ---: |" * len(shots)]
    patients = records.assign(patient=records["source"] + "/" + records["patient"].astype(str))
    wide = patients.pivot_table(index=["patient"], columns=["choice", "shots", *keys], values="dice")
    for choice in choices:
        cells = []
        for k in shots:
            mean = f"{interval(wide[choice, k].to_numpy())[0]:.3f}"
            if choice != "random" and ("random", k) in wide:
                gain, low, high = interval((wide[choice, k] - wide["random", k]).to_numpy())
                mean += f" ({gain:+.3f} [{low:+.3f}, {high:+.3f}])"
            cells.append(mean)
        lines.append(f"| {choice} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> str:
    """Runs the jobs that are not done yet, writes all files, and returns the table.

    Raises:
        ValueError: If no source offers a class to ask for.
    """
    network = weights.load(options.weights)
    data, folder = load_data(options.config, network), options.output
    jobs = jobs_of(data, options.sources)
    if not jobs:
        raise ValueError(f"{options.config}: no source offers a class to a binary segmentation task; name others")
    names = ("split", "shots", "choices", "candidates", "queries", "seed")
    asked = {name: getattr(options, name) for name in names}
    check_asked(folder / "asked.json", {**asked, "network": fingerprint(network)})
    work = {folder / "jobs" / job.name: partial(run_job, job, data, network, options) for job in jobs}
    records = pd.DataFrame(run_jobs(work, COLUMNS))
    if records.empty:
        raise ValueError(f"no slice of the split {options.split} shows a class that training slices show, too")
    write(folder / "records.csv", records.to_csv(index=False))
    text = table(records, options.choices)
    write(folder / "table.md", text + "\n")
    return text


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="folder of the network, `<run>/weights`")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument("--config", default="configs/data/real.yaml", help="sources and tasks")
    parser.add_argument("--sources", nargs="+", help="names of sources; all by default")
    parser.add_argument("--split", default="val", choices=["val", "test"], help="where the queries come from")
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 4, 16], help="numbers of examples")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES), help="what is compared")
    parser.add_argument("--candidates", type=int, default=100, help="most training slices to choose from")
    parser.add_argument("--queries", type=int, default=16, help="most queries for each class")
    parser.add_argument("--seed", type=int, default=0, help="draws candidates, queries and random examples")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    options = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    sys.stdout.write(run(options) + "\n")


if __name__ == "__main__":
    main()
