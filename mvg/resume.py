"""Runs that may end at any time and continue as if they had not: what is saved and when, and what is taken up again."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGUSR1", "SIGTERM") if hasattr(signal, name))
"""Signals that end a run: Ctrl-C, and what cluster managers send before the time is up."""
_DUE = 1


class SaveLast(Callback):
    """Writes `checkpoints/last.ckpt` every few minutes, before each validation, and when the run is told to end.

    SIGTERM and SIGUSR1 end a run after the step under way, with status 143 and 138; Ctrl-C does, too, and a second
    Ctrl-C ends it at once. All processes of a run end after the same step, whichever of them was told. A run that is
    told to end during validation ends there, having saved the state before it.

    Args:
        minutes: Time from one to the next; null for none but those before validation and at the end.
        steps: Steps from one to the next; null for none.
    """

    def __init__(self, minutes: float | None = 10.0, steps: int | None = None) -> None:
        for name, value in (("minutes", minutes), ("steps", steps)):
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be greater than 0, or null for none, got {value}")
        self.minutes, self.steps = minutes, steps
        self._told = 0
        self._ending = 0
        self._saved_at, self._saved_step = time.monotonic(), 0

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to signals."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to signals, and starts the clock."""
        self._listen()
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Notes a signal, to be followed after the step; a second Ctrl-C is followed at once."""
        if number == signal.SIGINT and self._told == signal.SIGINT:
            raise KeyboardInterrupt
        self._told = max(self._told, number)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where it is due or the run is to end; never between the batches of one accumulated step."""
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        wanted = self._agree(trainer, self._told or _DUE * self._is_due(trainer))
        if wanted:
            self._save(trainer)
        self._ending = wanted if wanted != _DUE else 0

    def _is_due(self, trainer: Trainer) -> bool:
        if self.steps is not None and trainer.global_step - self._saved_step >= self.steps:
            return True
        return self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes

    @staticmethod
    def _agree(trainer: Trainer, number: int) -> int:
        """Returns the largest number of all processes."""
        if trainer.world_size == 1:
            return number
        shared = torch.tensor(number, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(shared, reduce_op="max"))

    def _save(self, trainer: Trainer) -> None:
        keeper = trainer.checkpoint_callback
        if isinstance(keeper, ModelCheckpoint) and keeper.dirpath and not getattr(trainer, "fast_dev_run", False):
            trainer.save_checkpoint(Path(keeper.dirpath) / "last.ckpt", weights_only=False)
            for logger in trainer.loggers:
                logger.save()
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what was trained before a validation, unless it is saved already."""
        self._end()
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.global_step > self._saved_step:
            self._save(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ends a validation that is part of a training."""
        if trainer.state.fn == "fit":
            self._ending = self._agree(trainer, self._told)
            self._end()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ends the run after the step before, whose losses are logged by now."""
        self._end()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the run after the last step of an epoch; saves what no validation has saved."""
        self._end()
        if trainer.global_step > self._saved_step:
            self._save(trainer)

    def _end(self) -> None:
        if self._ending == signal.SIGINT:
            raise KeyboardInterrupt
        if self._ending:
            raise SystemExit(128 + self._ending)


class KeepBest(ModelCheckpoint):
    """Keeps the best checkpoint, and renews `last.ckpt` with it; else that is left to `SaveLast`.

    Lightning's own may write `last.ckpt` after training, when averaged weights have replaced the trained ones.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes nothing."""


class ContinueLoader(Callback):
    """Stores which batch comes next, and goes on with it.

    Lightning does so only as long as nobody asks for the length of training before it starts, which schedules do.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Asks the training loader where it is; corrects the count of epochs."""
        if trainer.state.status == "running":
            correct_epochs(checkpoint["loops"]["fit_loop"]["epoch_progress"])
        if state_of := getattr(trainer.train_dataloader, "state_dict", None):
            checkpoint["train_loader"] = state_of()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the state until there is a loader."""
        self.state = checkpoint.get("train_loader")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hands the state to the loader."""
        restore = getattr(trainer.train_dataloader, "load_state_dict", None)
        if self.state is not None and restore is not None:
            restore(self.state)
        self.state = None


def correct_epochs(progress: dict[str, dict[str, int]]) -> None:
    """Counts the epoch under way among those that were begun, in place.

    Lightning forgets to where it resumed from the last batch of an epoch, and a run that is ended a second time would
    then continue in the wrong one. A checkpoint that is written at the very end of an epoch counts it as done, and the
    run that continues from it would leave out the next one; it is stored as one whose batches are done.
    """
    for counts in (progress["total"], progress["current"]):
        if counts["ready"] == counts["started"] == counts["processed"] == counts["completed"]:
            counts["ready"] = counts["started"] = counts["processed"] + 1
        elif counts["processed"] > counts["started"]:
            counts["ready"] = counts["started"] = counts["processed"]
        if counts["ready"] == counts["started"] == counts["processed"]:
            counts["processed"] -= 1


class SeedBatches(Callback):
    """Makes the random choices of a network (drop path, dropout) depend on seed, epoch, batch and process alone.

    So there is no state of random numbers to be saved, and a batch that is done again after a crash is done alike.

    Args:
        seed: The seed; a run that continues keeps its own.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seeds torch, NumPy and Python."""
        place = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        drawn = int(np.random.SeedSequence(place).generate_state(1)[0])
        torch.manual_seed(drawn)
        np.random.seed(drawn)
        random.seed(drawn)

    def state_dict(self) -> dict[str, Any]:
        """Returns the seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the seed of the run that continues."""
        self.seed = int(state_dict["seed"])
