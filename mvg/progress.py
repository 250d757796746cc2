"""The progress bar of a fit."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar


class Progress(RichProgressBar):
    """Lightning's bar; a training by minutes shows how many of them are spent, and no end of its epochs."""

    def _get_train_description(self, current_epoch: int) -> str:
        """Names the epoch, and the last one where there is one: Lightning writes `/-2` where there is none."""
        if self.trainer.max_epochs == -1:
            return f"Epoch {current_epoch}".ljust(len(self.validation_description))
        return super()._get_train_description(current_epoch)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Adds the minutes to what is logged for the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        minutes = getattr(pl_module, "minutes", None)
        if minutes is None:
            return metrics
        spent: float = pl_module.seconds / 60  # type: ignore[assignment,operator]
        return {**metrics, "min": f"{min(spent, minutes):.1f}/{minutes:g}"}
