"""What several processes cost: training steps of one process and of two, on the same cores and the same episodes."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.data_path import WARM, load_run
from benchmarks.measurements import Goal, Row


class Pace(pl.Callback):
    """Writes how long a step takes once training is warm.

    Args:
        path: Where the first process writes it, seconds.
        threads: Threads of each process.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self.threads = path, threads
        self.ends: list[float] = []

    def on_fit_start(self, *_: Any) -> None:
        """Sets the threads of this process."""
        torch.set_num_threads(self.threads)

    def on_train_batch_end(self, *_: Any) -> None:
        """Notes the time."""
        self.ends.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Writes the mean."""
        if trainer.is_global_zero:
            self.path.write_text(str((self.ends[-1] - self.ends[WARM - 1]) / (len(self.ends) - WARM)))


def step_seconds(config: Path, processes: int, threads: int, steps: int) -> float:
    """Trains a configuration and returns the seconds of a step.

    Args:
        config: A configuration of `mvg fit`; its batch is shared out to the processes.
        processes: Number of processes.
        threads: Threads of all processes together.
        steps: Steps that count.
    """
    size = load_run(config)[1].batch_size
    module, data, options = load_run(config, batch_size=size // processes, epoch_length=(WARM + steps) * size)
    with tempfile.TemporaryDirectory() as folder:
        pace = Pace(Path(folder, "pace.txt"), max(1, threads // processes))
        trainer = pl.Trainer(
            max_steps=WARM + steps, accelerator="cpu", devices=processes, callbacks=[pace], logger=False,
            strategy="ddp_spawn" if processes > 1 else "auto", enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder, **options,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        return float(pace.path.read_text())


def measure_processes(repeats: int, *, name: str, config: Path, steps: int = 20, goal: Goal | None = None) -> list[Row]:
    """Compares one process on all threads with two that share them, in turn; both take steps of equal batches.

    Args:
        repeats: Turns.
        name: Name of the row.
        config: A configuration of `mvg fit` with an even batch.
        steps: Steps a turn.
        goal: How fast two processes should be, relative to one.
    """
    threads = torch.get_num_threads()
    turns = [[step_seconds(config, processes, threads, steps) for processes in (1, 2)] for _ in range(repeats)]
    torch.set_num_threads(threads)
    one, two = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    ratio = statistics.median(alone / both for alone, both in turns)
    title = f"training step of {config.name}, the batch on 1 process or shared by 2, {threads} threads in all"
    return [Row(name, title, ("1 process", one), ("2 processes", two), "s", ratio, "times as fast", repeats, goal)]
