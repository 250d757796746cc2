"""Generalist: the Lightning module around any in-context network."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from mvg.adaptation.methods import Adaptation, fingerprint, prepare
from mvg.episode import Episode, Pair
from mvg.finite_steps import FiniteSteps
from mvg.models.base import InContextModel
from mvg.models.initialise import check_start, initialise
from mvg.models.mixed import Mixed
from mvg.next_scale import answer_batch
from mvg.report import Report, finite
from mvg.task import Task
from mvg.unpairing import check_shares, unpair


def adamw(parameters: Iterable[Any]) -> Optimizer:
    """Makes the default optimizer: AdamW, learning rate 1e-3, betas 0.9 and 0.999."""
    return AdamW(parameters, lr=1e-3)


class Generalist(pl.LightningModule):
    """Trains and tests an in-context network on the episodes of a data module.

    The learning rate warms up linearly and follows half a cosine to zero, over the steps of the trainer or `minutes` of
    training time, whichever end first. Validation scores every task by its own metrics
    (`val/<source>/<task>/<metric>`) and sums them up as `val/score`, the mean of the tasks' primary metrics (Dice and
    average precision as they are, PSNR divided by 40 dB). Testing compares the network with trivial answers and
    controls, and writes a report.

    Args:
        network: The network.
        optimizer: Makes the optimizer from parameter groups.
        weight_decay: Weight decay of matrices; biases, norms and codes have none.
        layer_decay: Factor on the learning rate from each block to the one before it; 1 for none.
        warmup: Share of training in which the learning rate rises, [0, 1).
        minutes: Ends training after this many minutes at the latest, and anneals over them; None for no such limit. The
            clock of a run that is ended and continued goes on where it stopped.
        pretrained: Name of a plain timm ViT (downloads its weights) or a local file of ViT weights to start from.
        weights: Folder of trained weights to start from, `<run>/weights` of another fit.
        adaptation: Trains a part of the network only, or what is added to it, from `weights` on, and leaves an adapter
            instead of weights; null trains all of it.
        skips: Steps in a row that are left out, each with a warning that names its cases, because loss or gradient is
            no number; one more ends training. 0 ends it at the first.
        unpairing: Shares of training between which every context target is replaced by that of another pair of its
            episode, such as [0.5, 1]; null for never.
        compiled: Compile the training loss by `torch.compile`: the first steps take minutes, later ones less time.
    """

    def __init__(
        self,
        network: InContextModel,
        optimizer: OptimizerCallable = adamw,
        weight_decay: float = 0.05,
        layer_decay: float = 1.0,
        warmup: float = 0.05,
        minutes: float | None = None,
        pretrained: str | None = None,
        weights: str | None = None,
        adaptation: Adaptation | None = None,
        skips: int = 3,
        unpairing: list[float] | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= warmup < 1:
            raise ValueError(f"`warmup` must be in [0, 1), got {warmup}")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"`minutes` must be greater than 0, or null for no such limit, got {minutes}")
        self.unpairing = check_shares(unpairing)
        check_start(pretrained, weights)
        self.save_hyperparameters(ignore=["network", "optimizer", "weights", "pretrained"])
        self.network, self.optimizer = network, optimizer
        self.weight_decay, self.layer_decay, self.warmup, self.minutes = weight_decay, layer_decay, warmup, minutes
        self.pretrained, self.weights, self.compiled = pretrained, weights, compiled
        self.adaptation, self.base = adaptation, ""
        if adaptation is not None:
            self._adapt(adaptation)
        self.tasks: dict[str, Task] = {}
        self.scores = nn.ModuleDict()
        self.report = Report()
        self.steps = FiniteSteps(skips)
        self._ready = False
        self._spent = 0.0
        self._since: float | None = None

    def forward(self, image: Tensor, context_images: Tensor, context_targets: Tensor) -> Tensor:
        """Paints queries; see `InContextModel.forward`. Volumes of another size are answered from coarse to fine."""
        network = self.network.part(image) if isinstance(self.network, Mixed) else self.network
        return answer_batch(network, image, context_images, context_targets)

    # ------------------------------------------------------------------ set-up

    def _adapt(self, adaptation: Adaptation) -> None:
        """Loads the base weights, remembers which they are, and freezes them; a checkpoint may replace them later."""
        if self.weights is not None:
            initialise(self.network, weights=self.weights)
            self.base = fingerprint(self.network)
        prepare(self.network, adaptation)

    def setup(self, stage: str) -> None:
        """Loads starting weights, once and in any stage; makes the metrics of every task, the same on all processes.

        Raises:
            ValueError: If there are no trained weights to adapt.
        """
        if self.adaptation is not None and not self.base and self.trainer.ckpt_path is None:
            raise ValueError("`adaptation` changes a trained network; name the folder of its weights with `weights`")
        if not self._ready and self.trainer.ckpt_path is None and self.adaptation is None:
            initialise(self.network, self.pretrained, self.weights)
        self._ready = True
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.tasks = {name: data.tasks[name.split("/")[1]] for name in data.names}
        self.scores = nn.ModuleDict(
            {
                name: nn.ModuleDict({metric: MeanMetric() for metric in task.metrics})
                for name, task in self.tasks.items()
            }
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Groups parameters by weight decay and depth, and makes optimizer and schedule."""
        exempt: set[str] = getattr(self.network, "no_weight_decay", set)()
        if self.layer_decay != 1:
            groups = param_groups_layer_decay(
                self.network, self.weight_decay, no_weight_decay_list=exempt, layer_decay=self.layer_decay
            )
        else:
            groups = param_groups_weight_decay(self.network, self.weight_decay, no_weight_decay_list=exempt)
        optimizer = self.optimizer(groups)
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
        schedule = LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def progress(self, step: int) -> float:
        """Share of training that lies behind a step, above 0, 1 at its end.

        Args:
            step: Number of the step, from 0.

        Raises:
            ValueError: If training has no end.
        """
        progress = (step + 1) / max(1.0, float(self.trainer.estimated_stepping_batches))
        if self.minutes is not None:
            return min(1.0, max(self._spent / (60 * self.minutes), progress, 1e-3))
        if not progress:
            raise ValueError(
                "training needs an end to anneal to; set `minutes`, trainer.max_epochs or trainer.max_steps"
            )
        return min(1.0, progress)

    def _factor(self, step: int) -> float:
        """Learning rate relative to its peak."""
        progress = self.progress(step)
        if progress < self.warmup:
            return progress / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))

    # ------------------------------------------------------------------ training

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all starts of the run, without validation."""
        return self._spent + (0.0 if self._since is None else time.monotonic() - self._since)

    def on_train_start(self) -> None:
        """Starts the clock."""
        self._since = time.monotonic()

    def on_validation_start(self) -> None:
        """Stops the clock: validation is left out of `minutes`."""
        self._spent, self._since = self.seconds, None

    def on_validation_end(self) -> None:
        """Starts the clock again, if training goes on."""
        if self.trainer.state.fn == "fit":
            self._since = time.monotonic()

    @cached_property
    def _compiled_loss(self) -> Callable[[Episode], dict[str, Tensor]]:
        return torch.compile(self.network.loss)

    def training_step(self, batch: Episode, index: int) -> Tensor:
        """Computes the loss and logs its mean over all processes."""
        if self.unpairing is not None:
            low, high = self.unpairing
            if low < self.progress(self.trainer.global_step) <= high:
                batch = unpair(batch)
        losses = self._compiled_loss(batch) if self.compiled else self.network.loss(batch)
        loss = losses["loss"]
        shared = cast(Tensor, self.trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean"))
        self.steps.look(shared, batch, losses)
        self.log("train/loss", shared, prog_bar=True, batch_size=len(batch))
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leaves out a step whose loss or gradient is no number."""
        self.steps.check(self.trainer, optimizer)

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        """Stops when the minutes are spent: by the clock of the first process, so that all take the same steps."""
        self._spent, self._since = self.seconds, time.monotonic()
        if self.minutes is not None:
            self._spent = self.trainer.strategy.broadcast(self._spent)
            if self._spent >= 60 * self.minutes:
                self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Stops the clock."""
        self._spent, self._since = self.seconds, None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the time spent, the steps left out, and which weights are adapted."""
        checkpoint["spent"], checkpoint["base"] = self.seconds, self.base
        checkpoint["skipped"] = self.steps.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the time spent before, the steps left out, and which weights were adapted."""
        self._spent = float(checkpoint.get("spent", 0.0))
        self.steps.restore(checkpoint.get("skipped", (0, 0)))
        self.base = str(checkpoint.get("base", ""))

    # ------------------------------------------------------------------ validation and test

    def validation_step(self, batch: Episode, index: int) -> None:
        """Scores each answer by its task."""
        painted = self(batch.image, batch.context_images, batch.context_targets)
        painted = finite(painted.float().cpu(), batch.cases)
        for number, name in enumerate(batch.tasks):
            pair = Pair(batch.image[number].cpu(), batch.target[number].cpu(), batch.weight[number].cpu())
            scores = self.tasks[name].score(painted[number], pair, batch.specs[number])
            for metric, value in scores.items():
                if math.isfinite(value):
                    self._means(name)[metric].update(value)

    def _means(self, name: str) -> dict[str, MeanMetric]:
        return cast(dict[str, MeanMetric], self.scores[name])

    def on_validation_epoch_end(self) -> None:
        """Logs every metric of every task, and their summary."""
        primaries = []
        for name, task in self.tasks.items():
            for metric, mean in self._means(name).items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a process without scores of a task joins those of the others
                    value = float(mean.compute())
                mean.reset()
                self.log(f"val/{name}/{metric}", value, rank_zero_only=False)
                if metric == task.primary and math.isfinite(value):
                    primaries.append(min(1.0, value / 40) if "psnr" in metric else value)
        self.log("val/score", sum(primaries) / max(1, len(primaries)), prog_bar=True)

    def test_step(self, batch: Episode, index: int) -> None:
        """Scores the network, trivial answers and controls."""
        self.report.add(self, batch, self.tasks)

    def on_test_epoch_end(self) -> None:
        """Gathers the records of all processes, writes them and prints the table."""
        self.report.gather()
        if self.trainer.is_global_zero:
            self.report.write(self.trainer.default_root_dir)
        self.report = Report()
