"""What decides the network: arms that differ in one factor, at equal compute, on validation patients.

    python -m benchmarks.ablation --minutes 8 --output DIR [--arms NAME ...] [--list]

Equal compute: a step of every arm is first timed in turns with a step of the first arm (`DIR/costs.json`), and the
minutes are turned into a number of steps, so that an arm loses nothing to other work on the machine.

Every arm is trained in this process and leaves `DIR/ARM/seed-0` with its weights, its records (`val.csv`) and what was
asked (`arm.json`); arms that are there are not trained again. `--final` scores the arms named, once, on test patients.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytorch_lightning as pl
import timm.optim
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.cli import OptimizerCallable

from benchmarks.evaluation import Protocol, Record, evaluate, load_data, network_entrant
from benchmarks.jobs import read_records, run_job, write
from benchmarks.step_cost import Costs, Stepper, training_step
from benchmarks.summary import PRIMARY, cell, summarise, table
from mvg import weights
from mvg.controls import CONTROLS, TRIVIAL
from mvg.generalist import Generalist
from mvg.models.base import InContextModel
from mvg.report import NETWORK

logger = logging.getLogger(__name__)

CONFIG = "configs/benchmark/ablation.yaml"
PARTS = ("network", "tasks", "data", "model", "evaluation", "average", "first")
FIRST = ("share", "tasks", "data")

Config = dict[str, Any]


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """Merges nested changes into a configuration; an entry that names another class replaces the old one.

    >>> merge({"a": {"class_path": "x", "init_args": {"b": 1, "c": 2}}}, {"a": {"init_args": {"c": 3}}})
    {'a': {'class_path': 'x', 'init_args': {'b': 1, 'c': 3}}}
    >>> merge({"a": {"class_path": "x", "init_args": {"b": 1}}}, {"a": {"class_path": "y"}})
    {'a': {'class_path': 'y'}}
    """
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            other = value.get("class_path", old.get("class_path")) != old.get("class_path")
            merged[name] = dict(value) if other else merge(old, value)
        else:
            merged[name] = value
    return merged


class Ablation:
    """The arms of a configuration file.

    Args:
        path: The file, see `configs/benchmark/ablation.yaml`.
        minutes: Training time of each arm on a quiet machine.
        seed: Seed of weights and episodes.

    Raises:
        ValueError: If an arm changes what no arm can change.
    """

    def __init__(self, path: str | Path, minutes: float, seed: int = 0) -> None:
        self.minutes, self.seed = minutes, seed
        config = _read(Path(path))
        self.arms: dict[str, Config] = {name: dict(arm or {}) for name, arm in config["arms"].items()}
        for name, arm in self.arms.items():
            if unknown := sorted(set(arm) - set(PARTS)):
                raise ValueError(f"arm {name!r} changes {unknown}; an arm can change {', '.join(PARTS)}")
            if unknown := sorted(set(arm.get("first", {})) - set(FIRST)):
                raise ValueError(f"`first` of arm {name!r} has {unknown}; it takes {', '.join(FIRST)}")
        self.network = _read(Path(path).parent / config["network"])
        self.data = _without(_read(Path(path).parent / config["data"]), config.get("without", []))
        self.data = merge(self.data, config.get("changes", {}))
        self.trainer: Config = config.get("trainer", {})
        self.model: Config = merge({"optimizer": {"class_path": "torch.optim.AdamW"}}, config.get("model", {}))
        self.evaluation: Config = config.get("evaluation", {})
        self.unscored: list[str] = config.get("unscored", [])

    def network_of(self, arm: str) -> Config:
        """Configuration of an arm's network."""
        arguments = merge(self.network.get("init_args", {}), self.arms[arm].get("network", {}))
        return {"class_path": self.network["class_path"], "init_args": arguments}

    def data_of(self, arm: str, first: bool = False) -> Config:
        """Configuration of an arm's data, or of what it is trained on first.

        Raises:
            ValueError: If the arm changes a task that does not exist.
        """
        changed = merge(self.arms[arm], self.arms[arm].get("first", {}) if first else {})
        data = merge(self.data, changed.get("data", {}))
        changes = changed.get("tasks", {})
        names = {"all", *data["tasks"], *(task["class_path"] for task in data["tasks"].values())}
        if unknown := sorted(set(changes) - names):
            raise ValueError(f"arm {arm!r} changes the tasks {unknown}; there are {', '.join(sorted(names))}")
        tasks = {}
        for name, task in data["tasks"].items():
            for wanted in ("all", task["class_path"], name):
                task = merge(task, {"init_args": changes.get(wanted, {})})
            tasks[name] = task
        return {**data, "tasks": tasks, "seed": self.seed, "val_length": 0}

    def model_of(self, arm: str) -> Config:
        """Arguments of the Generalist that trains an arm, the optimizer as a configuration."""
        return merge(self.model, self.arms[arm].get("model", {}))

    def protocol_of(self, arm: str, split: str) -> Protocol:
        """How an arm is scored."""
        return Protocol(split=split, **merge(self.evaluation, self.arms[arm].get("evaluation", {})))

    def digest(self, arm: str) -> str:
        """Hash of all that decides the result of an arm; the place of the data does not."""
        content = [self.minutes, self.seed, self.trainer, self.network_of(arm), self.data_of(arm)]
        content += [self.model_of(arm), vars(self.protocol_of(arm, "val"))]
        content += [{name: self.arms[arm][name]} for name in ("average", "first") if name in self.arms[arm]]
        content += [{"unscored": self.unscored}] if self.unscored else []
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def build(self, arm: str) -> InContextModel:
        """Makes an arm's network with its first weights."""
        pl.seed_everything(self.seed, verbose=False)
        return weights.build(self.network_of(arm))

    def step(self, arm: str) -> Stepper:
        """Prepares a training step of an arm, to be timed."""
        network = self.build(arm)
        return training_step(network, load_data(resolved(self.data_of(arm)), network), self._autocast)

    @property
    def _autocast(self) -> bool:
        return "bf16" in str(self.trainer.get("precision", ""))

    def train(self, arm: str, network: InContextModel, steps: int) -> float:
        """Trains a network in place; returns the minutes that it took here, start-up included."""
        start, early = time.monotonic(), round(steps * self.arms[arm].get("first", {}).get("share", 0.0))
        if early:
            self._fit(arm, network, early, self.data_of(arm, first=True))
        self._fit(arm, network, steps - early, self.data_of(arm))
        return (time.monotonic() - start) / 60

    def _fit(self, arm: str, network: InContextModel, steps: int, data: Config) -> None:
        model, decay = self.model_of(arm), self.arms[arm].get("average")
        module = Generalist(network, optimizer=_optimizer(model.pop("optimizer")), **model)
        trainer = pl.Trainer(
            max_epochs=-1,
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[EMAWeightAveraging(decay=decay)] if decay else [],
            **self.trainer,
        )
        trainer.fit(module.train(), datamodule=load_data(resolved(data), network))

    def score(self, arm: str, network: InContextModel, split: str) -> list[Record]:
        """Scores a network on the patients of a split."""
        known = _without(self.data, self.unscored)["weights"]
        config = {**_without(self.data_of(arm), self.unscored), "weights": known}
        data = load_data(resolved(config), network)
        records = evaluate({NETWORK: network_entrant(network, self._autocast)}, data, self.protocol_of(arm, split))
        return [{**record, "arm": arm, "train_seed": self.seed} for record in records]


