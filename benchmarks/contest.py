"""One command for a whole comparison: trains every entrant at equal compute, asks all of them a suite, makes the page.

    MVG_DATA=/data python -m benchmarks.contest --minutes 10 --output DIR [--only NAME ...] [--draws N --shots N ...]

A step of every entrant is timed in turns with a step of ours, and the minutes become a number of steps. What is
finished is skipped and what was stopped goes on: training from its last checkpoint, the suite from its last record.
All networks for images answer them whole, at the size that they were trained at; ours restores images in windows of
full resolution, too, under a name of its own. Networks for volumes answer those alone.
Entrants leave `DIR/NAME/run/weights` and `DIR/results/NAME`; the page is `DIR/board/leaderboard.html`.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from benchmarks.ablation import resolved
from benchmarks.entrants import CONTROLS, TRIVIAL
from benchmarks.evaluation import load_data
from benchmarks.specialists import UNetSpecialists
from benchmarks.step_cost import Costs, Stepper, training_step
from mvg import weights
from mvg.data import EpisodeDataModule
from mvg.files import write_whole
from mvg.models.base import InContextModel

log = logging.getLogger(__name__)

BASE = "configs/real_2d.yaml"
VOLUMES = "configs/real_3d.yaml"
VOLUME_SETS = ("hippocampus", "sarcoma")
VOLUME_TASKS = ("segmentation", "denoising", "inpainting")
VOLUME_WEIGHTS = {"hippocampus": 3.0, "sarcoma": 1.0, "segmentation": 2.4} | dict.fromkeys(
    ("headneck", "brain", "tumour", "synthesis", "bias", "resolution"), 0.0
)
"""What networks for volumes learn and are asked: of all sets and tasks they learn nothing in ten minutes."""
RECIPES = Path("configs/entrants")
UNETS = "u-nets"
OURS = "ours"
WINDOWS = "ours-windows"
RESTORED = ("denoising", "bias_correction", "inpainting", "super_resolution")
"""Tasks of the suite that restore the query."""
KINDS = {
    "segmentation": ("segmentation", "tumour"),
    "synthesis": ("synthesis",),
    "denoising": ("denoising",),
    "inpainting": ("inpainting",),
}
"""What specialists of ours learn alone: kind of task to the names that it has in the data."""
GROUPS = {kind: (kind,) for kind in KINDS} | {"restoration": ("denoising", "inpainting")}
"""What networks of ours learn that do not learn everything: one kind of task, or few."""
LACKING = {"synthesis": ("hippocampus", "nerve", "chest")}
"""Sources that cannot be asked a kind of task, so that a specialist must leave them out."""


@dataclass(frozen=True)
class Contestant:
    """An entrant that is trained.

    Attributes:
        recipe: Its file in `configs/entrants`.
        tasks: Kinds of task that it is asked; all by default.
        datasets: Data sets of the suite that it is asked; all by default.
        weights: Weights of parts of the data that replace those of the recipe, by name.
        base: The configuration that the recipe changes.
        scales: How it answers, see `mvg benchmark run --help`.
        batches: Batches in a step that is timed; more than 1 where some cost more than others.
    """

    recipe: str
    tasks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    base: str = BASE
    scales: str = "whole"
    batches: int = 1


def contestants() -> dict[str, Contestant]:
    """Lists who can be trained: the recipes of the field, ours, and ours for few kinds of task."""
    found = {OURS: Contestant(OURS)}
    found |= {name: Contestant(name) for name in ("mvg_released", "mvg_paper", "painter", "lvm")}
    found["universeg"] = Contestant("universeg", ("segmentation",))
    for group, kinds in GROUPS.items():
        others = {name: 0.0 for other, names in KINDS.items() if other not in kinds for name in names}
        others |= dict.fromkeys(LACKING.get(group, ()), 0.0)
        found[f"{OURS}-{group}"] = Contestant(OURS, kinds, weights=others)
    for name, scales in (("ours_volumes", "coarse-to-fine"), ("medverse", "coarse-to-fine"), ("neuroverse3d", "whole")):
        found[name] = Contestant(name, VOLUME_TASKS, VOLUME_SETS, VOLUME_WEIGHTS, VOLUMES, scales, batches=4)
    return found


class Contest:
    """A comparison in a folder.

    Args:
        output: The folder.
        minutes: Training time of each entrant on a quiet machine.
        suite: What is asked.
        extent: Options of `mvg benchmark run` that make it quick.
        precision: "bf16" or "32", for training and for answers.
        workers: Processes that prepare episodes.
        fit: Further options of `mvg fit`, for every entrant.
    """

    def __init__(
        self,
        output: Path,
        minutes: float,
        suite: Path,
        extent: Sequence[str],
        precision: str,
        workers: int,
        fit: Sequence[str] = (),
    ) -> None:
        if not minutes > 0:
            raise ValueError(f"`minutes` must be greater than 0, got {minutes}")
        self.output, self.minutes, self.suite, self.extent = output, minutes, suite, list(extent)
        self.precision, self.workers, self.fit = precision, workers, list(fit)
        self.costs, self._configs = Costs(output / "costs.json"), dict[str, str]()

    def options(self, name: str) -> list[str]:
        """The words of `mvg fit` that describe an entrant, steps aside."""
        entry = contestants()[name]
        words = ["--config", entry.base, "--config", str(RECIPES / f"{entry.recipe}.yaml"), "--name", name]
        words += ["--model.minutes=null", "--trainer.limit_val_batches=0", "--data.val_length=0", "--no_report"]
        words += ["--trainer.callbacks=null", f"--data.workers={self.workers}", "--trainer.enable_progress_bar=false"]
        words.append(f"--trainer.precision={'bf16-mixed' if self.precision == 'bf16' else '32'}")
        return words + [f"--data.weights.{part}={weight}" for part, weight in entry.weights.items()] + self.fit

    def config(self, name: str) -> dict[str, Any]:
        """Reads the whole configuration of an entrant as `mvg fit` understands it."""
        if name not in self._configs:
            words = ["-m", "mvg", "fit", *self.options(name), "--print_config"]
            self._configs[name] = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, check=True
            ).stdout
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(self._configs[name])))

    def stepper(self, name: str) -> Stepper:
        """Prepares a training step of an entrant, to be timed."""
        network, data = self.parts(name)
        return training_step(network, data, self.precision == "bf16", contestants()[name].batches)

    def parts(self, name: str) -> tuple[InContextModel, EpisodeDataModule]:
        """Builds the network of an entrant, and its data."""
        config = resolved(self.config(name))
        network = weights.build(config["model"]["network"])
        linked = ("image_size", "in_channels", "out_channels")
        data = {part: value for part, value in config["data"].items() if part not in linked}
        return network, load_data(data, network)

    def steps(self, name: str) -> int:
        """Turns the minutes into a number of steps; what a step costs is measured once."""
        if name not in self.costs.ratios:
            self.costs.measure(self.stepper(OURS), {name: lambda: self.stepper(name)}, turns=4)
        return self.costs.steps(name, self.minutes * contestants()[name].batches)

    def train(self, name: str) -> Path:
        """Trains an entrant, or goes on with it; returns its weights.

        Raises:
            ValueError: If the folder holds it after another time of training.
        """
        folder, done = self.output / name / "run", self.output / name / "trained.json"
        if done.is_file():
            if (before := json.loads(done.read_text("utf-8"))["minutes"]) != self.minutes:
                raise ValueError(
                    f"{folder}: it was trained for {before} minutes, not {self.minutes}; name another output"
                )
            return folder / "weights"
        steps, start = self.steps(name), time.monotonic()
        log.info("%s: %d steps", name, steps)
        words = ["fit", *self.options(name), f"--trainer.max_steps={steps}", "--resume"]
        _mvg([*words, f"--trainer.default_root_dir={folder}"])
        facts = {"minutes": self.minutes, "steps": steps, "cost": self.costs.ratios[name]}
        facts["taken"] = round((time.monotonic() - start) / 60, 2)
        write_whole({done: f"{json.dumps(facts, indent=2)}\n".encode()})
        return folder / "weights"

    def ask(self, name: str, words: Sequence[str]) -> None:
        """Asks an entrant the suite; what is recorded is not asked again."""
        folder = self.output / "results" / name
        common = ["--suite", str(self.suite), "--output", str(folder), "--precision", self.precision, *self.extent]
        _mvg(["benchmark", "run", *common, *words])

    def enter(self, name: str) -> None:
        """Trains one entrant, and asks it and its controls."""
        if name in TRIVIAL:
            self.ask(name, ["--entrant", name])
        elif name == WINDOWS:
            told = ["--name", f"{OURS}, windows", "--tasks", json.dumps(list(RESTORED))]
            self.ask(WINDOWS, [*self.trained(OURS, "coarse-to-fine"), *told])
        elif name == UNETS:
            UNetSpecialists.train(self.output / name, self.parts(OURS)[1], self.minutes, self.workers)
            self.ask(name, ["--entrant", f"{UNETS}:{self.output / name}", "--name", name])
        else:
            entry = contestants()[name]
            trained = self.trained(name, entry.scales)
            limits = (("tasks", entry.tasks), ("datasets", entry.datasets))
            chosen = [word for option, names in limits if names for word in (f"--{option}", json.dumps(names))]
            self.ask(name, [*trained, "--name", name, *chosen])
            for control in CONTROLS if name == OURS else ():
                told = ["--entrant", control, "--name", f"{name}, {control}"]
                self.ask(f"{name}-{control}", [*trained, *told])

    def trained(self, name: str, scales: str) -> list[str]:
        """The words of `mvg benchmark run` for an entrant that is trained, here if need be."""
        return ["--weights", str(self.train(name)), "--scales", scales]

    def page(self) -> None:
        """Makes the leaderboard of all that was asked so far."""
        folders = sorted(str(path.parent) for path in self.output.glob("results/*/run.json"))
        _mvg(["benchmark", "leaderboard", *folders, "--output", str(self.output / "board")])


def _mvg(words: Sequence[str]) -> None:
    """Runs `mvg` in a process of its own, so that memory and threads of one entrant are not those of the next.

    Raises:
        subprocess.CalledProcessError: If it fails; it has said why.
    """
    subprocess.run([sys.executable, "-m", "mvg", *words], check=True)


def names() -> list[str]:
    """All entrants in their order."""
    return [*TRIVIAL, *contestants(), UNETS, WINDOWS]


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each entrant, on a quiet machine")
    parser.add_argument("--output", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=names(), help=f"of {', '.join(names())}")
    parser.add_argument("--suite", type=Path, default=Path("configs/suites/open_small.yaml"), help="what is asked")
    parser.add_argument("--shots", nargs="+", type=int, help="numbers of examples; those of the suite by default")
    parser.add_argument("--draws", type=int, help="draws of the examples; that of the suite by default")
    parser.add_argument("--cases", type=int, help="first cases of every question; all by default")
    parser.add_argument("--precision", choices=("bf16", "32"), default="bf16", help="of training and of answers")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare episodes")
    parser.add_argument(
        "--fit", action="append", default=[], metavar="OPTION", help="of `mvg fit`, for all: --fit=--data.seed=1"
    )
    options = parser.parse_args(args)
    if unknown := sorted(set(options.only) - set(names())):
        parser.error(f"unknown entrant {unknown[0]!r}; there are {', '.join(names())}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    told = (options.output, options.minutes, options.suite, extent_of(options), options.precision, options.workers)
    contest = Contest(*told, fit=options.fit)
    for name in [name for name in names() if name in options.only]:
        contest.enter(name)
        contest.page()


def extent_of(options: argparse.Namespace) -> list[str]:
    """The options of `mvg benchmark run` that make it quick."""
    words = ["--shots", json.dumps(options.shots)] if options.shots else []
    for name in ("draws", "cases"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name}", str(value)]
    return words


if __name__ == "__main__":
    main()
