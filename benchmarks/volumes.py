"""Networks for volumes on unseen patients: what their parts bring at equal compute, and how specialists compare.

    python -m benchmarks.volumes --minutes 30 --unet-minutes 30 --output DIR [--split test] [--list]

Every arm of `configs/benchmark/volumes.yaml` is trained with the same compute (`benchmarks.step_cost`), then answers
whole volumes after 1, 2, 4 and 8 examples. Beside them: answers that need no network, the task swap, one 3D U-Net
for each task of each source, and a network that is trained already (`--weights`; with `--arms` and no name, it alone).
Choose between arms by `--split val`, the default; the test patients are for what was chosen.

A job is an arm on one task of one source (or one U-Net) and leaves a CSV below `DIR/ARM/seed-0/SPLIT`; jobs that are
there are not done again, so that a run that was ended goes on. `DIR/SPLIT.md` and `DIR/SPLIT.png` are made from all of
them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation import Ablation, Config, measure, merge, resolved
from benchmarks.evaluation import Record, episodes, load_data
from benchmarks.jobs import check_asked, read_all, run_job, write
from benchmarks.step_cost import Costs, Stepper, training_step
from benchmarks.unet import Specialty, specialties, train_unet
from benchmarks.volume_evaluation import (
    WAYS,
    Painter,
    VolumeProtocol,
    evaluate_volumes,
    network_painter,
    slice_protocol,
    trivial_painter,
    unet_painter,
)
from benchmarks.volume_report import TRIVIAL_ARM, UNET, draw_curves, report
from mvg import weights
from mvg.adaptation.methods import fingerprint
from mvg.configuration import to_config
from mvg.data import EpisodeDataModule
from mvg.data.episodes import EpisodeDataset
from mvg.next_scale import TeacherForcing
from tasks import Synthesis

logger = logging.getLogger(__name__)

CONFIG = "configs/benchmark/volumes.yaml"
COLUMNS = ("source", "task", "variant", "case", "patient", "entrant", "metric", "value", "arm")
"""Columns of a file without records."""
TRAINED = "weights"
"""Name of the arm that was trained elsewhere."""
STEPS = 4
"""Batches that a timed step takes, as those of the first level cost less than those of finer ones."""


class Comparison(Ablation):
    """The arms of a configuration file for volumes; an arm may name another class of network.

    Args:
        path: The file, see `configs/benchmark/volumes.yaml`.
        minutes: Training time of each arm on a quiet machine.
        seed: Seed of weights and episodes.
    """

    def network_of(self, arm: str) -> Config:
        """Configuration of an arm's network; another class keeps size and channels."""
        change = self.arms[arm].get("network", {})
        if "class_path" not in change:
            return super().network_of(arm)
        kept = {
            k: v for k, v in self.network["init_args"].items() if k in ("image_size", "in_channels", "out_channels")
        }
        return {"class_path": change["class_path"], "init_args": merge(kept, change.get("init_args", {}))}

    def ways(self, arm: str) -> list[str]:
        """How an arm answers volumes."""
        found: list[str] = merge(self.evaluation, self.arms[arm].get("evaluation", {})).get("ways", list(WAYS))
        return found

    def digest(self, arm: str) -> str:
        """Hash of all that decides the training of an arm; the place of the data does not."""
        content = [self.minutes, self.seed, self.trainer, self.network_of(arm), self.data_of(arm), self.model_of(arm)]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def step(self, arm: str) -> Stepper:
        """Prepares training steps of an arm on several batches, to be timed."""
        network = self.build(arm)
        return training_step(network, self.load(arm), self.autocast, STEPS)

    @property
    def autocast(self) -> bool:
        """Whether networks run in bfloat16."""
        return self._autocast

    def load(self, arm: str, **changes: Any) -> EpisodeDataModule:
        """Builds the data of an arm."""
        data = resolved({**self.data_of(arm), **changes})
        return load_data(data, weights.build(self.network_of(arm)))


# ---------------------------------------------------------------------- jobs