def measure(ablation: Ablation, arms: Sequence[str], output: Path) -> Costs:
    """Times a step of the arms that were not timed yet, in turns with the first arm of the configuration."""
    costs = Costs(output / "costs.json")
    if missing := [arm for arm in arms if arm not in costs.ratios]:
        reference = ablation.step(next(iter(ablation.arms)))
        costs.measure(reference, {arm: partial(ablation.step, arm) for arm in missing})
    return costs


def run_arm(ablation: Ablation, arm: str, output: Path, costs: Costs) -> list[Record]:
    """Trains and scores an arm, or reads what it left.

    Raises:
        ValueError: If the folder holds the arm after other settings.
    """
    folder, digest = _folder(ablation, arm, output), ablation.digest(arm)
    done = folder / "arm.json"
    if done.is_file():
        if json.loads(done.read_text())["digest"] != digest:
            raise ValueError(f"{folder} holds this arm after other settings; give another --output, or delete it")
        return read_records(folder / "val.csv")
    network = ablation.build(arm)
    steps = costs.steps(arm, ablation.minutes)
    facts = {"steps": steps, "cost": costs.ratios[arm], "minutes": ablation.train(arm, network, steps)}
    logger.info("%s: %d steps in %.1f min", arm, steps, facts["minutes"])
    weights.save(folder / "weights", network)
    records = ablation.score(arm, network.eval(), "val")
    write(folder / "val.csv", pd.DataFrame(records).to_csv(index=False))
    count = sum(parameter.numel() for parameter in network.parameters())
    write(done, json.dumps({"arm": arm, "digest": digest, "parameters": count, **facts}, indent=2) + "\n")
    return records


def run_final(ablation: Ablation, arm: str, output: Path) -> list[Record]:
    """Scores the trained arm on test patients, once: a second call reads the records of the first.

    Raises:
        ValueError: If the arm was not trained with these settings.
    """
    folder = _folder(ablation, arm, output)
    done = folder / "arm.json"
    if not done.is_file() or json.loads(done.read_text())["digest"] != ablation.digest(arm):
        raise ValueError(f"{folder} holds no arm trained with these settings; run it without --final first")
    run_job(folder / "test.csv", lambda: ablation.score(arm, weights.load(folder / "weights"), "test"))
    return read_records(folder / "test.csv")


