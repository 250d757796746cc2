"""What a fit leaves: the weights of the network with what their users need to know of the data, or an adapter."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn

from mvg.adaptation.methods import save_adapter
from mvg.configuration import to_config
from mvg.data.exposure import exposure
from mvg.data.source import Source
from mvg.licences import TERMS, inheritance
from mvg.models.base import InContextModel
from mvg.sharding import Sharded, whole_state
from mvg.weights import describe, note_metrics, save

log = logging.getLogger(__name__)


def facts_of(source: Source, aspect: str | None = None) -> dict[str, Any]:
    """Collects what a user of weights needs to know of a source that they were trained on; no paths.

    Args:
        source: The source.
        aspect: How its images were brought to size.

    Returns:
        Of "licence", "terms", "commercial" (use is allowed), "modality", "class_names", "intensity" (image role to
        rule), "slices" (how volumes were cut), "trim" (cut to the box outside of which they are air) and "aspect"
        those that are known.
    """
    names = (*TERMS, "modality", "class_names", "intensity", "slices", "trim")
    facts = {name: getattr(source, name, None) for name in names}
    known = {**facts, "aspect": aspect}
    return {name: to_config(value) for name, value in known.items() if value or value is False}


def averaged(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, torch.Tensor]:
    """Returns the weights of a run; where they are averaged (`EMAWeightAveraging`), the averages."""
    checkpoint: dict[str, Any] = {"state_dict": whole_state(pl_module)}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            callback.on_save_checkpoint(trainer, pl_module, checkpoint)
    return part_of(checkpoint["state_dict"])


def part_of(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Picks the weights of the network out of those of a run."""
    start = "network."
    return {name[len(start) :]: tensor for name, tensor in state.items() if name.startswith(start)}


class SaveWeights(pl.Callback):
    """Leaves `<run>/weights` when a fit ends, or is ended by hand; an adaptation leaves an adapter instead.

    Args:
        minutes: Minutes of training after which weights are left in `<run>/milestones/<minutes>min`, too; averaged ones
            where a run averages them.
    """

    def __init__(self, minutes: list[float] | None = None) -> None:
        if wrong := [value for value in minutes or [] if not value > 0]:
            raise ValueError(f"`minutes` must be greater than 0, got {wrong[0]}")
        self.minutes = sorted(minutes or [])
        self.inherited: dict[str, dict[str, Any]] = {}
        self.shown: dict[str, dict[str, Any]] = {}
        self._kept = 0.0
        self._validated = -1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the licences of the weights that the training starts from, as long as they are there, and its cases."""
        start, pretrained = (getattr(pl_module, name, None) for name in ("weights", "pretrained"))
        if pretrained and Path(pretrained).is_dir():
            start, pretrained = pretrained, None
        self.inherited = inheritance(describe(start) if start else None, pretrained)
        if trainer.is_global_zero:
            sources = getattr(trainer.datamodule, "sources", {})  # type: ignore[attr-defined]
            self.shown = {name: exposure(source) for name, source in sources.items()}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """Leaves the weights of a milestone before the first step after it."""
        self._keep(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes which step was validated."""
        self._validated = trainer.global_step

    def measure(self, trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule) -> None:
        """Validates what a finished fit left, unless its last step was validated, so that the card is about it."""
        left = not getattr(trainer, "fast_dev_run", False) and getattr(module, "adaptation", None) is None
        left = left and not isinstance(trainer.strategy, Sharded)  # which cannot be set up twice
        if not left or not trainer.enable_validation or trainer.global_step == self._validated:
            return
        found = trainer.validate(module, datamodule=data, verbose=False)
        if found and trainer.is_global_zero:  # nothing is found where there are no validation episodes
            note_metrics(Path(trainer.default_root_dir) / "weights", found[0])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves those of a milestone that is the end."""
        self._keep(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the folder on the first process."""
        self._save(trainer, pl_module, part_of(whole_state(pl_module)), "weights")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes it after Ctrl-C too: who stops a training by hand has seen enough of it."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit" and trainer.global_step > 0:
            self._save(trainer, pl_module, averaged(trainer, pl_module), "weights")

    def state_dict(self) -> dict[str, Any]:
        """Returns the last milestone that was left."""
        return {"kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the last milestone that was left."""
        self._kept = float(state_dict["kept"])

    def _keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        passed = [value for value in self.minutes if self._kept < value <= float(pl_module.seconds) / 60]  # type: ignore[arg-type]
        if passed:
            self._kept = passed[-1]
            self._save(trainer, pl_module, averaged(trainer, pl_module), f"milestones/{passed[-1]:g}min")

    def _save(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, state: Mapping[str, torch.Tensor], name: str
    ) -> None:
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        if getattr(pl_module, "adaptation", None) is not None:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        tasks, aspect = (getattr(data, name, None) for name in ("tasks", "aspect"))
        held = getattr(data, "sources", {}).items()
        sources = {name: {**facts_of(source, aspect), **self.shown.get(name, {})} for name, source in held}
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        folder = Path(trainer.default_root_dir) / name
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        save(folder, network, tasks or {}, sources, metrics, inherited=self.inherited, state=state)
        log.info("weights saved to %s", folder)


class SaveAdapter(pl.Callback):
    """Leaves `<run>/adapter` when a fit that adapts a network ends, or is ended by hand."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the folder on the first process."""
        adaptation = getattr(pl_module, "adaptation", None)
        if adaptation is None or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        facts = {"steps": trainer.global_step, "metrics": {k: v for k, v in scores.items() if math.isfinite(v)}}
        data = trainer.datamodule  # type: ignore[attr-defined]
        tasks = list(getattr(data, "tasks", {}).values())
        facts |= {"task": to_config(tasks[0]) if len(tasks) == 1 else None}
        facts |= {"aspect": data.aspect} if hasattr(data, "aspect") else {}
        network, base = cast(InContextModel, pl_module.network), str(pl_module.base)
        folder = save_adapter(Path(trainer.default_root_dir) / "adapter", network, adaptation, base, facts=facts)
        log.info("adapter saved to %s", folder)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes it after Ctrl-C, too."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit" and trainer.global_step > 0:
            self.on_fit_end(trainer, pl_module)