def train_arm(comparison: Comparison, arm: str, output: Path, costs: Costs) -> Path:
    """Trains an arm, unless it left its weights; returns their folder.

    Raises:
        ValueError: If the folder holds the arm after other settings.
    """
    folder, digest = output / slug(arm) / f"seed-{comparison.seed}", comparison.digest(arm)
    done = folder / "arm.json"
    if done.is_file():
        if json.loads(done.read_text())["digest"] != digest:
            raise ValueError(f"{folder} holds this arm after other settings; give another --output, or delete it")
        return folder
    network = comparison.build(arm)
    steps = costs.steps(arm, comparison.minutes * STEPS)
    facts = {"steps": steps, "cost": costs.ratios[arm], "minutes": comparison.train(arm, network, steps)}
    logger.info("%s: %d steps in %.1f min", arm, steps, facts["minutes"])
    weights.save(folder / "weights", network)
    count = sum(parameter.numel() for parameter in network.parameters())
    write(done, json.dumps({"arm": arm, "digest": digest, "parameters": count, **facts}, indent=2) + "\n")
    return folder


def add_arm(work: Callable[[], list[Record]], arm: str) -> list[Record]:
    """Does the work of a job, and names the arm in its records."""
    return [{**record, "arm": arm} for record in work()]


def run_networks(
    comparison: Comparison, arms: Sequence[str], dataset: EpisodeDataset, protocol: VolumeProtocol, output: Path
) -> None:
    """Trains and evaluates arms."""
    costs = measure(comparison, arms, output)
    for arm in arms:
        folder = train_arm(comparison, arm, output, costs)
        network = weights.load(folder / "weights")
        painter = network_painter(network, comparison.ways(arm), protocol.overlap, comparison.autocast)
        run_painter(painter, arm, dataset, protocol, folder, control=True)


def run_weights(
    comparison: Comparison, source: str, dataset: EpisodeDataset, protocol: VolumeProtocol, output: Path
) -> None:
    """Evaluates a network that is trained already.

    Raises:
        ValueError: If the folder holds answers of other weights.
    """
    folder, network = output / TRAINED / f"seed-{comparison.seed}", weights.load(source)
    check_asked(folder / "weights.json", {"weights": fingerprint(network)})
    painter = network_painter(network, list(WAYS), protocol.overlap, comparison.autocast)
    run_painter(painter, TRAINED, dataset, protocol, folder, control=True)


def run_painter(
    painter: Painter, arm: str, dataset: EpisodeDataset, protocol: VolumeProtocol, folder: Path, control: bool = False
) -> None:
    """Evaluates a painter, a job a source and task."""
    for source, task in dataset.pairs:
        if not protocol.asks(source):
            continue
        work = partial(evaluate_volumes, dataset, source, task, painter, protocol, control)
        run_job(folder / protocol.split / f"{source}-{task}.csv", partial(add_arm, work, arm), COLUMNS)


def run_unets(
    comparison: Comparison, dataset: EpisodeDataset, protocol: VolumeProtocol, minutes: float, output: Path
) -> None:
    """Trains and evaluates the U-Nets, a job each, in windows of full resolution."""
    data = comparison.load(next(iter(comparison.arms)), next_scale=to_config(TeacherForcing(single=True)))
    wanted = specialties(data, slice_protocol(protocol))
    once = replace(protocol, shots=protocol.shots[:1])
    folder = output / UNET / f"seed-{comparison.seed}" / protocol.split

    def work(specialty: Specialty) -> list[Record]:
        share = minutes / len(wanted)
        network = train_unet(data, specialty, share, data.batch_size, data.workers, comparison.seed)
        painter = unet_painter(network, data.image_size, protocol.overlap)
        return evaluate_volumes(dataset, specialty.source, specialty.name, painter, once, only=specialty.asked)

    for specialty in wanted:
        if not protocol.asks(specialty.source):
            continue
        source, task, variant = next(iter(specialty.asked)).split("/")
        name = f"{source}-{task}" + (f"-{slug(variant)}" if isinstance(specialty.task, Synthesis) else "")
        run_job(folder / f"{name}.csv", partial(add_arm, partial(work, specialty), UNET), COLUMNS)


