"""Whether data keep up with training: how long it waits for them, and how fast synthetic episodes are made."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.profilers import SimpleProfiler
from torch import nn

from benchmarks.evaluation import load_data
from benchmarks.measurements import Goal, NotMeasuredError, Row, Work, take_turns
from mvg.data import EpisodeDataModule, EpisodeLoader
from mvg.data.episodes import EpisodeDataset
from mvg.episode import Episode
from mvg.generalist import Generalist, adamw
from mvg.weights import build

WARM = 10
"""Training steps before the clock starts: workers come up and their queues fill."""


def load_run(config: Path, **changes: Any) -> tuple[Generalist, EpisodeDataModule, dict[str, Any]]:
    """Builds what a configuration of `mvg fit` describes.

    Args:
        config: The YAML file; its network and data may be paths, relative to its folder.
        **changes: Arguments of the data module that replace those of the file.

    Returns:
        Module, data without validation, and the options of the trainer that decide what a step costs.
    """
    content: Any = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
    network = build(config.parent / content["model"]["network"]).train()
    data = content["data"] if isinstance(content["data"], dict) else config.parent / content["data"]
    options = {key: content["trainer"][key] for key in ("precision", "gradient_clip_val")}
    return Generalist(network), load_data(data, network, **{"val_length": 0, **changes}), options


class Clock(pl.Callback):
    """Notes when each training step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Notes the time."""
        self.ends.append(time.perf_counter())


def waiting(module: Generalist, data: EpisodeDataModule, steps: int, **options: Any) -> tuple[float, float]:
    """Trains with Lightning's trainer and adds up how long it waits for batches.

    Args:
        module: What is trained.
        data: Where its batches come from; an epoch must hold all steps.
        steps: Steps that count; `WARM` steps go before them.
        **options: Options of the trainer.

    Returns:
        Seconds for which the loader's `next` blocked, and seconds in all.
    """
    clock, profiler = Clock(), SimpleProfiler()
    trainer = pl.Trainer(
        max_steps=WARM + steps,
        accelerator="cpu",
        devices=1,
        profiler=profiler,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, datamodule=data)
    waits = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]
    return sum(waits[WARM:]), clock.ends[-1] - clock.ends[WARM - 1]


def measure_waiting(
    repeats: int, *, name: str, config: Path, steps: int = 30, needs: str | None = None, goal: Goal | None = None
) -> list[Row]:
    """Measures the share of training that waits for data, workers as configured.

    Args:
        repeats: How often `steps` steps are taken, in one run.
        name: Name of the row.
        config: A configuration of `mvg fit`.
        steps: Steps a repeat.
        needs: Environment variable that must name the data.
        goal: The share to stay below, per cent.

    Raises:
        NotMeasuredError: If the environment variable is not set.
    """
    if needs is not None and not os.environ.get(needs):
        raise NotMeasuredError(f"it needs {needs}, the folder that holds the data sets of {config.name}; set it")
    module, data, options = load_run(config)
    waited, total = waiting(module, data, repeats * steps, **options)
    title = f"{repeats * steps} training steps of {config.name}, batches of {data.batch_size}, workers {data.workers}"
    share = 100 * waited / total
    return [
        Row(name, title, ("in all", total), ("waiting", waited), "s", share, "% of the time", repeats * steps, goal)
    ]


def training_work(module: Generalist, batches: Sequence[Episode], steps: int, options: Mapping[str, Any]) -> Work:
    """Prepares some training steps without trainer and loader: the fastest that episodes can be used up."""
    network, optimizer = module.network, adamw(module.network.parameters())
    mixed = options["precision"] == "bf16-mixed"

    def work() -> None:
        for batch in itertools.islice(itertools.cycle(batches), steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss = network.loss(batch)["loss"]
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), options["gradient_clip_val"])
            optimizer.step()

    return work


def drawing_work(loader: EpisodeLoader, dataset: EpisodeDataset) -> Work:
    """Prepares drawing the episodes of one epoch after the other, each of them new."""
    epochs = itertools.count(1)

    def work() -> int:
        dataset.set_epoch(next(epochs))
        return sum(len(batch) for batch in loader)

    return work


def measure_synthetic(
    repeats: int, *, name: str, config: Path, batches: int = 40, steps: int = 20, goal: Goal | None = None
) -> list[Row]:
    """Compares how fast two processes make episodes with how fast training uses them up.

    Args:
        repeats: The most turns.
        name: Name of the row.
        config: A configuration of `mvg fit`.
        batches: Batches made a turn.
        steps: Training steps a turn.
        goal: How many times as many episodes should be made.
    """
    size = load_run(config)[1].batch_size
    module, data, options = load_run(config, epoch_length=batches * size)
    dataset = data.make_dataset("train")
    loader = EpisodeLoader(dataset, workers=2)
    first = list(loader)[:4]  # which brings the processes up
    training_work(module, first, 2, options)()
    work = {"used": training_work(module, first, steps, options), "made": drawing_work(loader, dataset)}
    seconds, _ = take_turns(work, repeats)
    turns = [(batches * used) / (steps * made) for used, made in zip(seconds["used"], seconds["made"], strict=True)]
    used, made = (
        size * count / statistics.median(seconds[side]) for side, count in (("used", steps), ("made", batches))
    )
    title = f"episodes of {config.name} that 2 processes make, and that training uses up"
    sides = ("training", used), ("making", made)
    return [Row(name, title, *sides, "episodes/s", statistics.median(turns), "times as many", len(turns), goal)]
