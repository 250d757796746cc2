"""A trained network on the patients of real data sets, against trivial answers, controls and U-Nets.

    python -m benchmarks.real --weights runs/real_2d/weights --unet-minutes 40 --output DIR [--slices 16]

Writes `records.csv` (one line a case, variant, entrant and metric), `table.md`, `pictures/` with the best, the median
and the worst case of every question, and `protocol.json` with all that must agree for two tables to be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import mvg
from benchmarks.evaluation import (
    Entrant,
    Protocol,
    Record,
    Volume,
    episodes,
    evaluate,
    generator,
    load_data,
    network_entrant,
    volumes,
)
from benchmarks.questions import Question, questions
from benchmarks.summary import HIGHER, PRIMARY, cell, table
from benchmarks.unet import train_unets, unet_entrant
from mvg import weights
from mvg.data import EpisodeDataModule
from mvg.data.episodes import EpisodeDataset
from mvg.data.source import SPLITS
from mvg.drawing import draw_episodes
from mvg.episode import Episode
from mvg.report import NETWORK

logger = logging.getLogger(__name__)

UNET = "U-Net"
PLACES = {"best": 1.0, "median": 0.5, "worst": 0.0}


def picture_sheets(
    records: Sequence[Record], network: Entrant, data: EpisodeDataModule, protocol: Protocol, folder: Path
) -> list[Path]:
    """Draws the best, the median and the worst case of every question, one sheet a source and task.

    A case is shown by the slice with the most of the class (segmentation), or by its middle slice.

    Args:
        records: What `evaluate` returned.
        network: The entrant named "network" in them.
        data: Sources and tasks.
        protocol: How the cases were asked.
        folder: Where the sheets go.

    Returns:
        The sheets.
    """
    dataset, sheets = episodes(data, protocol), []
    folder.mkdir(parents=True, exist_ok=True)
    for source, task in dataset.pairs:
        rows = []
        for question in questions(dataset, source, task):
            planned = {volume.case: volume for volume in volumes(dataset, question, protocol)[0]}
            for name, (case, text) in chosen_cases(records, question).items():
                episode = shown_slice(dataset, question, planned[case], protocol)
                rows.append((question, replace(episode, tasks=(f"{question.variant}, {name}: {text} ({case})",))))
        if rows:
            batch = Episode.collate([episode for _, episode in rows])
            painted = [network(e.image, e.context_images, e.context_targets, q.name) for q, e in rows]
            sheets.append(folder / f"{source}-{task}.png")
            draw_episodes(batch, torch.cat(painted), most=len(rows)).save(sheets[-1])
    return sheets


def chosen_cases(records: Sequence[Record], question: Question) -> dict[str, tuple[str, str]]:
    """Finds the best, median and worst case of the network; each with its primary metric as text."""
    key = (question.source, question.task, question.variant, NETWORK)
    own = [r for r in records if (r["source"], r["task"], r["variant"], r["entrant"]) == key and r["metric"] in PRIMARY]
    if not own:
        return {}
    metric = str(own[0]["metric"])
    ranked = sorted(own, key=lambda r: float(r["value"]) * (1 if HIGHER[metric] else -1))
    picked = {name: ranked[round(place * (len(ranked) - 1))] for name, place in PLACES.items()}
    return {name: (str(r["case"]), f"{metric} {cell(float(r['value']))}") for name, r in picked.items()}


def shown_slice(dataset: EpisodeDataset, question: Question, volume: Volume, protocol: Protocol) -> Episode:
    """Builds the slice of a volume that is shown."""
    built = [dataset.build(made, generator(protocol.seed, question, made.items[0], stream=1)) for made in volume.plans]
    if not dataset.tasks[question.task].is_label:
        return built[len(built) // 2]
    return built[int(np.argmax([float(episode.target.sum()) for episode in built]))]


def provenance(folder: str | Path, data: EpisodeDataModule, protocol: Protocol, unet_minutes: float) -> dict[str, Any]:
    """Collects what must agree for two tables to be compared: protocol, weights, splits and versions."""
    splits = {
        name: {split: sorted({item.case for item in source.items(split)}) for split in SPLITS}
        for name, source in data.sources.items()
    }
    return {
        "protocol": asdict(protocol),
        "image_size": list(data.image_size),
        "weights": hashlib.sha256((Path(folder) / weights.MODEL).read_bytes()).hexdigest(),
        "splits": hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest(),
        "cases": {name: {split: len(cases) for split, cases in found.items()} for name, found in splits.items()},
        "unet_minutes": unet_minutes,
        "versions": {"mvg": mvg.__version__, "torch": torch.__version__},
    }


def heading(data: EpisodeDataModule, protocol: Protocol, unet_minutes: float) -> str:
    """Says in words how the numbers of a table came about."""
    size = " x ".join(str(side) for side in data.image_size)
    which = "all slices" if protocol.slices is None else f"at most {protocol.slices} evenly spaced slices"
    lines = [
        f"Patients of the split {protocol.split}, {which} of each volume, {protocol.context_size} example(s) from "
        f"training patients for each slice, scored once per volume at {size} pixels. Intervals: 95 % bootstrap over "
        "patients; none for a single patient.",
    ]
    if unet_minutes > 0:
        lines.append(f"The U-Nets, one a task, were trained for {unet_minutes:g} minutes together.")
    return " ".join(lines)


def run(options: argparse.Namespace) -> str:
    """Evaluates, writes all files, and returns the table."""
    network = weights.load(options.weights)
    data = load_data(options.config, network)
    protocol = Protocol(options.split, options.context_size, options.seed, options.slices)
    entrants: dict[str, Entrant] = {NETWORK: network_entrant(network)}
    if options.unet_minutes > 0:
        trained = train_unets(data, options.unet_minutes, protocol, workers=options.workers, seed=options.seed)
        entrants[UNET] = unet_entrant(trained)
    records = evaluate(entrants, data, protocol)
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(records).to_csv(output / "records.csv", index=False)
    facts = provenance(options.weights, data, protocol, options.unet_minutes)
    (output / "protocol.json").write_text(json.dumps(facts, indent=2) + "\n")
    text = "\n\n".join([heading(data, protocol, options.unet_minutes), table(records), table(records, by_variant=True)])
    (output / "table.md").write_text(text + "\n")
    picture_sheets(records, entrants[NETWORK], data, protocol, output / "pictures")
    return text


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="folder of the trained network, `<run>/weights`")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument("--config", default="configs/data/real.yaml", help="sources and tasks")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="whose patients are scored")
    parser.add_argument("--context-size", type=int, default=1, help="number of examples")
    parser.add_argument("--slices", type=int, help="most slices of a volume, evenly spaced; all by default")
    parser.add_argument("--unet-minutes", type=float, default=0.0, help="training time of all U-Nets; 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="seed of examples, noise, holes and U-Nets")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare slices for U-Nets")
    options = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    sys.stdout.write(run(options) + "\n")


if __name__ == "__main__":
    main()