def slug(name: str) -> str:
    """Turns a name into one for files."""
    return re.sub(r"[^\w-]+", "-", name)


# ---------------------------------------------------------------------- command


def settings(comparison: Comparison, protocol: VolumeProtocol, unet_minutes: float) -> dict[str, Any]:
    """Says what is asked of all jobs of a folder and split."""
    data = json.dumps(comparison.data_of(next(iter(comparison.arms))), sort_keys=True)
    asked = {name: value for name, value in asdict(protocol).items() if name != "sources"}
    found = {**asked, "data": hashlib.sha256(data.encode()).hexdigest()[:16]}
    return {**found, "unet_minutes": unet_minutes} if unet_minutes else found


def run(
    comparison: Comparison,
    arms: Sequence[str],
    protocol: VolumeProtocol,
    unet_minutes: float,
    output: Path,
    trained: str | None = None,
) -> str:
    """Does all jobs that are not done, and reports on all that are there."""
    check_asked(output / f"{protocol.split}.json", settings(comparison, protocol, unet_minutes))
    first = next(iter(comparison.arms))
    dataset = episodes(comparison.load(first), slice_protocol(protocol))
    known = sorted({source for source, _ in dataset.pairs})
    if unknown := sorted(set(protocol.sources) - set(known)):
        raise ValueError(f"there is no source {unknown[0]!r}; there are {', '.join(known)}")
    run_painter(trivial_painter, TRIVIAL_ARM, dataset, protocol, output / TRIVIAL_ARM / f"seed-{comparison.seed}")
    if trained:
        run_weights(comparison, trained, dataset, protocol, output)
    run_networks(comparison, arms, dataset, protocol, output)
    if unet_minutes:
        run_unets(comparison, dataset, protocol, unet_minutes, output)
    paths = sorted(output.glob(f"*/seed-{comparison.seed}/{protocol.split}/*.csv"))
    records = read_all(paths)
    order = [arm for arm in comparison.arms if any(record["arm"] == arm for record in records)]
    ways = {arm: comparison.ways(arm) for arm in order}
    if any(record["arm"] == TRAINED for record in records):
        ways[TRAINED] = list(WAYS)
    text = report(records, ways)
    write(output / f"{protocol.split}.md", text + "\n")
    draw_curves(records, ways, output / f"{protocol.split}.png")
    return text


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="training time of each arm, on a quiet machine")
    parser.add_argument("--unet-minutes", type=float, default=0.0, help="training time of all U-Nets; 0 for none")
    parser.add_argument("--output", type=Path, help="folder of the results")
    parser.add_argument("--arms", nargs="*", metavar="NAME", help="arms to run; all by default")
    parser.add_argument("--weights", metavar="W", help="folder of a trained network for volumes, to be asked as well")
    parser.add_argument("--list", action="store_true", help="print the names of the arms")
    parser.add_argument("--config", default=CONFIG, help="file that describes the arms")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="whose volumes are asked")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of examples")
    parser.add_argument("--cases", type=int, default=4, help="most volumes of a question, evenly spread; 0 for all")
    parser.add_argument("--sources", nargs="+", metavar="NAME", default=[], help="sources to be asked; all by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, episodes, examples and noise")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    options = parser.parse_args(args)
    comparison = Comparison(options.config, options.minutes, options.seed)
    if options.list:
        sys.stdout.write("\n".join(comparison.arms) + "\n")
        return
    names = list(comparison.arms) if options.arms is None else options.arms
    if unknown := sorted(set(names) - set(comparison.arms)):
        parser.error(f"unknown arm {unknown[0]!r}; there are {', '.join(comparison.arms)}")
    if options.output is None:
        parser.error("--output is needed")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    cases, shots = options.cases or None, tuple(options.shots)
    protocol = VolumeProtocol(options.split, shots, cases, options.seed, sources=tuple(options.sources))
    sys.stdout.write(run(comparison, names, protocol, options.unet_minutes, options.output, options.weights) + "\n")


if __name__ == "__main__":
    main()