def report(records: Mapping[str, Sequence[Record]], facts: Mapping[str, Mapping[str, float]]) -> str:
    """Writes two tables: arms by kinds of task, and tasks by arms.

    Args:
        records: Arm to its records.
        facts: Arm to its numbers of steps and parameters.
    """
    shown = [NETWORK, CONTROLS[1], CONTROLS[2]]
    means: dict[str, dict[str, float]] = {}
    for arm, own in records.items():
        summary = summarise(own, by_variant=False)
        summary = summary[summary["metric"].isin(PRIMARY) & summary["entrant"].isin(shown)]
        kinds = summary["task"].where(summary["metric"] != "dice", "segmentation")
        for key, part in summary.groupby([kinds, "metric", "entrant"]):
            kind, metric, entrant = (str(name) for name in key)
            if entrant == NETWORK or kind == "segmentation":
                name = f"{kind} {metric}" + ("" if entrant == NETWORK else f", {entrant}")
                means.setdefault(name, {})[arm] = float(part["mean"].mean())
    lines = [
        "| arm | parameters | cost of a step | steps | " + " | ".join(means) + " |",
        "| --- | ---: | ---: | ---: |" + " --- |" * len(means),
    ]
    for arm in records:
        cells = [cell(column.get(arm, float("nan"))) for column in means.values()]
        known = facts.get(arm, {})
        size = f"{known.get('parameters', 0):,.0f} | {known.get('cost', 1):.2f} | {known.get('steps', 0):,.0f}"
        start = f"| {arm} | {size} | "
        lines.append(start + " | ".join(cells) + " |")
    first = next(iter(records.values()))
    every = [record for record in first if record["entrant"] in TRIVIAL]
    every += [{**r, "entrant": arm} for arm, own in records.items() for r in own if r["entrant"] == NETWORK]
    return "\n".join(lines) + "\n\n" + table(every, paired=False)


def _read(path: Path) -> Config:
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}; the shipped one is {CONFIG}")
    return cast(Config, OmegaConf.to_container(OmegaConf.load(path), resolve=False))


def _optimizer(config: Mapping[str, Any]) -> OptimizerCallable:
    """Finds an optimizer of PyTorch or timm.

    Raises:
        ValueError: If there is none of that name.
    """
    module, _, name = str(config["class_path"]).rpartition(".")
    made = getattr({"torch.optim": torch.optim, "timm.optim": timm.optim}.get(module), name, None)
    if made is None:
        raise ValueError(f"no optimizer {config['class_path']!r}; name one of torch.optim or timm.optim")
    return partial(made, **config.get("init_args", {}))


def _without(data: Config, names: Sequence[str]) -> Config:
    """Leaves sources and tasks out."""
    kept = {kind: {n: v for n, v in data[kind].items() if n not in names} for kind in ("sources", "tasks")}
    weights = {n: v for n, v in data.get("weights", {}).items() if not set(n.split("/")) & set(names)}
    return {**data, **kept, "weights": weights}


def resolved(config: Config) -> Config:
    """Fills in the environment variables of a configuration."""
    return cast(Config, OmegaConf.to_container(OmegaConf.create(config), resolve=True))


def _folder(ablation: Ablation, arm: str, output: Path) -> Path:
    return output / arm / f"seed-{ablation.seed}"


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="training time of each arm, on a quiet machine")
    parser.add_argument("--output", type=Path, help="folder of the results")
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="arms to run; all by default")
    parser.add_argument("--list", action="store_true", help="print the names of the arms")
    parser.add_argument("--config", default=CONFIG, help="file that describes the arms")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and episodes")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--final", action="store_true", help="score the arms named on test patients, once")
    options = parser.parse_args(args)
    ablation = Ablation(options.config, options.minutes, options.seed)
    if options.list:
        sys.stdout.write("\n".join(ablation.arms) + "\n")
        return
    names = options.arms or list(ablation.arms)
    if unknown := sorted(set(names) - set(ablation.arms)):
        parser.error(f"unknown arm {unknown[0]!r}; there are {', '.join(ablation.arms)}")
    if options.output is None:
        parser.error("--output is needed")
    if options.final and not options.arms:
        parser.error("--final needs --arms: test patients are for finalists")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    results, facts = {}, {}
    costs = None if options.final else measure(ablation, names, options.output)
    for arm in names:
        if costs is None:
            results[arm] = run_final(ablation, arm, options.output)
        else:
            results[arm] = run_arm(ablation, arm, options.output, costs)
        facts[arm] = json.loads((_folder(ablation, arm, options.output) / "arm.json").read_text())
        text = report(results, facts)
        write(options.output / ("test.md" if options.final else "val.md"), text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
