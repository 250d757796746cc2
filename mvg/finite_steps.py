"""Steps whose loss or gradient is no number: left out, named, and not endured for long."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from mvg.episode import Episode
from mvg.sharding import whole

log = logging.getLogger(__name__)

_SHOWN = 4


class FiniteSteps:
    """Leaves out steps that would ruin the weights, on all processes alike.

    Args:
        most: Steps in a row that are left out before training ends.
    """

    def __init__(self, most: int) -> None:
        if most < 0:
            raise ValueError(f"`skips` must not be negative, got {most}")
        self.most = most
        self.in_a_row = self.total = 0
        self._broken = False
        self._where: list[str] = []

    def look(self, shared: Tensor, batch: Episode, losses: Mapping[str, Tensor]) -> None:
        """Notes the episodes of a batch whose loss is no number.

        Args:
            shared: Mean loss over all processes, so that all of them notice.
            batch: The batch of this process.
            losses: What the network computed for it: "loss", and "episodes" `(B,)` if it says so.
        """
        if bool(torch.isfinite(shared)):
            return
        self._broken = True
        each = losses.get("episodes", losses["loss"].expand(len(batch))).tolist()
        names = zip(batch.tasks, batch.cases, each, strict=True)
        self._where += [f"{task} of case {case} ({value})" for task, case, value in names if not math.isfinite(value)]

    def check(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Drops gradients that are no numbers before they are used.

        Gradients are the same on all processes by now, so that all decide alike. Half precision scales its loss until
        gradients are finite, and leaves out steps by itself; there the loss alone decides.

        Raises:
            FloatingPointError: If too many steps in a row are left out.
        """
        broken, where, self._broken, self._where = self._broken, self._where, False, []
        if not broken and getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            broken = not bool(torch.isfinite(whole(get_total_norm(gradients))))
            where = ["the gradient, at a finite loss"] if broken else []
        if not broken:
            self.in_a_row = 0
            return
        self.in_a_row, self.total = self.in_a_row + 1, self.total + 1
        where = _join(where)
        if self.in_a_row > self.most:
            raise FloatingPointError(self._say(trainer, where))
        optimizer.zero_grad()
        log.warning("step %d is left out: no number in %s", trainer.global_step, ", ".join(where[:_SHOWN]))

    def _say(self, trainer: Trainer, where: Sequence[str]) -> str:
        keeper = trainer.checkpoint_callback
        last = f"{keeper.dirpath}/last.ckpt" if isinstance(keeper, ModelCheckpoint) and keeper.dirpath else ""
        return (
            f"no number in {', '.join(where[:_SHOWN])} at step {trainer.global_step}, after {self.in_a_row - 1} steps "
            "in a row that were left out; lower the learning rate, set trainer.gradient_clip_val, or look at these "
            f"cases{f'; the last checkpoint is {last}' if last else ''}"
        )

    def state(self) -> tuple[int, int]:
        """Returns how many steps were left out in a row until now, and in all."""
        return self.in_a_row, self.total

    def restore(self, state: Sequence[int]) -> None:
        """Takes up what `state` returned."""
        self.in_a_row, self.total = state[0], state[1]


def _join(where: list[str]) -> list[str]:
    """Joins what all processes name."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return where
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, where)
    return [name for part in parts for name in part]
