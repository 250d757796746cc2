"""Pictures that a training leaves on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from mvg.drawing import draw_episodes
from mvg.episode import Episode


class CanvasPictures(pl.Callback):
    """Writes a picture of the first validation episodes after each validation, `<run>/pictures/step-000100.png`.

    Args:
        rows: Episodes in a picture.
        size: Height of a tile in pixels.
        every: Validations from one picture to the next.
    """

    def __init__(self, rows: int = 8, size: int = 128, every: int = 1) -> None:
        if rows < 1 or every < 1:
            raise ValueError(f"`rows` and `every` must be at least 1, got {rows} and {every}")
        self.rows, self.size, self.every = rows, size, every
        self._count = 0

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Episode,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Paints and draws the first batch."""
        if batch_idx or not trainer.is_global_zero or trainer.sanity_checking:
            return
        self._count += 1
        if (self._count - 1) % self.every:
            return
        few = batch.first(self.rows)
        painted = pl_module(few.image, few.context_images, few.context_targets)
        page = draw_episodes(few, painted, self.size, most=self.rows)
        folder = Path(trainer.default_root_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        page.save(folder / f"step-{trainer.global_step:06d}.png")
        for logger in trainer.loggers:
            board = getattr(getattr(logger, "experiment", None), "add_image", None)
            if callable(board):
                board("canvases", np.asarray(page), trainer.global_step, dataformats="HWC")
